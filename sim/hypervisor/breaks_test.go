// SPDX-License-Identifier: Apache-2.0

package hypervisor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/sequence"
)

var (
	local  = hypervisor.Disk{Pool: "local", Path: "vm1"}
	shared = hypervisor.Disk{Pool: "shared", Path: "vm1"}
)

// start runs vm1 with its disk on the host.
func (h *host) start(t *testing.T, d hypervisor.Disk) {
	t.Helper()
	must(t, h.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: d, Format: hypervisor.Raw, Size: sequence.Size}))
	must(t, h.Define(t.Context(), hypervisor.Definition{ID: "vm1", MemoryMiB: 8, Disks: []hypervisor.DiskSpec{{Disk: d, Format: hypervisor.Raw}}}))
	must(t, h.Start(t.Context(), "vm1"))
}

func path(t *testing.T, h *host, d hypervisor.Disk) string {
	t.Helper()
	p, err := h.Path(d)
	must(t, err)
	return p
}

func grows(t *testing.T, h *host, d hypervisor.Disk) {
	t.Helper()
	first := check(t, path(t, h, d))
	wait(t, "vm1 writes", func() bool { return check(t, path(t, h, d)) > first })
}

// commands.md: QEMU works on, the agent may die. A new adapter finds the job.
func TestJobsOutliveTheAgent(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	h.start(t, local)
	must(t, h.StartBlockCopy(t.Context(), hypervisor.BlockCopy{Instance: "vm1", From: local, To: shared, Format: hypervisor.Raw}))
	again, err := simhv.NewRemote(simhv.RemoteConfig{Boot: "boot-1", Engine: h.cfg.Socket, Dirs: h.cfg.Dirs})
	must(t, err)
	wait(t, "the job is ready", func() bool { return again.BlockJob(t.Context(), "vm1", local).Ready })
	must(t, again.Pivot(t.Context(), "vm1", local))
	grows(t, h, shared)
}

// A power cut ends jobs and leaves a torn copy; the source and its numbers are whole.
func TestPowerCutDuringBlockCopy(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	h.start(t, local)
	grows(t, h, local)
	must(t, h.StartBlockCopy(t.Context(), hypervisor.BlockCopy{Instance: "vm1", From: local, To: shared, Format: hypervisor.Raw, BytesPerSecond: sequence.Size / 10}))
	h.off()
	if s := h.LookInstance(t.Context(), "vm1"); s.Answer != hypervisor.CouldNotLook {
		t.Errorf("instance of a host without power is %+v", s)
	}
	if s := h.LookVolume(t.Context(), shared); s.Answer != hypervisor.Present || s.UsersUnknown == "" {
		t.Errorf("volume with unknown users is %+v", s)
	}
	if err := h.DeleteVolume(t.Context(), shared); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("delete with unknown users = %v, want ErrBusy", err)
	}
	h.on(t)
	if s := h.LookInstance(t.Context(), "vm1"); s.State != hypervisor.Stopped || s.Disks[0] != local {
		t.Errorf("after the cut vm1 is %+v, want it stopped on its old disk", s)
	}
	if s := h.BlockJob(t.Context(), "vm1", local); s.Answer != hypervisor.Absent {
		t.Errorf("job after the cut = %+v", s)
	}
	must(t, h.DeleteVolume(t.Context(), shared))
	must(t, h.Start(t.Context(), "vm1"))
	grows(t, h, local)
}

// lab.md §3: target off, the instance stays; source off, it is gone on both sides.
func TestPowerCutDuringMigration(t *testing.T) {
	for _, victim := range []string{"target", "source"} {
		t.Run(victim, func(t *testing.T) {
			dir := t.TempDir()
			a, b := newHost(t, dir, "a"), newHost(t, dir, "b")
			a.start(t, shared)
			done := make(chan error, 1)
			go func() {
				done <- a.Migrate(context.Background(), hypervisor.Migration{Instance: "vm1", To: b.cfg.Socket, BytesPerSecond: 1 << 20})
			}()
			wait(t, "the job moves", func() bool { return a.MigrationJob(t.Context(), "vm1").Progress.Done > 0 })
			off, left := b, a
			if victim == "source" {
				off, left = a, b
			}
			off.off()
			if err := <-done; err == nil {
				t.Error("the migration returned nil")
			}
			if victim == "source" {
				wait(t, "the target forgets it", func() bool { return left.LookInstance(t.Context(), "vm1").Answer == hypervisor.Absent })
				return
			}
			if s := left.LookInstance(t.Context(), "vm1"); s.State != hypervisor.Running {
				t.Errorf("at the source it is %+v, want it running", s)
			}
			grows(t, left, shared)
		})
	}
}

// Two copies of one instance are seen on its disk.
func TestSplitBrainIsSeen(t *testing.T) {
	dir := t.TempDir()
	a, b := newHost(t, dir, "a"), newHost(t, dir, "b")
	a.start(t, shared)
	must(t, b.Define(t.Context(), define("vm1", hypervisor.DiskSpec{Disk: shared, Format: hypervisor.Raw})))
	must(t, b.Start(t.Context(), "vm1"))
	wait(t, "problems on the disk", func() bool {
		f, err := os.Open(path(t, a, shared))
		must(t, err)
		defer f.Close()
		rep, err := sequence.Read(f)
		must(t, err)
		return len(rep.Problems) > 0
	})
}

// A pool that is full, read-only, broken, gone: each fails as itself, and only a pool
// that answers makes a volume absent.
func TestFaults(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	must(t, h.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: local, Format: hypervisor.Raw, Size: sequence.Size}))
	spec := hypervisor.CopySpec{From: local, To: shared, Format: hypervisor.Raw}
	for kind, want := range map[simhv.Kind]error{simhv.Full: syscall.ENOSPC, simhv.ReadOnly: syscall.EROFS, simhv.Broken: syscall.EIO, simhv.Gone: syscall.ENOENT} {
		must(t, h.faults.Set(map[string]simhv.Fault{"shared": {Kind: kind}}))
		if err := h.CopyVolume(t.Context(), spec, nil); !errors.Is(err, want) {
			t.Errorf("%s: copy = %v, want %v", kind, err, want)
		}
		s := h.LookVolume(t.Context(), shared)
		if broken := kind == simhv.Broken || kind == simhv.Gone; broken != (s.Answer == hypervisor.CouldNotLook) || s.Answer == hypervisor.Present {
			t.Errorf("%s: look = %+v", kind, s)
		}
		pools, err := h.Pools(t.Context())
		if must(t, err); (pools[1].Problem != "") != (kind == simhv.Broken || kind == simhv.Gone) || pools[0].Problem != "" {
			t.Errorf("%s: pools are %+v", kind, pools)
		}
	}
	must(t, h.faults.Set(map[string]simhv.Fault{"shared": {Kind: simhv.Hang}}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s := h.LookVolume(ctx, shared); s.Answer != hypervisor.CouldNotLook {
		t.Errorf("hang: look = %+v", s)
	}
}

// Full in the middle: the copy is torn, stays for its owner to remove, and is no copy.
func TestFullMidCopy(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	must(t, h.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: local, Format: hypervisor.Raw, Size: sequence.Size}))
	must(t, h.faults.Set(map[string]simhv.Fault{"shared": {Kind: simhv.Full, After: 4}}))
	if err := h.CopyVolume(t.Context(), hypervisor.CopySpec{From: local, To: shared, Format: hypervisor.Raw}, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("copy = %v, want ENOSPC", err)
	}
	if s := h.LookVolume(t.Context(), shared); s.Answer != hypervisor.Present || s.Size == 0 || s.Size >= sequence.Size {
		t.Errorf("torn copy is %+v", s)
	}
	must(t, h.faults.Set(nil))
	must(t, h.DeleteVolume(t.Context(), shared))
}

// error_policy=stop: a guest whose disk fails is paused, and says why.
func TestDiskErrorPauses(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	h.start(t, shared)
	must(t, h.faults.Set(map[string]simhv.Fault{"shared": {Kind: simhv.Broken}}))
	wait(t, "vm1 is paused", func() bool { return h.LookInstance(t.Context(), "vm1").State == hypervisor.Paused })
	must(t, h.faults.Set(nil))
	must(t, h.Stop(t.Context(), "vm1", true))
	must(t, h.Start(t.Context(), "vm1"))
	grows(t, h, shared)
}

// ha.md §7: what the gate refuses is stopped and cannot be started in this boot.
func TestRefusedStaysStopped(t *testing.T) {
	h := newHost(t, t.TempDir(), "a")
	h.start(t, local)
	must(t, h.Refuse(t.Context(), []string{"vm1"}))
	if err := h.Start(t.Context(), "vm1"); err == nil {
		t.Error("a refused instance was started")
	}
	if _, err := os.Stat(filepath.Join(h.cfg.Dir, "vm1.json")); err != nil {
		t.Errorf("its definition: %v", err)
	}
}
