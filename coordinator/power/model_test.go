// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// bmc is a small model of a device and the chassis behind it, on virtual time. The zero
// hooks are an honest BMC; a test replaces what shall misbehave.
type bmc struct {
	on       bool          // the chassis, as it truly is
	offTakes time.Duration // from the command until it is off
	onTakes  time.Duration
	offAt    time.Time // pending change
	onAt     time.Time
	since    time.Time // it is on since then, zero: from the beginning
	latency  time.Duration

	feeds   []*bmc        // outlets that feed it: without any it is dark, and so is its chassis
	boots   time.Duration // from mains until it answers
	comesUp time.Duration // from mains until its chassis switches itself on; 0: it stays off
	dark    bool
	lit     time.Time

	identity func(now time.Time) TxnEvent
	read     func(now time.Time) (Reading, Kind)
	send     func(now time.Time, v Verb) (ev TxnEvent, runs bool) // answer; does the verb run?
}

func honest() *bmc { return &bmc{on: true, latency: 20 * time.Millisecond} }

// truth settles pending changes of the chassis and tells whether it is on.
func (b *bmc) truth(now time.Time) bool {
	if !b.offAt.IsZero() && !now.Before(b.offAt) {
		b.on, b.offAt = false, time.Time{}
	}
	if !b.onAt.IsZero() && !now.Before(b.onAt) {
		if !b.on {
			b.since = b.onAt
		}
		b.on, b.onAt = true, time.Time{}
	}
	return b.on
}

// mains follows the outlets and tells whether it can answer.
func (b *bmc) mains(now time.Time) bool {
	fed := len(b.feeds) == 0
	for _, f := range b.feeds {
		fed = f.truth(now) || fed
	}
	switch {
	case !fed:
		b.dark, b.on, b.offAt, b.onAt = true, false, time.Time{}, time.Time{}
	case b.dark:
		b.dark, b.lit = false, now
		if b.comesUp > 0 {
			b.onAt = now.Add(b.comesUp)
		}
	}
	return fed && !now.Before(b.lit.Add(b.boots))
}

func (b *bmc) command(now time.Time, v Verb) {
	b.truth(now)
	switch v {
	case HardOff, SoftOff:
		b.onAt = time.Time{}
		if b.on {
			b.offAt = now.Add(b.offTakes)
		}
	case HardOn:
		b.offAt = time.Time{}
		b.onAt = now.Add(b.onTakes)
	case Reset, Cycle:
		b.onAt = now
	}
	b.truth(now)
}

// tb is what testing.T and rapid.T have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// world drives one transaction against its devices on virtual time, as a worker would,
// and checks the invariants that hold whatever a device does.
type world struct {
	t       tb
	now     time.Time
	l       Limits
	devices map[string]*bmc
	txn     Txn
	queue   []TxnEffect
	trace   strings.Builder
	sends   map[string][]time.Time // per level and device: hard offs that may have run
	log     map[string][]reading   // per device, for proof
	adopted int
	honest  bool // no device lies: what is proven must be true
}

type reading struct {
	at      time.Time
	off, on bool // authentic and steady OFF; anything that counts as ON
	failed  bool
	send    bool
}

func newWorld(t tb, l Limits, devices map[string]*bmc) *world {
	return &world{t: t, now: start, l: l, devices: devices, sends: map[string][]time.Time{}, log: map[string][]reading{}}
}

func (w *world) begin(goal Goal, verb Verb, ladder []Level) {
	w.txn, w.queue = Begin("t1", goal, verb, "boot-1", ladder, w.now, w.l)
	w.check(nil)
}

func (w *world) feed(ev TxnEvent) {
	ev.Txn, ev.At = w.txn.ID, w.now
	before, verdict := w.txn, w.txn.Verdict
	frozen := mustJSON(w.t, before)
	next, eff := before.Step(ev, w.l)
	if diff := cmp.Diff(frozen, mustJSON(w.t, before)); diff != "" {
		w.t.Fatalf("Step changed its receiver (-before +after):\n%s", diff)
	}
	w.txn = next
	w.queue = append(w.queue, eff...)
	if ev.Adopted || ev.Cancel != "" {
		w.queue = eff
	}
	w.check(verdict)
}

// step lets the next thing happen; false when the transaction is over.
func (w *world) step() bool {
	if w.txn.Done {
		return false
	}
	if len(w.queue) == 0 {
		due := w.txn.NextDeadline()
		if due.IsZero() {
			w.t.Fatalf("nothing outstanding and no deadline: the transaction hangs\n%s", w.trace.String())
		}
		if due.After(w.now) {
			w.now = due
		}
		w.feed(TxnEvent{Tick: true})
		return !w.txn.Done
	}
	e := w.queue[0]
	w.queue = w.queue[1:]
	if e.Do == DoEnd {
		return !w.txn.Done
	}
	if e.NotBefore.After(w.now) {
		w.now = e.NotBefore
	}
	w.exchange(e)
	return !w.txn.Done
}

func (w *world) exchange(e TxnEffect) {
	b := w.devices[e.Device]
	asked := w.now
	w.now = w.now.Add(b.latency)
	for _, d := range w.devices {
		d.mains(w.now)
	}
	on := b.truth(w.now)
	var ev TxnEvent
	if !b.mains(w.now) {
		ev.Err, ev.Seq = Unreachable, e.Seq
		w.say(asked, e, ev)
		w.feed(ev)
		return
	}
	switch e.Do {
	case DoIdentity:
		ev = TxnEvent{Matched: true}
		if b.identity != nil {
			ev = b.identity(w.now)
		}
		w.say(asked, e, ev)
	case DoRead:
		ev.Reading = Reading{State: Off, Authentic: true, At: w.now}
		if on {
			ev.Reading.State = On
		}
		if b.read != nil {
			ev.Reading, ev.Err = b.read(w.now)
		}
		if ev.Err != NoError {
			w.now = w.now.Add(silence(ev.Err))
			ev.Reading = Reading{}
		}
		g := ev.Reading
		moving := g.Transitional || g.Fault
		w.remember(e.Device, reading{
			at: w.now, off: g.State == Off && g.Authentic && !moving, on: g.State == On || moving,
			failed: ev.Err != NoError || !moving && (g.State == Unknown || g.State == Off && !g.Authentic),
		})
		w.say(asked, e, ev)
	case DoSend:
		ev = TxnEvent{Sent: true, Outcome: Accepted}
		runs := true
		if b.send != nil {
			ev, runs = b.send(w.now, e.Verb)
		}
		if runs {
			b.command(w.now, e.Verb)
		}
		if ev.Err != NoError {
			w.now = w.now.Add(silence(ev.Err))
		}
		if e.Verb == HardOff && ev.Sent && (ev.Outcome == Indeterminate || ev.Err != Busy && ev.Err != SessionLimit) {
			key := fmt.Sprint(w.adopted, "/", w.txn.Progress.Rung, "/", e.Device)
			w.sends[key] = append(w.sends[key], w.now)
			w.remember(e.Device, reading{at: w.now, send: ev.Outcome != Rejected || ev.Err == InvalidState})
		}
		w.say(asked, e, ev)
	}
	ev.Seq = e.Seq
	w.feed(ev)
}

// lose carries the outstanding exchange out without its answer, as a worker does that
// dies in between; ran says whether a command among it still reached the device.
func (w *world) lose(ran bool) {
	if len(w.queue) == 0 {
		return
	}
	e := w.queue[0]
	w.queue = nil
	if e.NotBefore.After(w.now) {
		w.now = e.NotBefore
	}
	fmt.Fprintf(&w.trace, "%7.2f  %-8s %s %s: the worker died, ran %v\n", w.now.Sub(start).Seconds(), e.Do, e.Device, e.Verb, ran)
	if e.Do == DoSend && ran {
		w.devices[e.Device].command(w.now, e.Verb)
		if e.Verb == HardOff {
			w.remember(e.Device, reading{at: w.now, send: true})
		}
	}
}

func silence(k Kind) time.Duration {
	if k == Timeout || k == Unreachable {
		return 4 * time.Second
	}
	return 0
}

func (w *world) remember(device string, r reading) { w.log[device] = append(w.log[device], r) }

func (w *world) say(at time.Time, e TxnEffect, ev TxnEvent) {
	fmt.Fprintf(&w.trace, "%7.2f  %-8s %s", at.Sub(start).Seconds(), e.Do, e.Device)
	if e.Verb != "" {
		fmt.Fprintf(&w.trace, " %s", e.Verb)
	}
	switch {
	case ev.Err != NoError:
		fmt.Fprintf(&w.trace, " -> %s", ev.Err)
		if ev.Outcome != "" {
			fmt.Fprintf(&w.trace, ", %s", ev.Outcome)
		}
	case e.Do == DoIdentity && ev.Matched:
		fmt.Fprint(&w.trace, " -> matched")
	case e.Do == DoIdentity:
		fmt.Fprint(&w.trace, " -> another box")
	case e.Do == DoRead && !ev.Reading.Authentic:
		fmt.Fprintf(&w.trace, " -> %s, not authentic", ev.Reading.words())
	case e.Do == DoRead:
		fmt.Fprintf(&w.trace, " -> %s", ev.Reading.words())
	case !ev.Sent:
		fmt.Fprint(&w.trace, " -> not sent")
	default:
		fmt.Fprintf(&w.trace, " -> %s", ev.Outcome)
	}
	fmt.Fprintln(&w.trace)
}

func (w *world) run() Verdict {
	for i := 0; w.step(); i++ {
		if i > 5000 {
			w.t.Fatalf("the transaction does not end\n%s", w.trace.String())
		}
	}
	return *w.txn.Verdict
}

// check holds after every step.
func (w *world) check(before *Verdict) {
	t, p := w.txn, w.txn.Progress
	if t.Done != (p.Phase == PhaseEnd) || t.Done && (t.Verdict == nil || p.Out != nil || !t.NextDeadline().IsZero()) {
		w.t.Fatalf("half ended: %+v", t)
	}
	if before == nil && t.Verdict != nil && t.Verdict.Assurance >= A3 {
		w.proof()
	}
	if before != nil && before.Assurance >= A3 && (t.Verdict == nil || t.Verdict.Assurance != before.Assurance || !t.Verdict.OffSince.Equal(before.OffSince)) {
		w.t.Fatalf("a proof was taken back: %+v, was %+v", t.Verdict, before)
	}
	for key, at := range w.sends {
		if len(at) > w.l.WithDefaults().MaxOffs {
			w.t.Fatalf("%d hard offs at %s, at most %d are allowed", len(at), key, w.l.WithDefaults().MaxOffs)
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < w.l.WithDefaults().RepeatOffAfter {
				w.t.Fatalf("hard off repeated after %s", gap)
			}
		}
	}
	if len(p.Evidence) > MaxEvidence {
		w.t.Fatalf("%d lines of evidence", len(p.Evidence))
	}
}

// proof checks from the wire log, not from the transaction, that every device of the
// proven level read a settled OFF.
func (w *world) proof() {
	l := w.l.WithDefaults()
	var first, common time.Time // all were read OFF from first to common
	for i, d := range w.txn.Progress.Devices {
		first = later(first, d.Run.First)
		if i == 0 || d.Run.Last.Before(common) {
			common = d.Run.Last
		}
	}
	if common.Sub(first) < l.SettleWindow {
		w.t.Fatalf("proven by readings that have %s in common\n%s", common.Sub(first), w.trace.String())
	}
	for _, d := range w.txn.Progress.Devices {
		// Nobody can tell what was switched on since it was last read.
		if on := w.devices[d.Name]; w.honest && on.truth(w.now) && !on.since.After(common) {
			w.t.Fatalf("%s: proven off while it is on\n%s", d.Name, w.trace.String())
		}
		log := w.log[d.Name]
		var run []reading
		for i := len(log) - 1; i >= 0 && !log[i].on && !log[i].send; i-- {
			run = append([]reading{log[i]}, run...)
		}
		sent := false
		for _, r := range log {
			sent = sent || r.send
		}
		var offs []reading
		for _, r := range run {
			if r.off {
				offs = append(offs, r)
			}
		}
		n := len(run)
		switch {
		case !sent:
			w.t.Fatalf("%s: proven without a hard off\n%s", d.Name, w.trace.String())
		case len(offs) < l.SettleReads:
			w.t.Fatalf("%s: proven with %d OFF readings\n%s", d.Name, len(offs), w.trace.String())
		case offs[len(offs)-1].at.Sub(offs[0].at) < l.SettleWindow:
			w.t.Fatalf("%s: proven within %s\n%s", d.Name, offs[len(offs)-1].at.Sub(offs[0].at), w.trace.String())
		case run[n-1].failed || run[n-2].failed:
			w.t.Fatalf("%s: the last two OFF readings are not adjacent\n%s", d.Name, w.trace.String())
		}
	}
}
