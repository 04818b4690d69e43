// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	pingInterval = time.Second // the shortest there is
	misses       = 3           // of which make a check fail
)

// restart measures leases.md §8: "rolling restart of all workers: 0 moved slots, 0 missed
// checks", with agents that ping every second and BMCs that are read.
func (b *bench) restart() {
	b.startWorkers()
	var hosts []string
	for i := range b.n.Agents {
		hosts = append(hosts, fmt.Sprintf("r%04d", i))
	}
	devices, stopBMCs := b.bmcs(hosts)
	defer stopBMCs()
	b.set("agent.ping.interval", pingInterval.String())
	b.set("ha.health.failures", fmt.Sprint(misses))
	b.declare(hosts, devices)
	agents, stopAgents := b.agents(hosts)
	defer stopAgents()
	b.until(2*startTime, func() string { return b.notAvailable(len(hosts)) })
	for _, how := range []struct {
		what string
		do   func(*worker)
	}{
		{"in place, by SIGHUP", func(w *worker) { w.signal(syscall.SIGHUP) }},
		{"by SIGTERM and start", func(w *worker) { w.signal(syscall.SIGTERM); <-w.proc.Done(); w.start() }},
	} {
		b.rolling(how.what, agents, how.do)
	}
	b.forget(hosts) // while their agents live: a silent host is a suspect one
}

// rolling restarts one worker after the other.
func (b *bench) rolling(what string, agents *fleetOf, again func(*worker)) {
	b.t.Helper()
	pass(b.n.Steady)
	agents.fresh()
	owners, from := b.seen.owners(), b.seen.mark()
	var each times
	for _, w := range b.workers {
		began, boot := time.Now(), b.bootOf(w.id)
		again(w)
		b.observed(startTime, "back with all its slots: "+w.id, func() bool {
			now := b.seen.workers[w.id]
			if now.Boot == boot || now.State != "ready" {
				return false
			}
			for n, c := range owners {
				if c.Worker == w.id && b.seen.slots[n].Boot != now.Boot {
					return false
				}
			}
			return true
		})
		each = append(each, time.Since(began))
	}
	pass(b.n.Steady)
	moved, suspects := 0, 0
	for _, c := range b.seen.since(from) {
		if n, ok := leases.SplitSlotKey(c.Key); ok && (c.Del || c.Worker != owners[n].Worker) {
			moved++
		}
		if strings.HasPrefix(c.Key, leases.EventsPrefix) && c.Type == "ha.suspect" {
			suspects++
		}
	}
	silent := agents.longest()
	failed, late := 0, 0
	for _, d := range silent {
		if d > misses*pingInterval {
			failed++
		}
		if d > 2*pingInterval {
			late++
		}
	}
	b.report.add(row{What: "rolling restart of all workers " + what + ": slots moved", Target: "0", Measured: fmt.Sprint(moved), Value: float64(moved)})
	b.report.add(row{
		What: "the same: checks missed", Target: "0", Measured: fmt.Sprintf("%d suspects, %d of %d hosts unheard for %d pings", suspects, failed, len(silent), misses),
		Value: float64(suspects + failed),
		Parts: []string{
			fmt.Sprintf("%d agents pinging every %v; longest time without an answer: median host %.1f s, worst %.1f s; %d hosts had one ping unanswered in time", len(silent), pingInterval, silent.p50().Seconds(), silent.max().Seconds(), late),
			fmt.Sprintf("signal → the new process owns every slot of the old one: p50 %s, slowest %s", ms(each.p50()), ms(each.max())),
		},
		Why: whyRestart,
	})
}

func (b *bench) bootOf(id string) string {
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	return b.seen.workers[id].Boot
}

// declare registers hosts through the operators' API.
func (b *bench) declare(hosts []string, devices map[string]v1.Device) {
	b.t.Helper()
	for i, id := range hosts {
		spec := v1.HostSpec{V: 1, ID: id, Partition: partitionOf(i), Provider: "kvm", Pools: []string{poolName}}
		if d, ok := devices[id]; ok {
			spec.Power = []v1.Device{d}
		}
		if _, err := b.api.PutHost(b.t.Context(), spec, -1, false); err != nil {
			b.t.Fatalf("register host %s: %v", id, err)
		}
	}
}

// forget takes hosts off the record.
func (b *bench) forget(hosts []string) {
	b.t.Helper()
	for _, id := range hosts {
		if err := b.api.DeleteHost(b.t.Context(), id, -1); err != nil {
			b.t.Logf("delete host %s: %v", id, err)
		}
	}
}

// notAvailable says which of n hosts are not AVAILABLE.
func (b *bench) notAvailable(n int) string {
	all, err := b.api.Hosts(b.t.Context(), v1.HostQuery{})
	if err != nil {
		return err.Error()
	}
	states := map[string]int{}
	why := ""
	for _, h := range all {
		states[string(h.Status.State)]++
		if h.Status.State != "AVAILABLE" {
			why = fmt.Sprintf("%s: %+v", h.Spec.ID, h.Status)
		}
	}
	if states["AVAILABLE"] == n {
		return ""
	}
	return fmt.Sprintf("%d hosts should be AVAILABLE: %v; %s", n, states, why)
}
