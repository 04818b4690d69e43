// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// deviceReading is what one device answered to an ordinary reading or a power test.
type deviceReading struct {
	device   string
	asked    time.Time
	reading  power.Reading
	err      error
	noTurn   bool  // err is ours: the device was not even asked
	tested   bool  // it was a test: identity was read too
	testErr  error // of the test; the reading may be good all the same
	identity power.Identity
	depth    depth    // deepest step of the test that was passed
	steps    []string // of the test, for people
}

// powerDone reports a reading of all devices of the host.
type powerDone struct {
	readings []deviceReading
	done     chan<- []deviceReading // an operator who waits for it
}

// readPower reads the devices that are due, or every one at once where it is urgent, in
// the background. A test reads the identity too and replaces the last test's answer.
func (o *owner) readPower(urgent bool) {
	o.startReading(urgent, false, nil)
}

// startReading reads devices; with all of them tested where that is wanted, and otherwise
// those whose test is due.
func (o *owner) startReading(urgent, test bool, done chan<- []deviceReading) bool {
	now := o.now()
	u := wpower.Routine
	if urgent {
		u = wpower.Urgent
	}
	devices, errs := o.targets()
	if !urgent && o.live.powerSeen { // one that is silent is not asked whenever its neighbours are
		soon := now.Add(time.Second)
		devices = slices.DeleteFunc(devices, func(t target) bool {
			return !o.changed(t.device) && o.pow.Machine.Due(t.Device, now, o.readCadence(), o.readLimits()).After(soon)
		})
	}
	for i := range devices {
		devices[i].test = test || o.testDue(devices[i].device, now)
	}
	o.live.powerAt = time.Time{} // set again when the answers are here
	return o.jobs.begin(jobPower, func(ctx context.Context) {
		o.in.put("", powerDone{readings: o.w.readDevices(ctx, devices, errs, u), done: done})
	})
}

// readDevices reads all devices at once, each bounded by its own deadline, within the
// worker's power pool.
func (w *Worker) readDevices(ctx context.Context, devices []target, bad []deviceReading, u wpower.Urgency) []deviceReading {
	out := make([]deviceReading, len(devices), len(devices)+len(bad))
	done := make(chan struct{})
	for i, t := range devices {
		go func() {
			defer func() { done <- struct{}{} }()
			out[i] = w.readDevice(ctx, t, u)
		}()
	}
	for range devices {
		<-done
	}
	return append(out, bad...)
}

func (w *Worker) readDevice(ctx context.Context, t target, u wpower.Urgency) (r deviceReading) {
	r = deviceReading{device: t.Device, asked: time.Now().UTC(), tested: t.test}
	began := time.Now()
	defer func() { w.metrics.power(t.driver.Kind(), "status", r.err, time.Since(began)) }()
	// Two tries, a gap and the time in a queue: beyond that a reading says nothing of now.
	ctx, cancel := context.WithTimeout(ctx, 2*t.Limits.Answer+t.Limits.Gap+5*time.Second)
	defer cancel()
	if !w.pools.power.acquire(ctx) {
		r.err = &wpower.Error{Kind: power.DeadlinePassed, Op: "status", Detail: "no place in the power pool was free in time"}
		r.noTurn = true
		return r
	}
	defer w.pools.power.release()
	opener := w.gate.For(t.driver, u)
	if t.test {
		w.testDevice(ctx, opener, t, &r)
		return r
	}
	r.reading, r.err = wpower.ReadWithRetry(ctx, opener, t.Target)
	return r
}

// closeConn frees the session on the device even when ctx has ended.
func closeConn(ctx context.Context, c wpower.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = c.Close(ctx) // the device frees an idle session by itself
}

// onPower feeds the answers to the power machine, keeps tests, and tells the HA machine
// of transitions.
func (o *owner) onPower(ctx context.Context, m powerDone) {
	o.jobs.end(jobPower)
	o.absorb(ctx, m.readings)
	if m.done != nil {
		m.done <- m.readings
	}
}

// absorb steps the power machine with readings and commits what changed.
func (o *owner) absorb(ctx context.Context, readings []deviceReading) {
	now := o.now()
	o.refreshPolicy() // settings with an expiry change by themselves
	next := powerRecord{V: 1, Machine: o.pow.Machine.Configure(o.policy.Ladder), Devices: maps.Clone(o.pow.Devices)}
	if next.Devices == nil {
		next.Devices = map[string]deviceRecord{}
	}
	var transitions []power.Transition
	var events []v1.Event
	for _, r := range readings {
		if r.noTurn {
			continue // our haste says nothing of the device
		}
		o.live.powerSeen = true
		var t []power.Transition
		next.Machine, t = next.Machine.Step(power.ReadingEvent{
			At: now, Device: r.device, Reading: r.reading, Err: wpower.KindOf(r.err), Detail: errText(r.err),
			Ordered: o.rec.PowerOurs(),
		}, o.readLimits())
		transitions = append(transitions, t...)
		if r.tested {
			events = append(events, o.keepTest(next.Devices, r, now)...)
		}
	}
	for name := range next.Devices {
		if _, ok := o.device(name); !ok {
			delete(next.Devices, name)
		}
	}
	for _, t := range transitions {
		severity := ha.Info
		if t.Cause == power.LostContact || t.Cause == power.External && t.From != power.Unknown {
			severity = ha.Warning
		}
		events = append(events, o.plainEvent("power."+t.From.String()+"-"+t.To.String(), severity, t.Why, map[string]string{"cause": string(t.Cause)}))
	}
	o.live.powerAt = inPulse(next.Machine.NextRead(now, o.readCadence(), o.readLimits()), now)
	if worthWriting(o.pow, next) || len(events) > 0 {
		ops := []leases.Op{leases.Put(leases.HostPowerKey(o.host), next)}
		for _, x := range events {
			ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
		}
		rev, ok := o.put(ctx, o.claim.Guard().At(leases.HostPowerKey(o.host), o.powRev), ops)
		if !ok {
			return
		}
		o.powRev = rev
		o.w.announced(events)
	}
	o.pow = next
	o.testChanged()
	o.publish()
	o.tellPower(ctx)
	o.tellEligible(ctx)
	if len(events) > 0 { // a change of power or of a test is one of the things that clear holds
		o.step(ctx, ha.Event{Kind: ha.EvPolicy})
	}
}

// testChanged makes a reading due at once when a device was added or changed. While one
// runs nothing is due: this is asked again when it is over.
func (o *owner) testChanged() {
	if !o.live.powerAt.IsZero() && slices.ContainsFunc(o.devices, o.changed) {
		o.live.powerAt = o.now()
	}
}

// put writes records that belong to no HA step; false when the host is not ours any
// more or the owner ends.
func (o *owner) put(ctx context.Context, g leases.Guard, ops []leases.Op) (int64, bool) {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		rev, err := o.write(ctx, underWay(&o.rec), g, ops)
		if err == nil {
			return rev, true
		}
		if isLost(err) {
			o.jobs.stop(fmt.Errorf("write: %w", err))
			return 0, false
		}
		o.log.Warn("write", "cause", err)
		if !pause(ctx, backoff) {
			return 0, false
		}
	}
}

// worthWriting compares two power records without the times of readings that say nothing
// new: an idle host costs no etcd writes (leases.md §8). It compares what would be
// written: none and empty are the same there.
func worthWriting(a, b powerRecord) bool {
	x, errA := json.Marshal(newsOf(a))
	y, errB := json.Marshal(newsOf(b))
	return errA != nil || errB != nil || !bytes.Equal(x, y)
}

func newsOf(r powerRecord) powerRecord {
	out := powerRecord{V: r.V, Machine: r.Machine.Settled(), Devices: maps.Clone(r.Devices)}
	for name, d := range out.Devices {
		d.Tested = time.Time{}
		out.Devices[name] = d
	}
	return out
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// tellPower tells the HA machine the power state when it is not what it was told last.
func (o *owner) tellPower(ctx context.Context) {
	m := o.pow.Machine
	told := m.Told()
	if m.State == o.rec.Power && told == o.rec.PowerTold {
		return
	}
	last := m.Last
	o.step(ctx, ha.Event{Kind: ha.EvPower, Power: m.State, PowerFirst: last.First, PowerWhy: last.Why, PowerBy: last.By, PowerTold: told, Ordered: last.Cause == power.Ours})
}

func (o *owner) readLimits() power.ReadLimits {
	l := power.ReadLimits{FailsToUnknown: o.eff.Int("power.unknown.after"), ConfirmAfter: o.eff.Duration("power.confirm.after")}
	if i := o.rec.Incident; i == nil || !i.Ended.IsZero() { // a dying host's devices are asked as often as ever
		l.BackOff = o.eff.Duration("power.unreachable.max")
	}
	return l
}

// readCadence is how often the power of a host in its present state is read (ha.md
// §3.1: every 10 s, 2 s in preset fast, while it is held, suspect or unsupported).
func (o *owner) readCadence() time.Duration {
	if o.rec.ReadSoon() {
		return o.eff.Duration("ha.suspect.read.interval")
	}
	return o.eff.Duration("power.sync.interval")
}

// plainEvent is an entry of the log that is not an announcement of the HA machine.
func (o *owner) plainEvent(typ string, s ha.Severity, msg string, data map[string]string) v1.Event {
	x := v1.Event{ID: newEventID(), At: o.now(), Type: typ, Severity: string(s), Host: o.host, Partition: o.spec.Val.Partition, Worker: o.s.Worker(), Message: msg, Data: data}
	if o.rec.Incident != nil && o.rec.Incident.Ended.IsZero() {
		x.Incident = o.rec.Incident.ID
	}
	return x
}
