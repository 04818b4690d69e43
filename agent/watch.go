// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	// maxWatched bounds the hosts that are looked at without being asked about them.
	maxWatched = 32
	// maxRemember is for how long one request keeps that up at most.
	maxRemember = 10 * time.Minute
)

// watches are the hosts this agent keeps looking at, so that a check of one of them need not
// wait for its window from the beginning (ha.md §4, preset fast). Workers ask for it while a
// host is healthy; it ends by itself.
type watches struct {
	begin chan *watch // to be looked after

	mu sync.Mutex
	of map[string]*watch // by host
}

func newWatches() *watches { return &watches{begin: make(chan *watch), of: map[string]*watch{}} }

// watch is one of them. What is looked at never changes.
type watch struct {
	what   *agentpb.ActivityRequest // host, window, pools and probes
	end    *time.Timer              // stops it
	over   chan struct{}            // closed by then
	pools  map[string]*poolWatch
	probes map[string]*probeWatch
}

type poolWatch struct {
	pool  *pool
	query *agentpb.PoolQuery

	mu  sync.Mutex
	saw stillness
}

type probeWatch struct {
	mu    sync.Mutex
	saw   silence
	fresh chan struct{} // closed when a probe has ended
}

// watchLoop looks after all watches until ctx ends, and waits for them.
func (a *Agent) watchLoop(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case w := <-a.watches.begin:
			all.Go(func() { a.keepWatch(ctx, w) })
		case <-ctx.Done():
			return nil
		}
	}
}

// get is what is remembered of a host, if anything.
func (w *watches) get(host string) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[host]
}

// remember keeps looking at what a request asks about, from now on for as long as it says.
// Whoever is looked at already in the same way is not begun anew.
func (a *Agent) remember(ctx context.Context, q *agentpb.ActivityRequest) {
	lasts := time.Duration(q.RememberMs) * time.Millisecond
	w := a.newWatch(q)
	m := a.watches
	m.mu.Lock()
	old := m.of[q.Host]
	switch {
	case old != nil && proto.Equal(old.what, w.what) && old.end.Stop():
		old.end.Reset(lasts)
		m.mu.Unlock()
		return
	case old == nil && len(m.of) >= maxWatched:
		m.mu.Unlock()
		a.opts.Logger.Debug("not remembered: too many hosts are looked at", "subject", q.Host, "limit", maxWatched)
		return
	case old != nil && old.end.Stop():
		close(old.over)
	}
	m.of[q.Host] = w
	w.end = time.AfterFunc(lasts, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.of[q.Host] == w {
			delete(m.of, q.Host)
		}
		close(w.over)
	})
	m.mu.Unlock()
	select {
	case m.begin <- w:
	case <-ctx.Done(): // the agent ends, or is not up yet: nothing is seen, so nothing counts
	}
}

func (a *Agent) newWatch(q *agentpb.ActivityRequest) *watch {
	w := &watch{
		what: &agentpb.ActivityRequest{Host: q.Host, WindowMs: q.WindowMs, Pools: q.Pools, Probes: q.Probes},
		over: make(chan struct{}), pools: map[string]*poolWatch{}, probes: map[string]*probeWatch{},
	}
	for _, p := range q.Pools {
		i := slices.IndexFunc(a.pools, func(have *pool) bool { return have.ID() == p.GetPool() })
		if i < 0 || len(p.Disks) > maxDisks {
			continue
		}
		look := a.looker(a.pools[i], q.Host, p)
		look.controls = look.controls[:min(len(look.controls), maxControls)]
		w.pools[p.Pool] = &poolWatch{pool: a.pools[i], query: p, saw: stillness{look: look}}
	}
	for _, address := range q.Probes {
		w.probes[address] = &probeWatch{fresh: make(chan struct{}), saw: silence{wait: probeWait(w.window())}}
	}
	return w
}

func (w *watch) window() time.Duration { return time.Duration(w.what.WindowMs) * time.Millisecond }

// pace is how far apart looks at a pool are: as far as stamps, and so that those of a
// window and of what comes before it are all remembered.
func (w *watch) pace(v values) time.Duration { return max(v.stamp, w.window()/(maxLooks/2)) }

// keepWatch looks at a host until the watch is over.
func (a *Agent) keepWatch(ctx context.Context, w *watch) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var looks sync.WaitGroup
	defer looks.Wait()
	for _, p := range w.pools {
		looks.Go(func() {
			for began := time.Now(); ; began = time.Now() {
				s, err := through(ctx, p.pool.samples, p.saw.look.first)
				p.mu.Lock()
				p.saw.add(s, began, time.Now(), err)
				p.mu.Unlock()
				if !a.settings.pause(ctx, began, w.pace) {
					return
				}
			}
		})
	}
	for address, p := range w.probes {
		looks.Go(func() {
			for ctx.Err() == nil {
				a.probeOnce(ctx, p, address)
			}
		})
	}
	select {
	case <-w.over:
	case <-ctx.Done():
		w.end.Stop()
	}
	cancel()
}

// probeOnce sends one probe and takes its whole time, answered or not.
func (a *Agent) probeOnce(ctx context.Context, p *probeWatch, address string) {
	sent := time.Now()
	attempt, cancel := context.WithTimeout(ctx, p.saw.wait)
	defer cancel()
	answered, err := a.opts.Prober.Probe(attempt, address)
	if !answered {
		<-attempt.Done() // silence of less is none
	}
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	p.saw.add(sent, time.Now(), answered, err)
	close(p.fresh)
	p.fresh = make(chan struct{})
	p.mu.Unlock()
	<-attempt.Done()
}

// recall answers for a pool from memory and one more look, at present; nil: what is
// remembered does not tell, and all has to be looked at from now on. The last look is what
// makes it present: the answer says nothing that two looks from the request on would not.
func (a *Agent) recall(ctx context.Context, w *watch, q *agentpb.PoolQuery, s span) (answer *agentpb.PoolAnswer, began time.Time) {
	p := w.pools[q.GetPool()]
	if p == nil || !slices.Equal(p.query.Disks, q.Disks) {
		return nil, began
	}
	p.mu.Lock()
	first, began, wait, ok := p.saw.first(s, time.Now())
	p.mu.Unlock()
	if !ok || !sleep(ctx, wait) {
		return nil, began
	}
	p.mu.Lock()
	seen := p.saw.last()
	p.mu.Unlock()
	second, err := through(ctx, p.pool.samples, p.saw.look.second)
	if err != nil || time.Since(seen) > 2*w.pace(a.settings.get()) {
		return nil, began // what moved may have moved long ago
	}
	if answer = p.saw.look.compare(first, second); !tells(answer, len(q.Disks)) {
		return nil, began // other controls may tell more
	}
	return answer, began
}

// tells: a new window could not show more.
func tells(p *agentpb.PoolAnswer, disks int) bool {
	if p.Stamp == agentpb.Seen_SEEN_MOVED || p.Disks == agentpb.Seen_SEEN_MOVED {
		return true
	}
	return p.Stamp == agentpb.Seen_SEEN_STILL && (disks == 0 || p.Disks == agentpb.Seen_SEEN_STILL)
}

// recallProbe answers for an address from memory, as soon as its silence is a window long or
// it answers; nil: what is remembered does not tell.
func (w *watch) recallProbe(ctx context.Context, address string, asked time.Time, s span) (answer *agentpb.ProbeAnswer, began time.Time) {
	p := w.probes[address]
	if p == nil {
		return nil, began
	}
	for {
		p.mu.Lock()
		began, left, ok := p.saw.judge(s, time.Now())
		answered, fresh := p.saw.answered, p.fresh
		p.mu.Unlock()
		switch {
		case answered.After(asked):
			return &agentpb.ProbeAnswer{Address: address, Answer: agentpb.Seen_SEEN_MOVED}, answered
		case !ok, time.Since(asked) > s.window:
			return nil, began
		case left == 0:
			return &agentpb.ProbeAnswer{Address: address, Answer: agentpb.Seen_SEEN_STILL}, began
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-fresh:
		case <-ctx.Done():
			t.Stop()
			return nil, began
		}
		t.Stop()
	}
}

// checkRemember refuses lengths that cannot be meant.
func checkRemember(q *agentpb.ActivityRequest) error {
	if most := maxRemember.Milliseconds(); q.RememberMs < 0 || q.RememberMs > most {
		return fmt.Errorf("remember_ms is %d: want 0 to %d", q.RememberMs, most)
	}
	if q.QuietMs < 0 {
		return fmt.Errorf("quiet_ms is %d: want 0 or more", q.QuietMs)
	}
	return nil
}
