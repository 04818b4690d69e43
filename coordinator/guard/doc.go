// SPDX-License-Identifier: Apache-2.0

// Package guard answers one question with pure functions: may we act on this host now?
// Every guard looks at the same snapshot, all are evaluated, none short-circuits, and
// each answers allow, hold (with a reason and what would clear it) or need-human
// (ha.md §6).
//
// What the guards storage, share, common cause and cooldown must know of other hosts comes
// from a Census: it counts hosts by the areas they are in (zone, pod, cluster, rack,
// switch, PDU, pool), is told of each change of a host's record, and answers a Question
// about one host at the cost of the suspects around it. Census.Storms says which areas are
// the suspect instead of their hosts, and which of them explains the others. Workers and
// simulators use the same one.
//
// It refuses to gather anything itself: what is missing from the snapshot holds.
//
// Invariants: Evaluate is total and deterministic; the zero Snapshot holds on every
// guard that has data; no answer is a bare boolean; a census that was kept over any
// changes says the same as one that is made anew.
package guard
