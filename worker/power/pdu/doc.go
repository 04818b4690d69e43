// SPDX-License-Identifier: Apache-2.0

// Package pdu is the power driver for the outlets that feed a host: a set of outlets of
// one power distribution unit, each switched and read through a fence agent (power.md §8.6).
// A host with feeds from two units has two such devices in a level of kind "all".
//
// It refuses to call a host off before every outlet was read off: any outlet that is on
// is ON, and off beside an error is unknown.
//
// Invariants:
//   - a command stops at the first outlet that fails, except on: a host boots from one feed;
//   - once one outlet was switched, a failure of another is Indeterminate;
//   - an order is asked for again (NotAfter, Before) for each outlet;
//   - outlets come on one after the other, never all at once.
//
// Which outlets feed which host is the operator's knowledge; an outlet that feeds two
// hosts is for the owner of all targets to find.
package pdu
