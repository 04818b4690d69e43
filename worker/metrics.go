// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/agent/metric"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// metrics are what /metrics shows of this worker.
type metrics struct {
	*metric.Table

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
	refused                    *prometheus.CounterVec
	limiterWait                *prometheus.HistogramVec
	heartbeat                  prometheus.Histogram
	commandSteps, looks        *prometheus.CounterVec
	reconcileTime              *prometheus.HistogramVec
}

func newMetrics(w *Worker) *metrics {
	m := &metrics{Table: metric.New("holdfast_", "worker", w.o.Version)}
	m.claims = m.Gauge("claims", "Slots owned by this worker.")
	m.taken = m.Counter("slots_taken_total", "Slots taken by this worker, by how: orphan, back (after its own restart), handed (pushed by another).", "how")
	m.handovers = m.Counter("slots_handed_over_total", "Slots pushed to other workers.").WithLabelValues()
	m.handoverTime = m.Histogram("handover_duration_seconds", "Time of one batch of hand-overs, from stopping the work to the answer of etcd.", prometheus.ExponentialBuckets(0.001, 2, 14)).WithLabelValues().(prometheus.Histogram)
	m.stuckDeadlines = m.Counter("stuck_deadlines_total", "Deadlines that a tick did not move: a defect of the transition table.").WithLabelValues()
	steps := m.Histogram("step_duration_seconds", "Time of one decision of the HA machine by event.", prometheus.ExponentialBuckets(1e-6, 4, 8), "event")
	m.stepTime = map[ha.Kind]prometheus.Observer{} // found without a lock: every ping comes by here
	for _, k := range ha.Kinds {
		m.stepTime[k] = steps.WithLabelValues(string(k))
	}
	m.transitions = m.Counter("transitions_total", "HA state transitions of hosts.", "from", "to")
	m.stateTime = m.Histogram("state_duration_seconds", "Time hosts spent in a state they left.", prometheus.ExponentialBuckets(0.1, 4, 10), "state")
	m.checks = m.Counter("checks_total", "Checks by kind and result.", "kind", "result")
	m.checkTime = m.Histogram("check_duration_seconds", "Time of checks by kind, from the question to the verdict, waiting for a place in the pool included.", prometheus.ExponentialBuckets(0.01, 2, 14), "kind")
	m.commits = m.Counter("commits_total", "Commits of host records by result: ok, conflict, fenced, error.", "result")
	m.events = m.Counter("events_total", "Events written to the log.", "type", "severity")
	m.powerOps = m.Counter("power_operations_total", "Operations on power devices by driver, operation and result.", "driver", "op", "result")
	m.powerTime = m.Histogram("power_operation_duration_seconds", "Time of operations on power devices.", prometheus.ExponentialBuckets(0.001, 4, 9), "driver", "op")
	m.hostile = m.Counter("hostile_packets_total", "Packets dropped by the IPMI guard that no healthy device sends, by reason.", "reason")
	m.agentsCut = m.Counter("agents_cut_total", "Links ended for what their agents sent or did not take, by reason.", "reason")
	m.pages = m.Counter("pages_total", "Pages by the outcome of the configured hook: none, ok, failed.", "hook")
	m.commandSteps = m.Counter("command_transitions_total", "State transitions of commands, by kind and the state they came to.", "kind", "state")
	m.looks = m.Counter("reconcile_attempts_total", "Looks at what became of a command, by kind and verdict: completed, failed, in-progress, undetermined.", "kind", "verdict")
	m.reconcileTime = m.Histogram("reconcile_duration_seconds", "Time from the interruption of a command, as far as this worker saw it, to the outcome that the evidence showed.", prometheus.ExponentialBuckets(0.05, 3, 11), "kind")
	m.deliveries = m.Counter("hook_deliveries_total", "Attempts to tell webhooks and programs of events, by result: ok, failed; gap (told of events that the log had dropped), disabled (switched off after too many failures).", "kind", "result")
	m.unreadable = m.Gauge("secrets_unreadable", "Sealed secrets that this worker cannot open.")
	m.refused = m.Counter("fences_refused_total", "Times that a guard or rule began to hold an action against a host of this worker, by which; docs/runbooks has a page per guard.", "reason")
	m.limiterWait = m.Histogram("limiter_wait_seconds", "Time waited for a place in a pool of this worker: activity (checks), recovery (fencing), power (readings), reconcile (looks at commands), commits and pressing-commits (transactions of hosts, of those with an incident); or for the rate of power commands: power-rate.", prometheus.ExponentialBuckets(0.001, 5, 8), "limiter")
	m.heartbeat = m.Histogram("heartbeat_delay_seconds", "By how much pings came to the owners of their hosts later than the interval after the ones before.", prometheus.ExponentialBuckets(0.01, 3, 8)).WithLabelValues().(prometheus.Histogram)
	m.GaugeFunc("agents_standing_by", "Silent streams of agents that are linked to other workers and would come here next.", func() float64 { return float64(w.door.Counts().Standby) })
	m.GaugeFunc("lease_valid_seconds", "Time for which this worker's lease is certainly valid.", w.leaseValid)
	m.GaugeFunc("mailbox_depth", "Messages waiting in all owners' mailboxes.", w.mailDepth)
	m.GaugeFunc("etcd_read_age_seconds", "Age of this worker's copy of etcd; above 5 seconds nothing is started.", w.readAge)
	m.GaugeFunc("workers_ready", "Workers that may take slots, as this worker sees the fleet: registered, ready and not drained.", func() float64 { return float64(w.view.readyWorkers()) })
	m.GaugeFunc("storms", "Racks, switches, PDUs, pools, clusters, pods and zones in a storm that no other one explains, in the fleet.", func() float64 { return float64(len(w.view.stormy())) })
	m.GaugeFunc("budgets_latched", "Power-down budgets that are used up and wait for a human, in the fleet.", func() float64 { return float64(len(w.view.latched())) })
	m.GaugeFunc("hooks_disabled", "Webhooks and program hooks of this worker that were switched off after too many failures.", func() float64 { return float64(w.hooks.count(func(s hookShown) bool { return !s.Disabled.IsZero() })) })
	m.GaugeFunc("hook_lag_seconds", "Age of the oldest event that a hook of this worker was not told of yet; hooks that are switched off count, too.", w.hookLag)
	m.Collect(newShownCollector(m, w))
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
	for _, g := range guard.Guards {
		m.refused.WithLabelValues(g.Name)
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

// MetricFamilies lists what a worker's /metrics shows, sorted by name, without the families
// go_… and process_… of every Go program.
func MetricFamilies() []metric.Family { return newMetrics(&Worker{}).Families() }

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

// held counts the holds that a step has placed.
func (m *metrics) held(was, now []ha.Hold) {
	for n, h := range now {
		same := func(x ha.Hold) bool { return x.By == h.By }
		if !slices.ContainsFunc(was, same) && !slices.ContainsFunc(now[:n], same) {
			m.refused.WithLabelValues(h.By).Inc()
		}
	}
}

// observe takes the time since began; nobody counts where o is nil.
func observe(o prometheus.Observer, began time.Time) {
	if o != nil {
		o.Observe(time.Since(began).Seconds())
	}
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
