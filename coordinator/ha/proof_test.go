// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// protectedWorld is a host that has been AVAILABLE for a minute.
func protectedWorld(t *testing.T, p Policy) *world {
	t.Helper()
	w := newWorld(p)
	w.quietLogs = true
	w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
	w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
	w.feed(Event{Kind: EvEligible, Verdict: Pass})
	w.advance(time.Minute)
	if w.rec.State != Available {
		t.Fatalf("%s (%s), want AVAILABLE", w.rec.State, w.rec.Reason)
	}
	return w
}

func (w *world) until(t *testing.T, s State, within time.Duration) {
	t.Helper()
	for end := w.now.Add(within); w.rec.State != s; w.advance(10 * time.Millisecond) {
		if !w.now.Before(end) {
			t.Fatalf("%s (%s), want %s within %s", w.rec.State, w.rec.Reason, s, within)
		}
	}
}

func (w *world) breaks(t *testing.T, how string) {
	t.Helper()
	if err := w.breakHow(how); err != nil {
		t.Fatal(err)
	}
}

// The level of a contradicted device does not count (ha.md §3): automation does not work
// with it, and its OFF proves nothing, whoever ordered it.
func TestContradictedLevelProvesNothing(t *testing.T) {
	p := testPolicy("default")
	p.Ladder = append(p.Ladder, power.Level{N: 2, Devices: []string{"pdu"}, All: true})
	w := protectedWorld(t, p)
	w.rec.Contradicted = []string{"bmc"}
	w.breaks(t, "crash")
	w.until(t, Suspect, time.Minute)
	w.feed(Event{Kind: EvOperator, Order: &Order{Verb: OrderOff, ID: "o1", By: "ann"}})
	released := false
	w.check = func(_ Record, _ Event, s *step) {
		for _, e := range s.out {
			released = released || e.Type == "ha.safe-to-restart"
		}
	}
	w.advance(time.Minute)
	if w.rec.State != Failed || released || w.rec.Proof != nil {
		t.Errorf("%s (%s), released %v, proof %+v: want FAILED and none", w.rec.State, w.rec.Reason, released, w.rec.Proof)
	}

	w = protectedWorld(t, p)
	w.breaks(t, "crash")
	w.until(t, Checking, time.Minute)
	for w.rec.Incident.Waiting == "" {
		w.advance(10 * time.Millisecond)
	}
	snap := w.snapshot(w.rec.Incident.Waiting)
	second := snap.Power.Levels[0]
	second.Level, snap.Power.Levels[0].Contradicted = 2, true
	snap.Power.Levels = append(snap.Power.Levels, second)
	w.rec.Contradicted = []string{"bmc"}
	w.feed(Event{Kind: EvPlace, Snapshot: &snap})
	if w.rec.State != Recovering {
		t.Fatalf("%s (%s), want RECOVERING through level 2", w.rec.State, w.rec.Reason)
	}
	if l := w.rec.Incident.Action.Ladder; len(l) != 1 || l[0].N != 2 {
		t.Errorf("automation works with %+v, want level 2 only", l)
	}
}

// A proof is about the newest boot, also when an earlier one began the incident.
func TestProofIsAboutTheNewestBoot(t *testing.T) {
	w := protectedWorld(t, testPolicy("default"))
	w.breaks(t, "crash")
	w.until(t, Suspect, time.Minute)
	w.startBoot()
	w.deaf = true // not AVAILABLE yet: the incident stays open
	w.until(t, Initializing, time.Minute)
	w.instances = []string{"i-9"}
	w.advance(20 * time.Second)
	w.feed(Event{Kind: EvOperator, Life: w.lastPing, Order: &Order{Verb: OrderOff, ID: "o1", By: "ann"}})
	w.until(t, Fenced, time.Minute)
	if p := w.rec.Proof; p.Boot != "b2" || !slices.Equal(p.Instances, []string{"i-9"}) {
		t.Errorf("proof of boot %s with %v, want b2 with i-9", p.Boot, p.Instances)
	}
	w.feed(Event{Kind: EvHealth, Verdict: Pass, Boot: "b2", Life: w.now.Add(time.Second)})
	if w.rec.State != Failed || w.rec.Proof.Revoked == "" {
		t.Errorf("%s: a ping of the boot that was proven over does not revoke its proof", w.rec.State)
	}
}

// Contradiction beats proof (power.md §6.2.7): once OFF is proven, a ping of that boot
// revokes it, also within the time a living host may be silent after the hard off.
func TestLifeAfterTheProofRevokesIt(t *testing.T) {
	w := protectedWorld(t, testPolicy("default"))
	w.breaks(t, "crash")
	w.until(t, Recovering, time.Minute)
	for w.rec.Proof == nil {
		w.advance(10 * time.Millisecond)
	}
	if silent := w.now.Sub(w.rec.LastOff); silent >= w.p.silence() {
		t.Fatalf("proven only %s after the hard off", silent)
	}
	w.now = w.now.Add(time.Second)
	w.feed(Event{Kind: EvHealth, Verdict: Pass, Boot: "b1", Life: w.now})
	if w.rec.State != Available || len(w.rec.Contradicted) == 0 {
		t.Errorf("%s (%s), contradicted %v", w.rec.State, w.rec.Reason, w.rec.Contradicted)
	}
	w.advance(10 * time.Second)
	if slices.Contains(w.packets, power.HardOn) {
		t.Error("a further packet was sent")
	}
}

// Before a living host must have pinged its silence says nothing: with a ping a minute
// neither an operator's word nor a found OFF counts before three minutes.
func TestSilenceIsMeasuredInPings(t *testing.T) {
	w := protectedWorld(t, testPolicy("default"))
	w.p.PingInterval = time.Minute
	w.breaks(t, "storage-lost")
	w.until(t, Suspect, 2*time.Minute)
	confirm := func(ping, life time.Duration) State {
		r := w.rec
		r.LastLife, r.Boot.Seen = w.now.Add(-life), w.now.Add(-24*time.Hour)
		ev := Event{Kind: EvOperator, At: w.now, Order: &Order{Verb: OrderConfirmOff, ID: "o1", By: "ann"}}
		if ping > 0 {
			ev.Life = w.now.Add(-ping)
		}
		r, _ = Step(r, ev, w.p)
		return r.State
	}
	for _, c := range []struct {
		ping, life time.Duration // what the owner says, what is on record
		want       State
	}{
		{70 * time.Second, 70 * time.Second, Suspect},
		{179 * time.Second, time.Hour, Suspect},
		{0, 200 * time.Second, Suspect}, // a new owner: the record may be as old as three pings
		{0, 361 * time.Second, Fenced},
		{180 * time.Second, 180 * time.Second, Fenced},
	} {
		if got := confirm(c.ping, c.life); got != c.want {
			t.Errorf("last ping %s ago, on record %s ago: %s, want %s", c.ping, c.life, got, c.want)
		}
	}

	w = protectedWorld(t, testPolicy("default"))
	w.p.PingInterval = time.Minute
	w.feed(Event{Kind: EvPower, Power: power.Off, PowerTold: true, PowerFirst: w.now.Add(-2 * time.Second)})
	if w.rec.Off == nil || w.rec.Off.ConfirmAt.Before(w.now.Add(3*time.Minute)) {
		t.Errorf("%+v: confirmed before a living host must have pinged", w.rec.Off)
	}
}

// An order whose time was over before somebody took it over is not carried out.
func TestOrderOfAnotherHourIsNotCarriedOut(t *testing.T) {
	w := protectedWorld(t, testPolicy("default"))
	w.feed(Event{Kind: EvOperator, Life: w.lastPing, Order: &Order{Verb: OrderOff, ID: "o1", By: "ann"}})
	w.setClock(time.Hour)
	w.adopt()
	w.advance(time.Minute)
	if len(w.packets) > 0 || w.rec.OrderTxn != nil || w.rec.OrderedOff {
		t.Errorf("packets %v, order %+v, ordered off %v", w.packets, w.rec.OrderTxn, w.rec.OrderedOff)
	}
}

// A clock that goes back in the middle of anything delays it by no more than its own
// length; one that goes forward ends nothing that was not over.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-5 * time.Hour, -time.Minute, time.Minute, 5 * time.Hour} {
		for _, at := range []State{Suspect, Checking, Recovering, Initializing} {
			w := protectedWorld(t, testPolicy("default"))
			w.breaks(t, "crash")
			w.until(t, Suspect, time.Minute)
			w.until(t, at, 2*time.Minute)
			w.setClock(jump)
			w.until(t, Available, 10*time.Minute)
			if n := len(w.packets); n < 2 || n > 5 {
				t.Errorf("%s in %s: packets %v", jump, at, w.packets)
			}
		}
		w := protectedWorld(t, testPolicy("default"))
		w.p.Mode = "fence"
		w.breaks(t, "crash")
		w.until(t, Fencing, 2*time.Minute)
		for len(w.packets) == 0 {
			w.advance(10 * time.Millisecond)
		}
		w.setClock(jump)
		w.advance(time.Second)
		if w.rec.LastOff.After(w.now) {
			t.Errorf("%s: the hard off seems sent at %s, now is %s", jump, w.rec.LastOff, w.now)
		}
		w.until(t, Fenced, 10*time.Minute)
	}
}

// The record stays small whatever happens for however long.
func TestRecordIsBounded(t *testing.T) {
	w := protectedWorld(t, testPolicy("fast"))
	hows := []string{"crash", "link-lost", "thaw", "bmc-says-off", "hang", "agent-killed", "storage-lost", "thaw", "power-off", "reboot", "bmc-lies", "gate-deaf", "crash", "mains-lost"}
	verbs := []OrderVerb{OrderOff, OrderRetry, OrderCycle, OrderSoft, OrderConfirmOff, OrderOn}
	most := 0
	for n := 0; w.events < 10000; n++ {
		w.breaks(t, hows[n%len(hows)])
		w.advance(time.Duration(n%7+1) * 11 * time.Second)
		if n%3 == 0 {
			w.feed(Event{Kind: EvOperator, Life: w.lastPing, Order: &Order{Verb: verbs[n%len(verbs)], ID: "o", By: "ann", Second: "bob"}})
		}
		if n%5 == 0 {
			w.adopt()
		}
		if n%4 == 0 {
			w.repair()
			w.advance(time.Minute)
		}
		b, err := json.Marshal(w.rec)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, len(b))
		w.packets, w.txnSeq = nil, map[string]bool{}
	}
	if most > 48<<10 {
		t.Errorf("the record grew to %d bytes", most)
	}
}

// At an order the owner tells until when the host may have lived; a new owner, who heard
// nothing, says when it took over. That refuses a confirm-off and convicts no device.
func TestAnOrderIsNoSignOfLife(t *testing.T) {
	w := protectedWorld(t, testPolicy("default"))
	w.breaks(t, "power-off")
	for w.rec.Off == nil {
		w.advance(time.Second)
	}
	w.adopt()
	w.advance(2 * time.Second)
	w.feed(Event{Kind: EvOperator, Life: w.now.Add(-time.Second), Order: &Order{Verb: OrderConfirmOff, ID: "o1", By: "ann"}})
	if len(w.rec.Contradicted) > 0 || w.rec.Off == nil || w.rec.State == Fenced {
		t.Fatalf("%s, contradicted %v, found OFF %+v", w.rec.State, w.rec.Contradicted, w.rec.Off)
	}
	w.until(t, Fenced, 2*time.Minute)
}
