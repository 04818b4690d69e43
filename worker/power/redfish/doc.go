// SPDX-License-Identifier: Apache-2.0

// Package redfish is the power driver for Redfish services: one GET of the system on a
// kept connection reads state and identity together (power.md §8.2).
//
// HTTP is spoken on a connection of its own, with the standard library's request writer
// and response reader but without its client: that one repeats requests by itself, and
// here it must be known whether a command left, and that nobody sends it twice. gofish
// finds the system at enrolment; it gets a transport that sends GETs over the same
// connection, and never sees the password.
//
// It refuses redirects, bodies above 256 KiB, JSON with a member twice, and to guess
// which of several systems is meant. Of TLS it knows three modes: "pin" (the certificate
// seen at enrolment and no other), "ca" (a chain to given or system roots), "insecure"
// (none); "off" is plain HTTP, for tests. What nothing proves is not Authentic, so an
// OFF read that way fences nobody.
//
// Invariants:
//   - credentials leave only after the certificate was checked;
//   - every reading carries the identity, and with an identity pinned no reading of
//     another system is returned;
//   - a command leaves at most once per Do, after a reading of the pinned system not
//     older than a second; reset, cycle and soft off are operators' verbs;
//   - what the kernel could not deliver of a command within Limits.Packet is dropped,
//     not delivered late;
//   - a session (auth=session) is opened by Open and deleted by Close; basic
//     authentication holds none;
//   - no goroutine outlives a call; with New(0) no socket outlives Close.
package redfish
