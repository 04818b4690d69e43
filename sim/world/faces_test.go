// SPDX-License-Identifier: Apache-2.0

package world

import (
	"testing"

	"github.com/holdfast-ha/holdfast/sim/redfish"
)

// A host with two feeds lives as long as one of them does; without both it is dark, and all
// that manages it. It comes back as it was (power.md §5).
func TestFeeds(t *testing.T) {
	f := newFleet(t, 8)
	h := f.host(t, "h008")
	a, b := f.pdus[0], f.pdus[1]
	old := boot(t, h, "")
	a.Force(h.Outlet, false)
	if s := h.Status(); !s.Mains || s.Boot != old {
		t.Errorf("one of two feeds is cut: %+v", s)
	}
	b.Force(h.Outlet, false)
	if s := h.Status(); s.Mains || s.Power || s.System != SystemOff || answers(t, h.Addr) {
		t.Errorf("both feeds are cut: %+v", s)
	}
	if err := f.Repair("h008"); err != nil {
		t.Fatal(err)
	}
	if s := h.Status(); s.Mains || s.Power {
		t.Errorf("an outlet that is off was repaired: %+v", s)
	}
	b.Force(h.Outlet, true)
	boot(t, h, old)
	if err := f.Break("h008", PowerOff, false); err != nil {
		t.Fatal(err)
	}
	b.Force(h.Outlet, false)
	b.Force(h.Outlet, true)
	if s := h.Status(); !s.Mains || s.Power {
		t.Errorf("it was off, and its mains came back: %+v", s)
	}
	if s := f.host(t, "h004").Status(); !s.Power || !s.Mains {
		t.Errorf("another host: %+v", s)
	}
}

// A host's Redfish service is as broken as its BMC.
func TestRedfishFace(t *testing.T) {
	f := newFleet(t, 4)
	h := f.host(t, "h003")
	boot(t, h, "")
	for _, c := range []struct {
		how  How
		want redfish.Faults
	}{{BMCDead, redfish.Faults{Mute: true}}, {BMCLies, redfish.Faults{IgnoreCommands: true}}} {
		if err := f.Break("h003", c.how, false); err != nil {
			t.Fatal(err)
		}
		if got := h.redfish.Faults(); got.Mute != c.want.Mute || got.IgnoreCommands != c.want.IgnoreCommands {
			t.Errorf("%s: %+v", c.how, got)
		}
		if err := f.Repair("h003"); err != nil {
			t.Fatal(err)
		}
		if got := h.redfish.Faults(); got.Mute || got.IgnoreCommands {
			t.Errorf("repaired: %+v", got)
		}
		boot(t, h, "")
	}
}
