// SPDX-License-Identifier: Apache-2.0

// Package power decides everything about power that needs no wire: the ON / OFF /
// UNKNOWN machine fed by readings, and the fence transaction, a pure step function
// that takes readings and times in and gives the next packet or the verdict out.
//
// It refuses to do I/O, to read a clock and to call any driver. The worker drives it
// with real devices, the simulated fleet with simulated ones.
//
// Invariants: the zero State is Unknown; an error never becomes Off; transitional and
// fault readings never count as Off; a verdict of A3 needs at least three authentic
// OFF readings over at least the settle window with no ON among them, on a device
// whose identity matched; a hard off is always sent before OFF is believed.
package power
