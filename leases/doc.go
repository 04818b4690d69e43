// SPDX-License-Identifier: Apache-2.0

// Package leases says who may act. It is the only code that talks to etcd and knows
// nothing of hosts, power or settings beyond the names of their keys: it would be the
// same if we managed toasters. Spec: leases.md §§1, 2, 5.
//
//   - Client reads (linearizable, paged at one revision) and writes what no claim guards.
//   - Session is a worker's lease. Its validity counts from the moment a renewal was
//     sent; a success only moves the deadline, it never proves ownership.
//   - Claim is a slot held under that lease. Its Epoch (generation, mod_revision of the
//     slot key) only ever rises.
//   - Guard and Commit: every state write compares the epoch and the record's revision in
//     the transaction that writes.
//   - Mirror is a list-then-watch cache with a measured age.
//   - Schema is every key that may exist; Commit refuses any other.
//
// It refuses to retry a write blindly, to call a lost answer a failure, to serve a read
// that is not linearizable except from a Mirror, and to keep a lease alive for anybody
// but its Session.
//
// Invariants: two workers may believe for a moment that they own a slot, only one can
// write; a lost Session is never valid again; no write of an older epoch is ever
// accepted; a Mirror calls subscribers in revision order from one goroutine.
//
// Outcomes of a write are three-valued. A call that was answered is done or refused. A
// call that was not answered is read back: done when every record it wrote is found as
// written in one newer revision; refused when the slot or a compared record has moved;
// and when nothing has moved, sent again only if it compares the revision of a record it
// writes, for then at most one of the two can be applied. Otherwise it stays unknown
// (ErrUnknownOutcome): it may land later, as long as the epoch lasts.
package leases
