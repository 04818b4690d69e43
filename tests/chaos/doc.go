// SPDX-License-Identifier: Apache-2.0

// Package chaos breaks a whole fleet on purpose and checks what is on record afterwards:
// three etcd members, three to five workers and the agents of all hosts are real
// processes; BMCs, cables and chassis are simulated in the test's own process, which
// therefore knows the truth.
//
// A schedule of faults is data, made from a seed before anything starts; a failing one is
// printed with the command that replays it. The same seed gives the same faults at the
// same offsets, not the same interleaving: that is the kernel's. Faults are SIGKILL and
// SIGSTOP of workers (child only, or parent and child), restarts in place, drains, cuts, silences and delays of TCP
// between workers and etcd and between agents and workers (one direction too), deaths of
// etcd members and of the leader, lost quorum, compaction, broken hosts and sick BMCs.
//
// What is checked, and from what (leases.md §§2, 3, 8):
//   - history: every change below /holdfast/v1/ from revision 1, by a watch of its own;
//   - audit: every transaction with its comparisons and its sender, written by the
//     members themselves through an interceptor;
//   - truth: every command that a simulated BMC got, with the account that sent it;
//   - TestFencing: what clients of package leases were told, with porcupine.
//
// Time is the test's own monotonic clock. A revision's moment is known as an interval:
// not before the last read that did not show it, not after the watch did. No clock of a
// worker, an agent or a member is compared with any other.
//
// It refuses to excuse: a host may become SUSPECT only while it, or the link to the very
// worker that suspects it or carries its link, was cut or broken by the schedule, and a
// power command may reach only a host that was broken so that its instances cannot run.
package chaos
