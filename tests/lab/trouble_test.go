// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/tests/lab"
)

// Two copies of one guest are seen on its disk: what all these tests rely on.
func TestSplitBrainIsSeen(t *testing.T) {
	r := newRig(t, "shared", "local")
	must(t, r.b.Define(t.Context(), define(r.id, hypervisor.DiskSpec{Disk: r.from, Format: hypervisor.Raw})))
	must(t, r.b.Start(t.Context(), r.id))
	wait(t, "the second copy is seen", func() bool { return len(read(t, r.path(r.a, r.from)).Problems) > 0 })
}

// QEMU works on while libvirtd is away; it comes back and the job is found again.
func TestLibvirtdDiesDuringBlockCopy(t *testing.T) {
	r := newRig(t, "local", "shared")
	r.copyDisk(diskSize / 10)
	must(t, r.a.node.KillLibvirtd())
	wait(t, "libvirt answers again", func() bool { return r.a.Healthy(t.Context()) == nil })
	if s := r.a.BlockJob(t.Context(), r.id, r.from); s.Answer != hypervisor.Present || s.To != r.to {
		t.Errorf("the job is %+v, want it present and to %+v", s, r.to)
	}
	wait(t, "the copy is ready", func() bool { return r.a.BlockJob(t.Context(), r.id, r.from).Ready })
	must(t, r.a.Pivot(t.Context(), r.id, r.from))
	r.state(r.a, hypervisor.Running, r.to)
	r.writes(r.a, r.to)
}

// The source's libvirtd ends in a migration: afterwards the guest runs exactly once.
func TestLibvirtdDiesDuringMigration(t *testing.T) {
	r := newRig(t, "shared", "local")
	done := r.migrate()
	must(t, r.a.node.KillLibvirtd())
	r.failed(done)
	wait(t, "libvirt answers again", func() bool { return r.a.Healthy(t.Context()) == nil })
	at := r.a
	wait(t, "the guest runs on one host and the other has forgotten it", func() bool {
		a, b := r.a.LookInstance(t.Context(), r.id), r.b.LookInstance(t.Context(), r.id)
		if b.State == hypervisor.Running {
			at = r.b
		}
		return a.State == hypervisor.Running && b.Answer == hypervisor.Absent || b.State == hypervisor.Running && a.Answer == hypervisor.Absent
	})
	r.writes(at, r.from)
}

// A host that stands still cannot be looked at, and nobody waits for it; it goes on as
// if nothing had happened.
func TestFrozenHost(t *testing.T) {
	r := newRig(t, "shared", "local")
	must(t, r.a.node.Freeze())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if s := r.a.LookInstance(ctx, r.id); s.Answer != hypervisor.CouldNotLook || time.Since(began) > offLimit {
		t.Errorf("after %v the guest of a frozen host is %+v, want could-not-look", time.Since(began), s)
	}
	must(t, r.a.node.Thaw())
	r.writes(r.a, r.from)
}

// The target's cable is cut: the migration can be given up, and the guest stays.
func TestCableCutDuringMigration(t *testing.T) {
	r := newRig(t, "shared", "local")
	done := r.migrate()
	must(t, r.b.node.Cable(t.Context(), false))
	r.writes(r.a, r.from)
	// The abort itself may not be answered while libvirt waits for the target.
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := r.a.AbortMigration(ctx, r.id); err != nil && !errors.Is(err, hypervisor.ErrUnsure) && !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("abort = %v", err)
	}
	r.failed(done)
	r.state(r.a, hypervisor.Running, r.from)
	r.writes(r.a, r.from)
	must(t, r.b.node.Cable(t.Context(), true))
	r.absent(r.b)
}

// Each fault of a destination fails as itself, and leaves source and guest alone.
func TestFaultyDestination(t *testing.T) {
	r := newRig(t, "local", "shared")
	source := hypervisor.Disk{Pool: "local", Path: "template"}
	must(t, r.a.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: source, Format: hypervisor.Raw, Size: 1 << 20}))
	defer func() { must(t, r.a.DeleteVolume(context.Background(), source)) }()
	must(t, os.WriteFile(r.path(r.a, source), bytes.Repeat([]byte("x"), 1<<20), 0o600))
	for fault, want := range map[lab.Fault]error{lab.Full: syscall.ENOSPC, lab.ReadOnly: syscall.EROFS, lab.Stale: syscall.ESTALE, lab.Broken: syscall.EIO} {
		must(t, r.a.node.SetFault(t.Context(), fault))
		if err := r.a.CopyVolume(t.Context(), hypervisor.CopySpec{From: source, To: r.to, Format: hypervisor.Raw}, nil); !errors.Is(err, want) {
			t.Errorf("%s: copy = %v, want %v", fault, err, want)
		}
		s := r.a.LookVolume(t.Context(), r.to)
		if unseen := fault == lab.Stale || fault == lab.Broken; unseen != (s.Answer == hypervisor.CouldNotLook) {
			t.Errorf("%s: a look is %+v", fault, s)
		}
		must(t, r.a.node.SetFault(t.Context(), lab.NoFault))
		wait(t, "what came of it is gone", func() bool { return r.a.DeleteVolume(t.Context(), r.to) == nil })
	}
	r.copyDisk(diskSize / 20)
	must(t, r.a.node.SetFault(t.Context(), lab.Full))
	wait(t, "the job has failed", func() bool { return r.a.BlockJob(t.Context(), r.id, r.from).Answer == hypervisor.Absent })
	must(t, r.a.node.SetFault(t.Context(), lab.NoFault))
	r.state(r.a, hypervisor.Running, r.from)
	r.writes(r.a, r.from)
	r.torn(r.a)
}

// error_policy: a guest whose disk fails is paused and says why; nothing it believes to
// be written is lost.
func TestDiskErrorPauses(t *testing.T) {
	r := newRig(t, "shared", "local")
	must(t, r.a.node.SetFault(t.Context(), lab.Broken))
	wait(t, "the guest is paused", func() bool {
		s := r.a.LookInstance(t.Context(), r.id)
		return s.State == hypervisor.Paused && s.Detail == "I/O error"
	})
	must(t, r.a.node.SetFault(t.Context(), lab.NoFault))
	must(t, r.a.Stop(t.Context(), r.id, true))
	r.restarts(r.a, r.from)
}

// copyEnv makes this binary an agent that copies a volume on the host named by it.
const copyEnv = "HOLDFAST_LAB_COPY"

// A copy dies with its agent; what is left of it is seen, and used by nobody.
func TestCopyDiesWithItsAgent(t *testing.T) {
	r := newRig(t, "local", "shared")
	must(t, r.a.Stop(t.Context(), r.id, true))
	agent := exec.CommandContext(t.Context(), os.Args[0])
	agent.Env = append(os.Environ(), copyEnv+"="+r.path(r.a, r.from))
	agent.Stderr = os.Stderr
	must(t, agent.Start())
	wait(t, "the copy has a user", func() bool { return len(r.a.LookVolume(t.Context(), r.to).UsedBy) > 0 })
	must(t, agent.Process.Signal(syscall.SIGKILL))
	_ = agent.Wait() // killed
	wait(t, "the copy has no user", func() bool { return len(r.a.LookVolume(t.Context(), r.to).UsedBy) == 0 })
	r.torn(r.a)
	r.restarts(r.a, r.from)
}
