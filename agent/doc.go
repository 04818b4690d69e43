// SPDX-License-Identifier: Apache-2.0

// Package agent is the process on each host: it keeps the link to the worker that owns
// the host, beats, stamps the shared pools, and looks at other hosts when asked
// (agents.md "Link", ha.md §§5, 7). It stays small: it runs on somebody else's machine.
//
// It refuses to decide. It reports what it sees, three-valued, and never reads silence
// of its own making (an error, a hang, a timeout) as stillness of another host. It holds
// no etcd credentials and acts on nobody's word with an epoch older than the highest it
// has seen.
//
// Invariants:
//   - stamps do not depend on the link, on the hypervisor, or on another pool; pings do
//     not depend on a pool, on the hypervisor, or on the disk of the state directory;
//   - at most one access of each kind is under way per pool, and one call of each kind at
//     the hypervisor: a hung mount costs two goroutines, however often it is asked;
//   - "still" needs two whole samples at least the window apart on this host's monotonic
//     clock, and another stamp that moved between them; one from memory (memory.go) may be
//     the first of the two if it was taken after the host was heard last, never the second;
//   - what is remembered of others is bounded (watch.go): hosts, looks, disks, and for how
//     long without being asked again;
//   - an epoch is on disk before anything is done in its name, or, where the disk takes
//     nothing, remembered until the process ends, and said so;
//   - gate_confirmed names a generation only after the hypervisor was seen to run none of
//     the instances that the gate forbids.
//
// One exception to "who starts a goroutine waits for it": an access to a dead mount
// cannot be cancelled. lane.go abandons it after its limit, bounded as said above.
package agent
