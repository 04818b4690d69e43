// SPDX-License-Identifier: Apache-2.0

// Package probe is how an agent looks at side effects of hosts (ha.md §5): stamps and
// disk writes on shared pools, and whether a host's kernel answers on the network. It
// holds the two ports, Pool and Prober, and their adapters: Dir, a pool that is a
// mounted directory, and Net, probes over UDP echo and ICMP.
//
// It refuses to judge: it hands out samples and answers, and says an error where it
// could not look. Nothing here compares two machines' clocks.
//
// Invariants:
//   - a sample is fresh: stamps are reopened before each read and disk attributes are
//     asked of the storage, never of the client's attribute cache;
//   - "no stamp" (fs.ErrNotExist) is said only when the pool itself answered;
//   - a Dir that must be a mount point and is not gives errors, so that a directory
//     left behind by a missing mount never passes for the pool;
//   - a probe that could not be sent is an error, never silence.
//
// Any call on a Pool may hang for as long as its storage does, whatever its context
// says: a system call on a dead mount cannot be cancelled. Callers bound that.
package probe
