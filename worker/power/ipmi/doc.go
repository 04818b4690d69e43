// SPDX-License-Identifier: Apache-2.0

// Package ipmi is the power driver for BMCs: go-ipmi's messages in a guarded session of our
// own.
//
// go-ipmi's client must not be trusted as a fencing oracle (power.md §3): it takes
// unauthenticated plaintext for an answer, does not verify integrity codes, and one short
// datagram panics in a goroutine of its own, where no recover reaches. It also costs more
// than twice the processor time. So only its messages are used, those of the log-in and of
// each command, and decoded under a recover. The guard is the session: it derives the keys
// from the RAKP exchange, encrypts and signs what leaves, and lets in nothing but the genuine
// answer to the request that is outstanding; the rest is dropped and counted. It works on the
// caller's goroutine and starts none.
//
// There is no unauthenticated IPMI 1.5 probe, no keep-alive, no second dial and no wait for a
// dead BMC at the end.
//
// It refuses cipher suites other than 17 and 3, weaker algorithms than asked, and
// passwords longer than 20 bytes.
//
// Invariants:
//   - one session per Conn; a half-open one is given back with RAKP 3, status 0Fh;
//   - a Reading is Authentic or it is not returned;
//   - what an unauthenticated packet says (a status code, a wrong RAKP 2) is believed
//     only after a grace period in which no proven answer came;
//   - reset, cycle and soft off leave at most once per Do; off, on and identify may be
//     repeated after a packet time-out, as the same packet, which a BMC runs once, each
//     time asking NotAfter and Before again.
package ipmi
