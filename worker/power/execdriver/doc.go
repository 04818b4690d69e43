// SPDX-License-Identifier: Apache-2.0

// Package execdriver is the power driver "exec": a program of the administrator's own,
// for devices nobody else knows (power.md §8.4). docs/power-exec.md is its contract.
//
// The program is run as "PROGRAM ACTION" with one JSON object on standard input and
// answers with one on standard output, exit code 0, or 1 beside an error. Anything else
// is ProtocolViolation, never OFF.
//
// It refuses shells, relative paths, and programs that somebody other than root could
// have changed: every folder above it and the file itself belong to root and are not
// writable by others. Secrets are on standard input only.
//
// NewProvider makes a second driver of the same contract, "provider": the hands of provider
// exec, whose program recovers and fences by those words (docs/providers.md).
//
// A reading is Authentic only when the program says so: only its author knows whether
// the answer was tied to the credentials. Its assurance ends at A2 unless a profile
// raises it.
package execdriver
