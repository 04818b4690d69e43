// SPDX-License-Identifier: Apache-2.0

// Package ha holds the two machines of high availability: the HA state of a host and
// the HA state of its partition (ha.md §§2, 3). It knows nothing of KVM, etcd, BMCs or
// gRPC: providers give verdicts, the power package gives readings, the owner gives the
// time.
//
// One call decides: Step(record, event, policy) returns the next record and the effects
// to start once that record is committed. Every transition is a row of the table in
// table.go and table_orders.go; what changes nothing is listed in ignored.go; the
// diagram in docs and the test of totality are made from the same rows. After every
// event the facts on record are looked at once more (the rows on "facts"), so that a
// fact counts from whatever state it finds the host in.
//
// Hosts that fail together are an area's incident: StepArea keeps the record of a rack,
// switch, PDU, pool, cluster, pod or zone in a storm, with one page for all its hosts;
// Record.Fact is what a host tells the guards of others.
//
// A newcomer reads table.go, then testdata/crash.txt, then acting.go.
//
// Invariants: Step is pure and total; an event without a row is a recorded no-op;
// unknown is never read as idle, off or failed; power readings alone end no incident;
// an adoption never makes a suspect; no packet is asked for before every guard allowed
// it in this incident; FENCED means proof of at least Policy.ProofMin on record; one
// tick serves every deadline that has come.
package ha
