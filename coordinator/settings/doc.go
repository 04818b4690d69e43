// SPDX-License-Identifier: Apache-2.0

// Package settings is the catalogue of everything that can be tuned while Holdfast runs,
// and the rule by which values of several scopes become the one that is in effect:
// host before cluster before pod before zone before global; at one scope an explicit
// value before the scope's preset; below all the default (ha.md §4).
//
// A preset sets its whole column at a scope: every setting for which some preset has a
// figure of its own. It does not touch the others: the policy, the budgets, the hooks.
//
// It refuses to store or fetch anything, and to let a bad value through: whoever writes
// one gets an error naming setting, value and what is allowed; one that was written past
// us is left out and listed in Effective.Problems.
//
// Invariants: Resolve is total and its result keeps every bound and cross rule; the zero
// Effective answers with the defaults; each value knows where it comes from.
package settings
