// SPDX-License-Identifier: Apache-2.0

// Package journal keeps what the agent does about commands on its own disk, one file a
// command (commands.md "Agent journal"): written before anything acts, with every name
// that a file will ever have; each step is durable when its write returns; deleted only
// when the worker has said that it has the end of it on record.
//
// A file is lines of JSON: the entry as it was begun, then a step a line, each with a
// checksum that goes over the one before it, the boot and the process that wrote it; zeroes
// after them are room. A step costs one sync of data, in a file that stays open until the
// last one; so does a new entry, where it can have the file of a forgotten command ("again-…":
// its name says nothing), with its room and its name on the disk already. After any
// crash there are all lines whose write had returned, and perhaps a part of the next one,
// which is cut off. After a write that failed, the file is written anew beside the old one
// and renamed over it.
//
// It refuses to lose anything: a file that is torn, foreign, of a newer version or under
// another's name is moved into the folder "aside" under a name of its own and reported,
// and the agent goes on. It refuses to decide: what a new process finds unfinished it
// marks, INTERRUPTED or DANGLING, and the worker judges.
//
// Invariants: steps of a command are numbered from 1 without a gap and only added; a
// terminal step is the last; an entry is forgotten only when the worker knows all its
// steps and says so; two entries never have one id. A Journal is safe for concurrent
// use; writes of different commands do not wait for each other, and who reads waits for none:
// it sees what is durable.
package journal
