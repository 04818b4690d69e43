// SPDX-License-Identifier: Apache-2.0

// Package ipmi is the power driver for BMCs: the go-ipmi client above a guard.
//
// go-ipmi must not be trusted as a fencing oracle by itself (power.md §3): it takes
// unauthenticated plaintext for an answer, does not verify integrity codes, and one
// short datagram panics in a goroutine of its own, where no recover reaches. So it
// never sees the socket. The guard sits below it as its net.Conn, derives the session
// keys itself from the RAKP exchange, lets out nothing but the request the driver has
// announced, and lets in nothing but the genuine answer to it; the rest is dropped and
// counted. The guard shares no code with the library.
//
// The library is used step by step (open session, RAKP 1 and 3, commands), not through
// its Connect and Close: so there is no unauthenticated IPMI 1.5 probe, no keep-alive
// goroutine, no second dial and no wait for a dead BMC at the end.
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
//     repeated after a packet time-out, each time asking NotAfter and Before again.
package ipmi
