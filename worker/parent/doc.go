// SPDX-License-Identifier: Apache-2.0

// Package parent runs a worker as the child of a small process of the same binary, which
// does nothing but wait for it (leases.md §§2.7, 2.9).
//
// Certain death: only a parent can know that a process is dead and not just silent. When
// the worker's process ends without having been asked to, the parent kills whatever the
// worker had started (fence agents, scripts) and records the end as reaped: others inherit
// its slots some 20 ms later, and need not wait for stray packets. The parent revokes the
// lease when nothing is left under it, and ends too; whoever supervises it (systemd, the
// kubelet) starts it again.
//
// Restart in place: the parent holds the listening sockets. Asked to restart, it starts
// the new process beside the old one, waits until the new one knows all it needs, stops
// the old one, which leaves its slots to its successor, and lets the new one take them
// back: no slot moves and no connection is refused. A new process that cannot start
// changes nothing.
//
// systemd's watchdog: systemd sees the parent alone. It is told that the worker runs while the
// worker itself says so, which it does without asking etcd: an outage there restarts nobody.
//
// It refuses to know anything of hosts, slots and settings, and to restart a worker that
// has died: a worker that keeps dying is for others to replace.
//
//   - the worker dies with its parent (parent-death signal), so that nobody acts unwatched;
//   - an end is recorded before the lease goes, and only after the process and all its
//     descendants are dead;
//   - an orderly end that takes too long becomes a killed one.
package parent
