// SPDX-License-Identifier: Apache-2.0

package power

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	readOn  = Reading{State: On, Authentic: true}
	readOff = Reading{State: Off, Authentic: true}
)

func sec(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }

// feedMachine steps readings that come gap seconds apart and returns the transitions.
func feedMachine(m Machine, gap int, evs ...ReadingEvent) (Machine, []Transition) {
	var out []Transition
	for i, ev := range evs {
		ev.At = sec(1000 + i*gap)
		if ev.Device == "" {
			ev.Device = "bmc"
		}
		var t []Transition
		m, t = m.Step(ev, ReadLimits{})
		out = append(out, t...)
	}
	return m, out
}

func bmcOnly(state State) Machine {
	m := Machine{}.Configure(one("bmc"))
	g := readOn
	if state == Off {
		g = readOff
	}
	if state != Unknown {
		for i := range 2 {
			m, _ = m.Step(ReadingEvent{At: sec(2 * i), Device: "bmc", Reading: g}, ReadLimits{})
		}
	}
	return m
}

// power.md §§6.3, 11.1 to 11.5 and 11.11, 11.12.
func TestMachine(t *testing.T) {
	on, off := ReadingEvent{Reading: readOn}, ReadingEvent{Reading: readOff}
	fail := func(k Kind) ReadingEvent { return ReadingEvent{Err: k} }
	for _, c := range []struct {
		name string
		from State
		gap  int
		evs  []ReadingEvent
		want State
		told bool
		path []State // transitions
	}{
		{"nothing was read yet", Unknown, 2, nil, Unknown, false, nil},
		{"one reading is not enough", Unknown, 2, []ReadingEvent{on}, Unknown, true, nil},
		{"two equal readings leave UNKNOWN", Unknown, 2, []ReadingEvent{on, on}, On, true, []State{On}},
		{"two different ones do not", Unknown, 2, []ReadingEvent{on, off}, Unknown, true, nil},
		{"a technician switches it off", On, 2, []ReadingEvent{off, off}, Off, true, []State{Off}},
		{"two readings less than 2 s apart", On, 1, []ReadingEvent{off, off}, On, true, nil},
		{"the third is far enough from the first", On, 1, []ReadingEvent{off, off, off}, Off, true, []State{Off}},
		{"one OFF is an accident", On, 2, []ReadingEvent{off, on, off, on}, On, true, nil},
		{"a failure between two OFF", On, 2, []ReadingEvent{off, fail(Timeout), off}, On, true, nil},
		{"one read times out", On, 60, []ReadingEvent{fail(Timeout)}, On, true, nil},
		{"three in a row", On, 60, []ReadingEvent{fail(Timeout), fail(Unreachable), fail(Busy)}, Unknown, false, []State{Unknown}},
		{"not in a row", On, 60, []ReadingEvent{fail(Timeout), fail(Timeout), on, fail(Timeout), fail(Timeout)}, On, true, nil},
		{"a refused log-in needs one", On, 60, []ReadingEvent{fail(AuthFailed)}, Unknown, false, []State{Unknown}},
		{"another box needs one", Off, 60, []ReadingEvent{fail(IdentityMismatch)}, Unknown, false, []State{Unknown}},
		{"what we gave up ourselves says nothing", On, 60, []ReadingEvent{fail(Cancelled), fail(DeadlinePassed), fail(Cancelled)}, On, true, nil},
		{"it answers again", On, 60, []ReadingEvent{fail(AuthFailed), off, off}, Off, true, []State{Unknown, Off}},
		{"OFF that nothing ties to us", On, 2, []ReadingEvent{{Reading: Reading{State: Off}}, {Reading: Reading{State: Off}}}, On, true, nil},
		{"powering off is not OFF", On, 2, []ReadingEvent{{Reading: Reading{State: Off, Authentic: true, Transitional: true}}, {Reading: Reading{State: Off, Authentic: true, Fault: true}}, off}, On, true, nil},
		{"empty status", On, 60, []ReadingEvent{{}, {}, {}}, Unknown, false, []State{Unknown}},
		{"a device nobody knows", On, 60, []ReadingEvent{{Device: "other", Err: AuthFailed}}, On, true, nil},
	} {
		m, transitions := feedMachine(bmcOnly(c.from), c.gap, c.evs...)
		var path []State
		for _, tr := range transitions {
			path = append(path, tr.To)
		}
		if m.State != c.want || m.Told() != c.told || !cmp.Equal(path, c.path) {
			t.Errorf("%s: %s, told %v, through %v; want %s, %v, %v", c.name, m.State, m.Told(), path, c.want, c.told, c.path)
		}
	}
}

// Causes are external, ours, lost contact (power.md §1); the time is that of the first of
// the equal readings.
func TestTransitions(t *testing.T) {
	off := ReadingEvent{Reading: readOff}
	m, got := feedMachine(bmcOnly(On), 2, off, off)
	want := []Transition{{At: sec(1002), From: On, To: Off, First: sec(1000), Cause: External, Why: "level 1 reads OFF: nobody ordered it here", Told: true, By: []string{"bmc"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !cmp.Equal(m.Last, want[0]) || m.Counts["ON->OFF"] != 1 || !m.Since.Equal(sec(1002)) {
		t.Errorf("the machine keeps %+v, %v", m.Last, m.Counts)
	}

	off.Ordered = true
	_, got = feedMachine(bmcOnly(On), 2, off, off)
	if got[0].Cause != Ours {
		t.Errorf("ordered: cause %s", got[0].Cause)
	}

	_, got = feedMachine(bmcOnly(On), 60, ReadingEvent{Err: Timeout, Detail: "no answer for 5s"}, ReadingEvent{Err: Timeout}, ReadingEvent{Err: Timeout, Detail: "no answer for 5s"})
	if got[0].Cause != LostContact || got[0].Why != "bmc: Timeout (no answer for 5s), 3 times" || got[0].Told {
		t.Errorf("lost contact: %+v", got[0])
	}
}

// Any ON is ON, OFF beside an error is UNKNOWN, all OFF is OFF; of several levels the
// first that can be read counts.
func TestLevels(t *testing.T) {
	ladder := []Level{{N: 1, Devices: []string{"bmc"}, All: true}, {N: 2, Devices: []string{"pdu1", "pdu2"}, All: true}}
	say := func(m Machine, at int, device string, g Reading, k Kind) Machine {
		for i := range 3 {
			m, _ = m.Step(ReadingEvent{At: sec(at + 2*i), Device: device, Reading: g, Err: k}, ReadLimits{})
		}
		return m
	}
	m := Machine{}.Configure(ladder)
	for i, c := range []struct {
		device string
		g      Reading
		k      Kind
		want   State
		level2 State
	}{
		{"pdu1", readOff, NoError, Unknown, Unknown}, // OFF beside one that was never read
		{"pdu2", readOff, NoError, Off, Off},
		{"pdu2", readOn, NoError, On, On},
		{"bmc", readOff, NoError, Off, On}, // an outlet with power says less than a BMC
		{"bmc", Reading{}, Unreachable, On, On},
		{"pdu2", Reading{}, Timeout, Unknown, Unknown},
	} {
		m = say(m, 100*i, c.device, c.g, c.k)
		if m.State != c.want || m.Levels[1].State != c.level2 {
			t.Fatalf("step %d, %s: %s and level 2 %s, want %s and %s", i, c.device, m.State, m.Levels[1].State, c.want, c.level2)
		}
	}
	if !m.Told() {
		t.Error("one outlet can be read, and the machine says none can")
	}

	m = m.Configure(ladder[1:])
	if _, ok := m.Device("bmc"); ok {
		t.Error("a device that is not configured any more is still known")
	}
	if d, _ := m.Device("pdu1"); d.State != Off {
		t.Error("a device that stays was forgotten")
	}
	if !cmp.Equal(m, m.Configure(ladder[1:])) {
		t.Error("Configure is not idempotent")
	}
}

// An idle host costs no write; a change, and why it cannot be read, do.
func TestSettled(t *testing.T) {
	m := bmcOnly(On)
	later, _ := m.Step(ReadingEvent{At: sec(60), Device: "bmc", Reading: readOn}, ReadLimits{})
	failed, _ := later.Step(ReadingEvent{At: sec(120), Device: "bmc", Err: Timeout, Detail: "no answer"}, ReadLimits{})
	if !cmp.Equal(m.Settled(), later.Settled()) || !cmp.Equal(m.Settled(), failed.Settled()) {
		t.Error("a reading that says nothing new asks to be written")
	}
	lost, _ := failed.Step(ReadingEvent{At: sec(180), Device: "bmc", Err: AuthFailed}, ReadLimits{})
	if cmp.Equal(m.Settled(), lost.Settled()) {
		t.Error("a transition does not ask to be written")
	}
}

// 60 s ± 10 %, 2 s to confirm, at once if never read (power.md §6.3).
func TestNextRead(t *testing.T) {
	var l ReadLimits
	m := Machine{}.Configure(one("bmc"))
	if got := m.NextRead(sec(5), time.Minute, l); !got.Equal(sec(5)) {
		t.Errorf("never read: %s", got)
	}
	m, _ = m.Step(ReadingEvent{At: sec(5), Device: "bmc", Reading: readOn}, l)
	if got := m.NextRead(sec(5), time.Minute, l); !got.Equal(sec(7)) {
		t.Errorf("to be confirmed: %s", got)
	}
	m, _ = m.Step(ReadingEvent{At: sec(7), Device: "bmc", Reading: readOn}, l)
	spread := map[time.Time]bool{}
	for i := range 20 {
		m, _ = m.Step(ReadingEvent{At: sec(100 + i), Device: "bmc", Reading: readOn}, l)
		wait := m.NextRead(sec(100+i), time.Minute, l).Sub(sec(100 + i))
		if wait < 54*time.Second || wait > 66*time.Second {
			t.Errorf("next read in %s", wait)
		}
		spread[start.Add(wait)] = true
	}
	if len(spread) < 10 {
		t.Errorf("%d different waits of 20", len(spread))
	}
	if got := m.NextRead(sec(900), time.Minute, l); !got.Equal(sec(900)) {
		t.Errorf("overdue: %s", got)
	}
}

// A clock that goes back between two equal readings does not keep a change waiting.
func TestMachineClockGoesBack(t *testing.T) {
	m := bmcOnly(On)
	for _, at := range []int{5000, 1000, 1003} {
		m, _ = m.Step(ReadingEvent{At: sec(at), Device: "bmc", Reading: readOff}, ReadLimits{})
	}
	if m.State != Off {
		t.Errorf("%s, want OFF", m.State)
	}
}
