// SPDX-License-Identifier: Apache-2.0

// Package budget counts power-downs in sliding windows: "allow no more than 3 power downs
// within 1 hour, then stop and notify". A counter belongs to a host, cluster, pod or zone
// and is a value in etcd; an incident spends one slot of each in the transaction that arms
// it, however many packets it sends (ha.md §4, power.md §9.5).
//
// It refuses to read a clock, to decide (guard does) and to unlatch by itself.
//
// Invariants: functions return a new Counter and leave the old one as it was; asking and
// finding none latches; only Reset and Grant unlatch; a slot in the future, left by a
// clock that moved, counts as used.
package budget
