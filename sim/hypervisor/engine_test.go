// SPDX-License-Identifier: Apache-2.0

package hypervisor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hypervisortest"
	"github.com/holdfast-ha/holdfast/sim/sequence"

	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is one simulated host of a test.
type host struct {
	*simhv.Remote
	cfg    simhv.EngineConfig
	faults *simhv.Faults
	off    func()
}

// newHost makes a host with pools "shared" in dir/shared and "local" of its own, and
// switches it on.
func newHost(t *testing.T, dir, name string) *host {
	t.Helper()
	own := filepath.Join(dir, name)
	h := &host{faults: simhv.NewFaults(filepath.Join(own, "faults"))}
	pools := []dirs.Dir{
		{ID: "local", Type: hypervisor.Local, Path: filepath.Join(own, "local")},
		{ID: "shared", Type: hypervisor.NFS, Path: filepath.Join(dir, "shared")},
	}
	for _, p := range append(pools, dirs.Dir{Path: filepath.Join(own, "definitions")}) {
		if err := os.MkdirAll(p.Path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.cfg = simhv.EngineConfig{
		Socket: fmt.Sprintf("@holdfast-test-%d-%s-%s", os.Getpid(), filepath.Base(dir), name), Dir: filepath.Join(own, "definitions"),
		Dirs: pools, Gate: h.faults.Gate, Refused: simhv.Refused(filepath.Join(own, "refused")), WriteEvery: 5 * time.Millisecond,
	}
	var err error
	h.Remote, err = simhv.NewRemote(simhv.RemoteConfig{Boot: "boot-1", Engine: h.cfg.Socket, Dirs: pools, Gate: h.faults.Gate, Refused: h.cfg.Refused})
	if err != nil {
		t.Fatal(err)
	}
	h.on(t)
	return h
}

// on starts the engine and waits until it answers.
func (h *host) on(t *testing.T) {
	t.Helper()
	e, err := simhv.NewEngine(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	over := false
	h.off = func() {
		if cancel(); !over {
			over = true
			if err := <-done; err != nil {
				t.Errorf("engine: %v", err)
			}
		}
	}
	t.Cleanup(h.off)
	wait(t, "the engine answers", func() bool { return h.Healthy(t.Context()) == nil })
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// check reads a guest's disk. A ring that turns while it is read shows a hole that is
// none, so problems count when they are seen twice.
func check(t *testing.T, path string) uint64 {
	t.Helper()
	var rep sequence.Report
	for range 3 {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		rep, err = sequence.Read(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Problems) == 0 {
			return rep.Last.N
		}
	}
	t.Errorf("%s: %v", path, rep.Problems)
	return rep.Last.N
}

func define(id string, disks ...hypervisor.DiskSpec) hypervisor.Definition {
	return hypervisor.Definition{ID: id, MemoryMiB: 4, CPUs: 1, Disks: disks}
}

func TestCommandsConformance(t *testing.T) {
	dir := t.TempDir()
	a, b := newHost(t, dir, "a"), newHost(t, dir, "b")
	hypervisortest.RunCommands(t, hypervisortest.Rig{
		A: a, B: b, ToB: b.cfg.Socket, Shared: "shared", LocalPool: "local", DiskSize: 2 * sequence.Size, GuestSize: sequence.Size, Define: define, Check: check,
		Slow: 2 << 20, Limit: 20 * time.Second,
	})
	for _, h := range []*host{a, b} {
		for _, pool := range []string{"local", "shared"} {
			if left, err := h.Volumes(t.Context(), pool); err != nil || len(left) > 0 {
				t.Errorf("pool %s is left with %v, %v", pool, left, err)
			}
		}
	}
}

func TestEngineConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisor.Hypervisor {
		h := newHost(t, t.TempDir(), "a")
		d := hypervisor.Disk{Pool: "local", Path: "vm1"}
		must(t, h.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: d, Format: hypervisor.Raw, Size: sequence.Size}))
		must(t, h.Define(t.Context(), define("vm1", hypervisor.DiskSpec{Disk: d, Format: hypervisor.Raw})))
		must(t, h.Start(t.Context(), "vm1"))
		return h
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
