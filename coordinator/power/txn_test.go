// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A settle window is measured by our clock: readings that claim to be of another time
// neither shorten nor stretch it.
func TestReadingsOfAnotherTime(t *testing.T) {
	for name, skew := range map[string]time.Duration{"ahead": 10 * time.Second, "behind": -time.Hour} {
		b := honest()
		n := time.Duration(0)
		b.read = func(now time.Time) (Reading, Kind) {
			n++
			return Reading{State: Off, Authentic: true, At: now.Add(n * skew)}, NoError
		}
		w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
		w.begin(GoalOff, "", one("bmc"))
		v := w.run()
		if v.Assurance != A3 || v.OffSince.Before(start) || v.OffSince.After(w.now) {
			t.Errorf("%s: %s, off since %s", name, v.Assurance, v.OffSince)
		}
		if took := w.now.Sub(start); took < 6*time.Second || took > 8*time.Second {
			t.Errorf("%s: proven after %s", name, took)
		}
	}
}

// Nor does our own clock: a reading that seems to have taken longer than one may counts
// as lost, so that hours which never were settle nothing.
func TestClockThatJumpsSettlesNothing(t *testing.T) {
	for _, jump := range []time.Duration{time.Minute, 5 * time.Hour} {
		w := newWorld(t, Limits{}, map[string]*bmc{"bmc": honest()})
		w.begin(GoalOff, "", one("bmc"))
		for w.txn.Progress.Devices[0].Run.Count < 2 {
			w.step()
		}
		w.now = w.now.Add(jump) // the third reading is under way
		w.step()
		if r, v := w.txn.Progress.Devices[0].Run, w.txn.Verdict; r.Count != 2 || v != nil && v.Assurance > A0 {
			t.Errorf("%s: %+v, verdict %+v", jump, r, v)
		}
	}
}

// A sign of life belies the OFF readings before it (power.md §6.2.7): OFF settles anew.
// One from before the first of them changes nothing.
func TestLifeUnsettles(t *testing.T) {
	w := newWorld(t, Limits{}, map[string]*bmc{"bmc": honest()})
	w.begin(GoalOff, "", one("bmc"))
	for w.txn.Progress.Devices[0].Run.Count < 3 {
		w.step()
	}
	first := w.txn.Progress.Devices[0].Run.First
	if w.feed(TxnEvent{Life: first}); w.txn.Progress.Devices[0].Run.Count != 3 || w.txn.Unsettles(first) {
		t.Fatal("a sign of life from before OFF was read counts")
	}
	life := w.now.Add(-time.Millisecond)
	w.feed(TxnEvent{Life: life})
	if v := w.run(); v.Assurance != A3 || !v.OffSince.After(life) {
		t.Errorf("%s, off since %s, alive at %s", v.Assurance, v.OffSince, life)
	}
}

// No setting goes below what A3 means.
func TestLimitsHaveAFloor(t *testing.T) {
	b := honest()
	w := newWorld(t, Limits{SettleReads: 1, SettleWindow: time.Second, VerifyInterval: 10 * time.Millisecond}, map[string]*bmc{"bmc": b})
	w.begin(GoalOff, "", one("bmc"))
	if v := w.run(); v.Assurance != A3 || w.now.Sub(start) < 6*time.Second {
		t.Errorf("%s after %s", v.Assurance, w.now.Sub(start))
	}
}

// An exchange whose answer never comes is over at its deadline; a command among them may
// have run.
func TestLostExchanges(t *testing.T) {
	var l Limits
	tx, eff := Begin("t1", GoalOff, "", "boot", one("bmc"), start, l)
	if due := tx.NextDeadline(); !due.Equal(eff[0].NotAfter.Add(2 * time.Second)) {
		t.Fatalf("a tick at %s for an exchange until %s", due, eff[0].NotAfter)
	}
	if same, more := tx.Step(TxnEvent{Tick: true, At: start.Add(time.Second)}, l); len(more) != 0 || same.Progress.Out == nil {
		t.Fatal("a tick before the deadline gave the exchange up")
	}
	next, more := tx.Step(TxnEvent{Tick: true, At: tx.NextDeadline()}, l)
	if next.Progress.Errors[Timeout] != 1 || len(more) != 1 || more[0].Do != DoIdentity {
		t.Fatalf("a lost identity: %+v", more)
	}

	answer := func(e TxnEffect, ev TxnEvent) {
		ev.Seq, ev.At = e.Seq, e.NotBefore.Add(time.Millisecond)
		tx, eff = tx.Step(ev, l)
	}
	answer(eff[0], TxnEvent{Matched: true})
	answer(eff[0], TxnEvent{Reading: readOn})
	if eff[0].Do != DoSend || eff[0].Verb != HardOff || !tx.OffSent() || !tx.LastOff().IsZero() {
		t.Fatalf("asked for %+v; off sent %v", eff, tx.OffSent())
	}
	send := eff[0]
	tx, eff = tx.Step(TxnEvent{Tick: true, At: tx.NextDeadline()}, l)
	if !tx.OffSent() || tx.LastOff().Before(send.NotAfter) || eff[0].Do != DoIdentity {
		t.Fatalf("a lost hard off: sent %v at %s, then %+v", tx.OffSent(), tx.LastOff(), eff)
	}
	// The answer that comes after all is stale.
	if _, more := tx.Step(TxnEvent{Seq: send.Seq, Sent: true, Outcome: Accepted, At: tx.NextDeadline()}, l); len(more) != 0 {
		t.Fatal("a stale answer was taken")
	}
}

// A packet that never left is no packet: cancelling is still free.
func TestNotSent(t *testing.T) {
	b := honest()
	b.send = func(time.Time, Verb) (TxnEvent, bool) { return TxnEvent{Err: DeadlinePassed}, false }
	w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
	w.begin(GoalOff, "", one("bmc"))
	for range 3 { // identity, status, the hard off
		w.step()
	}
	if w.txn.OffSent() || w.txn.Progress.Out == nil || w.txn.Progress.Out.Do == DoSend {
		t.Fatalf("off sent %v while waiting for %+v", w.txn.OffSent(), w.txn.Progress.Out)
	}
	if v := w.run(); v.Silent {
		t.Errorf("our own failure to send is taken for the device's silence: %s", v.Reason)
	}
}

// The verdict is on the transaction as soon as OFF is proven, before the pause and ON:
// instances may be released then (ha.md §7).
func TestVerdictWithinACycle(t *testing.T) {
	w := newWorld(t, Limits{}, map[string]*bmc{"bmc": honest()})
	w.begin(GoalCycle, "", one("bmc"))
	for w.txn.Verdict == nil && w.step() {
	}
	if w.txn.Done || w.txn.Verdict.Assurance != A3 || w.txn.OnSent() || w.txn.Progress.Phase != PhasePause {
		t.Fatalf("proven: %+v", w.txn)
	}
	if wait := w.txn.NextDeadline().Sub(w.now); wait != 5*time.Second {
		t.Errorf("ON in %s", wait)
	}
	w.run()
	if !w.txn.OnSent() || w.txn.Verdict.On != On {
		t.Errorf("ended: %+v", w.txn.Verdict)
	}
}

// Once OFF is proven, a device that is silent for a while is not given up for the next
// level: only what was switched off is switched on.
func TestOnStaysWithTheProvenLevel(t *testing.T) {
	b, n := honest(), 0
	b.send = func(_ time.Time, v Verb) (TxnEvent, bool) {
		if v == HardOn {
			if n++; n <= 5 {
				return TxnEvent{Err: Unreachable}, false
			}
		}
		return TxnEvent{Sent: true, Outcome: Accepted}, true
	}
	w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b, "pdu": honest()})
	w.begin(GoalCycle, "", []Level{{N: 1, Devices: []string{"bmc"}}, {N: 2, Devices: []string{"pdu"}}})
	if v := w.run(); v.On != On || v.Level != 1 || len(w.log["pdu"]) != 0 {
		t.Errorf("%+v\n%s", v, w.trace.String())
	}
}

// Silence is nothing but Unreachable, Timeout, Busy and SessionLimit (ha.md §3); a device
// that talks to us and says ON, or refuses, is not silent.
func TestSilent(t *testing.T) {
	mute := func(k Kind) func(*bmc) {
		return func(b *bmc) {
			b.read = func(time.Time) (Reading, Kind) { return Reading{}, k }
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				return TxnEvent{Sent: true, Outcome: Indeterminate, Err: Timeout}, false
			}
		}
	}
	for _, c := range []struct {
		name   string
		break_ func(*bmc)
		silent bool
	}{
		{"every read times out", mute(Timeout), true},
		{"busy for ever", mute(Busy), true},
		{"answers nonsense", mute(ProtocolViolation), false},
		{"errors of its own", mute(RemoteError), false},
		{"mains lost after the status was read", func(b *bmc) {
			n := 0
			b.identity = func(time.Time) TxnEvent {
				if n++; n > 1 {
					return TxnEvent{Err: Unreachable}
				}
				return TxnEvent{Matched: true}
			}
			mute(Timeout)(b)
		}, true},
		{"does nothing", func(b *bmc) {
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return TxnEvent{Sent: true, Outcome: Accepted}, false }
		}, false},
		{"does nothing, and one answer was lost", func(b *bmc) {
			n := 0
			b.identity = func(time.Time) TxnEvent {
				if n++; n == 1 {
					return TxnEvent{Err: Timeout}
				}
				return TxnEvent{Matched: true}
			}
			b.send = func(time.Time, Verb) (TxnEvent, bool) { return TxnEvent{Sent: true, Outcome: Accepted}, false }
		}, false},
		{"the user may not", func(b *bmc) {
			b.send = func(time.Time, Verb) (TxnEvent, bool) {
				return TxnEvent{Sent: true, Outcome: Rejected, Err: PrivilegeDenied}, false
			}
		}, false},
	} {
		b := honest()
		c.break_(b)
		w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
		w.begin(GoalOff, "", one("bmc"))
		if v := w.run(); v.Silent != c.silent || v.Assurance != A0 {
			t.Errorf("%s: silent %v, %s: %s", c.name, v.Silent, v.Assurance, v.Reason)
		}
	}
}

// The kinds that no retry helps end the level before any command, in one exchange.
func TestFinalKinds(t *testing.T) {
	for _, k := range []Kind{AuthFailed, PrivilegeDenied, BadConfig, IdentityMismatch, Unsupported, ToolMissing} {
		b := honest()
		b.identity = func(time.Time) TxnEvent { return TxnEvent{Err: k, Detail: "see the manual"} }
		w := newWorld(t, Limits{}, map[string]*bmc{"bmc": b})
		w.begin(GoalOff, "", one("bmc"))
		v := w.run()
		if strings.Count(w.trace.String(), "\n") != 1 || w.txn.OffSent() || !strings.Contains(v.Reason, string(k)+" (see the manual)") {
			t.Errorf("%s: %s\n%s", k, v.Reason, w.trace.String())
		}
	}
}

func TestWords(t *testing.T) {
	for _, s := range []State{Unknown, On, Off} {
		var back State
		if err := json.Unmarshal([]byte(mustJSON(t, s)), &back); err != nil || back != s {
			t.Errorf("%s came back as %s, %v", s, back, err)
		}
	}
	for a := A0; a <= A5; a++ {
		var back Assurance
		if err := json.Unmarshal([]byte(mustJSON(t, a)), &back); err != nil || back != a {
			t.Errorf("%s came back as %s, %v", a, back, err)
		}
	}
	var s State
	var a Assurance
	if err := s.UnmarshalText([]byte("off")); err == nil || s != Unknown {
		t.Errorf("state off: %s, %v", s, err)
	}
	if err := a.UnmarshalText([]byte("A6")); err == nil || a != A0 {
		t.Errorf("assurance A6: %s, %v", a, err)
	}
}

// Right box: every pinned field must be equal, an unpinned identity matches nothing.
func TestIdentity(t *testing.T) {
	got := Identity{SystemUUID: "u", Serial: "s"}
	for _, c := range []struct {
		pinned Identity
		want   bool
	}{
		{Identity{}, false}, {Identity{SystemUUID: "u"}, true}, {Identity{SystemUUID: "u", Serial: "s"}, true},
		{Identity{SystemUUID: "x"}, false}, {Identity{SystemUUID: "u", Serial: "x"}, false}, {Identity{Fingerprint: "f"}, false},
	} {
		if c.pinned.Matches(got) != c.want {
			t.Errorf("%+v matches: %v", c.pinned, !c.want)
		}
	}
}
