// SPDX-License-Identifier: Apache-2.0

//go:build e2e_full

package e2e

// presets are the timings that the table of breaks is run at.
var presets = []string{"fast", "default"}
