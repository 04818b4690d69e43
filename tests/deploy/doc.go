// SPDX-License-Identifier: Apache-2.0

// Package deploy has tests only: that what is in deploy/ and what operators read in docs/
// is true. Alerts and dashboards name metrics that exist and each alert has its runbook;
// manifests decode strictly and are what the chart renders; units are sandboxed; packages
// hold what they say; every command in the docs is one that the CLI knows; the walkthrough
// in deploy/examples works with real programs on loopback.
//
// Two tests are for their make targets: -alerts (a real Prometheus against a fleet that is
// broken on purpose, minutes) and -root (packages on a clean Debian root, needs root).
package deploy
