// SPDX-License-Identifier: Apache-2.0

// Package e2e breaks real fleets: the holdfast binary, real etcd, workers and agents as
// processes, power over RMCP+ on UDP. Tests drive it as an operator would, with the
// command line and the API, and compare what Holdfast believes with the truth logs of
// the BMCs.
//
// The tests here run at preset fast; with the build tag e2e_full (make e2e) at preset
// default too, with hooks. A fleet is upgraded with an incident open, with the tag
// e2e_upgrade from an older commit too.
package e2e
