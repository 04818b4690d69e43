// SPDX-License-Identifier: Apache-2.0

// Package guard answers one question with pure functions: may we act on this host now?
// Every guard looks at the same snapshot, all are evaluated, none short-circuits, and
// each answers allow, hold (with a reason and what would clear it) or need-human
// (ha.md §6).
//
// It refuses to gather anything itself: what is missing from the snapshot holds.
//
// Invariants: Evaluate is total and deterministic; the zero Snapshot holds on every
// guard that has data; no answer is a bare boolean.
package guard
