// SPDX-License-Identifier: Apache-2.0

// Package power is the port between a worker and the devices that can switch a host:
// the Driver and Conn every adapter implements, the errors they answer with, late
// resolved secrets, and what all drivers share above the wire (one transaction at a
// time per device, a gap between sessions, no second try with a refused password).
// The pure types (State, Reading, Verb, Outcome, Kind) are coordinator/power's.
//
// It refuses to judge: no levels, no caps, no settled OFF, no verdict. A driver tells
// what it read and what it sent; the fence transaction (coordinator/power) decides.
//
// Invariants:
//   - an error comes with the zero Reading: Unknown, never Off;
//   - every call ends within 250 ms of its deadline, whatever the device does;
//   - an irreversible packet leaves only after Command.Before said yes and before
//     Command.NotAfter, both asked immediately before that packet;
//   - once such a packet left and no answer came, the outcome is Indeterminate and
//     the error says MayHaveRun;
//   - no secret appears in an error, a log line, JSON or argv;
//   - a driver keeps no goroutine, socket or process after Close.
//
// Every driver passes drivertest.Run (power.md §8).
package power
