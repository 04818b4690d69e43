// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/tests/lab"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// offLimit is how long a power cut may take, whatever hangs on the host.
const offLimit = 5 * time.Second

// offline is the source of a migration without power: the guest is gone on both sides,
// defined where it was, and starts there with all it wrote.
func offline(r *rig, moves ...hypervisor.DiskMove) {
	done := r.migrate(moves...)
	r.seen = check(r.T, r.path(r.a, r.from))
	must(r.T, r.a.node.Off(r.Context()))
	r.failed(done)
	r.absent(r.b)
	if s := r.a.LookInstance(r.Context(), r.id); s.Answer != hypervisor.CouldNotLook {
		r.Errorf("on a host without power the guest is %+v", s)
	}
	r.power(r.a)
	r.restarts(r.a, r.from)
}

// stranded is the target without power: the guest stays and works. A copy of its volume
// may wait for the silent target until that is back.
func stranded(r *rig, moves ...hypervisor.DiskMove) {
	done := r.migrate(moves...)
	must(r.T, r.b.node.Off(r.Context()))
	r.writes(r.a, r.from)
	if len(moves) > 0 {
		r.power(r.b)
	}
	r.failed(done)
	r.state(r.a, hypervisor.Running, r.from)
	r.writes(r.a, r.from)
	r.power(r.b)
	r.absent(r.b)
}

// migrateWith makes the volume at the target that a migration fills.
func migrateWith(r *rig) hypervisor.DiskMove {
	must(r.T, r.b.CreateVolume(r.Context(), hypervisor.CreateSpec{Disk: r.to, Format: hypervisor.Raw, Size: diskSize}))
	return hypervisor.DiskMove{From: r.from, To: r.to, Format: hypervisor.Raw}
}

func TestPowerCuts(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		run            func(*rig)
	}{
		{"source of a migration", "shared", "shared", func(r *rig) { offline(r) }},
		{"target of a migration", "shared", "shared", func(r *rig) { stranded(r) }},
		{"source of a migration with its volume", "local", "local", func(r *rig) { offline(r, migrateWith(r)); r.torn(r.b) }},
		{"target of a migration with its volume", "local", "local", func(r *rig) { stranded(r, migrateWith(r)); r.torn(r.b) }},
		{"host of a block copy", "local", "shared", func(r *rig) {
			r.copyDisk(diskSize / 20)
			r.cut()
			r.torn(r.a)
		}},
		{"host of a block copy that could be pivoted", "shared", "local", func(r *rig) {
			r.copyDisk(0)
			wait(r.T, "the copy is ready", func() bool { return r.a.BlockJob(r.Context(), r.id, r.from).Ready })
			r.cut()
			r.torn(r.a)
		}},
		{"host after a pivot", "local", "shared", func(r *rig) {
			r.copyDisk(0)
			wait(r.T, "the copy is ready", func() bool { return r.a.BlockJob(r.Context(), r.id, r.from).Ready })
			must(r.T, r.a.Pivot(r.Context(), r.id, r.from))
			r.writes(r.a, r.to)
			must(r.T, r.a.node.Off(r.Context()))
			r.power(r.a)
			r.restarts(r.a, r.to)
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newRig(t, c.from, c.to)) })
	}
}

// cut cuts the power of a host with a block job, which ends with it.
func (r *rig) cut() {
	r.seen = check(r.T, r.path(r.a, r.from))
	must(r.T, r.a.node.Off(r.Context()))
	r.power(r.a)
	if s := r.a.BlockJob(r.Context(), r.id, r.from); s.Answer != hypervisor.Absent {
		r.Errorf("the job after the cut is %+v", s)
	}
	r.restarts(r.a, r.from)
}

// ha.md: proof of OFF through the BMC is proof that the guest has stopped.
func TestBMCCutsPower(t *testing.T) {
	r := newRig(t, "shared", "shared")
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := open(ctx, r.a.node.Name, r.a.node.BMC.Addr().String(), t.TempDir())
	must(t, err)
	defer conn.Close(ctx)
	is := func(want corepower.State) func() bool {
		return func() bool {
			reading, err := conn.Status(ctx)
			must(t, err)
			return reading.State == want
		}
	}
	wait(t, "the BMC reads ON", is(corepower.On))
	_, err = conn.Do(ctx, power.Command{Verb: corepower.HardOff})
	must(t, err)
	wait(t, "the BMC reads OFF", is(corepower.Off))
	stopped := check(t, r.path(r.b, r.from))
	must(t, r.b.Define(ctx, define(r.id, hypervisor.DiskSpec{Disk: r.from, Format: hypervisor.Raw})))
	must(t, r.b.Start(ctx, r.id))
	r.seen = stopped
	r.writes(r.b, r.from)
	if rep := read(t, r.path(r.b, r.from)); len(rep.Runs) != 2 {
		t.Errorf("runs are %v, want the one that was cut and the one that followed", rep.Runs)
	}
	_, err = conn.Do(ctx, power.Command{Verb: corepower.HardOn})
	must(t, err)
	wait(t, "the BMC reads ON", is(corepower.On))
	r.power(r.a)
	r.state(r.a, hypervisor.Stopped, r.from)
	r.writes(r.b, r.from)
}

// A power cut does not wait for what hangs.
func TestPowerCutOfHungHost(t *testing.T) {
	r := newRig(t, "shared", "local")
	must(t, r.a.node.SetFault(t.Context(), lab.Hang))
	stuck := make(chan hypervisor.VolumeSight, 1)
	go func() { stuck <- r.a.LookVolume(context.Background(), r.from) }()
	if s := r.a.LookInstance(t.Context(), r.id); s.Answer != hypervisor.Present {
		t.Errorf("while its pool hangs the guest is %+v, want it present", s)
	}
	must(t, r.a.node.Freeze())
	began := time.Now()
	must(t, r.a.node.Off(t.Context()))
	if took := time.Since(began); took > offLimit {
		t.Errorf("the power cut took %v, want at most %v", took, offLimit)
	}
	select {
	case s := <-stuck:
		if s.Answer != hypervisor.CouldNotLook {
			t.Errorf("a look at a pool that hung is %+v, want could-not-look", s)
		}
	case <-time.After(limit):
		t.Error("the look still hangs after the power cut")
	}
	r.power(r.a)
	r.restarts(r.a, r.from)
}
