// SPDX-License-Identifier: Apache-2.0

// Package drivertest holds the contract every power driver must pass (power.md §8):
// one table, run by each driver's tests against a fake device, and against a real
// implementation of the protocol where one can run.
//
// It refuses to know protocols: what a device did is read from its truth log, and how
// it is switched or silenced is the factory's business.
package drivertest
