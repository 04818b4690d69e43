// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"time"
)

// read takes the answer to a reading. What is neither certainly ON nor an authentic OFF
// is a failed read; transitional and fault states count as ON (power.md §6.2.5).
func (r *run) read(d *DeviceProgress, out TxnEffect, ev TxnEvent) {
	g := ev.Reading
	moving := g.Transitional || g.Fault
	if ev.Err == NoError && !moving {
		switch {
		case r.at.After(out.NotAfter.Add(r.l.PacketTimeout)): // nor would a tick have waited; the clock may have jumped
			ev.Err, ev.Detail = Timeout, "the answer came too late to tell when it was so"
		case g.State == Off && !g.Authentic:
			ev.Err, ev.Detail = ProtocolViolation, "OFF in an answer that nothing ties to our credentials"
		case g.State != On && g.State != Off:
			ev.Err, ev.Detail = ProtocolViolation, "an answer without a power state"
		}
	}
	if ev.Err != NoError {
		if d.Run.Count > 0 {
			d.Run.Failed = true
		}
		r.failed(d, "read", ev)
		if d.Over == "" {
			r.unread(d)
		}
		return
	}
	off := g.State == Off && !moving
	d.Fails, d.Waits = 0, 0
	d.Last, d.LastAt = g.State, r.at
	if moving {
		d.Last = Unknown
	}
	d.Due = r.at.Add(r.l.VerifyInterval)
	word := g.words()
	switch d.Phase {
	case PhaseStatus:
		r.note(d.Name, "read "+word)
		if r.needless(g) {
			d.Phase = PhaseEnd
			return
		}
		r.command(d)
	case PhaseSettle:
		if off {
			d.Run.add(readAt(out, ev))
			word = fmt.Sprintf("%s (%d of %d)", word, d.Run.Count, r.l.SettleReads)
		} else {
			d.Run = OffRun{}
		}
		r.note(d.Name, "read "+word)
		if !off || !d.Commanded {
			r.repeat(d)
		}
	case PhaseOnVerify:
		r.note(d.Name, "read "+word)
		switch {
		case r.Goal == GoalVerb || g.State == On && !moving:
			d.Phase = PhaseEnd
		// Once more when half of the time is over: a first ON can be swallowed by a
		// supply that is still discharging.
		case d.Ons == 0 || d.Ons == 1 && !r.at.Before(r.Progress.OnEnds.Add(-r.l.OnDeadline/2)):
			d.Phase, d.Due = PhaseOn, r.at
		}
	}
}

// unread goes on where a reading is wanted but not needed: the fresh status before the
// command, and the one after an operator's verb.
func (r *run) unread(d *DeviceProgress) {
	if d.Fails < statusTries {
		return
	}
	switch {
	case d.Phase == PhaseStatus:
		r.command(d)
	case d.Phase == PhaseOnVerify && r.Goal == GoalVerb:
		d.Last, d.Phase = Unknown, PhaseEnd
	}
}

// command makes the device's verb due: hard off always, also when it reads OFF, but not
// sooner than RepeatOffAfter after the last one.
func (r *run) command(d *DeviceProgress) {
	d.Due = later(r.at, d.Due)
	if d.Fails == 0 {
		d.Due = r.at
	}
	if r.Goal != GoalVerb && !r.rising() {
		d.Phase = PhaseOff
		if !d.LastOff.IsZero() {
			d.Due = later(d.Due, d.LastOff.Add(r.l.RepeatOffAfter))
		}
		return
	}
	d.Phase = PhaseOn
	r.Progress.OnEnds = r.onBy()
}

// repeat sends hard off again to a device that still reads ON or refused the last one,
// and gives it up when it had all it may get.
func (r *run) repeat(d *DeviceProgress) {
	if r.at.Before(d.LastOff.Add(r.l.RepeatOffAfter)) {
		return
	}
	if d.Offs < r.l.MaxOffs {
		d.Phase, d.Due = PhaseOff, r.at
		return
	}
	if d.Commanded {
		d.Over = fmt.Sprintf("reads %s after %s", stateWord(d.Last), times(d.Offs))
	} else {
		d.Over = fmt.Sprintf("refused the last of %s", times(d.Offs))
	}
}

// sent takes the answer to a command.
func (r *run) sent(d *DeviceProgress, out TxnEffect, ev TxnEvent) {
	o := ev.Outcome
	if ev.Err == InvalidState {
		o = AlreadyThere
	}
	// A device that is busy or has no session left did not run it, unless it is not sure.
	waits := (ev.Err == Busy || ev.Err == SessionLimit) && o != Indeterminate
	if !ev.Sent || waits || o == Rejected && ev.Err.Final() {
		if ev.Err == NoError {
			ev.Err = Cancelled // not sent, and nobody says why: ours
		}
		r.failed(d, verbWord(out.Verb)+" did not run", ev)
		return
	}
	if o != Accepted && o != Rejected && o != AlreadyThere {
		o = Indeterminate
	}
	if o == Indeterminate {
		// The connection is spent: go on reading in a new session.
		r.failed(d, verbWord(out.Verb)+" may have run", TxnEvent{Err: kindOr(ev.Err, Timeout), Detail: ev.Detail})
		d.Identified = false
	} else {
		d.Fails = 0
		r.note(d.Name, fmt.Sprintf("%s was %s", verbWord(out.Verb), said(o)))
	}
	r.left(d, out.Verb, o, r.at)
	d.Due = r.at.Add(r.l.VerifyInterval)
	switch {
	case out.Verb == HardOff:
		d.Phase, d.Run, d.Commanded = PhaseSettle, OffRun{}, o != Rejected
		if o == Rejected {
			r.Progress.Answered = true
		} else {
			d.Due = r.at // the window counts from the first reading
		}
	case o == Rejected && r.Goal == GoalVerb:
		d.Over = verbWord(out.Verb) + " was refused"
	case o == Rejected:
		// Some refuse ON for a while after an off; that uses up no try.
		d.Ons--
		d.Waits++
		d.Due = r.at.Add(backoff(Busy, d.Waits))
	default:
		d.Phase = PhaseOnVerify
	}
}

// settled is the rule of A3 (power.md §6.2.5).
func (r *run) settled(d DeviceProgress) bool {
	window := max(r.l.SettleWindow, d.Window)
	return d.Over == "" && d.Commanded && d.Run.Adjacent && d.Run.Count >= r.l.SettleReads && d.Run.Last.Sub(d.Run.First) >= window
}

// together is the rule for devices of which all must be off: what settled first must still
// read OFF, and all of them for the longest of their windows at the same time. Feeds that
// were cut one after the other leave the host its mains.
func (r *run) together(ds []DeviceProgress) bool {
	var first, last time.Time
	window := r.l.SettleWindow
	for i, d := range ds {
		if !r.settled(d) || d.Run.Failed {
			return false
		}
		first, window = later(first, d.Run.First), max(window, d.Window)
		if i == 0 || d.Run.Last.Before(last) {
			last = d.Run.Last
		}
	}
	return len(ds) > 0 && last.Sub(first) >= window
}

// add counts one authentic OFF reading.
func (o *OffRun) add(at time.Time) {
	if o.Count == 0 {
		o.First = at
	}
	o.Adjacent = o.Count > 0 && !o.Failed
	o.Count, o.Last, o.Failed = o.Count+1, later(o.Last, at), false
}

// readAt is when the reading arrived. It is believed only between the asking and the
// telling: a settle window must not be stretched by somebody's clock.
func readAt(out TxnEffect, ev TxnEvent) time.Time {
	if at := ev.Reading.At; !at.IsZero() && !at.Before(out.NotBefore) && !at.After(ev.At) {
		return at
	}
	return ev.At
}

func (g Reading) words() string {
	switch {
	case g.Fault:
		return "a power fault"
	case g.Transitional:
		return "a change under way"
	}
	return g.State.String()
}

func stateWord(s State) string {
	if s == Unknown {
		return "a change or fault"
	}
	return s.String()
}

func verbWord(v Verb) string {
	switch v {
	case HardOff:
		return "hard off"
	case HardOn:
		return "on"
	case SoftOff:
		return "soft off"
	}
	return string(v)
}

func times(n int) string {
	if n == 1 {
		return "one hard off"
	}
	return fmt.Sprintf("%d hard offs", n)
}

func kindOr(k, or Kind) Kind {
	if k == NoError {
		return or
	}
	return k
}
