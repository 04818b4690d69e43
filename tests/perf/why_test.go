// SPDX-License-Identifier: Apache-2.0

package perf

// Where the time goes in parts that have missed their target: profiles of the worker and
// what was tried. Shown on the page only where the target is missed.
const (
	whyCrash = ""
	whyJoin  = ""
)
