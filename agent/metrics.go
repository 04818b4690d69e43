// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/metric"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

// metricsPrefix begins the names of an agent's metrics.
const metricsPrefix = "holdfast_agent_"

// metrics are what an agent shows of itself (libraries.md §6). Labels are what this one host
// has: its pools, at most two workers at a time, and words of ours.
type metrics struct {
	*metric.Table

	reconnects, failures, probes, requests, calls *prometheus.CounterVec
	epochsRefused                                 prometheus.Counter
	probeTime                                     *prometheus.HistogramVec
	roundTrip, journalWrite, callTime             prometheus.Histogram
}

// What is probed, as metrics call it.
const (
	probeHypervisor = "hypervisor" // does it answer?
	probeInstances  = "instances"  // what runs?
	probeStamp      = "stamp"      // our own on a pool, written and read back
	probeSample     = "sample"     // another host's on a pool, and its disks
	probeNetwork    = "network"    // an address of another host
)

// How a link came to be in the place of another.
const (
	byMove    = "moved"   // without a gap
	byStandby = "standby" // the one that stood by, after the other was lost
	byDial    = "dialled" // a new one, after the other was lost
)

func newMetrics(a *Agent) *metrics {
	m := &metrics{Table: metric.New(metricsPrefix, "agent", a.opts.Version)}
	m.reconnects = m.Counter("link_reconnects_total", "Links that took the place of an earlier one, by how: moved (without a gap, to a worker that is preferred), standby (the silent stream, after the link was lost), dialled (a new stream, after the link was lost).", "how")
	m.failures = m.Counter("link_failures_total", "Attempts to link that failed and links that were refused in the end, by reason: what the worker said, or unreachable.", "reason")
	m.roundTrip = m.Histogram("ping_round_trip_seconds", "Time from a ping to the answer of the host's owner.", prometheus.ExponentialBuckets(0.0005, 3, 9)).WithLabelValues().(prometheus.Histogram)
	m.epochsRefused = m.Counter("epochs_refused_total", "Words of workers that were refused, because this host has obeyed a newer owner or another etcd since.").WithLabelValues()
	m.requests = m.Counter("requests_total", "Requests of workers, by kind: activity (looks at other hosts), health, command; and result: ok, error, busy (too many at once).", "kind", "result")
	m.probes = m.Counter("probes_total", "Looks at the hypervisor, at shared pools and at other hosts, by what was looked at and result: ok, failed, hung (no answer in time), silent (of a network address: it did not answer).", "probe", "result")
	m.probeTime = m.Histogram("probe_duration_seconds", "Time of such looks.", prometheus.ExponentialBuckets(0.001, 3, 9), "probe")
	m.journalWrite = m.Histogram("journal_sync_duration_seconds", "Time until a step of a command is durable in the journal; nothing is done before that.", prometheus.ExponentialBuckets(0.0002, 4, 9)).WithLabelValues().(prometheus.Histogram)
	m.calls = m.Counter("hypervisor_calls_total", "Calls of the hypervisor's control interface (libvirt), by result: ok, not-found, busy, failed, unsure (no answer in time, the outcome is not known).", "result")
	m.callTime = m.Histogram("hypervisor_call_duration_seconds", "Time of such calls; migrations are among them, and last as long as they do.", prometheus.ExponentialBuckets(0.001, 4, 10)).WithLabelValues().(prometheus.Histogram)
	m.GaugeFunc("answer_age_seconds", "Time since the host's owner has last answered a ping; since the start of the agent where none has.", func() float64 {
		return time.Since(later(a.began, a.answered.Load())).Seconds()
	})
	m.GaugeFunc("requests_under_way", "Requests of workers that are worked on.", func() float64 { return float64(len(a.requests)) })
	m.GaugeFunc("gate_open", "1 while the owner waits for this host to confirm that instances which were restarted elsewhere do not run here; else 0.", func() float64 {
		return is01(a.gate.open().GetGeneration() != "")
	})
	m.Collect(newShown(m, a))
	// Series that rules take an increase of exist from the start.
	for _, how := range []string{byMove, byStandby, byDial} {
		m.reconnects.WithLabelValues(how)
	}
	for _, result := range []string{"ok", "failed", "unsure"} {
		m.calls.WithLabelValues(result)
	}
	for _, what := range []string{probeHypervisor, probeInstances, probeStamp, probeSample, probeNetwork} {
		for _, result := range []string{"ok", "failed", "hung"} {
			m.probes.WithLabelValues(what, result)
		}
	}
	return m
}

// MetricFamilies lists what an agent shows, sorted by name, without the families go_… and
// process_… of every Go program.
func MetricFamilies() []metric.Family { return newMetrics(&Agent{}).Families() }

// failed counts an attempt to be linked that has ended without, or a link that has.
func (m *metrics) failed(e ending) {
	reason := "unreachable"
	if e.refusal != nil {
		reason = "other" // of a newer worker
		if name, known := agentpb.Refusal_Reason_name[int32(e.refusal.GetReason())]; known {
			reason = strings.ToLower(name)
		}
	}
	m.failures.WithLabelValues(reason).Inc()
}

// probed returns who is told of each look of a kind.
func (m *metrics) probed(what string) func(time.Duration, error) {
	return func(took time.Duration, err error) {
		result := "ok"
		var hung *hungError
		switch {
		case errors.As(err, &hung):
			result = "hung"
		case err != nil:
			result = "failed"
		}
		m.probes.WithLabelValues(what, result).Inc()
		m.probeTime.WithLabelValues(what).Observe(took.Seconds())
	}
}

// called takes a call of the hypervisor's control interface.
func (m *metrics) called(took time.Duration, err error) {
	result := "ok"
	switch {
	case errors.Is(err, hypervisor.ErrUnsure):
		result = "unsure"
	case errors.Is(err, hypervisor.ErrNotFound):
		result = "not-found"
	case errors.Is(err, hypervisor.ErrBusy):
		result = "busy"
	case err != nil:
		result = "failed"
	}
	m.calls.WithLabelValues(result).Inc()
	m.callTime.Observe(took.Seconds())
}

// worked counts a request that was worked on.
func (m *metrics) worked(r *agentpb.Request, result string) {
	kind := "other"
	switch r.GetBody().(type) {
	case *agentpb.Request_Activity:
		kind = "activity"
	case *agentpb.Request_Health:
		kind = "health"
	case *agentpb.Request_Command:
		kind = "command"
	}
	m.requests.WithLabelValues(kind, result).Inc()
}

// countedProber counts what a prober does.
type countedProber struct {
	probe.Prober
	m *metrics
}

// Probe implements probe.Prober.
func (p countedProber) Probe(ctx context.Context, address string) (bool, error) {
	began := time.Now()
	answered, err := p.Prober.Probe(ctx, address)
	result := "silent"
	switch {
	case answered:
		result = "ok"
	case err != nil:
		result = "failed"
	}
	p.m.probes.WithLabelValues(probeNetwork, result).Inc()
	p.m.probeTime.WithLabelValues(probeNetwork).Observe(time.Since(began).Seconds())
	return answered, err
}

// measure has everything of the agent that can hang counted.
func (a *Agent) measure() {
	a.metrics = newMetrics(a)
	a.health.check.told, a.health.list.told = a.metrics.probed(probeHypervisor), a.metrics.probed(probeInstances)
	for _, p := range a.pools {
		p.stamps.told, p.samples.told = a.metrics.probed(probeStamp), a.metrics.probed(probeSample)
	}
	a.opts.Prober = countedProber{a.opts.Prober, a.metrics}
	if h, ok := a.opts.Hypervisor.(hypervisor.Metered); ok {
		h.Meter(a.metrics.called)
	}
}

func is01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// later is the later of a time and one that may not be known.
func later(a time.Time, b *time.Time) time.Time {
	if b != nil && b.After(a) {
		return *b
	}
	return a
}
