// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// linkNow says which workers this host has streams to.
type linkNow struct {
	active, standby string // ids; empty: none
}

// show tells what the links are now; called by their goroutine after each change.
func (l *links) show() {
	var now linkNow
	if l.active != nil {
		now.active = l.active.worker
	}
	if l.standby != nil {
		now.standby = l.standby.worker
	}
	l.agent.linked.Store(&now)
}

// shown counts, when it is asked, what the agent knows of itself. It waits for nothing: the
// locks it takes are held for as long as a copy takes.
type shown struct {
	a                                                       *Agent
	writing                                                 *prometheus.Desc
	linked, standby, link, commands, running, files, bytes  *prometheus.Desc
	problems, healthy, instances, usable, stampAge, watched *prometheus.Desc
	watchAge, watchBlind, expiry                            *prometheus.Desc
}

func newShown(m *metrics, a *Agent) *shown {
	return &shown{
		a:          a,
		linked:     m.Desc("linked", "1 while this host is linked to a worker, else 0."),
		standby:    m.Desc("standby", "1 while a silent stream to another worker stands by, else 0."),
		link:       m.Desc("link_info", "The workers this host has streams to, by role: active, standby.", "role", "worker"),
		commands:   m.Desc("commands", "Commands in the journal, by kind and the last step; one that has ended stays until its worker has it on record.", "kind", "state"),
		running:    m.Desc("commands_running", "Commands that this process is at work on, by kind.", "kind"),
		files:      m.Desc("journal_files", "Commands that have a file in the journal."),
		bytes:      m.Desc("journal_size_bytes", "Size of these files' content."),
		writing:    m.Desc("state_write_age_seconds", "How long the disk of the agent has not come back with a write, of a step in the journal or of another file of its state directory; 0: none is late."),
		problems:   m.Desc("journal_problems", "Files of the journal that were set aside at the start of the agent, and 1 where the journal cannot be used at all."),
		healthy:    m.Desc("hypervisor_healthy", "1 while the hypervisor answers, else 0."),
		instances:  m.Desc("instances", "Instances that run here, as the hypervisor last said."),
		usable:     m.Desc("pool_usable", "1 while a shared pool takes this host's stamps, else 0.", "pool"),
		stampAge:   m.Desc("pool_stamp_age_seconds", "Time since a shared pool has last taken this host's stamp; since the start of the agent where it has not.", "pool"),
		watched:    m.Desc("watched_hosts", "Other hosts that this one keeps looking at, so that a check of them need not wait (preset fast)."),
		watchAge:   m.Desc("watch_sample_age_seconds", "Age of the last look that is remembered of a watched host on a pool: of the one that is oldest; 0 where nothing is."),
		watchBlind: m.Desc("watch_blind", "Pools of watched hosts of which nothing is remembered, because the last look failed or could not read everything."),
		expiry:     m.Desc("certificate_expiry_timestamp_seconds", "When the certificate in use ends, by role: host; ca is the authority that ends first.", "role"),
	}
}

// Describe implements prometheus.Collector.
func (c *shown) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.linked, c.standby, c.link, c.commands, c.running, c.files, c.bytes, c.writing, c.problems, c.healthy, c.instances, c.usable, c.stampAge,
		c.watched, c.watchAge, c.watchBlind, c.expiry,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *shown) Collect(ch chan<- prometheus.Metric) {
	a := c.a
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := linkNow{}
	if l := a.linked.Load(); l != nil {
		now = *l
	}
	gauge(c.linked, is01(now.active != ""))
	gauge(c.standby, is01(now.standby != ""))
	for role, worker := range map[string]string{"active": now.active, "standby": now.standby} {
		if worker != "" {
			gauge(c.link, 1, role, worker)
		}
	}
	c.collectCommands(gauge)
	r := &agentpb.Report{}
	a.health.fill(r)
	gauge(c.healthy, is01(r.HypervisorOk))
	gauge(c.instances, float64(len(r.Instances)))
	for _, p := range a.pools {
		gauge(c.usable, is01(p.report(a.settings.get().stamp).State == agentpb.PoolReport_OK), p.ID())
		at := p.stampedAt()
		gauge(c.stampAge, time.Since(later(a.began, &at)).Seconds(), p.ID())
	}
	hosts, oldest, blind := a.watches.look(time.Now())
	gauge(c.watched, float64(hosts))
	gauge(c.watchAge, oldest.Seconds())
	gauge(c.watchBlind, float64(blind))
	if certs := a.trust.Load(); certs != nil {
		s := certs.State()
		gauge(c.expiry, float64(s.NotAfter.Unix()), "host")
		gauge(c.expiry, float64(s.CANotAfter.Unix()), "ca")
	}
}

func (c *shown) collectCommands(gauge func(*prometheus.Desc, float64, ...string)) {
	age := 0.0
	if since := c.a.hungSince(); !since.IsZero() {
		age = time.Since(since).Seconds()
	}
	gauge(c.writing, age)
	gauge(c.problems, float64(c.a.commands.troubles()))
	running := map[command.Kind]int{}
	var sum journal.Summary
	if j, x, err := c.a.commands.get(); err == nil {
		running, sum = x.Running(), j.Summary()
	}
	for _, k := range command.Kinds {
		gauge(c.running, float64(running[k]), string(k))
	}
	for k, n := range sum.Commands {
		gauge(c.commands, float64(n), string(k.Kind), string(k.State))
	}
	gauge(c.files, float64(sum.Files))
	gauge(c.bytes, float64(sum.Bytes))
}

// stampedAt is when the pool last took a stamp; zero: never.
func (p *pool) stampedAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// look says how many hosts are watched, how old the oldest of the last looks at their pools
// is, and of how many pools nothing is remembered.
func (w *watches) look(now time.Time) (hosts int, oldest time.Duration, blind int) {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.of))
	w.mu.Unlock()
	for _, h := range all {
		for _, p := range h.pools {
			p.mu.Lock()
			last := p.saw.last()
			p.mu.Unlock()
			if last.IsZero() {
				blind++
				continue
			}
			oldest = max(oldest, now.Sub(last))
		}
	}
	return len(all), oldest, blind
}
