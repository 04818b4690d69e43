// SPDX-License-Identifier: Apache-2.0

// Package perf measures how fast ownership changes hands against the floors of the
// machine it runs on (leases.md §8): P is the median of one put, X that of one transaction
// of 128 puts, one at a time, through three etcd members that are processes of their own
// and sync their logs to a disk. Workers are the shipped binary, parent and child.
//
//	go test ./tests/perf             a short form, which proves that the harness works
//	make bench                       measures, and writes docs/performance.md
//
// It also measures what the HA engine is asked for: how long from the crash of a host to the
// proof that it is dead, over a fleet of `holdfast dev` (detect), and what its own decisions,
// heartbeats and simulated hours cost, by the Go benchmarks of their packages (engine).
//
// Times are of one monotonic clock: that of this process, which sends the signals and
// watches etcd. Floors are taken right before and right after what is held against them,
// because a machine's mood changes within minutes; ratios are to be trusted, times are not.
//
// It refuses to judge: a target that is missed fails no test, it is written down with by
// how much and where the time went. Only a harness that cannot measure fails.
package perf
