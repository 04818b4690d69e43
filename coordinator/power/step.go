// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"time"
)

// Step feeds one event to the transaction and returns it moved on, with the exchanges to
// start once it is on record. It is pure and total: an answer that is not the outstanding
// one, an event of another transaction and any event after the end change nothing. The
// rule is power.md §6.2.
func (t Txn) Step(ev TxnEvent, l Limits) (Txn, []TxnEffect) {
	if t.Done || t.ID == "" || ev.Txn != "" && ev.Txn != t.ID {
		return t, nil
	}
	r := &run{Txn: t, at: ev.At, l: l.WithDefaults()}
	r.Progress = t.Progress.clone()
	out := r.Progress.Out
	switch {
	case ev.Cancel != "":
		r.cancel(ev.Cancel)
	case ev.Adopted:
		r.adopt()
	case !ev.Life.IsZero():
		if !t.Unsettles(ev.Life) {
			return t, nil
		}
		r.alive(ev.Life)
	case ev.Seq != 0:
		if out == nil || out.Seq != ev.Seq {
			return t, nil
		}
		r.answer(*out, ev)
	case ev.Tick:
		if out != nil {
			if ev.At.Before(out.NotAfter.Add(r.l.PacketTimeout)) {
				return t, nil
			}
			r.answer(*out, TxnEvent{At: ev.At, Err: Timeout, Outcome: Indeterminate, Sent: true, Detail: "the exchange was lost"})
		}
	default:
		return t, nil
	}
	r.next()
	return r.Txn, r.effects
}

// cancel ends the transaction without a further packet. A proof that is on record stays.
func (r *run) cancel(why string) {
	r.lost()
	v := Verdict{Reason: "cancelled: " + why}
	if r.Verdict != nil {
		v = *r.Verdict
		v.On, v.Reason = r.lastState(), v.Reason+"; cancelled: "+why
	}
	r.end(v)
}

// alive forgets the OFF readings that a sign of life belies: as with a reading of ON, OFF
// must settle anew (power.md §6.2.7).
func (r *run) alive(life time.Time) {
	for i := range r.Progress.Devices {
		if d := &r.Progress.Devices[i]; d.Run.beliedBy(life) {
			d.Run = OffRun{}
			r.note(d.Name, "it read OFF, and the host gave a sign of life since: OFF must settle anew")
		}
	}
}

// adopt goes on as a new owner (leases.md §3.7): what was asked for may have happened;
// identity and state are read first, the verb goes out again with a new intent, and the
// OFF run starts afresh. The present level gets its whole time again, and the total is
// clamped against a clock that moved.
func (r *run) adopt() {
	p := &r.Progress
	r.lost()
	r.note("", "taken over by another worker: reading first")
	p.LastOff = earlier(p.LastOff, r.at)
	lasts := r.at.Add(r.levelTime())
	r.Deadline = later(earlier(r.Deadline, r.at.Add(r.l.TotalDeadline)), lasts)
	p.LevelBegun, p.LevelEnds, p.OnEnds = r.at, lasts, time.Time{}
	back := r.Verdict != nil || p.OnPackets > 0 || r.Goal == GoalVerb && p.Outcome != ""
	if back && p.Phase != PhasePause {
		p.OnEnds = r.onBy()
	}
	if r.Verdict != nil && r.Verdict.At.After(r.at) {
		v := *r.Verdict
		v.At = r.at
		r.Verdict = &v
	}
	for i := range p.Devices {
		d := &p.Devices[i]
		if d.Phase == PhaseEnd {
			continue
		}
		d.Identified, d.Due, d.Fails, d.Waits = false, r.at, 0, 0
		d.LastOff = earlier(d.LastOff, r.at)
		if back {
			d.Phase, d.Ons = PhaseOnVerify, 0
			continue
		}
		d.Phase, d.Run, d.Commanded = PhaseIdentify, OffRun{}, false
	}
}

// lost forgets what is outstanding and counts a send among it as left.
func (r *run) lost() {
	p := &r.Progress
	if p.Out == nil {
		return
	}
	out := *p.Out
	p.Out = nil
	if out.Do == DoSend {
		r.left(r.device(out.Device), out.Verb, Indeterminate, out.NotBefore)
	}
}

// left counts a packet that left or may have left.
func (r *run) left(d *DeviceProgress, v Verb, o Outcome, at time.Time) {
	p := &r.Progress
	if v == HardOn {
		p.OnPackets++
		p.LastOn = later(p.LastOn, at)
		d.Ons++
		return
	}
	if r.Goal == GoalVerb {
		p.Outcome = o
	}
	if irreversible(v) {
		p.OffPackets++
		p.LastOff = later(p.LastOff, at)
		d.Offs++
		d.LastOff = later(d.LastOff, at)
	}
}

// device finds a device of the present level by name; the effect on record names one.
func (r *run) device(name string) *DeviceProgress {
	p := &r.Progress
	for i := range p.Devices {
		if p.Devices[i].Name == name {
			return &p.Devices[i]
		}
	}
	// A record edited by hand: nothing said of an unknown device matters.
	return &DeviceProgress{Name: name}
}

func (r *run) answer(out TxnEffect, ev TxnEvent) {
	r.Progress.Out = nil
	d := r.device(out.Device)
	if ev.BMCYoung && d.Window == 0 {
		d.Window = youngWindow
		r.extend(max(r.l.LevelDeadline, youngWindow+levelMargin))
		r.note(d.Name, "the BMC restarted just now: its OFF must hold for "+brief(youngWindow))
	}
	switch out.Do {
	case DoIdentity:
		r.identified(d, ev)
	case DoRead:
		r.read(d, out, ev)
	case DoSend:
		r.sent(d, out, ev)
	}
}

func (r *run) identified(d *DeviceProgress, ev TxnEvent) {
	switch {
	case ev.Err != NoError:
		r.failed(d, "identity", ev)
		return
	case !ev.Matched:
		ev.Err = IdentityMismatch
		if ev.Detail == "" {
			ev.Detail = "it answers as " + ev.Identity.words()
		}
		r.failed(d, "identity", ev)
		return
	}
	d.Identified, d.Waits, d.Due = true, 0, later(d.Due, r.at)
	if d.Phase == PhaseIdentify {
		d.Phase = PhaseStatus
	}
	r.note(d.Name, "the identity matches the enrolled one")
}

// failed counts an exchange that brought nothing, and says when to try again or that the
// device is given up.
func (r *run) failed(d *DeviceProgress, what string, ev TxnEvent) {
	p := &r.Progress
	kind := ev.Err
	if kind == NoError {
		kind = RemoteError
	}
	text := fmt.Sprintf("%s: %s", what, kind)
	if ev.Detail != "" {
		text += " (" + ev.Detail + ")"
	}
	r.note(d.Name, text)
	if !kind.ours() {
		if p.Errors == nil {
			p.Errors = map[Kind]int{}
		}
		p.Errors[kind]++
	}
	d.Fails++
	switch kind {
	case Busy, RemoteError, InvalidState:
	default: // whoever did not answer well is asked again in a new session
		d.Identified = false
	}
	d.Due = r.at.Add(r.l.VerifyInterval)
	switch {
	case kind.Final():
		d.Over = text
	case kind == Busy || kind == SessionLimit:
		d.Waits++
		d.Due = r.at.Add(backoff(kind, d.Waits))
		if kind == SessionLimit {
			r.extend(youngWindow + levelMargin)
		}
	case kind == Unreachable && d.Fails >= unreachFails && r.elsewhere():
		d.Over = text
	}
}

// elsewhere reports whether there is another path to try when a device is silent.
func (r *run) elsewhere() bool {
	p := &r.Progress
	switch {
	case !r.rising():
	case p.Feeding:
		return r.Verdict == nil && len(r.rest()) > 0 // what was cut is asked as long as there is time
	case r.powered() && r.at.Before(p.LevelBegun.Add(r.l.OnDeadline/2)):
		return false // it may have to boot
	default:
		return r.either() && r.live() > 1 || !r.darkens() && len(r.rest()) > 0
	}
	for _, lv := range r.Ladder[p.Rung+1:] {
		if !lv.Human {
			return true
		}
	}
	return r.either() && r.live() > 1
}

// live counts the devices of the level that were not given up.
func (r *run) live() (n int) {
	for _, d := range r.Progress.Devices {
		if d.Over == "" {
			n++
		}
	}
	return n
}

func (i Identity) words() string {
	switch {
	case i.SystemUUID != "":
		return "system " + i.SystemUUID
	case i.Serial != "":
		return "serial " + i.Serial
	case i.Fingerprint != "":
		return "fingerprint " + i.Fingerprint
	}
	return "nobody"
}
