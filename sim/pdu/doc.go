// SPDX-License-Identifier: Apache-2.0

// Package pdu is a simulated switched rack PDU that speaks SNMP v1 and v2c as the
// rack PDUs of APC do (PowerNet-MIB, rPDUOutlet): outlets that are listed, read and
// switched by GET, GETNEXT, GETBULK and SET. net-snmp and with it fence_apc_snmp talk
// to it unchanged (power.md §§5, 8.6).
//
// It refuses to know what an outlet feeds: it tells the [Outlet]'s Feed. Two outlets of
// two PDUs that feed one host, and a host that goes dark when both are off, are the
// business of whoever simulates the world.
//
// The protocol is [PDU.Handle], datagram in and datagram out. [PDU.Run] puts one socket
// and one goroutine around it.
//
// Invariants:
//   - Handle never panics, whatever arrives, and its work is bounded;
//   - a wrong community gets silence, as from real devices;
//   - every SET of an outlet is in the truth log, executed or not, in the order of execution;
//   - faults touch what a client is told and what a command does, never the log.
package pdu
