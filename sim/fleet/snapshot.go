// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// Figures of worker/place.go.
const (
	readAgeLimit = 5 * time.Second
	minActionGap = 180 * time.Second
	levelMaxAge  = 10 * time.Second
)

// budgetState is one budget as read for a snapshot.
type budgetState struct {
	scope   string
	counter budget.Counter
	limit   int
	window  time.Duration
}

func (o *owner) readBudgets() []budgetState {
	limit := func(scope, name string) budgetState {
		n, w := o.eff.Rate(name)
		return budgetState{scope: scope, counter: o.f.budgets[scope], limit: n, window: w}
	}
	out := []budgetState{limit("host/"+o.h.ID, "budget.host")}
	names := [...]string{"zone", "pod", "cluster"}
	for i, p := range settings.Prefixes(o.h.Partition) {
		if i < len(names) {
			out = append(out, limit(names[i]+"/"+p, "budget."+names[i]))
		}
	}
	return out
}

// spend takes one slot of every budget that was read for this event.
func (o *owner) spend(ev ha.Event) {
	for _, b := range o.place.budgets {
		now := o.f.budgets[b.scope]
		if ev.Snapshot != nil && !now.Facts(ev.At, b.limit, b.window).Free() {
			o.f.rules.broken(o.h, "budget", "automation spends from "+b.scope+", where no slot is free")
		}
		o.f.budgets[b.scope] = now.Spend(ev.At, b.window)
	}
}

// latch: an incident asked for a slot and found none.
func (o *owner) latch(asked time.Time) {
	i := o.rec.Incident
	if i == nil || i.Guards == nil || !i.Guards.At.Equal(asked) {
		return
	}
	if held := i.Guards.Holding(); len(held) != 1 || held[0].Guard != "budget" {
		return // there was a slot, or it was not come to that: something else holds as well
	}
	for _, b := range o.place.budgets {
		f := b.counter.Facts(o.wall(), b.limit, b.window)
		if f.Latched || f.Free() {
			continue
		}
		o.f.budgets[b.scope] = o.f.budgets[b.scope].Latch(o.wall())
		o.f.log.page(o, fmt.Sprintf("power-down budget %s is used up (%d of %d): power-downs of this scope stop until somebody resets or grants more", b.scope, f.Used, f.Limit))
	}
}

// snapshot gathers all that the guards look at (worker/place.go).
func (o *owner) snapshot(p guard.Purpose, rs []deviceReading, answered map[string]time.Time) guard.Snapshot {
	s := guard.Snapshot{At: o.wall(), Purpose: p, Host: o.h.ID, Gathered: o.f.etcdUp && !o.w.noEtcd}
	o.place.budgets = o.readBudgets()
	s.Claim = guard.ClaimFacts{Epoch: o.epochText(), ValidFor: o.w.validFor(), NeededFor: min(o.policy.Fence.PacketTimeout, packetLease)}
	s.State = guard.StateFacts{VerdictMaxAge: o.policy.CheckWindow + o.policy.CheckTimeout, RevisionAsked: 1, RevisionPresent: 1}
	if last := o.lastPing(); !last.IsZero() {
		s.State.LastSignOfLife = o.w.wallAt(last)
	}
	if i := o.rec.Incident; i != nil && i.Last != nil {
		s.State.VerdictAsked = i.Last.Asked
		s.Signals = i.Last.Signals
		s.Signals.Agent = guard.FamilyUnknown
		if !o.alive() && i.Last.Signals.Agent == guard.FamilyDead {
			s.Signals.Agent = guard.FamilyDead
		} else if o.alive() {
			s.Signals.Agent = guard.FamilyAlive
		}
	}
	s.Armed = guard.ArmedFacts{Policy: o.policy.Mode, Disarmed: o.f.disarmed(o.h), Disabled: o.f.disabled(o.h.Partition), Maintenance: o.h.Maintenance, Partition: string(o.rec.Partition)}
	if o.h.HADisabled {
		s.Armed.Disabled = append(s.Armed.Disabled, "HA is disabled for host "+o.h.ID)
	}
	s.Self = guard.SelfFacts{WarmupRoundsLeft: o.w.warmupLeft(), Agents: len(o.w.owners), AgentsLost: o.w.lostAgents(), ReadAgeLimit: readAgeLimit}
	s.Area = o.survey(s.At, o.rec.Silent(), answered)
	spent := o.rec.Incident != nil && o.rec.Incident.Budgeted
	for _, b := range o.place.budgets {
		f := b.counter.Facts(s.At, b.limit, b.window)
		s.Budgets = append(s.Budgets, guard.BudgetFacts{Scope: b.scope, Used: f.Used, Limit: f.Limit, Window: f.Window, Latched: f.Latched, NextIn: f.NextIn, Spent: spent, Known: true})
	}
	s.Quiet = guard.QuietFacts{Until: o.rec.QuietUntil, MinGap: minActionGap, Known: true}
	if i := o.rec.Incident; i == nil || i.Attempts == 0 {
		s.Quiet.LastOtherAction = o.rec.LastAction
	}
	s.Power.Levels = o.levelFacts(s.At, rs)
	if i := o.rec.Incident; i != nil && i.Action != nil && !i.Action.Done {
		s.Running = i.Action.ID
	}
	return s
}

// levelFacts is what the fresh readings say of each level of the ladder.
func (o *owner) levelFacts(now time.Time, rs []deviceReading) (out []guard.LevelFacts) {
	for _, l := range o.policy.Ladder {
		if l.Human {
			continue
		}
		f := guard.LevelFacts{Level: l.N, MaxAge: levelMaxAge, CanSwitchOn: true}
		f.Tested, _ = o.levelTested(l)
		var states []power.State
		for _, name := range l.Devices {
			f.Contradicted = f.Contradicted || slices.Contains(o.rec.Contradicted, name)
			k := slices.IndexFunc(rs, func(r deviceReading) bool { return r.device == name })
			state := power.Unknown
			switch {
			case k < 0:
				f.Reason = fmt.Sprintf("device %s was not read", name)
			case rs[k].err != power.NoError:
				f.Reason = fmt.Sprintf("device %s: %s: %s", name, rs[k].err, rs[k].text)
			default:
				state, f.ReadAge = rs[k].state, max(f.ReadAge, now.Sub(rs[k].at))
			}
			states = append(states, state)
		}
		f.State = power.Combine(!l.All, states...).String()
		if r := l.Reaches(); r < l.Min && f.Tested {
			f.Tested, f.Reason = false, fmt.Sprintf("it proves no more than %s, and %s is asked for", r, l.Min)
		}
		out = append(out, f)
	}
	return out
}
