// SPDX-License-Identifier: Apache-2.0

// Package metric is a Prometheus registry that knows what it has: the table behind
// docs/metrics.md, of which tests demand that it follows Prometheus' conventions and that
// rules and dashboards name nothing else (libraries.md §6). Worker and agent each have one.
//
// No label may name a host, unless that was asked for: ten thousand hosts must not make a
// hundred thousand series. What
// is counted when it is asked for must not wait: no collector holds a lock that work needs
// over anything slow.
package metric

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Family describes one metric.
type Family struct {
	Name   string
	Type   string // counter, gauge or histogram
	Help   string
	Labels []string
}

// Table is the registry of one process. Make it with New.
type Table struct {
	prefix   string
	reg      *prometheus.Registry
	families []Family
	process  sync.Once // go_… and process_… are registered, once somebody may ask
}

// New makes a table whose metrics' names begin with prefix, with <prefix>build_info of this
// version of what.
func New(prefix, what, version string) *Table {
	t := &Table{prefix: prefix, reg: prometheus.NewRegistry()}
	t.Gauges("build_info", "Version of this "+what+".", "version").WithLabelValues(version).Set(1)
	return t
}

// family notes a metric and returns its full name.
func (t *Table) family(kind, name, help string, labels []string) string {
	t.families = append(t.families, Family{Name: t.prefix + name, Type: kind, Help: help, Labels: labels})
	return t.prefix + name
}

// Counter makes a counter.
func (t *Table) Counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: t.family("counter", name, help, labels), Help: help}, labels)
	t.reg.MustRegister(c)
	return c
}

// Histogram makes a histogram with these upper bounds.
func (t *Table) Histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: t.family("histogram", name, help, labels), Help: help, Buckets: buckets}, labels)
	t.reg.MustRegister(h)
	return h
}

// Gauge makes a gauge without labels.
func (t *Table) Gauge(name, help string) prometheus.Gauge {
	return t.Gauges(name, help).WithLabelValues()
}

// Gauges makes a gauge.
func (t *Table) Gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: t.family("gauge", name, help, labels), Help: help}, labels)
	t.reg.MustRegister(g)
	return g
}

// GaugeFunc makes a gauge that is looked up when it is asked for.
func (t *Table) GaugeFunc(name, help string, f func() float64) {
	t.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: t.family("gauge", name, help, nil), Help: help}, f))
}

// Desc describes a gauge of a collector that is given to Collect.
func (t *Table) Desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(t.family("gauge", name, help, labels), help, labels, nil)
}

// Collect adds a collector whose descriptions were made with Desc.
func (t *Table) Collect(c prometheus.Collector) { t.reg.MustRegister(c) }

// Families lists what was made, sorted by name.
func (t *Table) Families() []Family {
	all := slices.Clone(t.families)
	slices.SortFunc(all, func(a, b Family) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Registry is where all of it is.
func (t *Table) Registry() *prometheus.Registry { return t.reg }

// Handler answers scrapes with what can be had, the families go_… and process_… of every Go
// program among it.
func (t *Table) Handler() http.Handler {
	t.process.Do(func() {
		t.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	})
	return promhttp.HandlerFor(t.reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Markdown is docs/metrics.md, of the tables of worker and agent.
func Markdown(worker, agent []Family) string {
	var b strings.Builder
	b.WriteString("# Metrics\n\n<!-- generated from worker/metrics*.go and agent/metrics*.go; do not edit -->\n\n" +
		"No label names a host, unless the setting `metrics.hosts` asks for it. Beside these there are `go_…`\n" +
		"and `process_…`. Alerts, recording rules and dashboards made of them: `deploy/mixin`; what to do when an alert fires: [runbooks](runbooks/README.md).\n\n" +
		"## Workers\n\n" +
		"Every worker shows its own at `/metrics` of the API. A host and a partition have one owner each, so\n" +
		"sums over all workers are the fleet's.\n\n")
	table(&b, worker)
	b.WriteString("\n## Agents\n\n" +
		"An agent shows its own at `/metrics` of the address in `listenMetrics` (`--listen-metrics`), which is\n" +
		"off unless it is given: a fleet is well watched by its workers alone, which count what agents report.\n" +
		"Without TLS it must be a loopback address; with this host's certificate it may be any, and whoever\n" +
		"asks must show an operator's certificate, as at a worker's API ([agents](agents.md)). One host makes\n" +
		"some hundred series, whatever the size of the fleet.\n\n")
	table(&b, agent)
	return b.String()
}

func table(b *strings.Builder, all []Family) {
	b.WriteString("| metric | type | labels | what |\n|---|---|---|---|\n")
	for _, f := range all {
		labels := "–"
		if len(f.Labels) > 0 {
			labels = "`" + strings.Join(f.Labels, "`, `") + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, labels, f.Help)
	}
}
