// SPDX-License-Identifier: Apache-2.0

// Package lists decides which workers an agent links to, and in which order (agents.md
// "List and algorithms"; the source of the first three algorithms is the design paper on
// software based load balancing of agents).
//
// It refuses to know addresses, links and clocks: it says what the list of a host is, the
// worker says when it is sent and the agent when it moves.
//
// Invariants, proven as properties in lists_test.go:
//   - every list holds exactly the workers it was given, each once, and equal inputs give
//     equal lists on every worker;
//   - roundrobin: with indices as Enrol gives them, max − min of the hosts per preferred
//     worker is at most 1 after any sequence of joins and leaves, of hosts and of workers; a
//     join changes no other host's index, and a leave that of one other host at most;
//   - shuffle and ring: a worker that comes or goes changes the order of no two others;
//   - a worker that is missing for less than the grace changes no list.
//
// The hash is SHA-256 of two ids: stable across versions and machines, as agents keep what
// was made of it.
package lists
