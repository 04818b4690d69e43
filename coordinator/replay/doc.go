// SPDX-License-Identifier: Apache-2.0

// Package replay keeps what each decision of an incident was made of, and makes it again:
// the record before it, the event and the policy go through today's ha.Step, and what
// comes out is laid beside what was decided then, line by line (ha.md §6: the same
// snapshot gives the same answers).
//
// A Recorder turns the steps of one incident into Steps: small JSON values that the owner
// writes in the transaction of the decision itself. A Step holds the event and what
// changed in the record; every SegmentSteps-th, and each one whose predecessor was not
// written, also holds the record and the policy as they were before (Base), so that the
// oldest can be dropped and a new owner goes on without reading. Kept are the first
// HeadSteps of an incident and the newest segments: see Dropped for the bound.
//
// A newcomer reads Step in step.go, then Run in run.go.
//
// Invariants: pure, no clock; every line is judged on the record as it was, so that one
// other verdict does not make all later ones other, too; words may change between
// versions, verdicts may not without being shown; whatever Parse takes, Run ends.
package replay
