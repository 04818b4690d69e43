// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestDeadBMCUnmakesNoPartition: "a suspicion or a dead BMC never makes a partition
// INACTIVE" (ha.md §2): a host whose device passed its test once stays eligible, however
// long nobody could test it since, and the guard power is what asks for a young test.
func TestDeadBMCUnmakesNoPartition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", true)
	o := loaded(t, r, "h1", time.Minute)
	level := o.policy.Ladder[0]
	now := o.now()
	for _, c := range []struct {
		name        string
		rec         deviceRecord
		young, once bool
	}{
		{"never tested", deviceRecord{}, false, false},
		{"failed its only test", deviceRecord{Tested: now, TestErr: "AuthFailed"}, false, false},
		{"passed just now", deviceRecord{Tested: now, TestOK: true, Passed: now}, true, true},
		{"passed a day ago, dead since", deviceRecord{Tested: now.Add(-24 * time.Hour), TestOK: true}, false, true},
		{"its password was changed since", deviceRecord{Tested: now, TestErr: "AuthFailed", Passed: now.Add(-time.Hour)}, false, true},
	} {
		o.pow.Devices = map[string]deviceRecord{"bmc": c.rec}
		young, _ := o.levelTested(level, now)
		once, why := o.powerOnceTested()
		if young != c.young || once != c.once || !once && why == "" {
			t.Errorf("%s: young %v, once %v (%s)", c.name, young, once, why)
		}
	}
}

// TestPartitionCounts: to become ACTIVE two of the eligible hosts are needed, one of them
// fit; a host that is not eligible counts for nothing, whatever happens to it (ha.md §2).
func TestPartitionCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	open := &ha.Incident{ID: "i", Opened: time.Now()}
	for host, rec := range map[string]ha.Record{
		"fit":          {State: ha.Available, Eligible: ha.Pass},
		"suspect":      {State: ha.Suspect, Eligible: ha.Pass, Incident: open},
		"not eligible": {State: ha.Suspect, Eligible: ha.Fail, Incident: open},
		"maintained":   {State: ha.Ineligible, Eligible: ha.Pass, Admin: ha.Admin{Maintenance: true}},
		"not judged":   {State: ha.None},
	} {
		id := map[string]string{"fit": "h1", "suspect": "h2", "not eligible": "h3", "maintained": "h4", "not judged": "h5"}[host]
		r.host(t, id, false)
		r.put(t, leases.HostHAKey(id), rec)
	}
	b := r.watching(t, "w-9")
	p := newPartition(b.w(), nil, leases.Claim{}, cluster)
	eventually(t, "the records are here", func() bool { return p.facts().Members == 5 && p.facts().Eligible == 2 })
	if f := p.facts(); f.Open != 1 || f.Fit != 0 { // who has no owner here is not fit
		t.Errorf("facts %+v", f)
	}
	x, err := b.ExplainPartition(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	unfit := 0
	for _, e := range x.Story {
		if e.What == "unfit" {
			unfit++
		}
	}
	if unfit != 2 { // h3 is not eligible, h5 is not judged; h4's declaration says nothing of maintenance
		t.Errorf("explained: %+v", x.Story)
	}
}

// TestDisarmingThatExpires: what is held by it is asked again when it does.
func TestDisarmingThatExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	until := o.now().Add(time.Hour)
	r.put(t, leases.SettingKey("zone/z", settingArmed), v1.SettingRecord{V: 1, Value: "false", Expires: until})
	r.put(t, leases.SettingKey("host/h1", settingArmed), v1.SettingRecord{V: 1, Value: "false", Expires: until.Add(-time.Minute)})
	snap := o.snapshot(t.Context(), guard.Recover, placeReady{})
	if len(snap.Armed.Disarmed) != 2 {
		t.Fatalf("disarmed: %q", snap.Armed.Disarmed)
	}
	o.askLater(snap)
	if !o.live.askAt.IsZero() {
		t.Error("nothing is held, and it is asked again")
	}
	o.rec.Incident = &ha.Incident{ID: "i", Holds: []ha.Hold{{By: "armed"}}}
	if o.askLater(snap); !o.live.askAt.Equal(until) {
		t.Errorf("asked again at %s, want %s", o.live.askAt, until)
	}
	o.rec.Incident = nil
	o.onTime(context.Background(), until)
	if !o.live.askAt.IsZero() {
		t.Error("asked once, and again")
	}
}
