// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// metrics are what /metrics shows of this worker. Nothing has a label per host: ten
// thousand hosts must not make a hundred thousand series.
type metrics struct {
	reg *prometheus.Registry

	claims, linked prometheus.Gauge
	taken          *prometheus.CounterVec
	handovers      prometheus.Counter
	handoverTime   prometheus.Histogram
	stuckDeadlines prometheus.Counter
	steps          *prometheus.HistogramVec
	transitions    *prometheus.CounterVec
	stateTime      *prometheus.HistogramVec
	checks         *prometheus.CounterVec
	commits        *prometheus.CounterVec
	events         *prometheus.CounterVec
	powerOps       *prometheus.CounterVec
	powerTime      *prometheus.HistogramVec
	hostile, pages *prometheus.CounterVec
	unreadable     prometheus.Gauge
}

func newMetrics(w *Worker) *metrics {
	m := &metrics{reg: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_" + name, Help: help}, labels)
		m.reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "holdfast_" + name, Help: help, Buckets: buckets}, labels)
		m.reg.MustRegister(h)
		return h
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_" + name, Help: help})
		m.reg.MustRegister(g)
		return g
	}
	m.claims = gauge("claims", "Slots owned by this worker.")
	m.linked = gauge("agents_connected", "Agents linked to this worker.")
	m.taken = counter("slots_taken_total", "Slots taken by this worker, by how: orphan, back (after its own restart), handed (pushed by another).", "how")
	m.handovers = prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_slots_handed_over_total", Help: "Slots pushed to other workers."})
	m.handoverTime = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_handover_duration_seconds", Help: "Time of one batch of hand-overs, from stopping the work to the answer of etcd.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})
	m.reg.MustRegister(m.handovers, m.handoverTime)
	m.stuckDeadlines = prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_stuck_deadlines_total", Help: "Deadlines that a tick did not move: a defect of the transition table."})
	m.reg.MustRegister(m.stuckDeadlines)
	m.steps = histogram("step_duration_seconds", "Time of one decision of the HA machine by event.", prometheus.ExponentialBuckets(1e-6, 4, 8), "event")
	m.transitions = counter("transitions_total", "HA state transitions of hosts.", "from", "to")
	m.stateTime = histogram("state_duration_seconds", "Time hosts spent in a state they left.", prometheus.ExponentialBuckets(0.1, 4, 10), "state")
	m.checks = counter("checks_total", "Checks by kind and result.", "kind", "result")
	m.commits = counter("commits_total", "Commits of host records by result: ok, conflict, fenced, error.", "result")
	m.events = counter("events_total", "Events written to the log.", "type", "severity")
	m.powerOps = counter("power_operations_total", "Operations on power devices by driver, operation and result.", "driver", "op", "result")
	m.powerTime = histogram("power_operation_duration_seconds", "Time of operations on power devices.", prometheus.ExponentialBuckets(0.001, 4, 9), "driver", "op")
	m.hostile = counter("hostile_packets_total", "Packets dropped by the IPMI guard that no healthy device sends, by reason.", "reason")
	m.pages = counter("pages_total", "Pages by the outcome of the configured hook: none, ok, failed.", "hook")
	m.reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_lease_valid_seconds", Help: "Time for which this worker's lease is certainly valid."}, w.leaseValid),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_mailbox_depth", Help: "Messages waiting in all owners' mailboxes."}, w.mailDepth),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_storms", Help: "Racks, switches, PDUs, pools, clusters, pods and zones in a storm that no other one explains, in the fleet."}, func() float64 { return float64(len(w.view.stormy())) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_budgets_latched", Help: "Power-down budgets that are used up and wait for a human, in the fleet."}, func() float64 { return float64(len(w.view.latched())) }),
		&stateCollector{w: w, resources: prometheus.NewDesc("holdfast_resources", "Hosts owned by this worker, by partition and HA state.", []string{"partition", "state"}, nil),
			warnings: prometheus.NewDesc("holdfast_health_warnings", "Named warnings of this worker.", []string{"code", "severity"}, nil)},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_build_info", Help: "Version of this worker."}, []string{"version"})
	m.reg.MustRegister(info)
	info.WithLabelValues(w.o.Version).Set(1)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func (m *metrics) transition(from, to ha.State, spent time.Duration) {
	m.transitions.WithLabelValues(string(from), string(to)).Inc()
	m.stateTime.WithLabelValues(string(from)).Observe(spent.Seconds())
}

func (m *metrics) power(driver, op string, err error, took time.Duration) {
	result := "ok"
	if err != nil {
		result = string(wpower.KindOf(err))
	}
	m.powerOps.WithLabelValues(driver, op, result).Inc()
	m.powerTime.WithLabelValues(driver, op).Observe(took.Seconds())
}

func (w *Worker) leaseValid() float64 {
	w.mu.Lock()
	s := w.session
	w.mu.Unlock()
	if s == nil {
		return 0
	}
	return max(0, time.Until(s.Deadline()).Seconds())
}

func (w *Worker) mailDepth() (n float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.owners {
		n += float64(o.in.depth())
	}
	return n
}

// stateCollector counts hosts by state when it is asked, from what owners published.
type stateCollector struct {
	w                   *Worker
	resources, warnings *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.resources
	ch <- c.warnings
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	counts := map[[2]string]int{}
	c.w.mu.Lock()
	for host, p := range c.w.shown {
		if o := c.w.owners[host]; o != nil {
			counts[[2]string{o.home, string(p.record.State)}]++
		}
	}
	c.w.mu.Unlock()
	for k, n := range counts {
		ch <- prometheus.MustNewConstMetric(c.resources, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
	for _, x := range c.w.health.list() {
		ch <- prometheus.MustNewConstMetric(c.warnings, prometheus.GaugeValue, 1, x.Code, x.Severity)
	}
}
