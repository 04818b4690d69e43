// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"slices"
	"strings"
)

// MetricFamily describes one metric of a worker's /metrics.
type MetricFamily struct {
	Name   string
	Type   string // counter, gauge or histogram
	Help   string
	Labels []string
}

// MetricFamilies lists what a worker's /metrics shows, sorted by name, without the
// families go_… and process_… of every Go program.
func MetricFamilies() []MetricFamily {
	all := newMetrics(&Worker{}).families
	slices.SortFunc(all, func(a, b MetricFamily) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// MetricsMarkdown is docs/metrics.md.
func MetricsMarkdown() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\n<!-- generated from worker/metrics.go; do not edit -->\n\n" +
		"Every worker shows its own at `/metrics` of the API. A host and a partition have one owner each, so\n" +
		"sums over all workers are the fleet's. No label names a host. Beside these there are `go_…` and `process_…`.\n" +
		"Alerts, recording rules and dashboards made of them: `deploy/mixin`; what to do when an alert fires:\n" +
		"[runbooks](runbooks/README.md). Agents have no metrics of their own; what they report is counted by workers.\n\n" +
		"| metric | type | labels | what |\n|---|---|---|---|\n")
	for _, f := range MetricFamilies() {
		labels := "–"
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, labels, f.Help)
	}
	return b.String()
}
