// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

func stampLoops(a *Agent) (loops []func(context.Context) error) {
	for _, p := range a.pools {
		loops = append(loops, func(ctx context.Context) error { return a.stampLoop(ctx, p) })
	}
	return loops
}

func (p *memPool) stamp(host string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stamps[host]
}

func poolState(a *Agent, id string) *agentpb.PoolReport {
	for _, p := range a.report().Pools {
		if p.Id == id {
			return p
		}
	}
	return nil
}

// ha.md §5.1: a counter on every shared pool each ha.stamp.interval, from its own
// goroutine. A hung pool delays no other, and says so.
func TestHungPoolDelaysNoOtherStamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newMemPool("good"), newMemPool("bad")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{good, bad} })
		if s := poolState(a, "good"); s.State != agentpb.PoolReport_UNKNOWN {
			t.Errorf("before the first stamp: %v, want UNKNOWN", s)
		}
		defer running(t, stampLoops(a)...)()
		synctest.Wait()
		if s := poolState(a, "bad"); s.State != agentpb.PoolReport_OK {
			t.Fatalf("healthy pool: %v, want OK", s)
		}
		release := bad.hang()
		defer release()
		for range 60 {
			before := good.stamp("h1")
			sleep(t.Context(), a.settings.get().stamp)
			synctest.Wait()
			if good.stamp("h1") == before {
				t.Fatal("the stamp on the good pool did not move within its interval")
			}
		}
		if s := poolState(a, "bad"); s.State != agentpb.PoolReport_HUNG || !strings.Contains(s.Detail, "not answered for 29s") { // the access began half a second later
			t.Errorf("hung for 30 s: %v, want HUNG for 30s", s)
		}
		if s := poolState(a, "good"); s.State != agentpb.PoolReport_OK {
			t.Errorf("the other pool: %v, want OK", s)
		}
		most := 0
		if bad.set(func(p *memPool) { most = p.most }); most != 1 {
			t.Errorf("%d accesses side by side on the hung pool, want 1", most)
		}
		release()
		sleep(t.Context(), time.Second)
		synctest.Wait()
		if s := poolState(a, "bad"); s.State != agentpb.PoolReport_OK {
			t.Errorf("after the hang: %v, want OK", s)
		}
	})
}

// SIGTERM is an orderly stop, also on a host whose storage is dead.
func TestAgentStopsWhileAPoolHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newMemPool("p1")
		release := p.hang()
		defer release()
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
		stop := running(t, append(stampLoops(a), a.healthLoop, a.gateLoop)...)
		synctest.Wait()
		began := time.Now()
		if stop(); time.Since(began) != 0 {
			t.Errorf("stopped after %v, want at once", time.Since(began))
		}
	})
}

func TestFailedPoolIsReportedAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newMemPool("p1")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
		defer running(t, stampLoops(a)...)()
		p.set(func(p *memPool) { p.err = errors.New("stale file handle") })
		sleep(t.Context(), time.Second)
		synctest.Wait()
		if s := poolState(a, "p1"); s.State != agentpb.PoolReport_FAILED || s.Detail != "stale file handle" {
			t.Errorf("failing pool: %v, want FAILED with its reason", s)
		}
		p.set(func(p *memPool) { p.err = nil })
		sleep(t.Context(), time.Second)
		synctest.Wait()
		if s := poolState(a, "p1"); s.State != agentpb.PoolReport_OK {
			t.Errorf("mended pool: %v, want OK", s)
		}
	})
}

// Settings are live without a restart (ha.md §4), a shorter interval at once.
func TestStampIntervalIsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newMemPool("p1")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
		if err := a.settings.apply(&agentpb.Settings{StampIntervalMs: 60_000}); err != nil {
			t.Fatal(err)
		}
		defer running(t, stampLoops(a)...)()
		synctest.Wait()
		before := p.stamp("h1")
		sleep(t.Context(), 30*time.Second)
		if p.stamp("h1") != before {
			t.Error("stamped before the interval was over")
		}
		if err := a.settings.apply(&agentpb.Settings{StampIntervalMs: 500}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if p.stamp("h1") == before {
			t.Error("a shorter interval waited for the end of the longer one")
		}
	})
}

// A second agent with this host's id would make a dead host look alive for ever.
func TestForeignStampIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newMemPool("p1")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
		for _, intruder := range []bool{false, true, false} {
			if intruder {
				p.set(func(p *memPool) { p.stamps["h1"] = "written by another" })
			}
			if err := a.pools[0].stamp(t.Context(), "h1"); (err != nil) != intruder {
				t.Errorf("intruder %v: stamp = %v", intruder, err)
			}
		}
	})
}

// A restarted agent never writes what the one before wrote: the stamp of a host that was
// restarted between two samples must not look still.
func TestCountersOfTwoProcessesDiffer(t *testing.T) {
	if a, b := newPool(newMemPool("p")), newPool(newMemPool("p")); a.counter == b.counter {
		t.Errorf("two processes begin at %d", a.counter)
	}
}

func TestSettingsOutOfBoundsAreRefused(t *testing.T) {
	s := newSettings()
	before, changed := s.watch()
	for _, bad := range []*agentpb.Settings{{PingIntervalMs: -1}, {StampIntervalMs: 9}, {HelloRetryMs: 600_001}} {
		if err := s.apply(bad); err == nil || s.get() != before {
			t.Errorf("apply(%v) = %v, values %v", bad, err, s.get())
		}
	}
	if err := s.apply(nil); err != nil || s.get() != before {
		t.Errorf("apply(nil) = %v, values %v", err, s.get())
	}
	select {
	case <-changed:
		t.Error("refused settings count as a change")
	default:
	}
	if err := s.apply(&agentpb.Settings{PingIntervalMs: 1000, StampIntervalMs: 1}); err == nil || s.get().ping != time.Second {
		t.Errorf("one bad value = %v, values %v: want the good one applied", err, s.get())
	}
}
