// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// loss is how a host is lost with a migration under way, and what automation, armed, is to
// do about it: it always proves it off over RMCP+.
type loss struct {
	name, kind string
	do         func(*fleet, *node)
	stays      bool // switched off by nobody we know: it is an operator who switches it on
}

var losses = []loss{
	{name: "source-crashed", kind: "migrate-with", do: func(f *fleet, h *node) {
		must(f.t, errors.Join(h.node.Cable(f.t.Context(), false), h.node.Freeze())) // silent, and its power reads ON
	}},
	{name: "source-power-cut", kind: "migrate", stays: true, do: func(f *fleet, h *node) {
		must(f.t, h.node.Off(f.t.Context()))
	}},
}

// fenced: the host is proven off, its instances are announced as safe to restart, it comes
// back, and its migration resolves itself.
func (f *fleet) fenced(t *testing.T, what loss) {
	whole := f.t
	f.t = t
	a := f.hosts[0]
	c := f.newCell(t, what.kind, what.name, false)
	t.Cleanup(func() {
		if t.Failed() {
			f.tell()
		}
		f.set("ha.armed", "false")
		must(t, a.node.Thaw())
		f.clear([]*cell{c})
		f.t = whole
	})
	status := func() v1.HostStatus {
		x, err := f.api.Host(t.Context(), a.id)
		if err != nil {
			return v1.HostStatus{}
		}
		return x.Status
	}
	f.set("ha.armed", "true")
	for _, h := range f.hosts {
		wait(t, h.id+" is protected", func() bool {
			x, err := f.api.Host(t.Context(), h.id)
			return err == nil && x.Status.State == "AVAILABLE"
		})
	}
	f.prepare([]*cell{c})
	old, told := status().Boot, len(a.node.Remote.Truth())
	f.run([]*cell{c})
	what.do(f, a)
	if what.stays {
		wait(t, "the host is proven off", func() bool { return status().State == "FENCED" })
		// Its boot is over for certain, so nobody has to wait for it.
		wait(t, "the migration is resolved", func() bool { c.over(); return c.rec.State == command.Reconciled })
		_, err := f.api.Order(t.Context(), a.id, v1.OrderRequest{Verb: "on", Reason: "test"})
		must(t, err)
	}
	wait(t, "the host is back with a new boot", func() bool {
		s := status()
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
	if got := strings.Join(verbs, " "); got != "off on" { // one that reads OFF is told so all the same
		t.Errorf("its BMC was told %q, want off on", got)
	}
	events, err := f.api.Events(t.Context(), v1.EventQuery{Host: a.id, Type: "ha.safe-to-restart"})
	must(t, err)
	of := slices.DeleteFunc(events, func(e v1.Event) bool { return e.Data["boot"] != old })
	if len(of) != 1 || !slices.Contains(append(of[0].Instances, of[0].Data["local"]), c.inst) || !strings.Contains(of[0].Message, "(A3") {
		t.Errorf("announced was %+v, want the end of boot %s with instance %s, proven by a settled OFF (A3)", events, old, c.inst)
	}
	for _, s := range f.strays([]*cell{c})[c] {
		t.Errorf("stray file %s", s)
	}
	c.check(true)
	c.start()
	c.goesOn()
}
