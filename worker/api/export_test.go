// SPDX-License-Identifier: Apache-2.0

package api

// ScopeKnown says whether a scope has a role of its own.
func ScopeKnown(scope string) bool {
	_, ok := roles[scope]
	return ok
}
