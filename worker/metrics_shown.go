// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// shownCollector counts, when it is asked, what owners published and what this worker
// knows of the partitions it owns. Sums over all workers are the fleet's, for each host
// and partition has one owner.
type shownCollector struct {
	w                                                                      *Worker
	resources, power, incidents, holds, partition, armed, warnings, expiry *prometheus.Desc
	waiting, commands, budget, agents, host                                *prometheus.Desc
}

func newShownCollector(m *metrics, w *Worker) *shownCollector {
	desc := m.Desc
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
		waiting:   desc("limiter_waiting", "Waiting for a place in a pool of this worker: activity (checks), recovery (fencing), power (readings), reconcile (looks at commands), commits and pressing-commits (transactions of hosts, of those with an incident).", "limiter"),
		budget:    desc("fence_budget_remaining", "Power-downs that automation may still start in a partition within its window: what is left of the budget of a cluster, pod or zone whose slot this worker owns; 0 of one that is latched.", "level", "partition"),
		agents:    desc("agents_connected", "Agents linked to this worker, whoever owns their hosts, by the hosts' partition; partitions owned by this worker show 0, too.", "partition"),
		host:      desc("host_info", "Hosts owned by this worker with their partition, HA state and power state, one series each; only where the setting metrics.hosts is true.", "host", "partition", "state", "power"),
		commands:  desc("commands", "Commands of hosts owned by this worker that somebody still has to do something about, by kind and state; docs/command-states.md has the states.", "kind", "state"),
	}
}

// Describe implements prometheus.Collector.
func (c *shownCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.resources, c.power, c.incidents, c.holds, c.partition, c.armed, c.warnings, c.expiry, c.waiting, c.commands, c.budget, c.agents, c.host} {
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
	single := w.view.effective("", "", now).Bool("metrics.hosts")
	for _, o := range w.ownersNow() {
		p := w.shown.get(o.host)
		if p == nil {
			continue
		}
		if single {
			gauge(c.host, 1, o.host, o.home, string(p.record.State), p.record.Power.String())
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
	for name, l := range w.pools.names() {
		gauge(c.waiting, float64(l.waiting()), name)
	}
	linked := map[string]int{}
	for path := range parts {
		linked[path] = 0
	}
	for _, host := range w.door.Linked() {
		if spec, ok := w.view.spec(host); ok {
			linked[spec.Val.Partition]++
		}
	}
	for path, n := range linked {
		gauge(c.agents, float64(n), path)
	}
	for scope, left := range w.budgetsLeft(now) {
		level, path, _ := strings.Cut(scope, "/")
		gauge(c.budget, float64(left), level, path)
	}
}

// budgetsLeft is what may still be spent of the budgets of clusters, pods and zones whose
// slots this worker owns. Those of single hosts are not among it: `holdfast ha budget` has
// them, and budgets_latched counts them.
func (w *Worker) budgetsLeft(now time.Time) map[string]int {
	w.mu.Lock()
	claims := maps.Clone(w.claims)
	w.mu.Unlock()
	if len(claims) == 0 {
		return nil
	}
	b, out := (*backend)(w), map[string]int{}
	for _, path := range b.partitionPaths() {
		for _, scope := range guard.Levels(path) {
			_, known := out[scope]
			if _, mine := claims[w.slotOfArea(scope)]; known || !mine {
				continue
			}
			limit, window := b.budgetLimit(scope, now)
			c, _ := get(w.view, w.view.budgets, scope)
			out[scope] = c.Val.Facts(now, limit, window).Remaining()
		}
	}
	return out
}

func is01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
