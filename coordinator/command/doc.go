// SPDX-License-Identifier: Apache-2.0

// Package command decides about commands that outlive connections, agents and workers
// (commands.md): copies of volumes, migrations of volumes, migrations of instances.
//
// Two calls decide. Step(record, event, policy) returns the next record of a command and
// the effects to start once it is committed; every transition is a row of table.go, what
// changes nothing is listed in ignored.go, docs/command-states.md is made from both.
// Judge(record, evidence) says what is so in the world: completed, in progress, failed or
// undetermined, and what may be tidied.
//
// It refuses to guess. "Absent" and "could not look" are different answers; nothing is
// deleted without positive proof that the other side is complete and in use, or that
// nobody uses what is deleted; a size that stands still proves nothing. Names of files are
// made here (Name, Temporary), from the command's id, before anything acts: no crash can
// hide one, and no two commands ever write the same file.
//
// Invariants: Step and Judge are pure and total; an outcome, once set, never changes by
// itself; a record is released (its resources take the next command) only when it has an
// outcome and nothing is left to tidy, or when an operator says so; unknown is never read
// as absent; whoever has not answered, and is not proven over, may still be at work.
package command
