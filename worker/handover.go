// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
)

const (
	handBatch = 128                    // slots in one batch under a rate
	handEvery = 100 * time.Millisecond // between two batches under a rate

	mirrorSoon = 5 * time.Millisecond // by then the mirror usually shows a batch
)

// handing is the state of handing slots over: one batch at a time is under way, so that
// taking orphans never waits for it.
type handing struct {
	slots   map[int]bool // of the batch under way
	done    chan handDone
	upTo    int64         // the mirror has to be at this revision to be believed about our slots
	members []ring.Member // as of the last look
	quiet   time.Time     // since when they have not changed
	last    time.Time     // when the last batch began
}

func (g *handing) running() bool { return len(g.slots) > 0 }

type handDone struct {
	began time.Time
	runs  map[int]*slotRun
	to    map[int]string
	moved []leases.Claim
	err   error
}

// rebalance begins to hand over what the plan gives to others: after a join once the
// membership has been quiet for a while, in a drain at once, both at a bounded rate. It
// returns when to look again; nil: when something changes (leases.md §2.8).
func (r *reign) rebalance() <-chan time.Time {
	in := r.w.view.ringInput(r.w.slotN)
	slices.SortFunc(in.Members, func(a, b ring.Member) int { return strings.Compare(a.ID, b.ID) })
	now := time.Now()
	if !slices.Equal(in.Members, r.give.members) {
		r.give.members, r.give.quiet = in.Members, now
	}
	draining := slices.ContainsFunc(in.Members, func(m ring.Member) bool { return m.ID == r.s.Worker() && m.Weight <= 0 })
	switch {
	case r.give.running() || r.w.mirror.Age() > readAgeLimit:
		return nil
	case r.w.mirror.Revision() < r.give.upTo:
		return time.After(mirrorSoon)
	}
	var moves []ring.Target
	for _, t := range ring.Moves(in) {
		if t.From == r.s.Worker() && r.slots[t.Slot] != nil {
			moves = append(moves, t)
		}
	}
	if len(moves) == 0 {
		return nil
	}
	e := r.w.view.effective("", "", now)
	if wait := e.Duration("worker.rebalance.quiet") - now.Sub(r.give.quiet); wait > 0 && !draining {
		return time.After(wait)
	}
	n := len(moves) // damping is off: one round, and its transactions side by side
	if rate := e.Int("worker.rebalance.rate"); rate > 0 {
		if wait := handEvery - now.Sub(r.give.last); wait > 0 {
			return time.After(wait)
		}
		n = min(handBatch, max(1, int(float64(rate)*handEvery.Seconds())))
	}
	r.handOver(moves[:min(n, len(moves))], now)
	return nil
}

// renew hands slots over to this very session: their epochs rise.
func (r *reign) renew() {
	if r.give.running() {
		return // it is looked again when that is done
	}
	var moves []ring.Target
	for n := range r.w.renewals() {
		if r.slots[n] != nil {
			moves = append(moves, ring.Target{Slot: n, From: r.s.Worker(), To: r.s.Worker()})
		}
	}
	if len(moves) > 0 {
		r.handOver(moves, time.Now())
	}
}

// handOver stops the work on slots and, when it has stopped, pushes them to their new
// owners (leases.md §2.5). r.handed takes the outcome.
func (r *reign) handOver(moves []ring.Target, now time.Time) {
	d := handDone{began: now, runs: map[int]*slotRun{}, to: map[int]string{}}
	var what []leases.Handover
	for _, t := range moves {
		reg, ok := r.w.mirror.Get(leases.WorkerKey(t.To))
		if !ok {
			continue // gone meanwhile; the next plan knows
		}
		run := r.stop(t.Slot, errHanded)
		d.runs[t.Slot], d.to[t.Slot] = run, t.To
		what = append(what, leases.Handover{Claim: run.claim, Worker: reg})
	}
	if len(what) == 0 {
		return
	}
	r.give.slots, r.give.last, r.give.done = map[int]bool{}, now, make(chan handDone, 1)
	for n := range d.runs {
		r.give.slots[n] = true
	}
	out := r.give.done
	go func() { // waited for by endAll at the latest
		for _, run := range d.runs {
			run.wait()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), etcdTimeout)
		defer cancel()
		d.moved, d.err = r.s.HandOver(ctx, what)
		out <- d
	}()
}

var errHanded = errors.New("handed over")

// handed takes note of a batch: the links of what has moved stay, and lead to the new owner
// from now on; what has not moved is found by findOwn, or was another's already.
func (r *reign) handed(d handDone) {
	r.give.slots = nil
	if d.err != nil {
		r.w.log.Warn("hand over", "cause", d.err)
	}
	for _, c := range d.moved {
		r.give.upTo = max(r.give.upTo, c.Epoch.Revision)
		for host := range d.runs[c.Slot].hosts {
			r.w.carried.moved(host, c.Epoch.Revision)
		}
	}
	r.w.metrics.handovers.Add(float64(len(d.moved)))
	r.w.metrics.handoverTime.Observe(time.Since(d.began).Seconds())
	if len(d.moved) > 0 {
		r.w.log.Info("slots handed over", "count", len(d.moved), "took", time.Since(d.began).Round(time.Millisecond), "left", len(r.slots))
	}
}

// takeBack takes up what an earlier process of this worker left for it: no slot moves in
// a planned restart (leases.md §2.7).
func (r *reign) takeBack(ctx context.Context) error {
	ended := func(boot string) bool {
		end, ok := get(r.w.view, r.w.view.ends, r.s.Worker()+"/"+boot)
		return ok && end.Val.How != ""
	}
	var left []leases.KV
	for n, s := range r.unserved() {
		kv, ok := r.w.mirror.Get(leases.SlotKey(n))
		if ok && s.Val.Boot != r.s.Boot() && ended(s.Val.Boot) {
			left = append(left, kv)
		}
	}
	if len(left) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	claims, err := r.s.TakeBack(ctx, left, ended)
	for _, c := range claims {
		r.adopt(c, "back")
	}
	if len(claims) > 0 {
		r.w.log.Info("slots taken back", "count", len(claims), "all", len(r.slots))
	}
	return err
}

// recordEnds writes down that workers which have vanished without a word have expired, so
// that whoever takes their hosts knows how long their packets may still come.
func (r *reign) recordEnds(ctx context.Context) {
	now := map[string]string{}
	v := r.w.view
	v.mu.RLock()
	for id, m := range v.workers {
		now[id] = m.Val.Boot
	}
	gone := map[string]string{}
	for id, boot := range r.seen {
		if now[id] != boot && v.ends[id+"/"+boot].Val.How == "" {
			gone[id] = boot
		}
	}
	v.mu.RUnlock()
	if maps.Equal(now, r.seen) {
		return
	}
	r.seen = now
	for id, boot := range gone {
		ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		err := r.w.client.RecordEnd(ctx, id, boot, leases.Expired, time.Time{})
		cancel()
		if err != nil {
			r.w.log.Warn("record end", "worker_gone", id, "cause", err)
		}
	}
}
