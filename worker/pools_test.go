// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestLimiterNeverExceedsItsSize: caps are hard, also while waiting callers give up and
// the size changes.
func TestLimiterNeverExceedsItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		l.resize(1)
		if !l.acquire(t.Context()) {
			t.Fatal("the first place was not given")
		}
		gaveUp, cancel := context.WithCancel(t.Context())
		lost, got := make(chan bool, 1), make(chan bool, 1)
		go func() { lost <- l.acquire(gaveUp) }()
		synctest.Wait()
		go func() { got <- l.acquire(t.Context()) }()
		synctest.Wait()
		cancel()
		if <-lost {
			t.Error("a caller that gave up got a place")
		}
		select {
		case <-got:
			t.Fatal("a second place of one was given")
		default:
		}
		l.release()
		if !<-got {
			t.Error("the freed place was not handed over")
		}
		l.resize(2)
		if !l.acquire(t.Context()) {
			t.Error("a larger pool has no more places")
		}
		if l.held != 2 {
			t.Errorf("%d places held of 2", l.held)
		}
	})
}

// TestMailboxCoalesces: what repeats is kept once, in its place; order is kept.
func TestMailboxCoalesces(t *testing.T) {
	m := newMailbox()
	m.put("ping", 1)
	m.put("", "a")
	m.put("ping", 2)
	m.put("", "b")
	var got []any
	for x, ok := m.take(); ok; x, ok = m.take() {
		got = append(got, x)
	}
	if !slices.Equal(got, []any{2, "a", "b"}) {
		t.Errorf("took %v", got)
	}
	if m.depth() != 0 {
		t.Errorf("depth %d of an empty mailbox", m.depth())
	}
}

// TestLossWindow: a worker that lost many agents at once counts them for a minute.
func TestLossWindow(t *testing.T) {
	var l lossWindow
	at := time.Unix(1000, 0)
	l.add("h1", at)
	l.add("h2", at.Add(30*time.Second))
	l.add("h3", at.Add(30*time.Second))
	l.back("h3")
	if n := l.count(at.Add(59 * time.Second)); n != 2 {
		t.Errorf("%d lost within the minute, want 2", n)
	}
	if n := l.count(at.Add(61 * time.Second)); n != 1 {
		t.Errorf("%d lost after h1 left the window, want 1", n)
	}
}

// TestInPulse: an ordinary reading begins with others, within half a pulse of its time; one
// that is wanted soon is not moved.
func TestInPulse(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 1, 0, time.UTC)
	moments := map[time.Time]bool{}
	for ms := range 12000 {
		at := now.Add(54*time.Second + time.Duration(ms)*time.Millisecond)
		got := inPulse(at, now)
		if d := got.Sub(at).Abs(); d > pulse/2 {
			t.Fatalf("%s moved by %s", at, d)
		}
		moments[got] = true
	}
	if len(moments) > 4 {
		t.Errorf("12 s of readings begin at %d moments", len(moments))
	}
	for _, soon := range []time.Duration{-time.Second, 0, 2 * time.Second, pulseAbove - 1} {
		if got := inPulse(now.Add(soon), now); !got.Equal(now.Add(soon)) {
			t.Errorf("a reading due in %s was moved by %s", soon, got.Sub(now.Add(soon)))
		}
	}
}

// TestNewsWaitForPlaces: when more hosts have news than etcd is asked to take at once, the others
// wait, for as long as it takes; a host about which something is done does not wait for them.
func TestNewsWaitForPlaces(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	news := &o.w.pools.commits
	for range commitsAtOnce {
		if !news.acquire(t.Context()) {
			t.Fatal("no place")
		}
	}
	done := make(chan error)
	event := func(id string) []leases.Op {
		return []leases.Op{leases.Put(leases.EventKey(id), v1.Event{ID: id})}
	}
	go func() {
		_, err := o.write(t.Context(), false, o.claim.Guard(), event("news"))
		done <- err
	}()
	eventually(t, "one waits", func() bool { return news.waiting() == 1 })

	next := o.rec
	next.Incident = &ha.Incident{ID: "i1"}
	if !o.commit(t.Context(), ha.Event{Kind: ha.EvHealth, At: o.now()}, next, nil) {
		t.Fatal("a host with an incident could not write while others waited")
	}
	if _, rev := read[v1.Event](t, r, leases.EventKey("news")); rev != 0 || news.waiting() != 1 {
		t.Error("what had no place was written")
	}
	news.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, rev := read[v1.Event](t, r, leases.EventKey("news")); rev == 0 {
		t.Error("what had waited was not written")
	}
	if news.held != commitsAtOnce-1 || o.w.pools.pressing.held != 0 {
		t.Errorf("%d and %d places are held", news.held, o.w.pools.pressing.held)
	}
}

// TestPlacesAreNeitherLostNorMade: a place of the recovery pool is given back exactly
// once, also by an owner that ends between taking it and hearing of it.
func TestPlacesAreNeitherLostNorMade(t *testing.T) {
	pool := newPools()
	start := func() *owner {
		o := &owner{w: &Worker{pools: pool}, in: newMailbox()}
		ctx, stop := context.WithCancelCause(t.Context())
		o.jobs.init(ctx, stop)
		return o
	}
	o := start()
	o.takePlace(guard.Fence)
	o.jobs.wait() // its report is in the mailbox; the owner ends
	o.jobs.stop(nil)
	o.endPlace()
	if pool.recovery.held != 0 {
		t.Errorf("%d places are held by nobody", pool.recovery.held)
	}

	o = start()
	o.place.held = pool.recovery.acquire(t.Context())
	o.takePlace(guard.Confirm) // with the place it has
	o.jobs.wait()
	o.place.leave(o)
	for msg, ok := o.in.take(); ok; msg, ok = o.in.take() {
		o.handle(t.Context(), msg)
	}
	o.endPlace()
	if pool.recovery.held != 0 {
		t.Errorf("%d places are held, want 0: one was given back twice or never", pool.recovery.held)
	}
}
