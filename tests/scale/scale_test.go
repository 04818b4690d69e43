// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// pause waits for as long as is to be measured.
func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// figure tells what was measured beside what is asked for. Only a machine that does nothing
// else gives figures, so none of them fails a test.
func figure(t *testing.T, met bool, format string, args ...any) {
	t.Helper()
	word := "met"
	if !met {
		word = "MISSED"
	}
	t.Logf("target %s: %s", word, fmt.Sprintf(format, args...))
}

// TestManyAgents holds all links, measures what they cost, spreads them by another algorithm and
// back, cuts one agent off from its owner and the owner from the carrier, and kills a worker.
func TestManyAgents(t *testing.T) {
	if *ping == 0 {
		*ping = max(time.Second, time.Duration(*agentsN)*time.Millisecond)
	}
	f := start(t)
	raw := f.floor(t)
	before := costOf(t, f.pids(t)...)
	f.link(t)
	took := untilAll(t, func() string { return f.inPlace(t) })
	t.Logf("%d agents with standby streams on %d workers, each linked to its owner, after %v", *agentsN, len(f.workers), took.Round(time.Millisecond))
	took = until(t, func() string { return f.guarded(t) })
	t.Logf("HA looks after the first %d of them, after %v more", min(protected, *agentsN), took.Round(time.Millisecond))
	untilAll(t, func() string { return f.standing(t) })
	f.hold(t, before, raw)
	f.algorithms(t)
	f.partition(t)
	f.relayCut(t)
	f.kill(t)
	f.noSuspects(t)
}

// floor measures raw TLS frames, on as many connections as a worker has links: what a frame costs
// depends on how many wake the process in a second.
func (f *fleet) floor(t *testing.T) (each cost) {
	n := max(1, *agentsN/len(f.workers))
	p := child(t, "floor", "1", childConfig{Floor: "127.0.0.1:0", PKI: f.lab.Dir})
	defer p.end()
	address, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	src := pkitest.Open(t, f.lab.Issue(t, trust.Host, "floor"))
	begin := costOf(t, p.cmd.Process.Pid)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- floorClients(ctx, src, strings.TrimSpace(address), n, *ping, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	linked := costOf(t, p.cmd.Process.Pid)
	window := min(*hold, 20*time.Second)
	pause(window)
	end := costOf(t, p.cmd.Process.Pid)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	beats := float64(n) * window.Seconds() / ping.Seconds()
	each = cost{memory: (end.memory - begin.memory) / n, cpu: time.Duration(float64(end.cpu-linked.cpu) / beats)}
	t.Logf("floor: %d raw TLS connections: %d kB each, %v of CPU per frame and answer", n, each.memory, each.cpu)
	return each
}

// hold keeps all links up and says what they cost the workers.
func (f *fleet) hold(t *testing.T, before, raw cost) {
	pids := f.pids(t)
	first := costOf(t, pids...)
	began := time.Now()
	pause(*hold)
	lasted := time.Since(began)
	last := costOf(t, pids...)
	for _, p := range f.agents {
		c := costOf(t, p.cmd.Process.Pid)
		t.Logf("an agent itself: %d kB with both streams", c.memory/max(1, min(agentsEach, *agentsN-1)))
	}
	beats := float64(*agentsN) * lasted.Seconds() / ping.Seconds()
	each := cost{memory: (last.memory - before.memory) / (2 * *agentsN), cpu: time.Duration(float64(last.cpu-first.cpu) / beats)}
	ratio := func(a, b float64) float64 { return a / max(b, 1) }
	if raw.cpu == 0 {
		t.Logf("too few frames for the floor of CPU to be measured: it is counted in hundredths of a second")
	}
	figure(t, each.memory <= 55, "each of an agent's two connections costs its worker %d kB, all else that it keeps of the host included (≤ 55 kB, %.1f × the raw connection's %d kB)", each.memory, ratio(float64(each.memory), float64(raw.memory)), raw.memory)
	figure(t, each.cpu <= 3*raw.cpu, "a beat costs the workers %v of CPU, standby pings and all else that they do included (≤ 3 ×: %.1f × the raw frame's %v)", each.cpu, ratio(float64(each.cpu), float64(raw.cpu)), raw.cpu)
	t.Logf("what both are made of, and what would cost less: docs/agents.md, \"What an agent costs\"")
	figure(t, last.memory <= first.memory*11/10, "memory stays flat: %d MB of all workers at first, %d MB after %v", first.memory/1024, last.memory/1024, lasted.Round(time.Second))
}

// algorithms spreads all links evenly, and brings them back to their owners.
func (f *fleet) algorithms(t *testing.T) {
	took := f.algorithm(t, "roundrobin", func(all []v1.Agent) string {
		n := map[string]int{}
		for _, w := range f.workers {
			n[w.id] = 0
		}
		for _, a := range all {
			if n[a.Carrier]++; a.Index == nil || a.Moves != "" {
				return fmt.Sprintf("%s, which has an index: %v, is to move from %s to %q", a.Host, a.Index != nil, a.Carrier, a.Moves)
			}
		}
		each := slices.Sorted(maps.Values(n))
		if len(n) != len(f.workers) || each[len(each)-1]-each[0] > 1 {
			return fmt.Sprintf("links are spread %v", n)
		}
		return ""
	})
	t.Logf("roundrobin: links are spread over the workers, max − min ≤ 1, after %v; agents look every %v", took.Round(10*time.Millisecond), checkInterval())
	took = f.algorithm(t, "ring", func(all []v1.Agent) string {
		elsewhere := 0
		for _, a := range all {
			if a.Carrier != a.Owner {
				elsewhere++
			}
		}
		if elsewhere*100 > len(all) {
			return fmt.Sprintf("%d of %d links are not at their owners", elsewhere, len(all))
		}
		return ""
	})
	figure(t, took <= 2*checkInterval(), "ring again: 99 %% of the links are at their owners after %v (≤ 2 check intervals: %v)", took.Round(10*time.Millisecond), 2*checkInterval())
	untilAll(t, func() string { return f.inPlace(t) })
	f.noSuspects(t)
}

// algorithm switches to one and waits until all have its lists and the links are as it says.
func (f *fleet) algorithm(t *testing.T, name string, wrong func([]v1.Agent) string) time.Duration {
	t.Helper()
	began := time.Now()
	until(t, func() string {
		if _, err := f.client.PutSetting(t.Context(), "global", "agent.lb.algorithm", v1.SettingRequest{Value: name}, false); err != nil {
			return err.Error()
		}
		return ""
	})
	untilAll(t, func() string {
		all, err := f.client.Agents(t.Context(), "")
		if err != nil {
			return err.Error()
		}
		linked := 0
		for _, a := range all {
			if a.Algorithm == name && a.Carrier != "" {
				linked++
			}
		}
		if linked != *agentsN {
			return fmt.Sprintf("%d of %d agents are linked", linked, *agentsN)
		}
		return wrong(all)
	})
	return time.Since(began)
}

// partition cuts one agent off from its owner: another worker carries its link.
func (f *fleet) partition(t *testing.T) {
	a := f.agentOf(t, hostID(0))
	f.own.sever(a.Host, f.doorOf(a.Owner), true)
	took := untilAll(t, func() string {
		h, err := f.client.Host(t.Context(), a.Host)
		if err != nil {
			return err.Error()
		}
		if now := f.agentOf(t, a.Host); h.Status.Linked != v1.LinkedYes || now.Carrier == now.Owner || now.Carrier == "" {
			return fmt.Sprintf("%s is linked: %s, by %q; its owner is %s", a.Host, h.Status.Linked, now.Carrier, now.Owner)
		}
		return ""
	})
	t.Logf("cut off from its owner: carried by another worker after %v", took.Round(time.Millisecond))
	f.noSuspects(t)
}

// relayCut takes the relays to the owner away as well: nothing is known of the host then, which
// is said and is no suspicion. When they are back all is as before.
func (f *fleet) relayCut(t *testing.T) {
	a := f.agentOf(t, hostID(0))
	i := slices.IndexFunc(f.workers, func(w *worker) bool { return w.id == a.Owner })
	relays := f.workers[i].relays
	relays.Hold(etcdtest.Both)
	var hold v1.Hold
	took := until(t, func() string {
		h, err := f.client.Host(t.Context(), a.Host)
		if err != nil {
			return err.Error()
		}
		k := slices.IndexFunc(h.Status.Holds, func(x v1.Hold) bool { return x.By == "carrier" })
		if k < 0 {
			return fmt.Sprintf("%s is %s, held by %v", a.Host, h.Status.State, h.Status.Holds)
		}
		hold = h.Status.Holds[k]
		return ""
	})
	relays.Cut() // what was held is lost
	relays.Release()
	t.Logf("the owner cut off from the carrier: unknown after %v: %s", took.Round(time.Millisecond), hold.Reason)
	f.noSuspects(t)
	until(t, func() string {
		h, err := f.client.Host(t.Context(), a.Host)
		if err != nil {
			return err.Error()
		}
		if h.Status.Linked != v1.LinkedYes || len(h.Status.Holds) > 0 {
			return fmt.Sprintf("%s is linked: %s, held by %v", a.Host, h.Status.Linked, h.Status.Holds)
		}
		return ""
	})
	f.own.sever(a.Host, f.doorOf(a.Owner), false)
	took = untilAll(t, func() string { return f.inPlace(t) })
	t.Logf("all ways open again: linked to its owner after %v", took.Round(time.Millisecond))
}

func (f *fleet) doorOf(id string) string {
	return f.doors[slices.IndexFunc(f.workers, func(w *worker) bool { return w.id == id })]
}

// kill ends a worker with SIGKILL while no new connection gets through: all its agents are
// linked elsewhere by the streams that stood by.
func (f *fleet) kill(t *testing.T) {
	untilAll(t, func() string { return f.standing(t) })
	lost := f.workers[len(f.workers)-1]
	pid := lost.pid(t)
	dials := f.block(t, true)
	began := time.Now()
	kill(t, pid)
	until(t, func() string { return f.links(t) })
	took := time.Since(began)
	more := f.block(t, false) - dials
	if more > 0 {
		t.Errorf("%d connections were opened before all were linked", more)
	}
	figure(t, took <= 2**ping, "killed worker: all linked again after %v without a handshake (≤ 2 ping intervals: %v)", took.Round(10*time.Millisecond), 2**ping)
}
