// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Figures of the reading of devices (worker/powertest.go, worker/power).
const (
	testEvery = time.Hour
	retryGap  = time.Second
)

// test is the outcome of a device's last power test.
type test struct {
	at   time.Time
	ok   bool
	ever bool // it passed once
	err  string
}

// deviceReading is what one device answered to an ordinary reading.
type deviceReading struct {
	device string
	answer
	at time.Time
}

// readPower reads the devices (worker/powerread.go).
func (o *owner) readPower() {
	o.powerAt = time.Time{} // set again when the answers are here
	if o.reading {
		return
	}
	o.reading = true
	o.readDevices(func(rs []deviceReading) {
		o.reading = false
		o.absorb(rs)
	})
}

// readDevices reads all devices at once and reports when the slowest has answered; one
// that does not answer is tried twice.
func (o *owner) readDevices(done func([]deviceReading)) {
	var rs []deviceReading
	o.askedAt = o.stirs
	takes := time.Millisecond
	for _, lv := range o.policy.Ladder {
		if lv.Human {
			continue
		}
		for _, d := range lv.Devices {
			a := o.h.ask(o.w, d)
			if a.err != power.NoError && !a.err.Final() {
				first := a.takes
				a = o.h.ask(o.w, d)
				a.takes += first + retryGap
			}
			takes = max(takes, a.takes)
			rs = append(rs, deviceReading{device: d, answer: a})
		}
	}
	o.f.after(takes, func() {
		for i := range rs {
			rs[i].at = o.wall()
		}
		o.post(func() { done(rs) })
	})
}

// absorb steps the power machine with readings and tells what changed.
func (o *owner) absorb(rs []deviceReading) {
	h, now := o.h, o.wall()
	o.refreshPolicy()
	m := h.pow.Configure(o.policy.Ladder)
	changed := 0
	for _, r := range rs {
		o.powerSeen = true
		ev := power.ReadingEvent{At: now, Device: r.device, Err: r.err, Detail: r.text, Ordered: o.rec.PowerOurs()}
		if r.err == power.NoError {
			ev.Reading = power.Reading{State: r.state, Authentic: true, At: r.at}
		}
		var t []power.Transition
		m, t = m.Step(ev, o.readLimits())
		changed += len(t)
		for _, x := range t {
			if x.From != power.Unknown || x.To != power.On { // the first reading is no news
				o.f.log.event(o, "power", fmt.Sprintf("power %s → %s: %s", x.From, x.To, x.Why))
			}
		}
		if o.keepTest(r) {
			changed++
		}
	}
	h.pow = m
	o.planReading(rs)
	o.publish()
	o.tellPower()
	o.tellEligible()
	if changed > 0 {
		o.step(ha.Event{Kind: ha.EvPolicy})
	}
}

// planReading: readings of a host at rest that say what is on record are left out until
// something stirs.
func (o *owner) planReading(rs []deviceReading) {
	m, now := o.h.pow, o.f.now
	o.powerAt, o.powerPaused = o.real(m.NextRead(o.wall(), o.readCadence(), o.readLimits())), time.Time{}
	if o.askedAt != o.stirs || o.rec.ReadSoon() && o.rec.State != ha.Unsupported || o.rec.Off != nil || o.txn != "" || m.State != o.rec.Power || m.Told() != o.rec.PowerTold {
		return
	}
	for _, r := range rs {
		d, _ := m.Device(r.device)
		if r.err != power.NoError && !(d.State == power.Unknown && d.Fails > 3) || r.err == power.NoError && (d.State != r.state || !o.h.tests[r.device].ok || o.h.bmc.mode == bmcFlaky) {
			return
		}
	}
	o.powerAt, o.powerPaused = time.Time{}, now
}

// tellPower tells the HA machine the power state when it is not what it was told last.
func (o *owner) tellPower() {
	m := o.h.pow
	told := m.Told()
	if m.State == o.rec.Power && told == o.rec.PowerTold {
		return
	}
	last := m.Last
	o.step(ha.Event{Kind: ha.EvPower, Power: m.State, PowerFirst: last.First, PowerWhy: last.Why, PowerBy: last.By, PowerTold: told, Ordered: last.Cause == power.Ours})
}

func (o *owner) readLimits() power.ReadLimits {
	l := power.ReadLimits{FailsToUnknown: o.eff.Int("power.unknown.after"), ConfirmAfter: o.eff.Duration("power.confirm.after")}
	if i := o.rec.Incident; i == nil || !i.Ended.IsZero() {
		l.BackOff = o.eff.Duration("power.unreachable.max")
	}
	return l
}

func (o *owner) readCadence() time.Duration {
	if o.rec.ReadSoon() {
		return o.eff.Duration("ha.suspect.read.interval")
	}
	return o.eff.Duration("power.sync.interval")
}

// keepTest: every reading of the simulation is a test too. A device that was away for a
// moment is not failed by that.
func (o *owner) keepTest(r deviceReading) bool {
	was := o.h.tests[r.device]
	if r.err != power.NoError && was.ok && !r.err.Final() {
		return false
	}
	is := test{at: o.f.now, ok: r.err == power.NoError, ever: was.ever || r.err == power.NoError}
	if !is.ok {
		is.err = fmt.Sprintf("%s: %s", r.err, r.text)
	}
	o.h.tests[r.device] = is
	if was.ok != is.ok && !was.at.IsZero() {
		o.f.log.event(o, "power", fmt.Sprintf("power test of %s: %s", r.device, orText(is.err, "passes again")))
		return true
	}
	return was.ok != is.ok
}

func orText(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

// testOK: the device's last good test is young enough. Readings left out because nothing
// stirred were good.
func (o *owner) testOK(device string) bool {
	t := o.h.tests[device]
	return t.ok && (!o.powerPaused.IsZero() || o.f.now.Sub(t.at) < o.eff.Duration("power.test.maxage"))
}

// levelTested says whether a level passed its last power tests and what is against it.
func (o *owner) levelTested(lv power.Level) (ok bool, why string) {
	ok = lv.All
	for _, name := range lv.Devices {
		t := o.h.tests[name]
		good := o.testOK(name)
		switch {
		case good:
		case t.err != "":
			why = fmt.Sprintf("the power test of device %s failed: %s", name, t.err)
		case t.ok:
			why = fmt.Sprintf("the last power test of device %s is of %s", name, t.at.Format(time.RFC3339))
		default:
			why = "its power devices have not been tested yet"
		}
		ok = lv.All && ok && good || !lv.All && (ok || good)
	}
	return ok, why
}

// levelOnceTested says whether a level ever passed its power tests, and if not why.
func (o *owner) levelOnceTested(lv power.Level) (bool, string) {
	for _, name := range lv.Devices {
		if !o.h.tests[name].ever {
			return o.levelTested(lv)
		}
	}
	return true, ""
}

// powerOnceTested says whether some level that can prove OFF strongly enough ever passed
// its test (worker/powertest.go).
func (o *owner) powerOnceTested() (bool, string) {
	if len(o.policy.Ladder) == 0 {
		return false, "no power device on record: it could never be proven off"
	}
	why := "its only power device is a human: who says that it is off must be asked (holdfast host confirm-off)"
	for _, lv := range o.policy.Ladder {
		if lv.Human {
			continue
		}
		if r := lv.Reaches(); r < lv.Min {
			why = fmt.Sprintf("level %d proves no more than %s, and %s is asked for", lv.N, r, lv.Min)
			continue
		}
		ok, bad := o.levelOnceTested(lv)
		if ok {
			return true, ""
		}
		why = bad
	}
	return false, why
}
