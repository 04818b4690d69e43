// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// The BMC is dead, then the host: while a place is waited for to ask the guards again, what is
// said first is what holds it. Without a hold it is that place.
func TestExplainSaysFirstWhatHolds(t *testing.T) {
	unreadable := Hold{By: "power", Reason: "level 1 is unreadable (bmc: Timeout)", Clears: "some power level that is tested and reads ON"}
	const waits = "idle: no probe answered; waiting for a place to recover"
	for _, c := range []struct {
		holds     []Hold
		reason    string
		why, next string
	}{
		{[]Hold{unreadable}, waits, "held by power: level 1 is unreadable (bmc: Timeout); " + waits, "all guards are asked again once there is a place to recover; nothing is sent while one holds"},
		{[]Hold{unreadable}, "idle, and held by power: level 1 is unreadable (bmc: Timeout)", "idle, and held by power: level 1 is unreadable (bmc: Timeout)", "all guards are asked again once there is a place to recover; nothing is sent while one holds"},
		{nil, waits, waits, "it waits for a place to recover; then all guards are asked"},
	} {
		r := Record{Host: "h1", State: Checking, Reason: c.reason, Health: Fail, Incident: &Incident{ID: "i1", Waiting: guard.Recover, Holds: c.holds}}
		x := Explain(r, testPolicy(""), time.Unix(60, 0))
		if d := cmp.Diff([]string{c.why, c.next}, []string{x.Why, x.Next[0]}); d != "" {
			t.Errorf("held by %v (-want +got):\n%s", c.holds, d)
		}
	}
}

// A device that is not believed leaves the host unprotected until somebody says otherwise:
// whoever asks is told how.
func TestExplainNamesTheWayOutOfDisbelief(t *testing.T) {
	r := Record{Host: "h1", State: Available, Health: Pass, Contradicted: []string{"bmc"}}
	want := "`holdfast host maintenance on h1`, and `off` after somebody has looked at bmc: it is believed again; until then automation does not touch the host through it"
	if x := Explain(r, testPolicy(""), epoch); !slices.Contains(x.WouldChange, want) {
		t.Errorf("what would change it is %q, want %q", x.WouldChange, want)
	}
	// It is true.
	r.Partition, r.Eligible, r.Power, r.PowerTold, r.Boot = PartitionActive, Pass, power.On, true, Boot{ID: "b1", Seen: epoch}
	for i, a := range []Admin{{Maintenance: true}, {}} {
		r, _ = Step(r, Event{Kind: EvAdmin, At: epoch.Add(time.Duration(i) * time.Minute), Admin: &a}, testPolicy(""))
	}
	if len(r.Contradicted) > 0 || r.State != Initializing {
		t.Errorf("after maintenance it is %s, not believed: %q", r.State, r.Contradicted)
	}
}
