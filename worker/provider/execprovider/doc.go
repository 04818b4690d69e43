// SPDX-License-Identifier: Apache-2.0

// Package execprovider is the HA provider "exec" (ha.md §1): a program of the
// administrator's knows the resource, whatever it is and whatever kind of partition it is
// in. docs/providers.md is its contract.
//
// The program of setting ha.exec.program is run as "PROGRAM ACTION", with one JSON object
// on standard input, and answers with one on standard output and exit code 0. Actions here
// are eligible, health and activity. Recovering and fencing are power actions, with the
// engine's guards, budget and proof: either through whatever power devices the resource
// has, or through the same program, declared as a device of driver "provider"
// (worker/power/execdriver).
//
// It refuses shells, programs that somebody other than root could have changed, and
// secrets: the program keeps its own, or gets those of its power device on standard input.
//
// Invariants: whatever is not an answer by the letter (a crash, another exit code, a slow
// program, more or less than one object, an unknown field or version) is unknown, never
// fail and never idle; idle beside a sign of life is unknown; a program that may not be run
// makes its resource ineligible, with the reason.
package execprovider
