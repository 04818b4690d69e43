// SPDX-License-Identifier: Apache-2.0

// Package sweep measures and proves the power service at scale: the real driver, gate and
// retry of the worker against ten thousand simulated BMCs in a process of their own, so
// that each side's processor time is its own (power.md §§4, 6.3, 11.6–11.8).
//
// `go test` runs it small, to prove that it works; with -full it runs at full size and
// writes docs/power-performance.md.
package sweep
