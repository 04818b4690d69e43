// SPDX-License-Identifier: Apache-2.0

// Package world is the simulated world around a real Holdfast: hosts with cables, pools,
// guests and BMCs on loopback, for `holdfast dev` and the end-to-end tests (issue "One
// host dies and comes back").
//
// Loopback never falls silent by itself: a dead listener answers RST or ICMP at once and
// a stopped one still accepts. So a simulated host is an address of its own in
// 127.0.0.0/8, an agent child, a guest child that writes the disks of its instances, a
// Cable that carries its TCP and answers probes in place of its kernel, and a BMC. The
// cable and the BMC live in the parent, the children can be killed and stopped for real.
//
// It refuses to know Holdfast: it starts no worker, talks to no API and judges nothing.
//
// Invariants:
//   - a host goes silent before its processes are touched: no FIN, RST or ICMP tells
//     anybody that it died;
//   - a connection that lived through a death never carries a byte again;
//   - every boot has a new boot id and new instances;
//   - power follows the chassis only: without mains or power no child of a host runs;
//   - no child outlives its parent: children are started from one goroutine that keeps
//     its thread, because the kernel ties parent-death signals to the thread.
package world
