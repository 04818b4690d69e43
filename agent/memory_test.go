// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

// history is what a host does on a pool, at times: write its stamp or a disk, or become
// unreadable for one look.
type history struct{ writes, blind []time.Time }

// at is a look at the host, as it is then.
func (h history) at(t time.Time) sample {
	n := 0
	for _, w := range h.writes {
		if !w.After(t) {
			n++
		}
	}
	s := sample{stamp: reading[[]byte]{value: fmt.Append(nil, n/2)}, disks: []reading[probe.DiskSample]{{value: probe.DiskSample{Size: int64((n + 1) / 2)}}}}
	for _, b := range h.blind {
		if d := t.Sub(b); d >= 0 && d < time.Second {
			s.stamp.err = errors.New("stale file handle")
		}
	}
	return s
}

// TestMemoryClaimsNoStillnessTooEarly is the property that makes an answer from memory as
// good as one that took its window after it was asked for (ha.md §§4, 5): the first of its
// two looks was begun after the host was heard last, is at least a window old, was whole, and
// the host has written nothing since. Nothing else is ever offered as a first look.
func TestMemoryClaimsNoStillnessTooEarly(t *testing.T) {
	const ms = time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		start := time.Unix(1_000_000, 0)
		at := func(name string) time.Time {
			return start.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, name)) * ms)
		}
		var h history
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			h.writes = append(h.writes, at("write"))
		}
		for range rapid.IntRange(0, 2).Draw(t, "blind looks") {
			h.blind = append(h.blind, at("blind"))
		}
		var m stillness
		now := start
		for range rapid.IntRange(0, 60).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(100, 1000).Draw(t, "pause")) * ms)
			began := now
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "takes")) * ms)
			var err error
			if rapid.IntRange(0, 20).Draw(t, "fails") == 0 {
				err = &hungError{"pool", time.Second}
			}
			m.add(h.at(began), began, now, err)
		}
		asked := now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "asked after")) * ms)
		heard := asked.Add(-time.Duration(rapid.IntRange(0, 10_000).Draw(t, "quiet")) * ms)
		window := time.Duration(rapid.IntRange(1000, 6000).Draw(t, "window")) * ms
		first, began, wait, ok := m.first(since(asked, asked.Sub(heard), window), asked)
		if !ok {
			return
		}
		second := asked.Add(wait) // when the other look begins at the earliest
		if !began.After(heard) {
			t.Fatalf("the look began %v before the host was heard", heard.Sub(began))
		}
		if second.Sub(began) < window || wait < 0 || wait > window {
			t.Fatalf("looks %v apart after a wait of %v, want %v", second.Sub(began), wait, window)
		}
		if !first.whole() {
			t.Fatal("a look in which not all was read")
		}
		if then := h.at(began); !first.sameHost(then) {
			t.Fatal("the host was not like this when the look began")
		}
		if now := h.at(asked); !now.whole() || first.sameHost(now) {
			return
		}
		// It has written since, and the look at present, which is always taken, tells.
		l := looker{pool: newPool(newMemPool("p")), self: "h1", host: "h2", controls: []string{"h3"}, disks: []string{"d"}}
		present := h.at(second)
		first.controls, present.controls = []reading[[]byte]{{value: []byte("1")}}, []reading[[]byte]{{value: []byte("2")}}
		if a := l.compare(first, present); a.Stamp == agentpb.Seen_SEEN_STILL && a.Disks == agentpb.Seen_SEEN_STILL {
			t.Fatalf("said to be still: %v", a)
		}
	})
}

// TestSilenceIsNeverCutShort is the same of probes: a whole window of them, one after the
// other, sent after the host was heard last, none answered, and the last one just now.
func TestSilenceIsNeverCutShort(t *testing.T) {
	const ms = time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		type end struct {
			sent, done time.Time
			answered   bool
			err        error
		}
		window := time.Duration(rapid.IntRange(1000, 6000).Draw(t, "window")) * ms
		m := silence{wait: probeWait(window)}
		now := time.Unix(1_000_000, 0)
		var all []end
		for range rapid.IntRange(0, 40).Draw(t, "probes") {
			e := end{sent: now, done: now.Add(m.wait)}
			switch rapid.IntRange(0, 12).Draw(t, "what") {
			case 0:
				e.answered = true
			case 1:
				e.err = errors.New("network is unreachable")
			case 2: // nobody probes for a while
				now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "gap")) * ms)
				e.sent, e.done = now, now.Add(m.wait)
			}
			m.add(e.sent, e.done, e.answered, e.err)
			all, now = append(all, e), e.done
		}
		now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "later")) * ms)
		heard := now.Add(-time.Duration(rapid.IntRange(0, 10_000).Draw(t, "quiet")) * ms)
		began, left, ok := m.judge(span{heard, window}, now)
		if !ok {
			return
		}
		if !began.After(heard) || left < 0 || left >= window || left == 0 && now.Sub(began) < window {
			t.Fatalf("began %v after it was heard, %v left, %v of %v old", began.Sub(heard), left, now.Sub(began), window)
		}
		silent, last := 0, time.Time{}
		for _, e := range all {
			if e.sent.Before(began) {
				continue
			}
			if e.answered || e.err != nil {
				t.Fatalf("a probe sent %v after that: answered %v, %v", e.sent.Sub(began), e.answered, e.err)
			}
			if !last.IsZero() && e.sent.Sub(last) > m.wait {
				t.Fatalf("nobody listened for %v", e.sent.Sub(last))
			}
			silent, last = silent+1, e.done
		}
		if left == 0 && silent < int(window/m.wait) {
			t.Fatalf("%d probes, want %d", silent, int(window/m.wait))
		}
		if now.Sub(last) > 2*m.wait {
			t.Fatalf("the last one ended %v ago", now.Sub(last))
		}
	})
}

// rig is an agent that stamps and watches h2, which stamps, writes a disk and answers probes
// until it is killed.
type rig struct {
	t    *testing.T
	a    *Agent
	p    *memPool
	kill func()
}

const short = 2 * time.Second

func newRig(t *testing.T) *rig {
	r := &rig{t: t, p: newMemPool("p1")}
	alive, kill := context.WithCancel(t.Context())
	r.kill = kill
	answers := func(ctx context.Context) (bool, error) {
		if alive.Err() == nil {
			return true, nil
		}
		<-ctx.Done()
		return false, nil
	}
	r.a = newAgent(t, func(o *Options) { o.Pools, o.Prober = []probe.Pool{r.p}, fakeProber{"h2": answers} })
	over := running(t, append(stampLoops(r.a), r.a.watchLoop, r.p.beat("h3", ""))...)
	beats := make(chan error, 1)
	go func() { beats <- r.p.beat("h2", "d1")(alive) }()
	t.Cleanup(func() {
		kill()
		if err := <-beats; err != nil {
			t.Error(err)
		}
		over()
	})
	synctest.Wait()
	return r
}

func (r *rig) question() *agentpb.ActivityRequest {
	return &agentpb.ActivityRequest{
		Host: "h2", WindowMs: short.Milliseconds(), Probes: []string{"h2"},
		Pools: []*agentpb.PoolQuery{{Pool: "p1", Disks: []string{"d1"}, Controls: []string{"h3"}}},
	}
}

// watch asks the agent to keep looking.
func (r *rig) watch(d time.Duration) {
	q := r.question()
	q.RememberMs = d.Milliseconds()
	ask(r.t, r.a, q)
}

// check asks about h2, which was heard last so long ago, and returns how long it took.
func (r *rig) check(quiet time.Duration, change func(*agentpb.ActivityRequest)) (*agentpb.ActivityAnswer, time.Duration) {
	q := r.question()
	q.QuietMs = quiet.Milliseconds()
	if change != nil {
		change(q)
	}
	began := time.Now()
	return ask(r.t, r.a, q), time.Since(began)
}

func seen(a *agentpb.ActivityAnswer) string {
	return fmt.Sprintf("stamp %v disks %v control %v probe %v", a.Pools[0].Stamp, a.Pools[0].Disks, a.Pools[0].Control, a.Probes[0].Answer)
}

const (
	dead  = "stamp SEEN_STILL disks SEEN_STILL control SEEN_MOVED probe SEEN_STILL"
	alive = "stamp SEEN_MOVED disks SEEN_MOVED control SEEN_MOVED probe SEEN_MOVED"
)

// A host that was watched while it lived is found dead without a window of its own.
func TestCheckAnswersFromMemory(t *testing.T) {
	for _, c := range []struct {
		name   string
		live   time.Duration // how long after the beginning of the watch it dies
		quiet  time.Duration // from then on, until it is asked
		say    time.Duration // how long ago it was heard, as the asker says
		lapse  time.Duration // how long the watch lasts, if not long
		change func(*agentpb.ActivityRequest)
		want   string
		least  time.Duration
		most   time.Duration
	}{
		{name: "silence covers the window", live: 5 * time.Second, quiet: 4 * time.Second, say: 4 * time.Second, want: dead, most: 10 * time.Millisecond},
		{name: "it covers a part of it", live: 5 * time.Second, quiet: 1500 * time.Millisecond, say: 1500 * time.Millisecond, want: dead, least: 500 * time.Millisecond, most: 1800 * time.Millisecond},
		{name: "it was heard just now", live: 5 * time.Second, quiet: 4 * time.Second, say: 10 * time.Millisecond, want: dead, least: short, most: short},
		{name: "nobody says when it was heard", live: 5 * time.Second, quiet: 4 * time.Second, want: dead, least: short, most: short},
		{name: "it lives", live: time.Hour, say: 4 * time.Second, want: alive, least: 0, most: 2 * short},
		{name: "other disks", live: 5 * time.Second, quiet: 4 * time.Second, say: 4 * time.Second, want: dead, least: short, most: short,
			change: func(q *agentpb.ActivityRequest) { q.Pools[0].Disks = []string{"d1", "d1"} }},
		{name: "the watch is over", live: 5 * time.Second, quiet: 9 * time.Second, say: 9 * time.Second, lapse: 6 * time.Second, want: dead, least: short, most: short},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				lapse := c.lapse
				if lapse == 0 {
					lapse = time.Minute
				}
				r.watch(lapse) // takes a window
				sleep(t.Context(), min(c.live, 5*time.Second)-short)
				if c.live < time.Hour {
					r.kill()
				}
				sleep(t.Context(), c.quiet)
				got, took := r.check(c.say, c.change)
				if seen(got) != c.want || took < c.least || took > c.most {
					t.Errorf("%s after %v\nwant %s after %v to %v", seen(got), took, c.want, c.least, c.most)
				}
				if fromMemory := took < short && c.want == dead; (got.RememberedMs > 0) != fromMemory {
					t.Errorf("remembered_ms is %d after %v", got.RememberedMs, took)
				}
			})
		})
	}
}

// A pool that stands still, or that cannot be read at present, is no dead host, whatever is
// remembered of it.
func TestMemoryIsNoAnswerWithoutThePresent(t *testing.T) {
	for name, broken := range map[string]func(*memPool){
		"the pool fails":         func(p *memPool) { p.err = fs.ErrPermission },
		"the stamp is not there": func(p *memPool) { p.stamps["h2"] = "unreadable" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.watch(time.Minute)
				r.kill()
				sleep(t.Context(), 4*time.Second)
				r.p.set(broken)
				got, _ := r.check(4*time.Second, nil)
				if got.Pools[0].Stamp != unknown {
					t.Errorf("stamp %v, want UNKNOWN", got.Pools[0])
				}
				r.p.set(func(p *memPool) { p.err = nil })
			})
		})
	}
}

// What is remembered is bounded, and asking again for the same begins nothing new.
func TestWatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for n := range maxWatched + 5 {
			q := r.question()
			q.Host, q.Probes, q.RememberMs, q.Pools[0].Disks = fmt.Sprint("x", n), nil, 300_000, nil
			ask(t, r.a, q)
		}
		if n := len(r.a.watches.of); n != maxWatched {
			t.Errorf("%d hosts are watched, want %d", n, maxWatched)
		}
		sleep(t.Context(), 6*time.Minute)
		if n := len(r.a.watches.of); n != 0 {
			t.Errorf("%d hosts are watched after all is over, want none", n)
		}
		r.watch(time.Minute)
		first := r.a.watches.get("h2")
		sleep(t.Context(), 50*time.Second)
		r.watch(time.Minute)
		sleep(t.Context(), 50*time.Second)
		if w := r.a.watches.get("h2"); w == nil || w != first {
			t.Errorf("watched anew, or no more: %v", w)
		}
		w := first.pools["p1"]
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.saw.all); n > maxLooks {
			t.Errorf("%d looks are kept, want %d at most", n, maxLooks)
		}
	})
}

// A memory whose last look is long ago answers nothing: what moved since may have moved and
// stopped again.
func TestOldMemoryIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.watch(time.Minute)
		r.kill()
		sleep(t.Context(), 20*time.Second)
		q, asked := r.question(), time.Now()
		w := r.a.watches.get(q.Host)
		span := since(asked, 19*time.Second, short)
		if answer, _ := r.a.recall(t.Context(), w, q.Pools[0], span); answer == nil {
			t.Fatal("nothing is remembered")
		}
		p := w.pools[q.Pools[0].Pool]
		p.mu.Lock()
		saw := p.saw
		saw.all = slices.Clone(saw.all) // the watch goes on
		p.mu.Unlock()
		saw.all = slices.DeleteFunc(saw.all, func(l past) bool { return asked.Sub(l.done) < 5*time.Second })
		old := &watch{what: w.what, pools: map[string]*poolWatch{p.pool.ID(): {pool: p.pool, query: p.query, saw: saw}}}
		if len(saw.all) == 0 {
			t.Fatal("no old look is remembered")
		}
		if answer, _ := r.a.recall(t.Context(), old, q.Pools[0], span); answer != nil {
			t.Errorf("an answer from looks of 5s ago and before: %v", answer)
		}
	})
}
