// SPDX-License-Identifier: Apache-2.0

// Package fleet is a whole fleet on virtual time: hosts, agents, BMCs, PDUs, pools,
// racks, switches, networks, workers and an etcd that may be away. Nothing runs but an
// event heap: no goroutine, no clock, no packet. The same topology, script and seed give
// the same story, to the letter.
//
// What decides is what decides in production: coordinator/ha, power, guard, budget, ring
// and the vote counting of worker/provider/kvm. What surrounds them (owner.go, live.go,
// place.go, reading.go, txn.go, partition.go, worker.go) does what the files of those
// names in package worker do, without the waiting.
//
// It refuses to be a model of hardware: a device answers in time, late, wrongly or not
// at all, as a script says.
//
// Invariants: what is true of a host (world.go) and what is known of it (owner.go) never
// share a field; knowledge moves by pings, samples, readings and records only; every
// step of the fleet is looked at by the rules of check.go; a healthy host costs nothing
// between events.
package fleet
