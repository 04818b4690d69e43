// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

const (
	unknown = agentpb.Seen_SEEN_UNKNOWN
	moved   = agentpb.Seen_SEEN_MOVED
	still   = agentpb.Seen_SEEN_STILL

	window = 6 * time.Second
)

// beat stamps the pool for a host every half second, and writes a disk with it.
func (p *memPool) beat(host, disk string) func(context.Context) error {
	return func(ctx context.Context) error {
		for n := 0; ; n++ {
			p.set(func(p *memPool) {
				p.stamps[host] = fmt.Sprint(host, n)
				if disk != "" {
					p.disks[disk] = probe.DiskSample{Size: 1, MTime: time.Unix(int64(n), 0)}
				}
			})
			if !sleep(ctx, 500*time.Millisecond) {
				return nil
			}
		}
	}
}

// ask sends one activity request through the agent's door.
func ask(t *testing.T, a *Agent, q *agentpb.ActivityRequest) *agentpb.ActivityAnswer {
	t.Helper()
	out := a.handle(t.Context(), &agentpb.Request{
		Id: "r1", Epoch: &agentpb.Epoch{Cluster: "c", Revision: 1}, TimeoutMs: 30_000,
		Body: &agentpb.Request_Activity{Activity: q},
	})
	if out.Error != "" {
		t.Fatalf("request refused: %s", out.Error)
	}
	return out.GetActivity()
}

// Three values, of stamp, disks and control, for everything that may be seen of h2 on a
// pool in one window (ha.md §5).
func TestWhatIsSeenOfAPool(t *testing.T) {
	type row struct {
		name    string
		world   func(p *memPool) []func(context.Context) error // before the window
		mid     func(p *memPool)                               // in the middle of it
		frozen  bool                                           // the reader itself does not stamp
		stamp   agentpb.Seen
		disks   agentpb.Seen
		control agentpb.Seen
		detail  string
	}
	h3 := func(p *memPool) []func(context.Context) error {
		return []func(context.Context) error{p.beat("h3", "")}
	}
	dead := func(p *memPool) {
		p.stamps["h2"] = "last"
		p.disks["d1"], p.disks["d2"] = probe.DiskSample{Size: 1}, probe.DiskSample{Size: 2}
	}
	deadAndH3 := func(p *memPool) []func(context.Context) error { dead(p); return h3(p) }
	deadAlone := func(p *memPool) []func(context.Context) error { dead(p); return nil }
	for _, r := range []row{
		{name: "alive", stamp: moved, disks: moved, control: moved, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			return []func(context.Context) error{p.beat("h2", "d1"), p.beat("h3", "")}
		}},
		{name: "agent dead, instances write", stamp: still, disks: moved, control: moved, world: deadAndH3,
			mid: func(p *memPool) { p.disks["d2"] = probe.DiskSample{Size: 2, Allocated: 1} }},
		{name: "dead", stamp: still, disks: still, control: moved, world: deadAndH3},
		{name: "dead, the reader's own stamp is control enough", stamp: still, disks: still, control: moved, world: deadAlone},
		{name: "pool frozen", frozen: true, stamp: unknown, disks: unknown, control: still, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			p.stamps["h1"], p.stamps["h3"] = "frozen", "frozen"
			return nil
		}, detail: "frozen"},
		{name: "own stamp moved but the storage did not take it", frozen: true, stamp: unknown, disks: unknown, control: still,
			world: func(p *memPool) []func(context.Context) error {
				dead(p)
				p.stamps["h1"] = "on the server"
				return nil
			}, mid: func(p *memPool) { p.stamps["h1"] = "in the client's cache" }, detail: "frozen"},
		{name: "no control can be read", frozen: true, stamp: unknown, disks: unknown, control: unknown, world: deadAlone, detail: "no control stamp could be read: file does not exist"},
		{name: "moves although frozen for the others", frozen: true, stamp: moved, disks: moved, control: unknown, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			return []func(context.Context) error{p.beat("h2", "d1")}
		}},
		{name: "stamp unreadable", stamp: unknown, disks: still, control: moved, world: deadAndH3,
			mid: func(p *memPool) { p.stamps["h2"] = "unreadable" }, detail: "input/output error"},
		{name: "never stamped", stamp: still, disks: still, control: moved, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			delete(p.stamps, "h2")
			return h3(p)
		}, detail: "never written"},
		{name: "never stamped, and nobody else is seen", stamp: unknown, disks: still, control: moved, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			delete(p.stamps, "h2")
			return nil
		}, detail: "same storage?"},
		{name: "first stamp in between", stamp: moved, disks: still, control: moved, world: func(p *memPool) []func(context.Context) error {
			dead(p)
			delete(p.stamps, "h2")
			return h3(p)
		}, mid: func(p *memPool) { p.stamps["h2"] = "first" }},
		{name: "stamp removed in between", stamp: unknown, disks: still, control: moved, world: deadAndH3,
			mid: func(p *memPool) { delete(p.stamps, "h2") }, detail: "not exist"},
		{name: "one disk unread, none moved", stamp: still, disks: unknown, control: moved, world: deadAndH3,
			mid: func(p *memPool) { delete(p.disks, "d2") }, detail: "not exist"},
		{name: "one disk unread, one moved", stamp: still, disks: moved, control: moved, world: deadAndH3,
			mid: func(p *memPool) { delete(p.disks, "d2"); p.disks["d1"] = probe.DiskSample{Size: 9} }},
		{name: "pool fails", stamp: unknown, disks: unknown, control: unknown, world: deadAndH3,
			mid: func(p *memPool) { p.err = errors.New("stale file handle") }, detail: "stale file handle"},
	} {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newMemPool("p1")
				a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
				loops := r.world(p)
				if !r.frozen {
					loops = append(loops, stampLoops(a)...)
				}
				defer running(t, loops...)()
				synctest.Wait() // each has stamped once: nothing is new that was there before
				if r.mid != nil {
					time.AfterFunc(window/2, func() { p.set(r.mid) })
				}
				began := time.Now()
				got := ask(t, a, &agentpb.ActivityRequest{
					Host: "h2", WindowMs: window.Milliseconds(),
					Pools: []*agentpb.PoolQuery{{Pool: "p1", Disks: []string{"d1", "d2"}, Controls: []string{"h3", "h2"}}},
				}).Pools[0]
				if got.Stamp != r.stamp || got.Disks != r.disks || got.Control != r.control || !strings.Contains(got.Detail, r.detail) {
					t.Errorf("stamp %v, disks %v, control %v, %q\nwant  %v, %v, %v, %q", got.Stamp, got.Disks, got.Control, got.Detail, r.stamp, r.disks, r.control, r.detail)
				}
				if took := time.Since(began); took != window {
					t.Errorf("took %v, want the window of %v", took, window)
				}
			})
		})
	}
}

// Hang or timeout is unknown with its reason, never still, and it blocks neither another
// pool nor the next request.
func TestHungPoolIsUnknownAndBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newMemPool("good"), newMemPool("bad")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{good, bad} })
		defer running(t, append(stampLoops(a), good.beat("h2", ""))...)()
		synctest.Wait()
		most := 0
		release := bad.hang()
		defer release()
		for round := range 3 {
			q := &agentpb.ActivityRequest{Host: "h2", WindowMs: window.Milliseconds(), Pools: []*agentpb.PoolQuery{{Pool: "good"}, {Pool: "bad"}, {Pool: "none"}}}
			began := time.Now()
			got := ask(t, a, q)
			if took := time.Since(began); took != window {
				t.Errorf("round %d took %v, want the window of %v", round, took, window)
			}
			if g := got.Pools[0]; g.Stamp != moved {
				t.Errorf("round %d: good pool %v, want MOVED", round, g)
			}
			if b := got.Pools[1]; b.Stamp != unknown || b.Disks != unknown || b.Control != unknown || !strings.Contains(b.Detail, "has not answered for") {
				t.Errorf("round %d: hung pool %v, want UNKNOWN and for how long", round, b)
			}
			if n := got.Pools[2]; n.Stamp != unknown || !strings.Contains(n.Detail, "not configured") {
				t.Errorf("round %d: pool nobody knows %v, want UNKNOWN", round, n)
			}
		}
		if bad.set(func(p *memPool) { most = p.most }); most > 2 {
			t.Errorf("%d accesses side by side on the hung pool, want one per kind", most)
		}
	})
}

// An answer that comes after its asker has gone is worth nothing: what is not known in
// time is unknown.
func TestAnswerComesBeforeItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newMemPool("p1")
		a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{p} })
		release := p.hang()
		defer release()
		began := time.Now()
		out := a.handle(t.Context(), &agentpb.Request{
			Epoch: &agentpb.Epoch{Cluster: "c", Revision: 1}, TimeoutMs: 3000,
			Body: &agentpb.Request_Activity{Activity: &agentpb.ActivityRequest{Host: "h2", WindowMs: 2000, Pools: []*agentpb.PoolQuery{{Pool: "p1"}}}},
		})
		if got := out.GetActivity().GetPools(); len(got) != 1 || got[0].Stamp != unknown || time.Since(began) >= 3*time.Second {
			t.Errorf("after %v: %v, want UNKNOWN before 3s", time.Since(began), out)
		}
	})
}

// ha.md §5.3: one answer is active; silence needs every probe sent.
func TestWhatProbesSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unreachable, unsent int
		waits := func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, nil }
		prober := fakeProber{
			"silent":      waits,
			"unreachable": func(context.Context) (bool, error) { unreachable++; return false, nil },
			"answers":     func(context.Context) (bool, error) { return true, nil },
			"unsent":      func(context.Context) (bool, error) { unsent++; return false, errors.New("not permitted") },
		}
		late, once := time.Now().Add(5*time.Second), 0
		prober["late"] = func(ctx context.Context) (bool, error) {
			if time.Now().Before(late) {
				return waits(ctx)
			}
			return true, nil
		}
		prober["once unsent"] = func(ctx context.Context) (bool, error) {
			if once++; once == 2 {
				return false, errors.New("no route")
			}
			return waits(ctx)
		}
		a := newAgent(t, func(o *Options) { o.Prober = prober })
		want := []struct {
			address, detail string
			answer          agentpb.Seen
		}{
			{"silent", "", still}, {"unreachable", "", still}, {"answers", "", moved}, {"late", "", moved},
			{"unsent", "not permitted", unknown}, {"once unsent", "no route", unknown},
		}
		q := &agentpb.ActivityRequest{Host: "h2", WindowMs: window.Milliseconds()}
		for _, w := range want {
			q.Probes = append(q.Probes, w.address)
		}
		began := time.Now()
		got := ask(t, a, q)
		for i, w := range want {
			if g := got.Probes[i]; g.Address != w.address || g.Answer != w.answer || g.Detail != w.detail {
				t.Errorf("probe %v, want %s %v %q", g, w.address, w.answer, w.detail)
			}
		}
		if took := time.Since(began); took != window || got.TookMs != window.Milliseconds() {
			t.Errorf("took %v and says %d ms, want %v", took, got.TookMs, window)
		}
		if unsent != 6 || unreachable != 6 {
			t.Errorf("%d and %d attempts, want one each second", unsent, unreachable)
		}
	})
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	a := newAgent(t, nil)
	if err := a.admit(&agentpb.Epoch{Cluster: "c", Generation: 1, Revision: 9}); err != nil {
		t.Fatal(err)
	}
	if err := a.settings.apply(&agentpb.Settings{StampIntervalMs: 2000}); err != nil {
		t.Fatal(err)
	}
	good := func() *agentpb.Request {
		return &agentpb.Request{Epoch: &agentpb.Epoch{Cluster: "c", Generation: 1, Revision: 9}, TimeoutMs: 30_000,
			Body: &agentpb.Request_Activity{Activity: &agentpb.ActivityRequest{Host: "h2", WindowMs: 6000}}}
	}
	for want, change := range map[string]func(*agentpb.Request){
		"epoch 1/8 is older than 1/9":       func(r *agentpb.Request) { r.Epoch.Revision = 8 },
		"want a cluster id":                 func(r *agentpb.Request) { r.Epoch = nil },
		"timeout_ms is 0":                   func(r *agentpb.Request) { r.TimeoutMs = 0 },
		"does not know its kind":            func(r *agentpb.Request) { r.Body = nil },
		"window_ms is 3999: want two stamp": func(r *agentpb.Request) { r.GetActivity().WindowMs = 3999 },
		"the request's timeout leaves only": func(r *agentpb.Request) { r.TimeoutMs = 6000 },
		"host h1 cannot look at itself":     func(r *agentpb.Request) { r.GetActivity().Host = "h1" },
		`host "../h2"`:                      func(r *agentpb.Request) { r.GetActivity().Host = "../h2" },
	} {
		r := good()
		change(r)
		if out := a.handle(t.Context(), r); !strings.Contains(out.Error, want) || out.Body != nil {
			t.Errorf("answer %v, want an error with %q", out, want)
		}
	}
}

// The same on a real directory and the real clock: a host that stamps, one that stopped,
// and its disk that goes on.
func TestActivityOnARealDirectory(t *testing.T) {
	path := t.TempDir()
	pool, err := probe.NewDir("p1", path, false)
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t, func(o *Options) { o.Pools = []probe.Pool{pool} })
	other := newAgent(t, func(o *Options) { o.Host = "h2"; o.Pools = []probe.Pool{pool} })
	for _, agent := range []*Agent{a, other} {
		if err := agent.settings.apply(&agentpb.Settings{StampIntervalMs: 20}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.WriteStamp(t.Context(), "h3", 7); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(path, "h3.img")
	if err := os.WriteFile(disk, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	writes := func(ctx context.Context) error {
		for n := int64(2); sleep(ctx, 10*time.Millisecond); n++ {
			if err := os.Truncate(disk, n); err != nil {
				return err
			}
		}
		return nil
	}
	defer running(t, append(append(stampLoops(a), stampLoops(other)...), writes)...)()
	eventually(t, "both agents stamp", func() bool { return a.pools[0].acknowledged() != 0 && other.pools[0].acknowledged() != 0 })
	seen := func(host string) *agentpb.PoolAnswer {
		return ask(t, a, &agentpb.ActivityRequest{Host: host, WindowMs: 300, Pools: []*agentpb.PoolQuery{{Pool: "p1", Disks: []string{"h3.img"}, Controls: []string{"h2"}}}}).Pools[0]
	}
	if got := seen("h2"); got.Stamp != moved || got.Control != moved {
		t.Errorf("a host that stamps: %v", got)
	}
	if got := seen("h3"); got.Stamp != still || got.Control != moved || got.Disks != moved || len(got.MovedDisks) != 1 {
		t.Errorf("a host whose agent is dead: %v", got)
	}
}
