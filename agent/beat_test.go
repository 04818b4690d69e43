// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// A hypervisor that does not answer is told of, with for how long; it is asked once, not
// once per beat.
func TestHungHypervisorIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{instances: []hypervisor.Instance{{ID: "i1", Disks: []hypervisor.Disk{{Pool: "p1", Path: "i1.img"}}}}}
		a := newAgent(t, func(o *Options) { o.Hypervisor = h })
		if r := a.report(); r.HypervisorOk {
			t.Errorf("before it was asked: %v, want not ok", r)
		}
		defer running(t, a.healthLoop)()
		synctest.Wait()
		if r := a.report(); !r.HypervisorOk || len(r.Instances) != 1 || r.Instances[0].Disks[0].Path != "i1.img" {
			t.Errorf("healthy: %v", r)
		}
		stuck := make(chan struct{})
		h.set(func(h *fakeHost) { h.stuck = stuck })
		sleep(t.Context(), time.Minute)
		synctest.Wait()
		if r := a.report(); r.HypervisorOk || !strings.Contains(r.HypervisorDetail, "has not answered for 55s") || len(r.Instances) != 1 {
			t.Errorf("hung for a minute: %v, want not ok for 55s", r)
		}
		calls := 0
		if h.set(func(h *fakeHost) { h.stuck, calls = nil, h.calls }); calls != 1 {
			t.Errorf("%d calls under way, want 1", calls)
		}
		close(stuck)
		h.set(func(h *fakeHost) { h.err = errors.New("libvirt: connection refused") })
		sleep(t.Context(), 10*time.Second)
		synctest.Wait()
		if r := a.report(); r.HypervisorOk || r.HypervisorDetail != "libvirt: connection refused" {
			t.Errorf("refusing: %v", r)
		}
		h.set(func(h *fakeHost) { h.err = nil })
		out := a.handle(t.Context(), &agentpb.Request{Epoch: &agentpb.Epoch{Cluster: "c", Revision: 1}, TimeoutMs: 1000, Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}}})
		if !out.GetHealth().GetReport().GetHypervisorOk() {
			t.Errorf("a health request asks anew: %v", out)
		}
	})
}

// ha.md §7: not AVAILABLE before it confirmed; confirmed only when none of the instances
// runs here.
func TestGateIsConfirmedWhenNothingForbiddenRuns(t *testing.T) {
	runs := func() *fakeHost {
		return &fakeHost{instances: []hypervisor.Instance{{ID: "i1"}, {ID: "i2"}}}
	}
	plain, obedient := runs(), runs()
	for _, c := range []struct {
		name       string
		hypervisor hypervisor.Hypervisor
		gate       *agentpb.Gate
		confirmed  string
	}{
		{"no gate", plain, nil, ""},
		{"nothing forbidden", plain, &agentpb.Gate{Generation: "g1"}, "g1"},
		{"forbidden ones do not run", plain, &agentpb.Gate{Generation: "g1", MustNotRun: []string{"i9"}}, "g1"},
		{"a forbidden one runs", plain, &agentpb.Gate{Generation: "g1", MustNotRun: []string{"i1", "i9"}}, ""},
		{"a forbidden one is refused", keeper{obedient}, &agentpb.Gate{Generation: "g1", MustNotRun: []string{"i1"}}, "g1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAgent(t, func(o *Options) { o.Hypervisor = c.hypervisor })
				a.gate.ask(c.gate)
				stop := running(t, a.gateLoop)
				sleep(t.Context(), time.Minute)
				stop()
				if got := a.gate.confirmedGeneration(); got != c.confirmed {
					t.Errorf("confirmed %q, want %q", got, c.confirmed)
				}
			})
		})
	}
	if len(obedient.instances) != 1 || obedient.instances[0].ID != "i2" {
		t.Errorf("left running: %v, want i2", obedient.instances)
	}
}

func TestGateIsConfirmedOnceTheInstanceIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHost{instances: []hypervisor.Instance{{ID: "i1"}}}
		a := newAgent(t, func(o *Options) { o.Hypervisor = h })
		defer running(t, a.gateLoop)()
		a.gate.ask(&agentpb.Gate{Generation: "g1", MustNotRun: []string{"i1"}})
		sleep(t.Context(), time.Minute)
		h.set(func(h *fakeHost) { h.instances = nil })
		sleep(t.Context(), a.settings.get().ping)
		synctest.Wait()
		if got := a.gate.confirmedGeneration(); got != "g1" {
			t.Errorf("confirmed %q, want g1", got)
		}
		select {
		case <-a.gate.news:
		default:
			t.Error("no ping is asked for")
		}
	})
}
