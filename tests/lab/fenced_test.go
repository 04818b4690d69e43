// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// fenced: a host with a migration under way loses its power. Automation, armed now, proves
// it off over RMCP+, says that its instances are safe to restart, and switches it on; it
// comes back, and its migration resolves itself.
func (f *fleet) fenced(t *testing.T) {
	whole := f.t
	f.t = t
	a := f.hosts[0]
	c := f.newCell(t, "migrate", "migrate-fenced", false)
	t.Cleanup(func() {
		if t.Failed() {
			f.tell()
		}
		f.set("ha.armed", "false")
		f.clear([]*cell{c})
		f.t = whole
	})
	f.set("ha.armed", "true")
	for _, h := range f.hosts {
		wait(t, h.id+" is protected", func() bool {
			x, err := f.api.Host(t.Context(), h.id)
			return err == nil && x.Status.State == "AVAILABLE"
		})
	}
	host := func() v1.Host {
		x, _ := f.api.Host(t.Context(), a.id)
		return x
	}
	f.prepare([]*cell{c})
	old := host().Status.Boot
	told := len(a.node.Remote.Truth())
	f.run([]*cell{c})
	must(t, a.node.Off(t.Context()))
	wait(t, "the host is suspected, proven off and switched on again", a.node.Power)
	wait(t, "the host is back with a new boot", func() bool {
		s := host().Status
		return s.State == "AVAILABLE" && s.Boot != old && s.Linked == v1.LinkedYes
	})
	f.await([]*cell{c})
	if !c.overInTime {
		t.Fatalf("%s is not over: %s: %s", c.name, c.rec.State, c.rec.Reason)
	}
	t.Logf("%s, done %v: %s", c.rec.State, c.rec.Outcome.Done, c.rec.Outcome.Why)
	var verbs []string
	for _, e := range a.node.Remote.Truth()[told:] {
		if e.Verb != bmc.VerbIdentify {
			verbs = append(verbs, string(e.Verb))
		}
	}
	if len(verbs) == 0 || verbs[len(verbs)-1] != "on" || slices.Contains(verbs, "cycle") {
		t.Errorf("its BMC was told %v, want it switched on at the end", verbs)
	}
	events, err := f.api.Events(t.Context(), v1.EventQuery{Host: a.id, Type: "ha.safe-to-restart"})
	must(t, err)
	if len(events) != 1 || events[0].Data["boot"] != old || !slices.Contains(events[0].Instances, c.inst) || !strings.Contains(events[0].Message, "(A3") {
		t.Errorf("announced was %+v, want the end of boot %s with instance %s, proven by a settled OFF (A3)", events, old, c.inst)
	}
	for _, s := range f.strays([]*cell{c})[c] {
		t.Errorf("stray file %s", s)
	}
	c.check(true)
	c.start()
	c.goesOn()
}
