// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	anyKind = rapid.SampledFrom([]Kind{AuthFailed, PrivilegeDenied, Unreachable, Timeout, SessionLimit, Busy, Unsupported, InvalidState,
		RemoteError, ProtocolViolation, IdentityMismatch, BadConfig, ToolMissing, DeadlinePassed, Cancelled})
	passingKind = rapid.SampledFrom([]Kind{Unreachable, Timeout, SessionLimit, Busy, RemoteError, ProtocolViolation, DeadlinePassed})
	anyOutcome  = rapid.SampledFrom([]Outcome{"", Accepted, Rejected, AlreadyThere, Indeterminate, "other"})
	anyState    = rapid.SampledFrom([]State{Unknown, On, Off})
)

// truthful is a BMC that loses and refuses at random but never reads a wrong state.
func truthful(t *rapid.T, name string) *bmc {
	b := honest()
	b.on = rapid.Bool().Draw(t, name+" on")
	b.offTakes = time.Duration(rapid.IntRange(0, 12).Draw(t, name+" off takes")) * time.Second
	b.onTakes = time.Duration(rapid.IntRange(0, 90).Draw(t, name+" on takes")) * time.Second
	b.latency = time.Duration(rapid.IntRange(1, 1500).Draw(t, name+" latency")) * time.Millisecond
	one := func(of int, what string) bool { return rapid.IntRange(1, of).Draw(t, what) == 1 }
	b.identity = func(time.Time) TxnEvent {
		switch {
		case one(10, "identity fails"):
			return TxnEvent{Err: passingKind.Draw(t, "kind")}
		case one(60, "identity fails for good"):
			return TxnEvent{Err: anyKind.Draw(t, "kind")}
		}
		return TxnEvent{Matched: !one(80, "another box"), BMCYoung: one(40, "young")}
	}
	b.read = func(now time.Time) (Reading, Kind) {
		if one(40, "a technician switches it on") {
			b.command(now, HardOn)
		}
		on := b.truth(now)
		switch {
		case one(6, "read fails"):
			return Reading{}, passingKind.Draw(t, "kind")
		case one(20, "in between"):
			return Reading{State: anyState.Draw(t, "state"), Authentic: true, Transitional: true, At: now}, NoError
		case one(20, "forged"):
			return Reading{State: Off, At: now}, NoError
		}
		g := Reading{State: Off, Authentic: true, At: now}
		if on {
			g.State = On
		}
		return g, NoError
	}
	b.send = func(_ time.Time, v Verb) (TxnEvent, bool) {
		switch rapid.IntRange(0, 9).Draw(t, "send") {
		case 0:
			return TxnEvent{Err: passingKind.Draw(t, "kind")}, false // not sent
		case 1:
			return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, rapid.Bool().Draw(t, "ran")
		case 2:
			return TxnEvent{Sent: true, Outcome: Rejected, Err: passingKind.Draw(t, "kind")}, false
		case 3:
			return TxnEvent{Sent: true, Outcome: Accepted}, false // accepted and not done
		}
		return TxnEvent{Sent: true, Outcome: Accepted}, true
	}
	return b
}

// chaos answers with anything.
func chaos(t *rapid.T) *bmc {
	b := honest()
	b.identity = func(time.Time) TxnEvent {
		ev := TxnEvent{Matched: rapid.IntRange(1, 8).Draw(t, "another box") > 1, BMCYoung: rapid.IntRange(1, 8).Draw(t, "young") == 1}
		if rapid.IntRange(1, 6).Draw(t, "identity fails") == 1 {
			ev.Err = anyKind.Draw(t, "kind")
		}
		return ev
	}
	b.read = func(now time.Time) (Reading, Kind) {
		if rapid.IntRange(1, 6).Draw(t, "read fails") == 1 {
			return Reading{}, anyKind.Draw(t, "kind")
		}
		at := now.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "skew")) * time.Second)
		rare := func(what string) bool { return rapid.IntRange(1, 8).Draw(t, what) == 1 }
		g := Reading{State: Off, Authentic: !rare("forged"), Transitional: rare("moving"), Fault: rare("fault"), At: at}
		if rare("not off") {
			g.State = anyState.Draw(t, "state")
		}
		return g, NoError
	}
	b.send = func(time.Time, Verb) (TxnEvent, bool) {
		ev := TxnEvent{Sent: rapid.IntRange(1, 4).Draw(t, "not sent") > 1, Outcome: anyOutcome.Draw(t, "outcome")}
		if rapid.IntRange(1, 4).Draw(t, "send fails") == 1 {
			ev.Err = anyKind.Draw(t, "kind")
		}
		return ev, true
	}
	return b
}

// Whatever devices, workers and people do: no A3 without at least three authentic OFF
// readings over the window after a hard off with no ON between, never more hard offs
// than allowed, never sooner than allowed, no packet after a cancel or the end, no hang,
// and of devices that do not lie no wrong proof (world.check).
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		honest := rapid.Bool().Draw(t, "honest")
		devices := map[string]*bmc{}
		for _, name := range []string{"a", "b", "c"} {
			if honest {
				devices[name] = truthful(t, name)
			} else {
				devices[name] = chaos(t)
			}
		}
		var ladder []Level
		for i := range rapid.IntRange(0, 3).Draw(t, "levels") {
			names := rapid.Permutation([]string{"a", "b", "c"}).Draw(t, "devices")
			lv := Level{N: i + 1, All: rapid.Bool().Draw(t, "all"), Devices: names[:rapid.IntRange(0, 3).Draw(t, "count")]}
			lv.Feeds = lv.Devices[:min(len(lv.Devices), rapid.IntRange(0, 3).Draw(t, "feeds"))]
			ladder = append(ladder, lv)
		}
		w := newWorld(t, Limits{VerifyInterval: time.Duration(rapid.IntRange(1, 7).Draw(t, "verify")) * time.Second}, devices)
		w.honest = honest
		goal := rapid.SampledFrom([]Goal{GoalOff, GoalCycle, GoalCycle, GoalOn, GoalVerb}).Draw(t, "goal")
		verb := rapid.SampledFrom([]Verb{Reset, Cycle, SoftOff, Identify}).Draw(t, "verb")
		w.begin(goal, verb, ladder)

		disturb := rapid.Bool().Draw(t, "disturb")
		for i := 0; !w.txn.Done; i++ {
			if i > 3000 {
				t.Fatalf("the transaction does not end\n%s", w.trace.String())
			}
			switch rapid.IntRange(0, 40).Draw(t, "what") {
			case 0:
				if disturb && w.adopted < 3 {
					w.lose(rapid.Bool().Draw(t, "ran"))
					w.now = w.now.Add(time.Duration(rapid.IntRange(-5, 900).Draw(t, "gap")) * time.Second)
					w.l.OnNotBefore = w.now.Add(time.Duration(rapid.IntRange(0, 75).Draw(t, "old owner")) * time.Second)
					w.adopted++
					w.feed(TxnEvent{Adopted: true})
					continue
				}
			case 1:
				if disturb && rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
					w.feed(TxnEvent{Cancel: "sign of life"})
					continue
				}
			case 2: // stale, foreign and early events change nothing
				for _, ev := range []TxnEvent{{Seq: w.txn.Progress.Seq + 1}, {Seq: -1, Matched: true}, {}} {
					ev.At = w.now
					if next, eff := w.txn.Step(ev, w.l); len(eff) > 0 || !cmp.Equal(next, w.txn) {
						t.Fatalf("event %+v changed something", ev)
					}
				}
			case 4: // a sign of life counts as a reading of ON does (power.md §6.2.7)
				if disturb {
					w.now = w.now.Add(time.Millisecond)
					for name := range devices {
						w.remember(name, reading{at: w.now, on: true})
					}
					w.feed(TxnEvent{Life: w.now})
				}
			case 3: // the record goes through etcd
				var back Txn
				if err := json.Unmarshal([]byte(mustJSON(t, w.txn)), &back); err != nil {
					t.Fatal(err)
				}
				w.txn = back
			}
			w.step()
		}
		if n := len(w.queue); n != 1 || w.queue[0].Do != DoEnd {
			t.Fatalf("the end asks for %+v", w.queue)
		}
		if next, eff := w.txn.Step(TxnEvent{Tick: true, At: w.now.Add(time.Hour)}, w.l); len(eff) > 0 || !cmp.Equal(next, w.txn) {
			t.Fatal("an event after the end changed something")
		}
		most := 8*time.Minute + 30*time.Second + time.Duration(len((&run{Txn: w.txn}).stages()))*4*time.Minute
		if took := w.now.Sub(start); !disturb && took > most {
			t.Fatalf("took %s\n%s", took, w.trace.String())
		}
		if v := w.txn.Verdict; (goal == GoalOn || goal == GoalVerb) && v.Assurance != A0 {
			t.Fatalf("%s proves %s", goal, v.Assurance)
		}
		if v := w.txn.Verdict; v.Assurance >= A3 && !w.txn.OffSent() {
			t.Fatal("proven, and no hard off was sent")
		}
		if v := w.txn.Verdict; honest && v.On == On && goal != GoalVerb && len(w.txn.Progress.Unfed) == 0 {
			for _, st := range (&run{Txn: w.txn}).stages() {
				for _, name := range ladder[st.rung].Feeds {
					if st.feeds && ladder[st.rung].All && !devices[name].truth(w.now) {
						t.Fatalf("switched on, and %s does not feed it\n%s", name, w.trace.String())
					}
				}
			}
		}
	})
}

// The machine: ON and OFF come from two equal readings only, UNKNOWN from failures only.
func TestMachineProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Machine{}.Configure([]Level{{N: 1, Devices: []string{"bmc"}}})
		now, before := start, On
		var last Reading
		run := 0
		for range rapid.IntRange(1, 60).Draw(t, "readings") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "gap")) * time.Second)
			ev := ReadingEvent{At: now, Device: "bmc"}
			if rapid.IntRange(0, 2).Draw(t, "fails") == 0 {
				ev.Err = anyKind.Draw(t, "kind")
			} else {
				ev.Reading = Reading{State: anyState.Draw(t, "state"), Authentic: rapid.IntRange(0, 4).Draw(t, "authentic") > 0,
					Transitional: rapid.IntRange(0, 6).Draw(t, "moving") == 0, At: now}
			}
			frozen := mustJSON(t, m)
			next, transitions := m.Step(ev, ReadLimits{})
			if frozen != mustJSON(t, m) {
				t.Fatal("Step changed its receiver")
			}
			g := ev.Reading
			firm := ev.Err == NoError && !g.Transitional && (g.State == On || g.State == Off && g.Authentic)
			switch {
			case ev.Err.ours():
			case firm && g.State == last.State:
				run++
			case firm:
				last, run = g, 1
			default:
				last, run = Reading{}, 0
			}
			before = m.State
			m = next
			switch {
			case len(transitions) > 1 || (len(transitions) == 1) != (before != m.State):
				t.Fatalf("%s to %s with %d transitions", before, m.State, len(transitions))
			case before != m.State && m.State != Unknown && (run < 2 || last.State != m.State):
				t.Fatalf("%s to %s after %d equal readings of %s", before, m.State, run, last.State)
			case before != m.State && m.State == Unknown && ev.Err == NoError && firm:
				t.Fatal("a good reading made it UNKNOWN")
			}
			if n := m.NextRead(now, time.Minute, ReadLimits{}); n.Before(now) || n.After(now.Add(66*time.Second)) {
				t.Fatalf("next read at %s after %s", n, now)
			}
		}
	})
}
