// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// "One ON reading or sign of life before the proof abandons it and returns the host to
// the state it came from (with quiet period after ON)" (ha.md §3.1).
func TestConfirmationIsAbandonedToWhereItCameFrom(t *testing.T) { abandonAll(t, map[*Row]bool{}) }

func abandonAll(t *testing.T, visited map[*Row]bool) {
	for _, origin := range []State{Initializing, Available, Unsupported, Degraded, Suspect, Checking, Failed} {
		for _, by := range []string{"reading", "transaction", "ping", "hello"} {
			w := confirmingFrom(t, origin)
			for r := range w.visited {
				visited[r] = true
			}
			switch by {
			case "reading":
				w.feed(Event{Kind: EvPower, Power: power.On, PowerTold: true, PowerFirst: w.now})
			case "transaction":
				out := w.rec.Incident.Action.Progress.Out
				w.feed(Event{Kind: EvTxn, Txn: &power.TxnEvent{Txn: out.Txn, Seq: out.Seq, At: w.now, Matched: true, Reading: power.Reading{State: power.On, Authentic: true, At: w.now}}})
			case "ping":
				w.feed(Event{Kind: EvHealth, Verdict: Pass, Boot: "b1", Life: w.now})
			case "hello":
				w.feed(Event{Kind: EvHello, Boot: "b1"})
			}
			for r := range w.visited {
				visited[r] = true
			}
			life := by == "ping" || by == "hello"
			want := origin
			if origin == Checking {
				want = Suspect
			}
			if by == "reading" && (origin == Unsupported) {
				want = Initializing // UNSUPPORTED and now ON: reassessed
			}
			if w.rec.State != want {
				t.Errorf("%s by %s: %s (%s), want %s", origin, by, w.rec.State, w.rec.Reason, want)
			}
			if open := origin == Degraded || origin == Suspect || origin == Checking; w.rec.open() != open {
				t.Errorf("%s by %s: incident open %v, want %v", origin, by, w.rec.open(), open)
			}
			if life != (len(w.rec.Contradicted) > 0) {
				t.Errorf("%s by %s: contradicted %v", origin, by, w.rec.Contradicted)
			}
			if !life && !w.rec.QuietUntil.After(w.now) {
				t.Errorf("%s by %s: no quiet period", origin, by)
			}
		}
	}
}

// confirmingFrom is a world whose host was found OFF in a state and is being confirmed.
func confirmingFrom(t *testing.T, origin State) *world {
	t.Helper()
	w := newWorld(testPolicy("default"))
	w.quietLogs = true
	w.chassis, w.os, w.agent = false, false, false
	r := &w.rec
	r.State, r.Partition, r.Eligible, r.Protected = origin, PartitionActive, Pass, true
	r.Boot = Boot{ID: "b1", Seen: epoch.Add(-time.Hour)}
	r.Power, r.PowerTold, r.PowerSince = power.On, true, epoch.Add(-time.Hour)
	switch origin {
	case Initializing:
		r.QuietUntil = epoch.Add(time.Hour)
	case Suspect, Degraded, Checking:
		r.Incident = &Incident{ID: "i1", Opened: epoch, Boot: "b1", Interval: time.Minute}
		if origin == Checking {
			r.Incident.CheckID, r.Incident.CheckBy = "c1", epoch.Add(time.Hour)
		}
	case Failed:
		r.Incident = &Incident{ID: "i1", Opened: epoch, Boot: "b1", Ended: epoch}
	}
	w.now = w.now.Add(time.Minute)
	w.feed(Event{Kind: EvPower, Power: power.Off, PowerTold: true, PowerFirst: w.now.Add(-2 * time.Second)})
	if w.rec.Off == nil {
		t.Fatalf("%s: OFF not found", origin)
	}
	w.now = w.rec.Off.ConfirmAt
	w.feed(Event{Kind: EvTick})
	snap := w.snapshot(guard.Confirm)
	w.feed(Event{Kind: EvPlace, Snapshot: &snap})
	if w.rec.State != Fencing {
		t.Fatalf("%s: %s (%s), want FENCING", origin, w.rec.State, w.rec.Reason)
	}
	w.now = w.now.Add(time.Second)
	return w
}
