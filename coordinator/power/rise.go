// SPDX-License-Identifier: Apache-2.0

package power

import (
	"slices"
	"time"
)

// Switching on goes the way the current flows: first all that feeds the host, then the
// chassis, which may come up by itself or not. A host that was fenced by its PDU would
// stay dark otherwise, or come back with one of its two feeds (power.md §§8.6, 9.1).

// stage is one part of it: the devices of a level that feed the host, or its others.
type stage struct {
	rung  int
	feeds bool
}

// stages of switching on. A cycle visits the feeds that it may have cut and the devices
// that it proved OFF with; where these are the feeds, whatever switches the chassis.
func (r *run) stages() (out []stage) {
	last, proven := len(r.Ladder)-1, -1
	if r.Verdict != nil {
		proven = slices.IndexFunc(r.Ladder, func(lv Level) bool { return lv.N == r.Verdict.Level })
		last = proven
	}
	for i := last; i >= 0; i-- {
		if lv := r.Ladder[i]; !lv.Human && slices.ContainsFunc(lv.Devices, lv.feeds) {
			out = append(out, stage{i, true})
		}
	}
	for i, lv := range r.Ladder {
		if !lv.Human && (proven < 0 || i == proven || r.Ladder[proven].feedsOnly()) && !lv.feedsOnly() {
			out = append(out, stage{i, false})
		}
	}
	return out
}

// rising: the transaction is about switching on, or that is left of it.
func (r *run) rising() bool { return r.Goal == GoalOn || r.Verdict != nil }

// rest are the stages after the present one.
func (r *run) rest() []stage {
	all := r.stages()
	i := slices.Index(all, stage{r.Progress.Rung, r.Progress.Feeding})
	if i < 0 { // a record edited by hand
		return nil
	}
	return all[i+1:]
}

// rise begins the first of these stages that has devices and reports whether there is one.
func (r *run) rise(stages []stage) bool {
	p := &r.Progress
	for _, st := range stages {
		lv := r.Ladder[st.rung]
		if len(lv.Devices) == 0 {
			r.fail(noDevice(lv))
			continue
		}
		p.Rung, p.Feeding, p.Phase = st.rung, st.feeds, PhaseIdentify
		p.Devices = nil
		for _, name := range lv.Devices {
			if lv.feeds(name) == st.feeds {
				p.Devices = append(p.Devices, DeviceProgress{Name: name, Phase: PhaseIdentify, Due: r.at})
			}
		}
		p.LevelBegun, p.LevelEnds, p.OnEnds = r.at, r.at.Add(r.levelTime()), r.onEnds()
		return true
	}
	return false
}

// onEnds is when a stage that begins now must be over, zero for the time of its level.
// What got its mains back has to boot before it answers.
func (r *run) onEnds() (none time.Time) {
	if r.powered() {
		return r.onBy()
	}
	return none
}

// powered: something was switched on, or had been switched off before.
func (r *run) powered() bool { return r.Verdict != nil || r.Progress.OnPackets > 0 }

// needless: what reads ON needs no ON. An outlet that is on, or a chassis that came up
// with its mains; one whose feeds were never off gets the ON that was ordered.
func (r *run) needless(g Reading) bool {
	return r.rising() && (r.Progress.Feeding || r.powered()) && g.State == On && !g.Transitional && !g.Fault
}

// unseen: all that feeds the host is ON, and that is the most that anybody can tell, as it
// is where outlets are all there is.
func (r *run) unseen() bool {
	return r.Progress.Fed && len(r.Progress.Unfed) == 0 && !slices.ContainsFunc(r.Progress.Devices, func(d DeviceProgress) bool { return !d.LastAt.IsZero() })
}

// darkens reports whether leaving the present stage gives up switching on at all: only
// what may have switched the chassis on forbids another path to it.
func (r *run) darkens() bool {
	p := &r.Progress
	return !p.Feeding && slices.ContainsFunc(p.Devices, func(d DeviceProgress) bool { return d.Ons > 0 })
}

// stay begins switching on with the devices that were switched off, in their sessions;
// false where another level or device comes first.
func (r *run) stay(stages []stage) bool {
	p := &r.Progress
	if len(stages) == 0 { // a record edited by hand
		return true
	}
	first := stages[0]
	keep := slices.DeleteFunc(slices.Clone(p.Devices), func(d DeviceProgress) bool { return r.level().feeds(d.Name) != first.feeds })
	if first.rung != p.Rung || len(keep) == 0 {
		return false
	}
	p.Feeding, p.Devices = first.feeds, keep
	return true
}

// Cut are the feeds that a cycle may have cut and has not read ON again, from the last level
// it came to: what is left to be switched on when the cycle is over before its time, because
// the host came back with one feed of two. Nil where none is.
func (t Txn) Cut() (levels []Level) {
	p := &t.Progress
	if t.Goal != GoalCycle || !t.OffSent() || p.Fed && !p.Feeding && len(p.Unfed) == 0 || p.Rung >= len(t.Ladder) {
		return nil
	}
	last := p.Rung
	if t.Verdict != nil { // none after the level that proved OFF was touched
		if proven := slices.IndexFunc(t.Ladder, func(lv Level) bool { return lv.N == t.Verdict.Level }); proven >= 0 {
			last = proven
		}
	}
	for _, lv := range t.Ladder[:last+1] {
		if feeds := slices.DeleteFunc(slices.Clone(lv.Devices), func(d string) bool { return !lv.feeds(d) }); len(feeds) > 0 && !lv.Human {
			levels = append(levels, Level{N: lv.N, Devices: feeds, Feeds: feeds, All: true, Deadline: lv.Deadline})
		}
	}
	return levels
}
