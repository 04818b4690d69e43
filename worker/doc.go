// SPDX-License-Identifier: Apache-2.0

// Package worker is the management worker: stateless, any number of them. It claims
// slots through leases, runs one goroutine for each host of its slots, carries frames
// between agents and owners, drives power devices and answers operators.
//
// The owner's loop never varies (architecture.md §4.2): take one event from the
// mailbox; Step it through the pure coordinator; commit record, events and budget in one
// transaction under the claim; only then start the effects, which report back as events.
//
// It refuses to decide: what a state means, whether an action is allowed and what comes
// next is the coordinator's; how etcd is asked is the leases package's.
//
// Invariants: one goroutine owns one host; no effect before its commit; no packet
// without an open intent and a lease certainly valid for that packet; every outbound
// call has a deadline; a worker that lost its lease drops every slot before it does
// anything else.
package worker
