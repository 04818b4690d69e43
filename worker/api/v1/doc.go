// SPDX-License-Identifier: Apache-2.0

// Package v1 is the operator API's wire types and its Go client: what third parties
// import. It needs the standard library only.
//
// Refuses: to know what a state or a setting means, to repeat a write whose outcome is
// unknown, to hide which endpoint failed and why.
//
// Invariants: fields are added, never renamed or given a new meaning; every error of a
// call is a *Problem, except a context that the caller ended; a read is tried at each
// endpoint in turn, a write at the next one only if the one before certainly did
// nothing; a watch of events is at least once on the wire and exactly once to the
// caller.
package v1
