// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// A host that boots from the first of its two feeds ends its cycle; the second feed is
// switched on all the same, and read ON.
func TestFeedsComeBackAfterTheHost(t *testing.T) {
	p := testPolicy("fast")
	p.Ladder = []power.Level{{N: 1, Devices: []string{"pdu-a", "pdu-b"}, Feeds: []string{"pdu-a", "pdu-b"}, All: true}}
	w := newWorld(p)
	w.quietLogs = true
	r := &w.rec
	r.State, r.Partition, r.Eligible, r.Protected = Recovering, PartitionActive, Pass, true
	r.Boot = Boot{ID: "b1", Seen: epoch.Add(-time.Hour)}
	r.Incident = &Incident{ID: "i1", Opened: epoch, Boot: "b1", Action: &power.Txn{
		ID: "t1", Goal: power.GoalCycle, Boot: "b1", Ladder: p.Ladder, Begun: epoch, Deadline: epoch.Add(time.Hour),
		Verdict:  &power.Verdict{Level: 1, Assurance: power.A5, At: epoch},
		Progress: power.Progress{Phase: power.PhaseOn, Feeding: true, OffPackets: 2, OnPackets: 1, Out: &power.TxnEffect{Txn: "t1", Seq: 9, Do: power.DoSend, Device: "pdu-b", Verb: power.HardOn}},
	}}
	_, effects := Step(w.rec, Event{Kind: EvHello, At: w.now, Boot: "b2"}, w.p)
	rec, _ := Step(w.rec, Event{Kind: EvHello, At: w.now, Boot: "b2"}, w.p)
	if rec.State != Initializing || !rec.Incident.Action.Done {
		t.Fatalf("%s, cycle done: %v; want INITIALIZING and the cycle over", rec.State, rec.Incident.Action.Done)
	}
	order := rec.OrderTxn
	if !running(order) || order.Goal != power.GoalOn || len(order.Ladder) != 1 || len(order.Ladder[0].Devices) != 2 {
		t.Fatalf("transaction %+v, want one that switches both feeds on", order)
	}
	asked := false
	for _, e := range effects {
		asked = asked || e.Txn != nil && e.Txn.Txn == order.ID
	}
	if !asked {
		t.Errorf("effects %+v ask no device", effects)
	}
	// One whose feeds were read ON again is left alone.
	w.rec.Incident.Action.Progress.Feeding, w.rec.Incident.Action.Progress.Fed = false, true
	if rec, _ := Step(w.rec, Event{Kind: EvHello, At: w.now, Boot: "b2"}, w.p); running(rec.OrderTxn) {
		t.Errorf("transaction %+v, want none", rec.OrderTxn)
	}
}
