// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// next moves the transaction on until an exchange is asked for, a time must come, or it
// is over.
func (r *run) next() {
	p := &r.Progress
	for !r.Done && p.Out == nil {
		var wait bool
		if p.Phase == PhasePause {
			wait = r.pause()
		} else {
			wait = r.work()
		}
		if wait {
			return
		}
	}
	if p.Out != nil {
		p.Wake = p.Out.NotAfter.Add(r.l.PacketTimeout)
	}
}

// pause waits between proven off and ON: the capacitors', and after an adoption until
// the earlier owner can send nothing more (leases.md §3.5).
func (r *run) pause() (wait bool) {
	p := &r.Progress
	if due := later(r.Verdict.At.Add(r.l.OffToOn), r.l.OnNotBefore); r.at.Before(due) {
		p.Wake = due
		return true
	}
	if stages := r.stages(); !r.stay(stages) {
		return !r.rise(stages)
	}
	p.Phase, p.OnEnds = PhaseOn, r.onBy()
	for i := range p.Devices {
		d := &p.Devices[i]
		d.Due, d.Fails, d.Waits = r.at, 0, 0
		if d.Phase == PhaseSettle { // an adopted one reads first
			d.Phase = PhaseOn
		}
	}
	return false
}

// work asks the device whose turn it is for its next exchange, or closes the level.
func (r *run) work() (wait bool) {
	p := &r.Progress
	switch why := r.given(); {
	case r.done():
		r.carriedOut()
		return false
	case why != "":
		r.leave(why)
		return false
	case !r.rising() && r.Goal != GoalVerb && r.off():
		r.proven()
		return false
	}
	d := r.turn()
	if ends := r.ends(); !r.at.Before(ends) || !d.Due.Before(ends) {
		r.leave(r.timeOver())
		return false
	}
	send := d.Identified && (d.Phase == PhaseOff || d.Phase == PhaseOn)
	// A send is asked for only when it is due, so that one on record may have left.
	if due := r.due(d); send && r.at.Before(due) {
		p.Wake = due
		return true
	}
	r.ask(d, send)
	return false
}

// ask puts one exchange on record.
func (r *run) ask(d *DeviceProgress, send bool) {
	p := &r.Progress
	p.Seq++
	from := later(r.at, d.Due)
	e := TxnEffect{Txn: r.ID, Seq: p.Seq, Device: d.Name, NotBefore: from}
	p.Phase = d.Phase
	switch {
	case !d.Identified:
		// Opening a session is part of it, which takes a slow BMC several exchanges.
		e.Do, e.NotAfter = DoIdentity, from.Add(r.l.CommandDeadline)
	case send:
		e.Do, e.Verb, e.NotAfter = DoSend, r.verb(d), from.Add(r.l.CommandDeadline)
	default:
		e.Do, e.NotAfter = DoRead, from.Add(r.l.StatusDeadline)
	}
	p.Out = &e
	r.effects = append(r.effects, e)
}

// due is when the device's next send may leave: what may bring power back also waits
// until an earlier owner can send nothing more.
func (r *run) due(d *DeviceProgress) time.Time {
	if d.Phase == PhaseOff || r.Goal == GoalVerb && (r.Verb == SoftOff || r.Verb == Identify) {
		return d.Due
	}
	return later(d.Due, r.l.OnNotBefore)
}

// onBy is when a switching-on, or an operator's verb, that begins now must be done.
func (r *run) onBy() time.Time {
	if r.Goal == GoalVerb {
		return later(r.at, r.l.OnNotBefore).Add(r.levelTime())
	}
	return later(r.at, r.l.OnNotBefore).Add(r.l.OnDeadline)
}

func (r *run) verb(d *DeviceProgress) Verb {
	switch {
	case d.Phase == PhaseOff:
		return HardOff
	case r.Goal == GoalVerb:
		return r.Verb
	}
	return HardOn
}

// ends is when the present stage is over: the level while proving, its own deadline
// while switching on.
func (r *run) ends() time.Time {
	if r.Progress.OnEnds.IsZero() {
		return r.Progress.LevelEnds
	}
	return r.Progress.OnEnds
}

// turn picks the live device that is due first. Of an any-level only the first live one is
// worked with; of paths to what has to boot, the first that answers.
func (r *run) turn() *DeviceProgress {
	var best *DeviceProgress
	for i := range r.Progress.Devices {
		d := &r.Progress.Devices[i]
		if d.Over != "" || d.Phase == PhaseEnd {
			continue
		}
		if best == nil || d.Due.Before(best.Due) {
			best = d
		}
		if r.either() && (!r.rising() || !r.powered() || d.Identified || d.Ons > 0) {
			return d
		}
	}
	return best
}

// either: one of the level's devices is enough.
func (r *run) either() bool { return !r.level().All }

// off: OFF is settled, by the device being worked with or by all together.
func (r *run) off() bool {
	if r.either() {
		d := r.turn()
		return d != nil && r.settled(*d)
	}
	return r.together(r.Progress.Devices)
}

// done: the devices that count have carried their verb out.
func (r *run) done() bool {
	over := func(d DeviceProgress) bool { return d.Phase == PhaseEnd }
	if r.either() {
		return slices.ContainsFunc(r.Progress.Devices, over)
	}
	return !slices.ContainsFunc(r.Progress.Devices, func(d DeviceProgress) bool { return !over(d) })
}

// given says why the level cannot succeed any more: of an all-level one device was given
// up, of an any-level every one. While switching on it waits until the other
// devices had their turn.
func (r *run) given() string {
	var over []string
	open := false
	for _, d := range r.Progress.Devices {
		if d.Over != "" {
			over = append(over, d.Name+": "+d.Over)
		} else if d.Phase != PhaseEnd {
			open = true
		}
	}
	if len(over) == 0 || (r.either() || r.rising()) && open {
		return ""
	}
	return strings.Join(over, ", ")
}

func (r *run) timeOver() string {
	p := &r.Progress
	var s []string
	for _, d := range p.Devices {
		if d.Over != "" || d.Phase == PhaseEnd {
			continue
		}
		text := d.Name + " last read " + d.Last.String()
		switch {
		case d.LastAt.IsZero():
			text = d.Name + " was never read"
		case d.Phase == PhaseSettle && d.Run.Count > 0:
			text = fmt.Sprintf("%s read OFF %d times, not settled", d.Name, d.Run.Count)
		}
		s = append(s, text)
	}
	begun := p.LevelBegun
	if !p.OnEnds.IsZero() {
		begun = earlier(r.at, p.OnEnds.Add(-r.l.OnDeadline))
	}
	return fmt.Sprintf("its time is over after %s: %s", brief(r.at.Sub(begun)), strings.Join(s, ", "))
}

// leave gives the present level up. A packet that may have switched something on, or run
// a verb that must not run twice, forbids the next level (power.md §9.1).
func (r *run) leave(why string) {
	p := &r.Progress
	for _, d := range p.Devices {
		if d.Offs > 0 && d.Fails == 0 && d.Run.Count == 0 {
			p.Answered = true // it talks to us, and what it says is ON
		}
	}
	r.fail(fmt.Sprintf("level %d: %s", r.level().N, why))
	if p.Feeding {
		p.Unfed = append(p.Unfed, fmt.Sprintf("level %d: %s", r.level().N, why))
	}
	switch {
	case r.rising() && !r.darkens() && r.rise(r.rest()):
	case r.Verdict != nil:
		v := *r.Verdict
		if v.On = r.lastState(); r.unseen() {
			v.On, v.Reason = On, v.Reason+"; what feeds it is ON, and nobody could read the chassis: "+why
		} else {
			v.Reason += "; but it was not read ON again: " + why
		}
		r.end(v)
	case r.Goal != GoalOn && p.Outcome == "":
		p.OnEnds = time.Time{}
		r.enter(p.Rung + 1)
	default:
		r.unproven()
	}
}

// carriedOut ends a transaction whose last verb was verified. What feeds the host is not
// the host.
func (r *run) carriedOut() {
	if p := &r.Progress; p.Feeding {
		p.Fed = true
		if r.rise(r.rest()) {
			return
		}
	}
	v := Verdict{Level: r.level().N, On: r.lastState()}
	switch {
	case r.Goal == GoalVerb:
		v.Reason = fmt.Sprintf("%s was %s; reads %s", r.Verb, said(r.Progress.Outcome), v.On)
	case r.Verdict != nil:
		v = *r.Verdict
		v.On, v.Reason = On, v.Reason+"; switched on and read ON"
	default:
		v.Reason = "switched on and read ON"
	}
	if len(r.Progress.Unfed) > 0 {
		v.Reason += "; but not all that feeds it came back: " + strings.Join(r.Progress.Unfed, "; ")
	}
	r.end(v)
}

func said(o Outcome) string {
	switch o {
	case Accepted:
		return "accepted"
	case Rejected:
		return "refused"
	case AlreadyThere:
		return "not needed in this state"
	}
	return "sent without an answer: it may have run"
}
