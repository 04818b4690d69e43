// SPDX-License-Identifier: Apache-2.0

// Package bmc is a simulated baseboard management controller that speaks real RMCP+
// (IPMI 2.0, "lanplus") over UDP: presence ping, session setup with RAKP, cipher
// suites 3 and 17, the chassis and session commands a power driver needs, and faults
// that can be set while it runs (power.md §§3, 5, 6.1 and 11). ipmitool,
// fence_ipmilan and go-ipmi talk to it unchanged.
//
// It refuses to share code with go-ipmi, so that a client can be tested against
// something its author did not write; to be polite to a client (what the
// specification lets it drop is dropped); and to know what a host is: the world
// behind it is a [Chassis].
//
// The protocol is [BMC.Handle], datagram in and datagrams out, and [BMC.Tick], for
// what happens by itself. [BMC.Run] puts one socket and one goroutine around one BMC,
// [Block.Run] around ten thousand.
//
// Invariants:
//   - Handle never panics, whatever arrives, and its work is bounded.
//   - Nothing is executed in a session unless its integrity code is right, its
//     ciphertext is well padded and its sequence number is new and inside the window.
//   - Every command that could change the chassis is in the truth log, executed or
//     not, in the order of execution, whatever became of its answer.
//   - Faults touch what a client is told and what a command does, never the log.
//   - The random faults of one BMC follow from its seed and its sequence of requests.
package bmc
