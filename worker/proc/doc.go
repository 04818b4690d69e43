// SPDX-License-Identifier: Apache-2.0

// Package proc runs the child processes of power drivers: fence agents, user scripts,
// virsh. One Runner serves a worker, and bounds how many run at once.
//
// It refuses relative paths, shells, and secrets in arguments or environment: what is
// secret goes to standard input. It does not read what a child says; that is the
// driver's business.
//
// Invariants:
//   - Run ends within 250 ms of its context, whatever the child does: ignoring SIGTERM,
//     endless output, grandchildren that keep the pipes open;
//   - nothing the child started outlives Run: its session is killed as a whole, and so
//     is whoever left it but kept the mark in its environment;
//   - a child that is stuck in the kernel and cannot be killed keeps its place in the
//     pool until it ends, so such children cannot pile up;
//   - the environment is fixed; nothing of the worker's own gets in;
//   - output beyond the limit ends the child: an answer that long is none;
//   - when the worker dies, its children are killed by the kernel.
//
// Children run as the worker's user, which the service unit makes an unprivileged one.
package proc
