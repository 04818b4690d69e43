// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
)

// reign is the book-keeping of slots under one session.
type reign struct {
	w     *Worker
	s     *leases.Session
	ctx   context.Context // of all owners; ended with a cause when the session is lost
	slots map[int]*slotRun
	give  handing
	began time.Time         // when the session was registered
	seen  map[string]string // boots of the members seen last
	specs int64             // version of the host specs that what runs is equal to
	fresh bool              // a slot was adopted since
	ended atomic.Bool       // something that runs ended by itself since
}

// slotRun is one owned slot and what runs for it.
type slotRun struct {
	claim leases.Claim
	stop  context.CancelCauseFunc
	ctx   context.Context
	hosts map[string]*running
	parts map[string]*running
	hooks map[string]*running // by name and revision of the declaration
}

type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

// loop follows the view until ctx ends or the generation was raised: takes slots that are
// ours to take, gives away those that are not, starts and stops owners.
func (r *reign) loop(ctx context.Context) {
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	cold := r.w.view.cold()
	for ctx.Err() == nil && r.w.view.generation() <= r.s.Fleet().Generation {
		r.drop()
		r.recordEnds(ctx)
		err := r.takeBack(ctx)
		if cold {
			r.settle(ctx)
			cold = false
		}
		if err = errors.Join(err, r.takeOrphans(ctx)); err != nil && ctx.Err() == nil {
			r.w.log.Warn("take slots", "cause", err)
		}
		r.startOwners()
		r.startHooks()
		r.w.warn("RecordTooNew", "records that a newer worker wrote are neither read nor written here, finish the upgrade", r.w.view.tooNew())
		r.renew()
		again := r.rebalance()
		if again == nil && r.fresh {
			again = time.After(mirrorSoon)
		}
		select {
		case <-ctx.Done():
		case done := <-r.give.done:
			r.handed(done)
		case <-again:
		case <-r.w.kick:
		case <-retry.C:
		}
	}
}

// settle waits until those that start together with this worker can share what nobody
// owns.
func (r *reign) settle(ctx context.Context) {
	for ctx.Err() == nil {
		wait := settle - time.Since(r.began)
		if r.w.view.othersStarting(r.s.Worker()) {
			wait = max(wait, settleLimit-time.Since(r.began))
		}
		if wait <= 0 {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-r.w.kick:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// drop stops what runs for slots that the mirror shows in other hands, or in nobody's.
func (r *reign) drop() {
	seen := r.w.mirror.Revision()
	for n, run := range r.slots {
		if seen < run.claim.Epoch.Revision {
			continue // the mirror has not come to our claim yet
		}
		kv, ok := r.w.mirror.Get(leases.SlotKey(n))
		if c, mine := r.s.ClaimOf(kv); ok && mine && c == run.claim {
			continue
		}
		r.w.log.Warn("slot lost", "slot", n, "epoch", run.claim.Epoch)
		r.end(n, leases.ErrFenced)
	}
}

// takeOrphans takes what this worker is to have of the slots without an owner, and of
// those whose owner is certainly dead.
func (r *reign) takeOrphans(ctx context.Context) error {
	if r.w.mirror.Age() > readAgeLimit {
		return nil // who cannot see takes no new slots (leases.md §5)
	}
	want := ring.Orphans(r.w.view.ringInput(r.w.slotN), r.s.Worker())
	r.findOwn()
	var free []int
	var left []leases.KV
	for _, n := range want {
		if r.slots[n] != nil || r.give.slots[n] {
			continue
		}
		if kv, held := r.w.mirror.Get(leases.SlotKey(n)); held {
			left = append(left, kv)
		} else {
			free = append(free, n)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	claims, err := r.s.TakeOver(ctx, left, r.reaped)
	if len(free) > 0 && err == nil {
		var more []leases.Claim
		more, err = r.s.Claim(ctx, free)
		claims = append(claims, more...)
	}
	for _, c := range claims {
		r.adopt(c, "orphan")
	}
	if len(claims) > 0 {
		r.w.log.Info("slots taken", "count", len(claims), "all", len(r.slots))
	}
	return err
}

// reaped reports whether a boot is dead for certain. A slot of one that is not waits for
// the end of its lease.
func (r *reign) reaped(worker, boot string) bool {
	end, ok := get(r.w.view, r.w.view.ends, worker+"/"+boot)
	return ok && end.Val.How == leases.Reaped
}

// findOwn adopts slots that are this session's without this worker knowing: the answer
// to a claim was lost.
func (r *reign) findOwn() {
	if r.w.mirror.Revision() < r.give.upTo {
		return // the mirror still shows as ours what was handed over
	}
	for n := range r.unserved() {
		kv, ok := r.w.mirror.Get(leases.SlotKey(n))
		if c, mine := r.s.ClaimOf(kv); ok && mine && !r.give.slots[n] {
			r.adopt(c, "handed")
		}
	}
}

// unserved are the slots that are this worker's by the view, under any boot, and not served by
// this reign.
func (r *reign) unserved() map[int]versioned[slotValue] {
	return r.w.view.slotsOf(r.s.Worker(), func(n int) bool { return r.slots[n] == nil })
}

// adopt begins to serve a slot, once: an answer that comes twice is no second claim.
func (r *reign) adopt(c leases.Claim, how string) {
	if r.slots[c.Slot] != nil {
		return
	}
	r.w.metrics.taken.WithLabelValues(how).Inc()
	ctx, stop := context.WithCancelCause(r.ctx)
	r.slots[c.Slot] = &slotRun{claim: c, ctx: ctx, stop: stop, hosts: map[string]*running{}, parts: map[string]*running{}, hooks: map[string]*running{}}
	r.w.mu.Lock()
	r.w.claims[c.Slot] = c
	r.w.mu.Unlock()
	r.w.metrics.claims.Set(float64(len(r.slots)))
	r.fresh = true
	if c.Slot == 0 {
		signal(r.w.told) // who owns it tells for all
	}
}

// startOwners makes what runs equal to what is on record: one goroutine a host and one
// a partition of the owned slots. It looks only at what can have changed, because at
// 100,000 hosts a look at all of them takes longer than a takeover may.
func (r *reign) startOwners() {
	version, seen := r.w.view.specsVersion(), r.w.mirror.Revision()
	again := r.fresh || version != r.specs
	if r.ended.Swap(false) {
		for _, run := range r.slots {
			// One that ended by itself (fenced, a record that could not be read) starts anew.
			again = over(run.hosts) || again
			again = over(run.parts) || again
		}
	}
	if !again {
		return
	}
	r.specs, r.fresh = version, false
	wantHosts, wantParts := r.w.view.inSlots(r.w.slotN, func(n int) bool {
		run := r.slots[n]
		// Owners load what the mirror shows: it has to show all that was written before.
		behind := run != nil && seen < run.claim.Epoch.Revision
		r.fresh = r.fresh || behind // the loop comes back soon
		return run != nil && !behind
	})
	// First all that ends: a host that moved to another slot of ours has one owner at a time.
	for n, run := range r.slots {
		reap(run.hosts, wantHosts[n])
		reap(run.parts, wantParts[n])
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
	}
}

// over forgets what ended by itself and reports whether there was any.
func over(all map[string]*running) (found bool) {
	for id, x := range all {
		if x.over() {
			delete(all, id)
			found = true
		}
	}
	return found
}

// reap ends what is no longer wanted.
func reap(all map[string]*running, want map[string]bool) {
	for id, x := range all {
		if !want[id] {
			x.end(errRemoved)
			delete(all, id)
		}
	}
}

var errRemoved = errors.New("no longer on record")

func add[K comparable](m map[K]map[string]bool, n K, id string) {
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
		what.run(ctx)
		byItself := ctx.Err() == nil
		stop(nil)
		close(x.done)
		if byItself {
			r.ended.Store(true)
		}
	}()
	return x
}

func (x *running) over() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

func (x *running) end(cause error) {
	x.stop(cause)
	<-x.done
}

// end stops a slot's goroutines and waits for them.
func (r *reign) end(n int, cause error) { r.stop(n, cause).wait() }

// stop tells a slot's goroutines to end and forgets the slot.
func (r *reign) stop(n int, cause error) *slotRun {
	run := r.slots[n]
	run.stop(cause)
	delete(r.slots, n)
	r.w.mu.Lock()
	delete(r.w.claims, n)
	r.w.mu.Unlock()
	r.w.metrics.claims.Set(float64(len(r.slots)))
	return run
}

// wait waits until nothing of a stopped slot runs any more.
func (s *slotRun) wait() {
	for _, h := range s.hosts {
		<-h.done
	}
	for _, p := range s.parts {
		<-p.done
	}
	for _, h := range s.hooks {
		<-h.done
	}
}

// endAll waits until nothing of this session runs any more, and returns what it held.
func (r *reign) endAll() []leases.Claim {
	var held []leases.Claim
	for _, run := range r.slots { // all at once: each may have to wait for a packet's deadline
		held = append(held, run.claim)
		run.stop(context.Cause(r.ctx))
	}
	for _, c := range held {
		r.end(c.Slot, context.Cause(r.ctx))
	}
	if r.give.running() {
		r.handed(<-r.give.done)
	}
	return held
}

// slotOf is the slot of a host: its partition's, so that a partition and all its hosts
// have one owner; without a partition its own (leases.md §1).
func (w *Worker) slotOf(partition, host string) int {
	if partition != "" {
		return ring.SlotOf(partition, w.slotN)
	}
	return ring.SlotOf(host, w.slotN)
}
