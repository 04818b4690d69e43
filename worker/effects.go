// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// jobs are the goroutines an owner has started. Each kind runs at most once at a time
// and reports through the mailbox; all end with the owner.
type jobs struct {
	ctx     context.Context
	stop    context.CancelCauseFunc
	wg      sync.WaitGroup
	running map[jobKind]context.CancelFunc // touched by the owner's goroutine only
}

type jobKind string

const (
	jobCheck    jobKind = "check"
	jobPower    jobKind = "power"
	jobPlace    jobKind = "place"
	jobBaseline jobKind = "baseline"
	jobRepair   jobKind = "repair"
	jobExamine  jobKind = "examine"
	jobLook     jobKind = "look"
)

func (j *jobs) init(ctx context.Context, stop context.CancelCauseFunc) {
	j.ctx, j.stop, j.running = ctx, stop, map[jobKind]context.CancelFunc{}
}

func (j *jobs) wait() { j.wg.Wait() }

// begin starts fn unless a job of the kind runs; it returns whether it started.
func (j *jobs) begin(k jobKind, fn func(ctx context.Context)) bool {
	if j.running[k] != nil || j.ctx.Err() != nil {
		return false
	}
	ctx, cancel := context.WithCancel(j.ctx)
	j.running[k] = cancel
	j.wg.Go(func() { fn(ctx) })
	return true
}

// end is called on the owner's goroutine when a job's report arrives.
func (j *jobs) end(k jobKind) {
	if cancel := j.running[k]; cancel != nil {
		cancel()
		delete(j.running, k)
	}
}

// abandon cancels a job whose result nobody waits for any more; its report still ends it.
func (j *jobs) abandon(k jobKind) {
	if cancel := j.running[k]; cancel != nil {
		cancel()
	}
}

// Reports of jobs.
type (
	checkDone    struct{ check ha.Check }
	baselineDone struct {
		boot string
		seen provider.Baseline
	}
	repairDone  struct{ why string }
	examineDone struct{}
)

// start begins one effect of a committed step.
func (o *owner) start(ctx context.Context, e ha.Effect) {
	switch e.Kind {
	case ha.StartCheck:
		o.startCheck(e)
	case ha.TakePlace:
		o.takePlace(e.Purpose)
	case ha.LeavePlace:
		o.place.leave(o)
	case ha.ReadPower:
		o.readPower(true)
	case ha.TxnDo:
		o.doTxn(e.Txn)
	case ha.Repair:
		o.repair()
	case ha.Announce, ha.Spend, ha.CloseIncident, ha.PushGate:
		// Done in the commit; the gate goes out with the next pong (see publish).
	default:
		o.log.Error("effect without a doer", "effect", e.Kind)
	}
}

// startCheck asks neighbours, within a place of the activity pool and the deadline.
func (o *owner) startCheck(e ha.Effect) {
	q := o.question(e.ID, o.policy.CheckWindow)
	if e.Memory {
		q.Heard = o.live.lastPing // zero: this owner never heard it, and knows of no such time
	}
	deadline := e.Deadline
	asked := q.Asked
	prov := o.provider()
	// Neighbours need a moment to follow to a new owner: until then their silence is ours.
	patience := o.live.adopted.Add(o.policy.Grace())
	if latest := deadline.Add(-2*o.policy.CheckWindow - time.Second); patience.After(latest) {
		patience = latest
	}
	partition, kind := o.spec.Val.Partition, prov.Describe().Kind
	wanted := min(prov.Describe().Needed.Members, len(o.w.view.members(partition))-1)
	if o.looker() != nil {
		wanted = 0 // it needs no witnesses
	}
	run := func(ctx context.Context) {
		ctx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		for len(q.Readers) < wanted && time.Now().Before(patience) && pause(ctx, readersSoon) {
			q.Others, q.Readers = o.w.readers(partition, q.Subject.Host, kind)
		}
		c := ha.Check{ID: e.ID, Asked: asked, Done: o.now(), Verdict: ha.Unknown, Reason: "no place in the pool of activity checks was free in time"}
		if o.w.pools.activity.acquire(ctx) {
			c = prov.Activity(ctx, q)
			o.w.pools.activity.release()
		}
		o.w.metrics.check("activity", c)
		o.in.put("", checkDone{c})
	}
	if !o.jobs.begin(jobCheck, run) {
		o.in.put("", ha.Event{Kind: ha.EvActivity, Check: &ha.Check{ID: e.ID, Asked: asked, Done: o.now(), Reason: "an earlier check has not come back yet"}})
	}
}

func verdictWord(v ha.Verdict) string {
	if v == ha.Unknown {
		return "unknown"
	}
	return string(v)
}

// question gathers whom to ask and what about (ha.md §5: readers are linked hosts of
// the cluster whose own health passes).
func (o *owner) question(id string, window time.Duration) provider.Question {
	q := provider.Question{
		ID: id, Asked: o.now(), Subject: o.facts(), Window: window, Max: o.eff.Int("ha.activity.checkers"),
	}
	q.Others, q.Readers = o.w.readers(o.spec.Val.Partition, o.host, o.provider().Describe().Kind)
	return q
}

// maxRemember is for how long agents may be told to keep looking.
const maxRemember = 10 * time.Minute

// readersSoon is how often neighbours that have not followed yet are looked for.
const readersSoon = 100 * time.Millisecond

// readers are the neighbours of a host, of the same kind, that can look at it now, and how
// many others there are that should be able to.
func (w *Worker) readers(partition, host, kind string) (others int, all []provider.Reader) {
	for reader, p := range w.neighbours(partition, host) {
		if p.provider != kind || p.record.Excused() {
			continue
		}
		others++
		if p.reads() {
			all = append(all, provider.Reader{Host: reader, Pools: p.pools, Domain: p.rack})
		}
	}
	slices.SortFunc(all, func(a, b provider.Reader) int {
		return cmp.Or(cmp.Compare(turn(host, a.Host), turn(host, b.Host)), strings.Compare(a.Host, b.Host))
	})
	return others, all
}

// turn is a reader's place among those of a host: always the same ones are asked first, who
// remember it then, and each host has others.
func turn(host, reader string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(host + "/" + reader))
	return h.Sum64()
}

// reads: its host can be asked what it sees of others.
func (p *published) reads() bool { return p.alive && p.healthy && (p.linked || p.looked) }

// onCheck hands a finished check to the machine. A ping that arrived after the check was
// asked is a sign of life that no reader can outvote (ha.md §5).
func (o *owner) onCheck(ctx context.Context, c ha.Check) {
	o.jobs.end(jobCheck)
	if c.Verdict != ha.Active && o.live.alive() && o.live.lastPing.After(c.Asked) {
		c.Verdict, c.Reason = ha.Active, "its agent's pings arrive"
		c.Signals.Agent = guard.FamilyAlive
	}
	o.step(ctx, ha.Event{Kind: ha.EvActivity, Check: &c, Life: ha.HeardBy(o.live.lastPing, o.now())})
	o.examine(c.Votes)
}

// examine asks checkers that could not look how they are themselves: one that cannot read
// its own pool becomes a suspect, and is not asked again (ha.md §§3, 5). Their answers go
// to their owners, as pings do.
func (o *owner) examine(votes []ha.Vote) {
	var readers []string
	for _, v := range votes {
		if v.Verdict == ha.Unknown {
			readers = append(readers, v.Reader)
		}
	}
	if len(readers) == 0 {
		return
	}
	timeout := o.eff.Duration("ha.health.timeout")
	o.jobs.begin(jobExamine, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		var wg sync.WaitGroup
		for _, r := range readers {
			wg.Go(func() { o.w.examine(ctx, r) })
		}
		wg.Wait()
		o.in.put("", examineDone{})
	})
}

func (w *Worker) examine(ctx context.Context, host string) {
	a, err := w.door.Ask(ctx, host, &agentpb.Request{Epoch: w.epochOf(host), Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}}})
	if err != nil || a.GetHealth().GetReport() == nil {
		return // its pings say so, or their absence
	}
	if own, p := w.owned(host); own != nil && p.linked {
		own.in.put("", pingMsg{boot: p.boot, report: a.GetHealth().Report, at: time.Now().UTC()})
	}
}

// takeBaseline looks once at a healthy host, to know which signals it gives while it is
// alive (ha.md §5: silence of a family never seen alive proves nothing).
func (o *owner) takeBaseline() {
	prov, ok := o.provider().(provider.Sampler)
	if !ok {
		o.live.baselineAt = time.Time{}
		return
	}
	every := o.eff.Duration("ha.baseline.interval")
	if !o.rec.SeenDisks && !o.rec.SeenProbe { // until then its silence would prove nothing
		every = min(every, o.policy.CheckInitial)
	}
	o.live.baselineAt = o.now().Add(every)
	if o.rec.State != ha.Available {
		o.live.baselineAt = time.Time{}
		return
	}
	boot, timeout := o.rec.Boot.ID, o.policy.CheckTimeout
	q := o.question("baseline", o.policy.CheckWindow)
	if o.policy.Memory { // all who would be asked, and they look on until after the next time
		q.Remember = min(3*every+timeout, maxRemember)
	} else {
		q.Max = 1
	}
	o.jobs.begin(jobBaseline, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		var seen provider.Baseline
		if o.w.pools.activity.acquire(ctx) {
			seen = prov.Baseline(ctx, q)
			o.w.pools.activity.release()
		}
		o.in.put("", baselineDone{boot, seen})
	})
}

// onBaseline keeps what was seen alive; it goes on record the first time.
func (o *owner) onBaseline(ctx context.Context, m baselineDone) {
	o.jobs.end(jobBaseline)
	if m.boot != o.rec.Boot.ID {
		return
	}
	o.step(ctx, ha.Event{Kind: ha.EvSeen, Boot: m.boot, SeenDisks: m.seen.Disks, SeenProbe: m.seen.Probe})
}
