// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// TestBoxOfTwoHosts: a host was declared with the address of another one's BMC, which would
// be switched off in its place, and be taken for the proof. No packet goes to a box that
// answers for two, whichever of them it belongs to.
func TestBoxOfTwoHosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", true)
	spec, _ := read[v1.HostSpec](t, r, leases.HostSpecKey("h1"))
	spec.ID = "h2"
	r.put(t, leases.HostSpecKey("h2"), spec)
	rightful := loaded(t, r, "h1", time.Minute)
	copied := loadedBy(t, rightful.w, rightful.s, rightful.claim, "h2")
	test := func(o *owner) deviceRecord {
		t.Helper()
		devices, bad := o.targets()
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		for i := range devices {
			devices[i].test = true
		}
		o.absorb(t.Context(), o.w.readDevices(t.Context(), devices, nil, wpower.Urgent))
		return o.pow.Devices["bmc"]
	}
	identity := func(o *owner) power.TxnEvent {
		targets, _ := o.targets()
		x := &exchanger{o: o, targets: map[string]target{"bmc": targets[0]}, conns: map[string]wpower.Conn{}}
		ev := x.exchange(t.Context(), &power.TxnEffect{Txn: "t", Seq: 1, Do: power.DoIdentity, Device: "bmc"})
		x.drop(t.Context(), "bmc")
		return ev
	}
	if d := test(rightful); !d.TestOK || d.Pinned.SystemUUID == "" {
		t.Fatalf("the first host's power test: %+v", d)
	}
	if ev := identity(rightful); !ev.Matched || ev.Err != power.NoError {
		t.Fatalf("with one host: %+v", ev)
	}
	caughtUp(t, copied.w)
	if d := test(copied); d.TestOK || d.Pinned != (power.Identity{}) || !strings.Contains(d.TestErr, "host h1") {
		t.Errorf("the second host's power test: %+v", d)
	}
	if ev := identity(copied); ev.Err != power.IdentityMismatch {
		t.Errorf("a transaction of the second host goes on: %+v", ev)
	}
	caughtUp(t, rightful.w)
	if ev := identity(rightful); ev.Err != power.IdentityMismatch || !strings.Contains(ev.Detail, "host h2") {
		t.Errorf("a transaction of the first host goes on: %+v", ev)
	}
	if lv := rightful.levelFacts(rightful.now(), nil); lv[0].Tested || !strings.Contains(lv[0].Reason, "was not read") {
		t.Errorf("what the guards are told: %+v", lv)
	}

	// Who names the identity in the declaration has looked at the box.
	declared := rightful.spec.Val
	declared.Power[0].Identity.SystemUUID = rightful.pow.Devices["bmc"].Pinned.SystemUUID
	rightful.spec.Val = declared
	rightful.refreshPolicy()
	if ev := identity(rightful); !ev.Matched || ev.Err != power.NoError {
		t.Errorf("with its identity declared: %+v", ev)
	}

	// The copied address is corrected.
	r.host(t, "h2", true)
	caughtUp(t, copied.w)
	if err := copied.reloadSpec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := test(copied); !d.TestOK || d.Seen != (power.Identity{}) {
		t.Errorf("with its own BMC: %+v", d)
	}
	caughtUp(t, rightful.w)
	if twins := rightful.w.view.twins("h1", rightful.pow.Devices["bmc"].Pinned); len(twins) > 0 {
		t.Errorf("the box still answers for %v, too", twins)
	}
}

// A box is named by what no other has.
func TestBoxOf(t *testing.T) {
	for want, i := range map[string]power.Identity{
		"":       {},
		"u":      {SystemUUID: "u", Serial: "s", Fingerprint: "f"},
		"s/f":    {Serial: "s", Fingerprint: "f"},
		"/pdu:1": {Fingerprint: "pdu:1"},
	} {
		if got := boxOf(i); got != want {
			t.Errorf("%+v is box %q, want %q", i, got, want)
		}
	}
}
