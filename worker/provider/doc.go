// SPDX-License-Identifier: Apache-2.0

// Package provider is the port through which the HA engine learns of one type of
// resource (ha.md §1): is it eligible, is it healthy, do its side effects show
// activity? The engine knows nothing of hypervisors; a provider knows nothing of
// states, budgets or power.
//
// Recovery and fencing are plans of the engine's own power transaction, because the
// proof of OFF is the same whatever runs on the machine.
//
// Invariants: every answer has three values; what could not be seen is unknown; a
// provider's call never outlives its context.
package provider
