// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// metrics are what /metrics shows of this worker. Nothing has a label per host: ten
// thousand hosts must not make a hundred thousand series.
type metrics struct {
	reg *prometheus.Registry

	// families describe every holdfast_ metric of reg, in the order they were made: the
	// table behind docs/metrics.md.
	families []MetricFamily

	claims, unreadable         prometheus.Gauge
	agentsCut                  *prometheus.CounterVec
	taken                      *prometheus.CounterVec
	handovers, stuckDeadlines  prometheus.Counter
	handoverTime               prometheus.Histogram
	stepTime                   map[ha.Kind]prometheus.Observer
	stateTime                  *prometheus.HistogramVec
	checkTime, powerTime       *prometheus.HistogramVec
	transitions, checks        *prometheus.CounterVec
	commits, events, powerOps  *prometheus.CounterVec
	hostile, pages, deliveries *prometheus.CounterVec
	commandSteps, looks        *prometheus.CounterVec
	reconcileTime              *prometheus.HistogramVec
}

func newMetrics(w *Worker) *metrics {
	m := &metrics{reg: prometheus.NewRegistry()}
	m.claims = m.gauge("claims", "Slots owned by this worker.")
	m.taken = m.counter("slots_taken_total", "Slots taken by this worker, by how: orphan, back (after its own restart), handed (pushed by another).", "how")
	m.handovers = m.counter("slots_handed_over_total", "Slots pushed to other workers.").WithLabelValues()
	m.handoverTime = m.histogram("handover_duration_seconds", "Time of one batch of hand-overs, from stopping the work to the answer of etcd.", prometheus.ExponentialBuckets(0.001, 2, 14)).WithLabelValues().(prometheus.Histogram)
	m.stuckDeadlines = m.counter("stuck_deadlines_total", "Deadlines that a tick did not move: a defect of the transition table.").WithLabelValues()
	steps := m.histogram("step_duration_seconds", "Time of one decision of the HA machine by event.", prometheus.ExponentialBuckets(1e-6, 4, 8), "event")
	m.stepTime = map[ha.Kind]prometheus.Observer{} // found without a lock: every ping comes by here
	for _, k := range ha.Kinds {
		m.stepTime[k] = steps.WithLabelValues(string(k))
	}
	m.transitions = m.counter("transitions_total", "HA state transitions of hosts.", "from", "to")
	m.stateTime = m.histogram("state_duration_seconds", "Time hosts spent in a state they left.", prometheus.ExponentialBuckets(0.1, 4, 10), "state")
	m.checks = m.counter("checks_total", "Checks by kind and result.", "kind", "result")
	m.checkTime = m.histogram("check_duration_seconds", "Time of checks by kind, from the question to the verdict, waiting for a place in the pool included.", prometheus.ExponentialBuckets(0.01, 2, 14), "kind")
	m.commits = m.counter("commits_total", "Commits of host records by result: ok, conflict, fenced, error.", "result")
	m.events = m.counter("events_total", "Events written to the log.", "type", "severity")
	m.powerOps = m.counter("power_operations_total", "Operations on power devices by driver, operation and result.", "driver", "op", "result")
	m.powerTime = m.histogram("power_operation_duration_seconds", "Time of operations on power devices.", prometheus.ExponentialBuckets(0.001, 4, 9), "driver", "op")
	m.hostile = m.counter("hostile_packets_total", "Packets dropped by the IPMI guard that no healthy device sends, by reason.", "reason")
	m.agentsCut = m.counter("agents_cut_total", "Links ended for what their agents sent or did not take, by reason.", "reason")
	m.pages = m.counter("pages_total", "Pages by the outcome of the configured hook: none, ok, failed.", "hook")
	m.commandSteps = m.counter("command_transitions_total", "State transitions of commands, by kind and the state they came to.", "kind", "state")
	m.looks = m.counter("reconcile_attempts_total", "Looks at what became of a command, by kind and verdict: completed, failed, in-progress, undetermined.", "kind", "verdict")
	m.reconcileTime = m.histogram("reconcile_duration_seconds", "Time from the interruption of a command, as far as this worker saw it, to the outcome that the evidence showed.", prometheus.ExponentialBuckets(0.05, 3, 11), "kind")
	m.deliveries = m.counter("hook_deliveries_total", "Attempts to tell webhooks and programs of events, by result: ok, failed; gap (told of events that the log had dropped), disabled (switched off after too many failures).", "kind", "result")
	m.unreadable = m.gauge("secrets_unreadable", "Sealed secrets that this worker cannot open.")
	m.gaugeFunc("agents_connected", "Agents linked to this worker.", func() float64 { return float64(w.door.Counts().Links) })
	m.gaugeFunc("agents_standing_by", "Silent streams of agents that are linked to other workers and would come here next.", func() float64 { return float64(w.door.Counts().Standby) })
	m.gaugeFunc("lease_valid_seconds", "Time for which this worker's lease is certainly valid.", w.leaseValid)
	m.gaugeFunc("mailbox_depth", "Messages waiting in all owners' mailboxes.", w.mailDepth)
	m.gaugeFunc("etcd_read_age_seconds", "Age of this worker's copy of etcd; above 5 seconds nothing is started.", w.readAge)
	m.gaugeFunc("workers_ready", "Workers that may take slots, as this worker sees the fleet: registered, ready and not drained.", func() float64 { return float64(w.view.readyWorkers()) })
	m.gaugeFunc("storms", "Racks, switches, PDUs, pools, clusters, pods and zones in a storm that no other one explains, in the fleet.", func() float64 { return float64(len(w.view.stormy())) })
	m.gaugeFunc("budgets_latched", "Power-down budgets that are used up and wait for a human, in the fleet.", func() float64 { return float64(len(w.view.latched())) })
	m.gaugeFunc("hooks_disabled", "Webhooks and program hooks of this worker that were switched off after too many failures.", func() float64 { return float64(w.hooks.count(func(s hookShown) bool { return !s.Disabled.IsZero() })) })
	m.gaugeFunc("hook_lag_seconds", "Age of the oldest event that a hook of this worker was not told of yet; hooks that are switched off count, too.", w.hookLag)
	m.reg.MustRegister(newShownCollector(m, w), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.family("gauge", "build_info", "Version of this worker.", "version"), Help: "Version of this worker."}, []string{"version"})
	m.reg.MustRegister(info)
	info.WithLabelValues(w.o.Version).Set(1)
	// Series that alerts take an increase of exist from the start: a series that begins
	// with its first event has not increased.
	for _, r := range []string{"ok", "conflict", "fenced", "error"} {
		m.commits.WithLabelValues(r)
	}
	for _, r := range []string{"none", "ok", "failed"} {
		m.pages.WithLabelValues(r)
	}
	for _, kind := range []string{v1.HookWeb, v1.HookExec} {
		for _, r := range []string{"ok", "failed", "gap", "disabled"} {
			m.deliveries.WithLabelValues(kind, r)
		}
	}
	for _, r := range []string{"orphan", "back", "handed"} {
		m.taken.WithLabelValues(r)
	}
	for _, k := range command.Kinds {
		m.commandSteps.WithLabelValues(string(k), string(command.NeedsOperator))
	}
	for _, v := range []ha.Verdict{ha.Active, ha.Idle, ha.Unknown} {
		m.checks.WithLabelValues("activity", verdictWord(v))
	}
	return m
}

// family notes a metric in the table and returns its full name.
func (m *metrics) family(kind, name, help string, labels ...string) string {
	m.families = append(m.families, MetricFamily{Name: "holdfast_" + name, Type: kind, Help: help, Labels: labels})
	return "holdfast_" + name
}

func (m *metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.family("counter", name, help, labels...), Help: help}, labels)
	m.reg.MustRegister(c)
	return c
}

func (m *metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.family("histogram", name, help, labels...), Help: help, Buckets: buckets}, labels)
	m.reg.MustRegister(h)
	return h
}

func (m *metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: m.family("gauge", name, help), Help: help})
	m.reg.MustRegister(g)
	return g
}

func (m *metrics) gaugeFunc(name, help string, f func() float64) {
	m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: m.family("gauge", name, help), Help: help}, f))
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

// commandStep counts what a committed step of a command has brought; broken is since when its
// outcome is not certain, zero: it was not.
func (m *metrics) commandStep(was, now command.Record, broken time.Time) {
	kind := string(now.Kind)
	if was.State != now.State {
		m.commandSteps.WithLabelValues(kind, string(now.State)).Inc()
	}
	if e := now.Evidence; e != nil && (was.Evidence == nil || !was.Evidence.At.Equal(e.At)) {
		m.looks.WithLabelValues(kind, string(now.Verdict)).Inc()
	}
	if was.Outcome == nil && now.State == command.Reconciled && !broken.IsZero() {
		m.reconcileTime.WithLabelValues(kind).Observe(now.Since.Sub(broken).Seconds())
	}
}

// check counts a finished check.
func (m *metrics) check(kind string, c ha.Check) {
	m.checks.WithLabelValues(kind, verdictWord(c.Verdict)).Inc()
	m.checkTime.WithLabelValues(kind).Observe(c.Done.Sub(c.Asked).Seconds())
}

// readAge is that of the copy of etcd; nothing was read before Run.
func (w *Worker) readAge() float64 {
	if w.mirror == nil {
		return 0
	}
	return w.mirror.Age().Seconds()
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
	for _, o := range w.ownersNow() {
		n += float64(o.in.depth())
	}
	return n
}

// ownersNow are the owners as they are now, to be gone through without the worker's lock.
func (w *Worker) ownersNow() []*owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.AppendSeq(make([]*owner, 0, len(w.owners)), maps.Values(w.owners))
}
