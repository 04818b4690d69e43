// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// memory is an agent as far as epochs go: it obeys none that outranks what it has seen.
type memory struct {
	mu     sync.Mutex
	seen   *agentpb.Epoch
	linked bool
	silent bool
}

func (m *memory) set(f func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

func (m *memory) is() (seen *agentpb.Epoch, linked bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen, m.linked
}

func (m *memory) obey(e *agentpb.Epoch) bool {
	if outranks(m.seen, e) {
		return false
	}
	m.seen = e
	return true
}

func (m *memory) beat(w *Worker, host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	report := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "nfs1", State: agentpb.PoolReport_OK}}}
	switch {
	case m.silent:
	case !m.linked:
		welcome := (*door)(w).Hello(&agentpb.Hello{Host: host, BootId: "boot-" + host, HighestEpoch: m.seen, Report: report}).Welcome
		m.linked = welcome != nil && m.obey(welcome.Epoch)
	default:
		pong := (*door)(w).Ping(&link.Session{Host: host, Boot: "boot-" + host}, &agentpb.Ping{Report: report}, time.Now())
		m.linked = pong != nil && m.obey(pong.Epoch)
	}
}

// remembering lets agents with a memory beat until the test ends.
func remembering(t *testing.T, w *Worker, hosts ...string) map[string]*memory {
	out := map[string]*memory{}
	for _, h := range hosts {
		out[h] = &memory{}
	}
	background(t, func(ctx context.Context) error {
		for pause(ctx, 50*time.Millisecond) {
			for h, m := range out {
				m.beat(w, h)
			}
		}
		return nil
	})
	return out
}

func allLinked(all map[string]*memory) func() bool {
	return func() bool {
		for _, m := range all {
			if _, linked := m.is(); !linked {
				return false
			}
		}
		return true
	}
}

// quickPings makes silence count after some three seconds.
func quickPings(t *testing.T, r *rig) {
	t.Helper()
	for name, val := range map[string]string{"agent.ping.interval": "1s", "ha.health.failures": "3"} {
		r.put(t, leases.SettingKey("global", name), v1.SettingRecord{V: 1, Value: val})
	}
}

func severityOf(w *Worker, code string) string {
	for _, x := range w.health.list() {
		if x.Code == code {
			return x.Severity
		}
	}
	return ""
}

// suspects are the events that call a host into question.
func suspects(t *testing.T, r *rig) (out []string) {
	for _, x := range r.events(t, 0) {
		if strings.Contains(x, "suspect") {
			out = append(out, x)
		}
	}
	return out
}

// TestFrozenByItsAgent: a host whose agent has obeyed what etcd does not know is left
// alone, one host at a time; agents of three clusters stop the worker; raising the
// generation ends it, live (leases.md §2.10).
func TestFrozenByItsAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	quickPings(t, r)
	hosts := []string{"h1", "h2", "h3", "h4"}
	for i, h := range hosts {
		r.put(t, leases.HostSpecKey(h), v1.HostSpec{V: 1, ID: h, Partition: "z/p/c" + string(rune('1'+i)), Provider: "kvm", Pools: []string{"nfs1"}})
	}
	w, _ := r.worker(t, "w1")
	agents := remembering(t, w, hosts...)
	eventually(t, "all agents are linked", allLinked(agents))

	ahead := func(h string) {
		agents[h].set(func(m *memory) {
			m.linked, m.seen = false, &agentpb.Epoch{Generation: 1, Revision: m.seen.Revision + 1_000_000, Cluster: m.seen.Cluster}
		})
		eventually(t, h+" is frozen", func() bool { why, _ := w.frozen(h); return why != "" })
	}
	ahead("h1")
	if got := severityOf(w, etcdWentBack); got != "warning" {
		t.Errorf("one host: severity %q", got)
	}
	if h, err := (*backend)(w).Host(t.Context(), "h1"); err != nil || !slices.ContainsFunc(h.Status.Holds, func(x v1.Hold) bool { return x.By == "etcd" && x.Clears == wentBackClears }) {
		t.Errorf("holds: %+v, %v", h.Status.Holds, err)
	}
	err := w.live(t.Context(), "h1", func(ctx context.Context, o *owner) {
		if g := guard.Evaluate(o.snapshot(ctx, guard.Fence, placeReady{})); g.Allowed() || !slices.ContainsFunc(g.Holding(), func(a guard.Answer) bool {
			return a.Guard == "self" && strings.Contains(a.Reason, "restored from a backup")
		}) {
			t.Errorf("guards: %+v", g.Holding())
		}
		packets := 0
		var ev power.TxnEvent
		limits := target{Target: wpower.Target{Limits: wpower.Limits{Packet: 100 * time.Millisecond}}}
		if err := (&exchanger{o: o}).send(ctx, limits, packetConn{packet: func() { packets++ }}, &power.TxnEffect{Verb: power.HardOff}, &ev); err == nil || packets > 0 || ev.Sent {
			t.Errorf("%d packets, error %v", packets, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if why, _ := w.frozen("h2"); why != "" {
		t.Errorf("h2 is frozen, too: %s", why)
	}
	ahead("h2")
	if got := severityOf(w, etcdWentBack); got != "warning" {
		t.Errorf("two of four clusters: severity %q", got)
	}
	ahead("h3")
	eventually(t, "the worker stops altogether", func() bool { return severityOf(w, etcdWentBack) == "critical" })
	if why, _ := w.frozen("h4"); why == "" {
		t.Error("h4 is not frozen")
	}
	b := (*backend)(w)
	trial, _ := api.WithTrial(t.Context())
	plan, err := b.RaiseGeneration(trial, "me", v1.GenerationRequest{})
	if err != nil || plan.From != 1 || plan.To != 2 || len(plan.Hosts) != 3 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if _, err := b.RaiseGeneration(t.Context(), "me", v1.GenerationRequest{From: 1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all agents are linked again", allLinked(agents))
	eventually(t, "the warnings are gone", func() bool { return len(w.health.list()) == 0 })
	for h, m := range agents {
		if seen, _ := m.is(); seen.Generation != 2 {
			t.Errorf("%s obeys generation %d", h, seen.Generation)
		}
	}
	if got := suspects(t, r); len(got) > 0 {
		t.Errorf("suspected:\n%s", strings.Join(got, "\n"))
	}
	if _, err := b.RaiseGeneration(t.Context(), "me", v1.GenerationRequest{From: 1}); err == nil {
		t.Error("raised twice from 1")
	}
}

// TestRestoredEtcdIsNoticed: a real snapshot, restored under a running worker, stops it,
// and it goes on with the same process, agents and hosts once the generation was raised.
func TestRestoredEtcdIsNoticed(t *testing.T) {
	for name, r := range map[string]etcdtest.Restore{
		"revision went back": {},
		"another cluster":    {BumpRevision: 1_000_000, Token: "second"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := etcdtest.StartCluster(t, etcdtest.Config{Members: 1})
			f := &fleet{rig: &rig{client: c.Client(t), endpoints: c.Endpoints(), ttl: minTTL}, cluster: c, hosts: []string{"h1", "h2", "h3"}}
			quickPings(t, f.rig)
			for _, h := range f.hosts {
				f.host(t, h, true)
			}
			f.w, _ = f.worker(t, "w1")
			agents := remembering(t, f.w, f.hosts...)
			eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
			file := c.Snapshot(t)
			// The world goes on: the slot gets another owner, and agents obey it.
			before := maps.Clone(f.epochs(t))
			for range 100 {
				f.put(t, leases.PoolKey("p"), struct{}{})
			}
			slot := f.w.slotOf(cluster, "")
			f.w.renewSlot(slot)
			eventually(t, "agents obey a newer epoch", func() bool {
				seen, linked := agents["h1"].is()
				return linked && seen.Revision > before[leases.SlotKey(slot)]+100
			})

			c.Restore(t, file, r)
			eventually(t, "the worker stops", func() bool {
				return severityOf(f.w, etcdWentBack) == "critical" && f.warns(t, etcdWentBack) && strings.Contains(f.page(t, "/v1/health"), "docs/etcd-restore.md")
			})
			if _, err := (*backend)(f.w).Order(t.Context(), "me", "h1", v1.OrderRequest{Verb: "off"}); err == nil || !strings.Contains(err.Error(), "restored from a backup") {
				t.Errorf("order: %v", err)
			}
			eventually(t, "it is told to those on call", func() bool {
				return slices.ContainsFunc(f.events(t, 0), func(x string) bool { return strings.HasPrefix(x, "etcd.went-back") })
			})
			// Its silence is not its death.
			agents["h1"].set(func(m *memory) { m.silent = true })
			silent := time.Now()
			eventually(t, "h1 was silent for longer than the health check takes", func() bool { return time.Since(silent) > 6*time.Second })
			agents["h1"].set(func(m *memory) { m.silent = false })
			if _, err := (*backend)(f.w).RaiseGeneration(t.Context(), "me", v1.GenerationRequest{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all agents are linked again", allLinked(agents))
			eventually(t, "the warnings are gone", func() bool { return len(f.w.health.list()) == 0 })
			eventually(t, "the worker sees all its hosts", func() bool { return f.seen(t) })
			eventually(t, "all hosts are AVAILABLE", func() bool { return f.all(t, ha.Available) })
			if seen, _ := agents["h1"].is(); seen.Generation != 2 {
				t.Errorf("h1 obeys generation %d", seen.Generation)
			}
			if got := suspects(t, f.rig); len(got) > 0 {
				t.Errorf("suspected:\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

// TestHostFromAYoungerSlot: a host that moves to a partition whose slot has had the same
// owner for longer is not lost: the slot's epoch rises above what its agent has seen.
func TestHostFromAYoungerSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	w, _ := r.worker(t, "w1")
	agents := remembering(t, w, "h1")
	eventually(t, "the agent is linked", allLinked(agents))
	from := w.slotOf(cluster, "h1")
	old, _ := agents["h1"].is()
	w.renewSlot(from)
	eventually(t, "its slot is younger than all others", func() bool {
		seen, linked := agents["h1"].is()
		return linked && seen.Revision > old.Revision
	})
	seen, _ := agents["h1"].is()
	spec, _ := read[v1.HostSpec](t, r, leases.HostSpecKey("h1"))
	spec.Partition = "z/p/elsewhere"
	r.put(t, leases.HostSpecKey("h1"), spec)
	to := w.slotOf(spec.Partition, "h1")
	eventually(t, "the agent obeys the owner of the other slot", func() bool {
		w.mu.Lock()
		epoch := w.claims[to].Epoch
		w.mu.Unlock()
		now, linked := agents["h1"].is()
		return linked && now.Revision > seen.Revision && now.Revision == epoch.Revision
	})
	if severityOf(w, etcdWentBack) != "" {
		t.Error("the move was taken for a restored etcd")
	}
}
