// SPDX-License-Identifier: Apache-2.0

package perf

// Where the time goes in parts that have missed their target: profiles of the worker and
// what was tried. Shown on the page only where the target is missed.
const (
	whyCrash   = ""
	whyJoin    = ""
	whyRestart = ""
	whyStall   = ""
	whyIdle    = ""
	whyCold    = ""
	whyPeak    = "The plan balances slots, whose number of hosts it does not know: where whole partitions hash to slots, " +
		"some slots hold several and others none. A plan that weighed slots by their hosts would move slots whenever hosts come and go."
)
