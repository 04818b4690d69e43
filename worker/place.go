// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

const (
	readAgeLimit = 5 * time.Second // of the last linearizable read (ha.md §6, guard self)
	minActionGap = 180 * time.Second
	packetLease  = 2 * time.Second // for which the lease must certainly hold before a packet (ha.md §6)
)

// place is this owner's place in the recovery pool, and what the guards were shown
// while it held it.
type place struct {
	waiting guard.Purpose
	seq     int // of the last asking; answers to earlier ones are stale
	held    bool
	// As read for the last snapshot; compared when its answer is committed.
	budgets  []budgetState
	switches map[string]int64 // keys that disarm or disable, with their revisions
}

// placeReady reports that a place is held and the power was freshly read.
type placeReady struct {
	seq      int
	taken    bool // by this asking; whoever handles the report answers for it
	readings []deviceReading
	answered map[string]time.Time // siblings that were asked whether they live
}

// takePlace waits for a place in the recovery pool, then reads every power level
// freshly: guards want to know what is so now (ha.md §7.1), and who fell with this host.
func (o *owner) takePlace(p guard.Purpose) {
	o.place.waiting = p
	o.place.seq++
	seq := o.place.seq
	devices, bad := o.targets()
	held, since, share, round, patience := o.place.held, o.rec.Silent(), o.shares(o.now()), roundOf(o.policy), o.eff.Duration("ha.health.timeout")
	for i := range devices {
		devices[i].test = o.testDue(devices[i].device, o.now())
	}
	o.jobs.begin(jobPlace, func(ctx context.Context) { // an earlier asking still runs: its stale answer asks again
		m := placeReady{seq: seq, taken: !held && o.w.pools.recovery.acquire(ctx)}
		if held || m.taken {
			m.answered = o.w.round(ctx, o.host, since, share, round, patience)
			m.readings = o.w.readDevices(ctx, devices, bad, wpower.Urgent)
		}
		o.in.put("", m)
	})
}

// leave gives the place back; without one it does nothing.
func (p *place) leave(o *owner) {
	p.waiting = ""
	o.jobs.abandon(jobPlace)
	if p.held {
		p.held = false
		o.w.pools.recovery.release()
	}
}

// onPlace arms, or learns why not: the readings go to the power machine, the snapshot to
// the guards inside ha.Step, and everything the snapshot rests on is compared again in
// the transaction.
func (o *owner) onPlace(ctx context.Context, m placeReady) {
	o.jobs.end(jobPlace)
	o.place.held = o.place.held || m.taken
	switch {
	case o.place.waiting == "": // nobody waits any more
		o.leaveIdle()
		return
	case !o.place.held || m.seq != o.place.seq:
		o.takePlace(o.place.waiting)
		return
	}
	o.absorb(ctx, m.readings)
	if ctx.Err() != nil || o.place.waiting == "" || m.seq != o.place.seq {
		return // the readings themselves have changed what is wanted
	}
	snap := o.snapshot(ctx, o.place.waiting, m)
	o.place.waiting = ""
	o.step(ctx, ha.Event{Kind: ha.EvPlace, At: snap.At, Snapshot: &snap})
	o.latch(ctx, snap.At)
	o.askLater(snap)
	o.leaveIdle()
}

// askLater makes what is held until a known time be asked again then: a cooldown, or a
// disarming that expires.
func (o *owner) askLater(s guard.Snapshot) {
	if len(o.rec.Holds()) == 0 {
		return
	}
	at := o.w.view.rearmed(o.spec.Val.Partition, o.host, s.At)
	if left := s.Area.Cooldown(); left > 0 {
		at = later(at, s.At.Add(left))
	}
	o.live.askAt = at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// leaveIdle gives the place back unless it is used or waited for.
func (o *owner) leaveIdle() {
	if o.place.held && o.place.waiting == "" && !o.acting() {
		o.place.leave(o)
	}
}

// endPlace gives back what an owner that has ended, and all its jobs, still holds: its
// place, or one in a report that nobody read.
func (o *owner) endPlace() {
	for msg, ok := o.in.take(); ok; msg, ok = o.in.take() {
		if m, is := msg.(placeReady); is && m.taken {
			o.place.held = true
		}
	}
	o.place.leave(o)
}

// acting reports whether the host's state is one that holds a place.
func (o *owner) acting() bool { return o.rec.State == ha.Recovering || o.rec.State == ha.Fencing }

// snapshot gathers all that the guards look at.
func (o *owner) snapshot(ctx context.Context, p guard.Purpose, m placeReady) guard.Snapshot {
	s := guard.Snapshot{Purpose: p, Host: o.host}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	budgets, err := o.readBudgets(ctx)
	if err == nil {
		err = o.w.catchUp(ctx, o.w.mirror)
	}
	s.At = o.now()
	if err != nil {
		o.log.Warn("gather facts for the guards", "cause", err)
	}
	o.place.budgets, o.place.switches = budgets, o.w.view.switches(o.spec.Val.Partition, o.host)
	s.Gathered = err == nil
	s.Claim = guard.ClaimFacts{Epoch: o.claim.Epoch.String(), ValidFor: time.Until(o.s.Deadline()), NeededFor: min(o.policy.Fence.PacketTimeout, packetLease)}
	specRev := o.spec.Rev
	if v, ok := o.w.view.spec(o.host); ok {
		specRev = max(specRev, v.Rev)
	}
	s.State = guard.StateFacts{VerdictMaxAge: o.policy.CheckWindow + o.policy.CheckTimeout, RevisionAsked: o.spec.Rev, RevisionPresent: specRev, LastSignOfLife: ha.HeardBy(o.live.lastPing, s.At)}
	if i := o.rec.Incident; i != nil && i.Last != nil {
		s.State.VerdictAsked = i.Last.Asked
		s.Signals = i.Last.Signals
		s.Signals.Agent = guard.FamilyUnknown
		if !o.live.alive() && i.Last.Signals.Agent == guard.FamilyDead {
			s.Signals.Agent = guard.FamilyDead
		} else if o.live.alive() {
			s.Signals.Agent = guard.FamilyAlive
		}
	}
	path := o.spec.Val.Partition
	s.Armed = guard.ArmedFacts{
		Policy: o.policy.Mode, Disarmed: o.w.view.disarmed(path, o.host, s.At), Disabled: o.w.view.disabled(path),
		Maintenance: o.spec.Val.Maintenance, Partition: string(o.rec.Partition),
	}
	if o.spec.Val.HADisabled {
		s.Armed.Disabled = append(s.Armed.Disabled, "HA is disabled for host "+o.host)
	}
	s.Self = o.w.self(s.At)
	s.Self.Frozen, _ = o.w.frozen(o.host)
	age := o.w.mirror.Age()
	if err == nil {
		s.Self.ReadAge, age = 0, 0 // what is shown here has caught up with a linearizable read
	}
	s.Area = o.survey(s.At, o.rec.Silent(), age, m.answered)
	spent := o.rec.Incident != nil && o.rec.Incident.Budgeted
	for _, b := range budgets {
		f := b.counter.Facts(s.At, b.limit, b.window)
		s.Budgets = append(s.Budgets, guard.BudgetFacts{Scope: b.scope, Used: f.Used, Limit: f.Limit, Window: f.Window, Latched: f.Latched, NextIn: f.NextIn, Spent: spent, Known: true})
	}
	s.Quiet = guard.QuietFacts{Until: o.rec.QuietUntil, MinGap: minActionGap, Known: true}
	if i := o.rec.Incident; i == nil || i.Attempts == 0 {
		s.Quiet.LastOtherAction = o.rec.LastAction
	}
	s.Power.Levels = o.levelFacts(s.At, m.readings)
	if i := o.rec.Incident; i != nil && i.Action != nil && !i.Action.Done {
		s.Running = i.Action.ID
	}
	return s
}

// levelFacts is what the fresh readings say of each level of the ladder.
func (o *owner) levelFacts(now time.Time, readings []deviceReading) []guard.LevelFacts {
	byDevice := map[string]deviceReading{}
	for _, r := range readings {
		byDevice[r.device] = r
	}
	var out []guard.LevelFacts
	for _, l := range o.policy.Ladder {
		if l.Human {
			continue
		}
		f := guard.LevelFacts{Level: l.N, MaxAge: 10 * time.Second, CanSwitchOn: true}
		var untested string
		f.Tested, untested = o.levelTested(l, now)
		var states []power.State
		for _, name := range l.Devices {
			d, _ := o.device(name)
			f.CanSwitchOn = f.CanSwitchOn && d.canSwitchOn()
			f.Contradicted = f.Contradicted || slices.Contains(o.rec.Contradicted, name)
			if two := o.w.answersForTwo(o.host, d, o.pow.Devices[name].Pinned); two != nil {
				f.Tested, untested = false, fmt.Sprintf("device %s: %v", name, two)
			}
			r, fresh := byDevice[name]
			state := power.Unknown
			switch {
			case !fresh:
				f.Reason = fmt.Sprintf("device %s was not read", name)
			case r.err != nil:
				f.Reason = fmt.Sprintf("device %s: %s", name, r.err)
			default:
				state, f.ReadAge = r.reading.State, max(f.ReadAge, now.Sub(r.reading.At))
				if state == power.Off && (r.reading.Transitional || r.reading.Fault) {
					state = power.On
				}
			}
			states = append(states, state)
		}
		f.State = power.Combine(!l.All, states...).String()
		if r := l.Reaches(); r < l.Min && f.Tested {
			f.Tested, untested = false, fmt.Sprintf("it proves no more than %s, and %s is asked for", r, l.Min)
		}
		if f.Reason == "" && !f.Tested {
			f.Reason = untested
		}
		out = append(out, f)
	}
	return out
}

// budgetScopes are the budgets one action on this host spends from, with their limits.
func (o *owner) budgetScopes() []budgetState {
	limit := func(scope, name string) budgetState {
		n, w := o.eff.Rate(name)
		return budgetState{scope: scope, limit: n, window: w}
	}
	out := []budgetState{limit("host/"+o.host, "budget.host")}
	names := [...]string{"zone", "pod", "cluster"}
	for i, p := range settings.Prefixes(o.spec.Val.Partition) {
		if i < len(names) {
			out = append(out, limit(names[i]+"/"+p, "budget."+names[i]))
		}
	}
	return out
}

func (o *owner) readBudgets(ctx context.Context) ([]budgetState, error) {
	out := o.budgetScopes()
	for i := range out {
		kv, err := o.w.client.Get(ctx, leases.BudgetKey(out[i].scope))
		if errors.Is(err, leases.ErrNotFound) {
			out[i].counter = budget.Counter{V: 1}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := kv.Decode(&out[i].counter); err != nil {
			return nil, err
		}
		out[i].rev = kv.ModRevision
	}
	return out, nil
}

// latch writes down that an incident asked for a slot and found none: power-downs of
// that scope stop until a human resets or grants more (ha.md §4).
func (o *owner) latch(ctx context.Context, asked time.Time) {
	i := o.rec.Incident
	if i == nil || i.Guards == nil || !i.Guards.At.Equal(asked) {
		return
	}
	if held := i.Guards.Holding(); len(held) != 1 || held[0].Guard != "budget" {
		return // there was a slot, or it was not come to that: something else holds as well
	}
	now := o.now()
	for _, b := range o.place.budgets {
		f := b.counter.Facts(now, b.limit, b.window)
		if f.Latched || f.Free() {
			continue
		}
		next := b.counter.Latch(now)
		x := o.plainEvent("budget.exhausted", ha.Page, fmt.Sprintf("power-down budget %s is used up (%d of %d in %v): power-downs of this scope stop until somebody resets or grants more", b.scope, f.Used, f.Limit, f.Window), nil)
		key := leases.BudgetKey(b.scope)
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		_, err := o.s.Commit(cctx, o.claim.Guard().At(key, b.rev), leases.Put(key, next), leases.Put(leases.EventKey(x.ID), x))
		cancel()
		if err != nil { // somebody else changed it, or etcd is away: the next asking latches
			o.log.Warn("latch budget", "scope", b.scope, "cause", err)
			continue
		}
		o.w.announced([]v1Event{x})
	}
	o.place.budgets = nil
}

// catchUp waits until a copy of etcd shows all that was written before the call: no switch
// that an operator has been told of may be missed by the guards.
func (w *Worker) catchUp(ctx context.Context, m *leases.Mirror) error {
	rev, err := w.client.Revision(ctx)
	if err == nil {
		err = m.WaitRevision(ctx, rev)
	}
	return err
}

// self is what this worker knows of its own sight.
func (w *Worker) self(now time.Time) guard.SelfFacts {
	w.mu.Lock()
	agents := len(w.owners)
	w.mu.Unlock()
	return guard.SelfFacts{WarmupRoundsLeft: w.warmupLeft(now), Agents: agents, AgentsLost: w.lostAgents.count(now), ReadAge: w.mirror.Age(), ReadAgeLimit: readAgeLimit}
}

// warmupLeft counts the rounds of pings that must still pass since this worker began to
// own slots before it may judge anybody.
func (w *Worker) warmupLeft(now time.Time) int {
	eff := w.view.effective("", "", now)
	rounds, interval := eff.Int("worker.warmup"), eff.Duration("agent.ping.interval")
	w.mu.Lock()
	began := w.reignBegan
	w.mu.Unlock()
	if began.IsZero() {
		return rounds
	}
	return max(0, rounds-int(now.Sub(began)/interval))
}
