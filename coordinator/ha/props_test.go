// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Whatever happens to a host, in whatever order, the promises of doc.go hold at every
// step. The world breaks and mends things as it likes, workers come and go, operators
// order, and now and then an event comes that nobody asked for.
func TestPromisesHoldAtEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := testPolicy(rapid.SampledFrom([]string{"default", "fast"}).Draw(t, "preset"))
		p.Mode = rapid.SampledFrom([]string{"recover", "recover", "fence", "observe"}).Draw(t, "mode")
		p.RepairAttempts = rapid.IntRange(0, 1).Draw(t, "repairs")
		w := newWorld(p)
		w.quietLogs = true
		idle := false // a check of the open incident said idle
		w.check = func(before Record, ev Event, s *step) { promises(t, w, before, ev, s, &idle) }
		w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
		w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
		w.feed(Event{Kind: EvEligible, Verdict: Pass})
		for range rapid.IntRange(1, 25).Draw(t, "acts") {
			if rapid.IntRange(0, 3).Draw(t, "moment") == 0 { // the narrow ones, while HA acts
				for range 6000 {
					if w.rec.State == Recovering || w.rec.State == Fencing {
						break
					}
					w.advance(10 * time.Millisecond)
				}
			}
			act(t, w)
			w.advance(time.Duration(rapid.SampledFrom([]int{0, 20, 1000, 7000, 26050, 26120, 40000, 90000, 700000}).Draw(t, "ms")) * time.Millisecond)
		}
	})
}

func act(t *rapid.T, w *world) {
	switch rapid.IntRange(0, 16).Draw(t, "act") {
	case 15:
		w.storm, w.stormEnded = rapid.SampledFrom([]int{0, 0, 2, 3, 9}).Draw(t, "storm"), time.Time{}
		w.poolLost = rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "pool lost")
		w.feed(Event{Kind: EvPolicy})
	case 16:
		w.stormEnded = w.now.Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "ended")) * time.Minute)
		w.local = rapid.SampledFrom([][]string{nil, {"i-2"}}).Draw(t, "local")
		w.feed(Event{Kind: EvPolicy})
	case 11:
		w.setClock(time.Duration(rapid.SampledFrom([]int{-7200, -60, -5, 5, 60, 7200}).Draw(t, "clock")) * time.Second)
	case 0, 1, 2, 12, 13:
		how := rapid.SampledFrom([]string{"crash", "hang", "agent-killed", "link-lost", "storage-lost", "storage-lost-cluster", "reboot",
			"power-off", "mains-lost", "bmc-dead", "bmc-lies", "bmc-says-off", "no-boot", "gate-deaf", "soft-slow", "thaw", "thaw", "thaw"}).Draw(t, "how")
		if err := w.breakHow(how); err != nil {
			t.Fatal(err)
		}
	case 3, 4:
		w.repair()
	case 5:
		verb := rapid.SampledFrom([]OrderVerb{OrderOff, OrderOn, OrderSoft, OrderReset, OrderCycle, OrderRetry, OrderConfirmOff, "?"}).Draw(t, "verb")
		second := rapid.SampledFrom([]string{"", "bob"}).Draw(t, "second")
		w.feed(Event{Kind: EvOperator, Life: w.lastPing, Order: &Order{Verb: verb, ID: "o", By: "ann", Second: second}})
	case 6:
		w.adopt()
	case 7:
		w.feed(Event{Kind: EvPartition, Partition: rapid.SampledFrom([]PartitionState{PartitionActive, PartitionActive, PartitionInactive, PartitionNone}).Draw(t, "partition")})
	case 8:
		w.feed(Event{Kind: EvAdmin, Admin: &Admin{Maintenance: rapid.Bool().Draw(t, "maintenance"), Excluded: rapid.Bool().Draw(t, "excluded")}})
	case 9:
		w.disarmed = rapid.SampledFrom([]string{"", "works"}).Draw(t, "disarmed")
		w.p.Disarmed = w.disarmed
		w.blind = rapid.Bool().Draw(t, "blind")
		w.feed(Event{Kind: EvPolicy})
	case 10:
		w.feed(Event{Kind: EvEligible, Verdict: rapid.SampledFrom([]Verdict{Pass, Pass, Fail, Unknown}).Draw(t, "eligible"), Reason: "drawn"})
	default:
		w.feed(stray(t, w))
	}
}

// stray is an event nobody asked for: stale, late, or of another boot.
func stray(t *rapid.T, w *world) Event {
	ev := Event{
		Kind:    rapid.SampledFrom(Kinds).Draw(t, "kind"),
		Verdict: rapid.SampledFrom([]Verdict{Unknown, Pass, Fail, Active, Idle}).Draw(t, "verdict"),
		Boot:    rapid.SampledFrom([]string{"", "b1", "b2", "stray"}).Draw(t, "boot"),
		ID:      "stray",
		Life:    w.now.Add(-time.Duration(rapid.IntRange(0, 100).Draw(t, "age")) * time.Second),
		Power:   rapid.SampledFrom([]power.State{power.Unknown, power.On, power.Off}).Draw(t, "power"),
	}
	ev.Partition, ev.Admin = w.rec.Partition, &w.rec.Admin // facts are told by act
	if ev.Kind == EvEligible {
		ev.Verdict = Unknown
	}
	ev.PowerTold = ev.Power != power.Unknown
	if rapid.Bool().Draw(t, "payload") {
		ev.Check = &Check{ID: "stray", Verdict: ev.Verdict}
		if rapid.Bool().Draw(t, "unknown") && w.rec.open() { // the running check says unknown
			ev.Check = &Check{ID: w.rec.Incident.CheckID, Asked: w.now, Done: w.now, Verdict: Unknown}
		}
		ev.Snapshot = &guard.Snapshot{Purpose: rapid.SampledFrom([]guard.Purpose{guard.Recover, guard.Fence, guard.Confirm}).Draw(t, "purpose")}
		ev.Txn = &power.TxnEvent{Txn: "stray", Seq: 1, At: w.now}
		ev.Order = &Order{Verb: OrderRetry, By: "ann"}
	}
	return ev
}

func promises(t *rapid.T, w *world, before Record, ev Event, s *step, idle *bool) {
	fail := func(promise string) {
		t.Helper()
		t.Fatalf("%s\nevent %s at %s\nbefore %s: %s\nafter %s: %s\neffects %+v", promise, ev.Kind, ev.At.Sub(epoch), before.State, before.Reason, s.r.State, s.r.Reason, s.out)
	}
	if w.fed++; len(s.out) > 0 || before.State != s.r.State || w.fed%8 == 0 {
		pure(t, w, before, ev, s, fail)
	}
	r := s.r
	if r.Incident != nil && r.Incident.By == "" && ev.Kind == EvPlace && slices.Contains(acting, r.State) && r.Incident.Action != nil && r.Incident.Action.Begun.Equal(ev.At) {
		// Those that fell silent report no pool.
		if w.storm >= 3 || w.poolLost-w.storm >= 3 || !w.stormEnded.IsZero() && ev.At.Sub(w.stormEnded) < 10*time.Minute {
			fail("armed in a storm, or in its cooldown")
		}
	}
	for _, e := range s.out {
		if slices.ContainsFunc(e.Instances, func(i string) bool { return slices.Contains(before.Local, i) && slices.Contains(e.Local, i) }) {
			fail("an instance on a pool of the host alone was released")
		}
	}
	if !slices.Contains(States, r.State) {
		fail("no such state")
	}
	switch r.State {
	case Suspect, Checking, Degraded, Recovering, Fencing:
		if !r.open() {
			fail("no open incident")
		}
	case Fenced:
		if p := r.Proof; p == nil || p.Revoked != "" || p.Assurance < w.p.ProofMin {
			fail("FENCED without a proof on record")
		}
	case Available:
		if r.open() || r.Gate != nil {
			fail("AVAILABLE with an open incident or a gate")
		}
		if g := before.Gate; g != nil && !g.Confirmed {
			fail("AVAILABLE before the rejoin gate was confirmed")
		}
	}
	if ev.Kind == EvAdopted && r.State != before.State && !(slices.Contains(acting, before.State) && r.State == Suspect) {
		fail("a hand-off changed the state")
	}
	if (slices.Contains(suspicion, r.State) || slices.Contains(acting, r.State)) && r.NextDeadline().IsZero() && r.Incident.Waiting == "" && (r.Off == nil || !r.Off.Waiting) {
		fail("an incident that waits for nothing")
	}
	if next := r.NextDeadline(); next.After(ev.At.Add(time.Hour)) {
		fail("a deadline further away than any setting says")
	}
	if ev.Kind == EvTick && past(r.NextDeadline(), ev.At) {
		fail("a tick left a deadline standing")
	}

	if !r.open() || before.Incident == nil || before.Incident.ID != r.Incident.ID {
		*idle = false
	}
	unknown := false
	if ev.Kind == EvActivity && ev.Check != nil && before.open() && before.Incident.CheckID != "" && ev.Check.ID == before.Incident.CheckID {
		*idle = ev.Check.Verdict == Idle
		unknown = ev.Check.Verdict != Idle && ev.Check.Verdict != Active
	}
	for _, e := range s.out {
		switch {
		case e.Kind == CloseIncident && ev.Kind == EvPower && e.Incident.Outcome != "abandoned":
			fail("a power reading ended an incident")
		case e.Kind == TakePlace && unknown:
			fail("unknown led to an action")
		case e.Kind == Announce && e.Type == "ha.safe-to-restart" && (r.Proof == nil || r.Proof.Revoked != "" || r.Proof.Assurance < w.p.ProofMin):
			fail("released without proof")
		case e.Kind == Announce && e.Type == "ha.safe-to-restart" && (e.Boot != r.Boot.ID || e.Boot != r.Proof.Boot):
			fail("released for a boot that is not the one proven over")
		case e.Kind == Announce && e.Type == "ha.safe-to-restart" && r.Proof.How == howSettled && !w.jumped && w.boot() == e.Boot && w.lastPing.After(r.Proof.OffSince):
			fail("released although the boot was alive since OFF was read")
		case e.Kind == TxnDo && e.Txn.Do == power.DoSend && e.Txn.Verb != power.HardOff && r.Incident != nil && r.Incident.Action != nil &&
			r.Incident.Action.ID == e.Txn.Txn && r.Incident.By == "" && (e.Txn.Verb != power.HardOn || r.Incident.Action.Verdict == nil || r.Incident.Action.Verdict.Assurance < power.A3):
			fail("automation sent something else than off, or on before OFF was proven")
		case e.Kind == Announce && e.Severity == "":
			fail("an event without severity: " + e.Type)
		case e.Kind == TxnDo && e.Txn.Do == power.DoSend && e.Txn.Verb == power.HardOff:
			i := r.Incident
			if i == nil || i.Action == nil || i.Action.ID != e.Txn.Txn {
				if before.OrderTxn == nil && r.OrderTxn == nil {
					fail("a hard off that belongs to nothing")
				}
				continue
			}
			if i.By != "" {
				continue
			}
			if i.Guards == nil || !i.Guards.Allowed() || i.Guards.Purpose != i.Purpose {
				fail("a hard off without every guard's allowance")
			}
			if i.Purpose != guard.Confirm && !*idle {
				fail("a hard off without an idle check in this incident")
			}
		}
	}
	begun := r.open() && r.Incident.Action != nil && r.Incident.By == "" && (!before.open() || before.Incident.Action == nil || before.Incident.Action.ID != r.Incident.Action.ID)
	if begun && (w.p.Disarmed != "" || w.p.Mode == "observe") {
		fail("automation began to act while it may not")
	}
}

func pure(t *rapid.T, w *world, before Record, ev Event, s *step, fail func(string)) {
	// Pure: the same answer again, from a record that went through etcd, too; and the
	// argument is as it was.
	raw := encode(t, before)
	again, effects := Step(before, ev, w.p)
	if !reflect.DeepEqual(again, s.r) || !reflect.DeepEqual(effects, s.out) {
		fail("a replay differs")
	}
	var stored Record
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	if next, _ := Step(stored, ev, w.p); string(encode(t, next)) != string(encode(t, s.r)) {
		fail("the record does not carry everything: a new owner would decide otherwise")
	}
	if string(raw) != string(encode(t, before)) {
		fail("the argument was changed")
	}
}

func encode(t *rapid.T, r Record) []byte {
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A healthy host costs nothing: a pass while AVAILABLE returns the same record, no
// effects, and takes no more than 10 µs.
func BenchmarkQuietPath(b *testing.B) {
	w := newWorld(testPolicy("default"))
	w.quietLogs = true
	w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
	w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
	w.feed(Event{Kind: EvEligible, Verdict: Pass})
	w.advance(time.Minute)
	if w.rec.State != Available {
		b.Fatal(w.rec.State)
	}
	ev := Event{Kind: EvHealth, At: w.now, Verdict: Pass, Boot: w.boot(), Life: w.now, Instances: w.instances}
	for b.Loop() {
		next, effects := Step(w.rec, ev, w.p)
		if len(effects) != 0 || !reflect.DeepEqual(next, w.rec) {
			b.Fatal("a pass changed something")
		}
	}
}

// The same for missed pings of a host that is known to be gone, and for events told
// twice: nothing to commit.
func TestWhatChangesNothingCommitsNothing(t *testing.T) {
	w := newWorld(testPolicy("default"))
	w.quietLogs = true
	w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
	w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
	w.feed(Event{Kind: EvEligible, Verdict: Pass})
	w.advance(time.Minute)
	same := func(what string, ev Event) {
		t.Helper()
		ev.At = w.now
		next, effects := Step(w.rec, ev, w.p)
		if len(effects) != 0 || !reflect.DeepEqual(next, w.rec) {
			t.Errorf("%s in %s: commits", what, w.rec.State)
		}
	}
	told := func() {
		t.Helper()
		same("partition told again", Event{Kind: EvPartition, Partition: PartitionActive})
		same("admin told again", Event{Kind: EvAdmin, Admin: &Admin{}})
		same("eligible told again", Event{Kind: EvEligible, Verdict: Pass})
		same("power told again", Event{Kind: EvPower, Power: w.rec.Power, PowerTold: w.rec.PowerTold})
		same("an early tick", Event{Kind: EvTick})
		same("the same Hello", Event{Kind: EvHello, Boot: w.boot(), Instances: w.rec.Instances})
	}
	told()
	same("a pass", Event{Kind: EvHealth, Verdict: Pass, Boot: w.boot(), Life: w.now, Instances: w.instances})
	same("unknown health", Event{Kind: EvHealth, Boot: w.boot(), Life: w.now, Instances: w.instances})
	same("adopted", Event{Kind: EvAdopted})
	if err := w.breakHow("mains-lost"); err != nil {
		t.Fatal(err)
	}
	w.advance(3 * time.Minute)
	told()
	same("a missed ping", Event{Kind: EvHealth, Verdict: Fail, Reason: "no ping for 3m0s", Life: w.lastPing})
}
