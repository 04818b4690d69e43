// SPDX-License-Identifier: Apache-2.0

// Package ring decides which worker should own which slot (leases.md §§1, 2.3, 4).
//
// A key (a partition path, or a host without one) hashes to a slot for ever. Slots are
// spread over members by a sticky, bounded, weighted assignment: what is owned stays
// where it is unless the balance forbids it, and rendezvous rank decides who takes the
// rest, members of the slot's own zone first. Slots with hosts are spread by their hosts.
//
// It refuses to know leases, epochs, clocks and damping: it says where slots belong,
// the worker says when they move. Every worker that sees the same input gets the same
// answer, so no election is needed.
//
// Invariants, all proven as properties in ring_test.go:
//   - total: with one member that may take slots every slot has a target;
//   - bounded: a member's share s = slots·weight/Σweights is met within ⌊s⌋ … ⌈s⌉, and
//     nobody holds more hosts than its share of them and those of the heaviest slot;
//   - frozen members (restarting in place) keep exactly what they own. They count in the
//     shares of the others while that comes out even, else the rest is shared without
//     them; freezing members of a settled fleet moves nothing;
//   - minimal: no assignment within these bounds moves fewer owned slots. With equal
//     weights a leaving member moves nobody else's slots; with unequal weights rounding
//     may move at most one slot per remaining member. Beyond that slots are only exchanged,
//     two at a time, where hosts have piled up (relieve.go);
//   - order-independent and deterministic: neither the order of members nor map order
//     matters;
//   - the hash is SHA-256 of an id (first 8 bytes, big endian) and splitmix64 per pair:
//     stable across versions and machines. Changing it would move every slot of a
//     running fleet, so the golden test forbids it.
package ring
