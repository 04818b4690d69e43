// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"maps"
	"reflect"
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
	level    int
	asked    time.Time
	reading  power.Reading
	err      error
	noTurn   bool // err is ours: the device was not even asked
	tested   bool // it was a test: identity was read too
	identity power.Identity
}

// powerDone reports a reading of all devices of the host.
type powerDone struct {
	readings []deviceReading
	done     chan<- []deviceReading // an operator who waits for it
}

// readPower reads every device once, in the background. A test reads the identity too
// and replaces the last test's answer.
func (o *owner) readPower(urgent bool) {
	o.startReading(urgent, o.testDue(o.now()), nil)
}

func (o *owner) startReading(urgent, test bool, done chan<- []deviceReading) bool {
	devices, errs := o.targets()
	u := wpower.Routine
	if urgent {
		u = wpower.Urgent
	}
	o.live.powerAt = time.Time{} // set again when the answers are here
	return o.jobs.begin(jobPower, func(ctx context.Context) {
		o.in.put("", powerDone{readings: o.w.readDevices(ctx, devices, errs, u, test), done: done})
	})
}

// target is one device ready to be opened.
type target struct {
	wpower.Target
	driver wpower.Driver
	level  int
}

// targets resolves the host's devices; a device that is configured wrongly is an error
// of its own and does not hide the others.
func (o *owner) targets() ([]target, []deviceReading) {
	var out []target
	var bad []deviceReading
	for _, d := range o.spec.Val.Power {
		t, err := o.w.target(o.host, d, o.pow.Devices[d.Name].Pinned, o.powerLimits())
		if err != nil {
			bad = append(bad, deviceReading{device: d.Name, level: levelOf(d), asked: o.now(), err: err, tested: true})
			continue
		}
		out = append(out, t)
	}
	return out, bad
}

func levelOf(d v1.Device) int { return max(1, d.Level) }

func (w *Worker) target(host string, d v1.Device, pinned power.Identity, l wpower.Limits) (target, error) {
	driver, err := w.drivers.Driver(d.Driver)
	if err != nil {
		return target{}, err
	}
	secret, err := w.secretOf(host, d)
	if err != nil {
		return target{}, err
	}
	return w.targetWith(host, d, driver, secret, pinned, l)
}

// targetWith is a declared device with any credentials.
func (w *Worker) targetWith(host string, d v1.Device, driver wpower.Driver, secret wpower.Secret, pinned power.Identity, l wpower.Limits) (target, error) {
	t := target{driver: driver, level: levelOf(d), Target: wpower.Target{
		Host: host, Device: d.Name, Address: d.Address, Params: d.Params, Secret: secret, Limits: l,
		Pinned: power.Identity{SystemUUID: d.Identity.SystemUUID, Serial: d.Identity.Serial, Fingerprint: d.Identity.Fingerprint},
	}}
	if t.Pinned == (power.Identity{}) {
		t.Pinned = pinned
	}
	return t, driver.Check(t.Target)
}

func (o *owner) powerLimits() wpower.Limits {
	return wpower.Limits{
		Packet: o.policy.Fence.PacketTimeout, Answer: o.policy.Fence.StatusDeadline, Command: o.policy.Fence.CommandDeadline,
		Gap: o.eff.Duration("power.session.gap"),
	}
}

// readDevices reads all devices at once, each bounded by its own deadline, within the
// worker's power pool.
func (w *Worker) readDevices(ctx context.Context, devices []target, bad []deviceReading, u wpower.Urgency, test bool) []deviceReading {
	out := make([]deviceReading, len(devices), len(devices)+len(bad))
	done := make(chan struct{})
	for i, t := range devices {
		go func() {
			defer func() { done <- struct{}{} }()
			out[i] = w.readDevice(ctx, t, u, test)
		}()
	}
	for range devices {
		<-done
	}
	return append(out, bad...)
}

func (w *Worker) readDevice(ctx context.Context, t target, u wpower.Urgency, test bool) (r deviceReading) {
	r = deviceReading{device: t.Device, level: t.level, asked: time.Now().UTC(), tested: test}
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
	if !test {
		r.reading, r.err = wpower.ReadWithRetry(ctx, opener, t.Target)
		return r
	}
	conn, err := opener.Open(ctx, t.Target)
	if err != nil {
		r.err = err
		return r
	}
	defer closeConn(ctx, conn)
	if r.identity, r.err = conn.Identity(ctx); r.err != nil {
		return r
	}
	r.reading, r.err = conn.Status(ctx)
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
			Ordered: o.rec.OrderedOff || o.rec.Incident != nil && o.rec.Incident.Action != nil,
		}, o.readLimits())
		transitions = append(transitions, t...)
		if r.tested {
			events = append(events, o.keepTest(next.Devices, r, now)...)
		}
	}
	for name := range next.Devices {
		if !o.hasDevice(name) {
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
	o.tellPower(ctx)
	o.tellEligible(ctx)
	if len(events) > 0 { // a change of power or of a test is one of the things that clear holds
		o.step(ctx, ha.Event{Kind: ha.EvPolicy})
	}
}

// put writes records that belong to no HA step; false when the host is not ours any
// more or the owner ends.
func (o *owner) put(ctx context.Context, g leases.Guard, ops []leases.Op) (int64, bool) {
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		rev, err := o.s.Commit(cctx, g, ops...)
		cancel()
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

// worthWriting compares two power records without the times of readings that say
// nothing new: an idle host costs no etcd writes (leases.md §8).
func worthWriting(a, b powerRecord) bool {
	return !reflect.DeepEqual(a.Machine.Settled(), b.Machine.Settled()) || !reflect.DeepEqual(settledTests(a.Devices), settledTests(b.Devices))
}

func settledTests(m map[string]deviceRecord) map[string]deviceRecord {
	out := maps.Clone(m)
	for k, d := range out {
		d.Tested = time.Time{}
		out[k] = d
	}
	return out
}

// keepTest records a test's outcome and pins the identity at the first good one
// (power.md §9.4). A device that was busy, slow or away for a moment is not failed by
// that; if it stays away the power machine says so.
func (o *owner) keepTest(devices map[string]deviceRecord, r deviceReading, now time.Time) (events []v1.Event) {
	was := devices[r.device]
	if r.err != nil && was.TestOK && !wpower.KindOf(r.err).Final() {
		return nil // it could not be tried: the good one counts until it is too old
	}
	d := deviceRecord{Pinned: was.Pinned, Tested: now, TestOK: r.err == nil, TestErr: errText(r.err)}
	if r.err == nil && d.Pinned == (power.Identity{}) && o.specPin(r.device) == (power.Identity{}) {
		d.Pinned = r.identity
		events = append(events, o.plainEvent("power.pinned", ha.Info, fmt.Sprintf("device %s of %s is the box with system UUID %s from now on", r.device, o.host, r.identity.SystemUUID), nil))
	}
	switch {
	case was.TestOK && !d.TestOK, was.Tested.IsZero() && !d.TestOK:
		events = append(events, o.plainEvent("power.test-failed", ha.Warning, fmt.Sprintf("power test of %s device %s: %s", o.host, r.device, d.TestErr), nil))
	case !was.TestOK && d.TestOK && !was.Tested.IsZero():
		events = append(events, o.plainEvent("power.test-passed", ha.Info, fmt.Sprintf("power test of %s device %s passes again", o.host, r.device), nil))
	}
	devices[r.device] = d
	return events
}

func (o *owner) specPin(device string) power.Identity {
	for _, d := range o.spec.Val.Power {
		if d.Name == device {
			return power.Identity{SystemUUID: d.Identity.SystemUUID, Serial: d.Identity.Serial, Fingerprint: d.Identity.Fingerprint}
		}
	}
	return power.Identity{}
}

func (o *owner) hasDevice(name string) bool {
	for _, d := range o.spec.Val.Power {
		if d.Name == name {
			return true
		}
	}
	return false
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// testDue: at enrolment, when the last one is an hour old, and at once after a failed
// one whenever the device answers again.
func (o *owner) testDue(now time.Time) bool {
	for _, d := range o.spec.Val.Power {
		t := o.pow.Devices[d.Name]
		if !t.TestOK || now.Sub(t.Tested) > o.eff.Duration("power.test.interval") {
			return true
		}
	}
	return false
}

// powerTested says whether some level passed its last test, and if not why.
func (o *owner) powerTested() (bool, string) {
	if len(o.spec.Val.Power) == 0 {
		return false, "no power device on record: it could never be proven off"
	}
	why := "its power devices have not been tested yet"
	for _, d := range o.spec.Val.Power {
		t := o.pow.Devices[d.Name]
		if t.TestOK && o.now().Sub(t.Tested) < o.eff.Duration("power.test.maxage") {
			return true, ""
		}
		if t.TestErr != "" {
			why = fmt.Sprintf("the power test of device %s failed: %s", d.Name, t.TestErr)
		}
	}
	return false, why
}

// tellPower tells the HA machine the power state when it is not what it was told last.
func (o *owner) tellPower(ctx context.Context) {
	m := o.pow.Machine
	told := m.Told()
	if m.State == o.rec.Power && told == o.rec.PowerTold {
		return
	}
	last := m.Last
	o.step(ctx, ha.Event{Kind: ha.EvPower, Power: m.State, PowerFirst: last.First, PowerWhy: last.Why, PowerTold: told, Ordered: last.Cause == power.Ours})
}

func (o *owner) readLimits() power.ReadLimits {
	return power.ReadLimits{FailsToUnknown: o.eff.Int("power.unknown.after"), ConfirmAfter: o.eff.Duration("power.confirm.after")}
}

// readCadence is how often the power of a host in its present state is read (ha.md
// §3.1: every 10 s, 2 s in preset fast, while it is held, suspect or unsupported).
func (o *owner) readCadence() time.Duration {
	switch o.rec.State {
	case ha.Suspect, ha.Checking, ha.Degraded, ha.Unsupported, ha.Failed, ha.Initializing:
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
