// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
)

// settle is how long a worker waits before it takes orphans of a fleet that nobody owns
// at all: workers that start together then share the slots from the beginning.
const settle = 500 * time.Millisecond

// member keeps this worker a member of the fleet: it opens a session, owns slots under
// it, and begins again with a new one when the lease is lost.
func (w *Worker) member(ctx context.Context) error {
	select {
	case <-w.mirror.Synced():
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		s, err := w.client.OpenSession(ctx, leases.SessionConfig{Worker: w.o.ID, Boot: w.boot, TTL: w.o.LeaseTTL, Record: w.record("ready")})
		switch {
		case errors.Is(err, leases.ErrConflict):
			w.health.set("WorkerIDTaken", "critical", fmt.Sprintf("another live worker is registered as %s: waiting until it is gone", w.o.ID))
		case err != nil:
			w.health.set("EtcdUnreachable", "critical", "no lease could be had: "+err.Error())
		default:
			w.health.clear("WorkerIDTaken")
			w.health.clear("EtcdUnreachable")
			err = w.reign(ctx, s)
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("not a member", "cause", err)
			if !pause(ctx, time.Second) {
				return nil
			}
		}
	}
	return nil
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// reign owns slots under one session, until it is lost or ctx ends. When it returns no
// owner of this session runs any more.
func (w *Worker) reign(ctx context.Context, s *leases.Session) error {
	w.mu.Lock()
	w.session, w.reignBegan = s, time.Now().UTC()
	w.mu.Unlock()
	w.log.Info("joined", "lease_valid", time.Until(s.Deadline()).Round(time.Millisecond))
	owners, stop := context.WithCancelCause(ctx)
	live, liveCtx := errgroup.WithContext(ctx)
	run := &reign{w: w, s: s, ctx: owners, began: time.Now()}
	live.Go(func() error {
		defer run.endAll()
		return run.loop(liveCtx)
	})
	// The session ends last: its orderly end gives the slots back, and by then no owner
	// may still be acting.
	sessionCtx, endSession := context.WithCancel(context.WithoutCancel(ctx))
	defer endSession()
	var sessionErr error
	sessionDone := make(chan struct{})
	go func() {
		defer close(sessionDone)
		sessionErr = s.Run(sessionCtx)
	}()
	select {
	case <-s.Lost():
		stop(leases.ErrFenced)
	case <-sessionDone:
		stop(leases.ErrFenced)
	case <-liveCtx.Done():
		stop(context.Canceled)
	}
	defer stop(nil)
	err := live.Wait()
	endSession()
	<-sessionDone
	w.mu.Lock()
	w.session = nil
	w.mu.Unlock()
	if sessionErr != nil && ctx.Err() == nil {
		return fmt.Errorf("lease lost: %w", sessionErr)
	}
	return err
}

// reign is the book-keeping of slots under one session.
type reign struct {
	w     *Worker
	s     *leases.Session
	ctx   context.Context // of all owners; ended with a cause when the session is lost
	began time.Time
	slots map[int]*slotRun
}

// slotRun is one owned slot and what runs for it.
type slotRun struct {
	claim leases.Claim
	stop  context.CancelCauseFunc
	ctx   context.Context
	hosts map[string]*running
	parts map[string]*running
}

type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

// loop follows the view: takes orphans that are ours to take, starts and stops owners.
func (r *reign) loop(ctx context.Context) error {
	r.slots = map[int]*slotRun{}
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	first := true
	for {
		if first {
			if !r.settle(ctx) {
				return nil
			}
			first = false
		}
		r.drop()
		if err := r.takeOrphans(ctx); err != nil && ctx.Err() == nil {
			r.w.log.Warn("take orphans", "cause", err)
		}
		r.startOwners()
		select {
		case <-ctx.Done():
			return nil
		case <-r.ctx.Done():
			return nil
		case <-r.w.kick:
		case <-retry.C:
		}
	}
}

// settle waits while nobody owns anything, so that workers which start together share.
func (r *reign) settle(ctx context.Context) bool {
	r.w.view.mu.RLock()
	cold := len(r.w.view.slots) == 0
	r.w.view.mu.RUnlock()
	return !cold || pause(ctx, settle)
}

// drop stops what runs for slots that the mirror shows in other hands.
func (r *reign) drop() {
	for n, run := range r.slots {
		val, rev, ok := r.w.view.slotOwner(n)
		stale := rev < run.claim.Epoch.Revision // the mirror has not seen our claim yet
		if stale || (ok && val.Worker == r.s.Worker() && val.Boot == r.s.Boot() && rev == run.claim.Epoch.Revision) {
			continue
		}
		if !ok && r.w.mirror.Revision() < run.claim.Epoch.Revision {
			continue
		}
		r.w.log.Warn("slot lost", "slot", n, "epoch", run.claim.Epoch)
		r.end(n, leases.ErrFenced)
	}
}

func (r *reign) takeOrphans(ctx context.Context) error {
	v := r.w.view
	v.mu.RLock()
	in := ring.Input{Slots: r.w.slotN, Owner: make(map[int]string, len(v.slots))}
	for n, s := range v.slots {
		in.Owner[n] = s.Val.Worker
	}
	for id, m := range v.workers {
		if m.Val.State == "ready" {
			in.Members = append(in.Members, ring.Member{ID: id, Zone: m.Val.Zone, Weight: m.Val.Weight})
		}
	}
	v.mu.RUnlock()
	want := ring.Orphans(in, r.s.Worker())
	r.findOwn()
	missing := want[:0]
	for _, n := range want {
		if r.slots[n] == nil {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	claims, err := r.s.Claim(ctx, missing)
	for _, c := range claims {
		r.adopt(c)
	}
	if len(claims) > 0 {
		r.w.log.Info("slots taken", "count", len(claims), "all", len(r.slots))
	}
	return err
}

// findOwn adopts slots that are this session's without this worker knowing: the answer
// to a claim was lost.
func (r *reign) findOwn() {
	for _, kv := range r.w.mirror.List(leases.SlotsPrefix) {
		if c, mine := r.s.ClaimOf(kv); mine && r.slots[c.Slot] == nil {
			r.adopt(c)
		}
	}
}

func (r *reign) adopt(c leases.Claim) {
	ctx, stop := context.WithCancelCause(r.ctx)
	r.slots[c.Slot] = &slotRun{claim: c, ctx: ctx, stop: stop, hosts: map[string]*running{}, parts: map[string]*running{}}
	r.w.mu.Lock()
	r.w.claims[c.Slot] = c
	r.w.mu.Unlock()
	r.w.metrics.claims.Set(float64(len(r.slots)))
}

// startOwners makes what runs equal to what is on record: one goroutine a host and one
// a partition of the owned slots.
func (r *reign) startOwners() {
	wantHosts, wantParts := map[int]map[string]bool{}, map[int]map[string]bool{}
	for id, spec := range r.w.view.hosts() {
		n := r.w.slotOf(spec.Val.Partition, id)
		run := r.slots[n]
		if run == nil {
			continue
		}
		add(wantHosts, n, id)
		if p := spec.Val.Partition; p != "" {
			add(wantParts, n, p)
		}
	}
	for n, run := range r.slots {
		for path := range wantParts[n] {
			if run.parts[path] == nil {
				run.parts[path] = r.start(run, newPartition(r.w, r.s, run.claim, path))
			}
		}
		for id := range wantHosts[n] {
			if run.hosts[id] == nil {
				run.hosts[id] = r.start(run, newOwner(r.w, r.s, run.claim, id))
			}
		}
		for id, h := range run.hosts {
			select {
			case <-h.done: // ended by itself: fenced, or its record was unreadable; tried again
				delete(run.hosts, id)
				continue
			default:
			}
			if !wantHosts[n][id] {
				h.end(errRemoved)
				delete(run.hosts, id)
			}
		}
		for path, p := range run.parts {
			if !wantParts[n][path] {
				p.end(errRemoved)
				delete(run.parts, path)
			}
		}
	}
}

var errRemoved = errors.New("no longer on record")

func add(m map[int]map[string]bool, n int, id string) {
	if m[n] == nil {
		m[n] = map[string]bool{}
	}
	m[n][id] = true
}

type runner interface{ run(ctx context.Context) }

func (r *reign) start(s *slotRun, what runner) *running {
	ctx, stop := context.WithCancelCause(s.ctx)
	x := &running{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(x.done)
		what.run(ctx)
		stop(nil)
	}()
	return x
}

func (x *running) end(cause error) {
	x.stop(cause)
	<-x.done
}

// end stops a slot's goroutines and waits for them.
func (r *reign) end(n int, cause error) {
	run := r.slots[n]
	run.stop(cause)
	for _, h := range run.hosts {
		<-h.done
	}
	for _, p := range run.parts {
		<-p.done
	}
	delete(r.slots, n)
	r.w.mu.Lock()
	delete(r.w.claims, n)
	r.w.mu.Unlock()
	r.w.metrics.claims.Set(float64(len(r.slots)))
}

// endAll waits until nothing of this session runs any more.
func (r *reign) endAll() {
	for n := range r.slots {
		r.end(n, context.Cause(r.ctx))
	}
}

// slotOf is the slot of a host: its partition's, so that a partition and all its hosts
// have one owner; without a partition its own (leases.md §1).
func (w *Worker) slotOf(partition, host string) int {
	if partition != "" {
		return ring.SlotOf(partition, w.slotN)
	}
	return ring.SlotOf(host, w.slotN)
}
