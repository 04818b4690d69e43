// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// shownCollector counts, when it is asked, what owners published and what this worker
// knows of the partitions it owns. Sums over all workers are the fleet's, for each host
// and partition has one owner.
type shownCollector struct {
	w                                                                      *Worker
	resources, power, incidents, holds, partition, armed, warnings, expiry *prometheus.Desc
	waiting, commands                                                      *prometheus.Desc
}

func newShownCollector(m *metrics, w *Worker) *shownCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(m.family("gauge", name, help, labels...), help, labels, nil)
	}
	return &shownCollector{
		w:         w,
		resources: desc("resources", "Hosts owned by this worker, by partition and HA state.", "partition", "state"),
		power:     desc("power_states", "Hosts owned by this worker, by partition and power state: ON, OFF, UNKNOWN.", "partition", "state"),
		incidents: desc("incidents_open", "Open incidents of hosts owned by this worker.", "partition"),
		holds:     desc("holds", "Open incidents in which nothing happens now, by the guard or rule that holds; an incident counts once for each. docs/runbooks has a page per guard.", "partition", "by"),
		partition: desc("partition_state", "HA state of a partition owned by this worker: 1 for the state it is in, else 0.", "partition", "state"),
		armed:     desc("armed", "1 where automation may act, 0 where it is disarmed, for partitions owned by this worker.", "partition"),
		warnings:  desc("health_warnings", "Named warnings of this worker.", "code", "severity"),
		expiry:    desc("certificate_expiry_timestamp_seconds", "When the certificate in use ends, by role: worker, etcd; ca is the authority that ends first.", "role"),
		waiting:   desc("limiter_waiting", "Waiting for a place in a pool of this worker: activity (checks), recovery (fencing), power (readings), reconcile (looks at commands).", "limiter"),
		commands:  desc("commands", "Commands of hosts owned by this worker that somebody still has to do something about, by kind and state; docs/command-states.md has the states.", "kind", "state"),
	}
}

// Describe implements prometheus.Collector.
func (c *shownCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.resources, c.power, c.incidents, c.holds, c.partition, c.armed, c.warnings, c.expiry, c.waiting, c.commands} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *shownCollector) Collect(ch chan<- prometheus.Metric) {
	w, now := c.w, time.Now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	type pair [2]string
	states, power, holds, open, parts := map[pair]int{}, map[pair]int{}, map[pair]int{}, map[string]int{}, map[string]ha.PartitionState{}
	commands := map[pair]int{}
	for _, o := range w.ownersNow() {
		p := w.shown.get(o.host)
		if p == nil {
			continue
		}
		o.commands.count(func(kind, state string) { commands[pair{kind, state}]++ })
		r := p.record
		states[pair{o.home, string(r.State)}]++
		power[pair{o.home, r.Power.String()}]++
		if i := r.Incident; i != nil && i.Ended.IsZero() {
			open[o.home]++
			for n, h := range i.Holds {
				if !slices.ContainsFunc(i.Holds[:n], func(x ha.Hold) bool { return x.By == h.By }) {
					holds[pair{o.home, h.By}]++
				}
			}
		}
	}
	w.mu.Lock()
	for path, r := range w.partStates {
		parts[path] = r.State
	}
	w.mu.Unlock()
	for d, counts := range map[*prometheus.Desc]map[pair]int{c.resources: states, c.power: power, c.holds: holds, c.commands: commands} {
		for k, n := range counts {
			gauge(d, float64(n), k[0], k[1])
		}
	}
	for path, is := range parts {
		gauge(c.incidents, float64(open[path]), path)
		for _, s := range []ha.PartitionState{ha.PartitionNone, ha.PartitionActive, ha.PartitionInactive} {
			gauge(c.partition, is01(s == is), path, string(s))
		}
		gauge(c.armed, is01(len(w.view.disarmed(path, "", now)) == 0), path)
	}
	for _, x := range w.health.list() {
		gauge(c.warnings, 1, x.Code, x.Severity)
	}
	for role, s := range w.certificates() {
		gauge(c.expiry, float64(s.State().NotAfter.Unix()), role)
	}
	if w.wire.own != nil {
		gauge(c.expiry, float64(w.wire.own.State().CANotAfter.Unix()), "ca")
	}
	for name, l := range map[string]*limiter{"activity": &w.pools.activity, "recovery": &w.pools.recovery, "power": &w.pools.power, "reconcile": &w.pools.reconcile} {
		gauge(c.waiting, float64(l.waiting()), name)
	}
}

func is01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
