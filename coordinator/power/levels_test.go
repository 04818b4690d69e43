// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// fenceWith runs a fence through a ladder and returns the finished transaction.
func fenceWith(t *testing.T, goal Goal, devices map[string]*bmc, ladder ...Level) Txn {
	t.Helper()
	w := newWorld(t, Limits{}, devices)
	w.begin(goal, "", ladder)
	w.play(t, "")
	return w.txn
}

func unreachable() *bmc {
	b := honest()
	b.identity = func(time.Time) TxnEvent { return TxnEvent{Err: Unreachable} }
	return b
}

// A verdict is as strong as the weakest device it rests on, and A5 only when every feed
// was cut (power.md §§6.2, 9.1).
func TestLevelProvesNoMoreThanItsDevices(t *testing.T) {
	feeds := map[string]Assurance{"pdu1": A5, "pdu2": A5}
	for _, c := range []struct {
		name string
		lv   Level
		want Assurance
	}{
		{"a BMC", Level{N: 1, Devices: []string{"bmc"}, All: true}, A3},
		{"the only PDU", Level{N: 2, Devices: []string{"pdu1"}, All: true, Ceilings: feeds}, A5},
		{"all feeds", Level{N: 2, Devices: []string{"pdu1", "pdu2"}, All: true, Ceilings: feeds}, A5},
		{"any of two feeds proves nothing", Level{N: 2, Devices: []string{"pdu1", "pdu2"}, Ceilings: feeds}, A1},
		{"a PDU beside a BMC", Level{N: 1, Devices: []string{"bmc", "pdu1"}, All: true, Ceilings: feeds}, A3},
		{"a program", Level{N: 1, Devices: []string{"exec"}, All: true, Ceilings: map[string]Assurance{"exec": A2}}, A2},
		{"two paths to one BMC", Level{N: 1, Devices: []string{"redfish", "ipmi"}}, A3},
	} {
		devices := map[string]*bmc{}
		for _, d := range c.lv.Devices {
			devices[d] = honest()
		}
		txn := fenceWith(t, GoalOff, devices, c.lv)
		if v := txn.Verdict; v.Assurance != c.want || c.lv.Reaches() != c.want {
			t.Errorf("%s: verdict %s, reaches %s, want %s: %s", c.name, v.Assurance, c.lv.Reaches(), c.want, v.Reason)
		}
	}
}

// What is weaker than the level must give is no proof: the next level is tried, and the
// strongest OFF there was is what the ladder ends with.
func TestWeakOffGoesOnToTheNextLevel(t *testing.T) {
	exec := Level{N: 1, Devices: []string{"exec"}, All: true, Min: A3, Ceilings: map[string]Assurance{"exec": A2}}
	pdu := Level{N: 2, Devices: []string{"pdu"}, All: true, Min: A3, Ceilings: map[string]Assurance{"pdu": A5}}
	txn := fenceWith(t, GoalOff, map[string]*bmc{"exec": honest(), "pdu": honest()}, exec, pdu)
	if v := txn.Verdict; v.Assurance != A5 || v.Level != 2 {
		t.Errorf("with a PDU: %+v", v)
	}
	txn = fenceWith(t, GoalCycle, map[string]*bmc{"exec": honest(), "pdu": unreachable()}, exec, pdu)
	if v := txn.Verdict; v.Assurance != A2 || v.Level != 1 || v.Silent || !strings.Contains(v.Reason, "A3 is asked for") || txn.OnSent() {
		t.Errorf("without the PDU: %+v, on sent %v", v, txn.OnSent())
	}
}

// BMC, then PDU, then a human: the default ladder of power.md §9.1.
func TestLadderEndsWithAHuman(t *testing.T) {
	human := Level{N: 4, Devices: []string{"hand"}, Human: true}
	bmcLevel := Level{N: 1, Devices: []string{"bmc"}, All: true, Min: A3}
	pdu := Level{N: 2, Devices: []string{"pdu"}, All: true, Min: A3, Ceilings: map[string]Assurance{"pdu": A5}}
	txn := fenceWith(t, GoalOff, map[string]*bmc{"bmc": unreachable(), "pdu": honest()}, bmcLevel, pdu, human)
	if v := txn.Verdict; v.Assurance != A5 || v.Human {
		t.Errorf("PDU: %+v", v)
	}
	txn = fenceWith(t, GoalOff, map[string]*bmc{"bmc": unreachable(), "pdu": unreachable()}, bmcLevel, pdu, human)
	if v := txn.Verdict; v.Assurance != A0 || !v.Human || !strings.Contains(v.Reason, "level 4 waits for an operator") {
		t.Errorf("nobody: %+v", v)
	}
	if took := txn.Verdict.At.Sub(txn.Begun); took < time.Minute {
		t.Errorf("the last device that could do it was given up after %v", took)
	}
	on := fenceWith(t, GoalOn, map[string]*bmc{"bmc": unreachable()}, bmcLevel, human)
	if on.Verdict.Human {
		t.Errorf("a human was asked to prove ON: %+v", on.Verdict)
	}
}

// A level has its own time.
func TestLevelDeadline(t *testing.T) {
	b := honest()
	b.send = func(time.Time, Verb) (TxnEvent, bool) { return TxnEvent{Sent: true, Outcome: Accepted}, false }
	b.read = func(now time.Time) (Reading, Kind) { return Reading{}, Timeout }
	txn := fenceWith(t, GoalOff, map[string]*bmc{"bmc": b}, Level{N: 1, Devices: []string{"bmc"}, All: true, Deadline: 90 * time.Second})
	if took := txn.Verdict.At.Sub(txn.Begun); took < 80*time.Second || took > 95*time.Second {
		t.Errorf("the level lasted %v, want 90s", took)
	}
}

// Of two paths to one BMC one that answers is enough; of two feeds both must.
func TestAnyLevelReads(t *testing.T) {
	for _, c := range []struct {
		any  bool
		in   []State
		want State
	}{
		{true, []State{Off, Unknown}, Off}, {false, []State{Off, Unknown}, Unknown},
		{true, []State{Off, On}, On}, {false, []State{Off, On}, On},
		{true, []State{Unknown, Unknown}, Unknown}, {true, nil, Unknown}, {false, nil, Unknown},
		{false, []State{Off, Off}, Off},
	} {
		if got := Combine(c.any, c.in...); got != c.want {
			t.Errorf("any %v of %v: %s, want %s", c.any, c.in, got, c.want)
		}
	}
}

// A device that does not answer is asked less and less often, at most every BackOff, and
// never less often than others where no back-off is wanted (power.md §6.3).
func TestSilentDevicesAreAskedLessOften(t *testing.T) {
	m := Machine{}.Configure([]Level{{N: 1, Devices: []string{"bmc"}, All: true}, {N: 2, Devices: []string{"pdu"}, All: true}})
	now := start
	gap := func(l ReadLimits) time.Duration { return m.Due("bmc", now, time.Minute, l).Sub(now) }
	l := ReadLimits{BackOff: 5 * time.Minute}
	var gaps []time.Duration
	for range 12 {
		m, _ = m.Step(ReadingEvent{At: now, Device: "bmc", Err: Unreachable}, l)
		m, _ = m.Step(ReadingEvent{At: now, Device: "pdu", Reading: Reading{State: On, Authentic: true}}, l)
		g := gap(l)
		gaps = append(gaps, g.Round(time.Second))
		if g < 54*time.Second || g > 330*time.Second {
			t.Fatalf("next reading in %v", g)
		}
		if h := m.Due("pdu", now, time.Minute, l).Sub(now); h > 66*time.Second {
			t.Fatalf("the one that answers is read in %v", h)
		}
		now = now.Add(g)
	}
	if last := gaps[len(gaps)-1]; last < 270*time.Second {
		t.Errorf("gaps %v: they do not grow to 5m", gaps)
	}
	if g := gap(ReadLimits{}); g > 66*time.Second {
		t.Errorf("without a back-off it is read in %v", g)
	}
}

// All devices of a level must be off together (power.md §9.1): one that settled early and
// was not read since proves nothing any more, and feeds cut one after the other never left
// the host without mains.
func TestLevelSettlesTogether(t *testing.T) {
	feeds := Level{N: 1, Devices: []string{"a", "b"}, All: true, Ceilings: map[string]Assurance{"a": A5, "b": A5}}
	for _, c := range []struct {
		name   string
		silent time.Duration // b gives no reading from 10 s, when somebody switches it on, until then
		proven bool
	}{
		{"b is switched on and silent from then on", time.Hour, false},
		{"b is switched on, and reads ON before a settles", 15 * time.Second, true}, // by another hard off
		{"b is switched on, and reads ON after a settled", 35 * time.Second, true},
	} {
		a, b := honest(), honest()
		a.identity = func(now time.Time) TxnEvent {
			if now.Sub(start) < 20*time.Second {
				return TxnEvent{Err: Busy}
			}
			return TxnEvent{Matched: true}
		}
		touched := false
		b.read = func(now time.Time) (Reading, Kind) {
			if now.Sub(start) >= 10*time.Second && !touched {
				touched = true
				b.command(now, HardOn)
			}
			if at := now.Sub(start); at >= 10*time.Second && at < c.silent {
				return Reading{}, ProtocolViolation
			}
			s := Off
			if b.truth(now) {
				s = On
			}
			return Reading{State: s, Authentic: true, At: now}, NoError
		}
		w := newWorld(t, Limits{}, map[string]*bmc{"a": a, "b": b})
		w.honest = true
		w.begin(GoalOff, "", []Level{feeds})
		v := w.run()
		if proven := v.Assurance >= A3; proven != c.proven || proven && (a.truth(w.now) || b.truth(w.now)) {
			t.Errorf("%s: %s: %s\n%s", c.name, v.Assurance, v.Reason, w.trace.String())
		}
	}
}

// What a cycle cut and did not read ON again is what has to be switched on when it ends
// before its time.
func TestCut(t *testing.T) {
	ladder := []Level{
		{N: 1, Devices: []string{"bmc"}},
		{N: 2, Devices: []string{"bmc2", "pdu-a", "pdu-b"}, Feeds: []string{"pdu-a", "pdu-b"}, All: true},
		{N: 3, Devices: []string{"pdu-c"}, Feeds: []string{"pdu-c"}},
		{N: 4, Devices: []string{"hand"}, Human: true},
	}
	second := &Verdict{Level: 2}
	for _, c := range []struct {
		name string
		goal Goal
		v    *Verdict
		p    Progress
		want string
	}{
		{"the BMC switches it off", GoalCycle, nil, Progress{OffPackets: 1}, ""},
		{"nothing was sent yet", GoalCycle, nil, Progress{Rung: 1}, ""},
		{"outlets are being cut", GoalCycle, nil, Progress{Rung: 1, OffPackets: 1}, "2: pdu-a pdu-b"},
		{"a second level was tried", GoalCycle, nil, Progress{Rung: 2, OffPackets: 3}, "2: pdu-a pdu-b, 3: pdu-c"},
		{"a human is waited for", GoalCycle, nil, Progress{Rung: 3, OffPackets: 3}, "2: pdu-a pdu-b, 3: pdu-c"},
		{"OFF is proven", GoalCycle, second, Progress{Rung: 1, OffPackets: 2, Phase: PhasePause}, "2: pdu-a pdu-b"},
		{"they come back", GoalCycle, second, Progress{Rung: 1, OffPackets: 2, Feeding: true}, "2: pdu-a pdu-b"},
		{"they are back, the chassis is switched on", GoalCycle, second, Progress{Rung: 0, OffPackets: 2, Fed: true}, ""},
		{"one did not come back", GoalCycle, second, Progress{Rung: 0, OffPackets: 2, Fed: true, Unfed: []string{"level 2: pdu-b"}}, "2: pdu-a pdu-b"},
		{"fenced: what is off stays off", GoalOff, second, Progress{Rung: 1, OffPackets: 2}, ""},
	} {
		var got []string
		for _, lv := range (Txn{Goal: c.goal, Ladder: ladder, Verdict: c.v, Progress: c.p}).Cut() {
			got = append(got, fmt.Sprintf("%d: %s", lv.N, strings.Join(lv.Devices, " ")))
			if !lv.feedsOnly() || !lv.All {
				t.Errorf("%s: level %+v, want all of its feeds and nothing else", c.name, lv)
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%s: %q is left, want %q", c.name, got, c.want)
		}
	}
}
