// SPDX-License-Identifier: Apache-2.0

// Package journal keeps what the agent does about commands on its own disk, one JSON file
// a command (commands.md "Agent journal"): written before anything acts, with every name
// that a file will ever have; each step is durable when its write returns; deleted only
// when the worker has said that it has the end of it on record.
//
// A write makes a temporary, syncs it, renames it over the file and syncs the directory:
// after any crash there is the old content or the new, whole. Each file carries a checksum
// of its content, the boot and the process that wrote it last.
//
// It refuses to lose anything: a file that is torn, foreign, of a newer version or under
// another's name is moved into the folder "aside" under a name of its own and reported,
// and the agent goes on. It refuses to decide: what a new process finds unfinished it
// marks, INTERRUPTED or DANGLING, and the worker judges.
//
// Invariants: steps of a command are numbered from 1 without a gap and only added; a
// terminal step is the last; an entry is forgotten only when the worker knows all its
// steps and says so; two entries never have one id. A Journal is safe for concurrent
// use; writes of different commands do not wait for each other.
package journal
