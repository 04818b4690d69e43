// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// Rig is two hosts on which RunCommands tries what commands do. Volumes of its pools
// are reached by this process at the paths that Pools tells.
type Rig struct {
	A, B Host
	// ToB is B's control address as A reaches it.
	ToB string
	// Shared is a pool of both, LocalPool one that each host has for itself.
	Shared, LocalPool string
	// DiskSize is the size of the disks that guests get, GuestSize the part that a guest
	// writes to, from the beginning. The rest is filled, so that a copy has work.
	DiskSize, GuestSize int64
	// Define makes the definition of a guest that writes numbered records to its first disk.
	Define func(id string, disks ...hypervisor.DiskSpec) hypervisor.Definition
	// Check reads such a disk, fails the test if a record is missing or if two guests wrote,
	// and returns the last number.
	Check func(t *testing.T, path string) uint64
	// Slow is a rate at which a job of such a guest takes seconds.
	Slow int64
	// Limit is how long anything may take.
	Limit time.Duration
}

// Host is an adapter with every ability that commands need.
type Host interface {
	hypervisor.Hypervisor
	hypervisor.Storage
	hypervisor.Copier
	hypervisor.Instances
	hypervisor.Migrator
	hypervisor.BlockCopier
}

// bench is a rig in the hands of one test.
type bench struct {
	Rig
	*testing.T
	ctx  context.Context
	name string // unique, for volumes and instances
}

// RunCommands tests what commands are made of on the rig: one for all tests, which
// leave nothing on it.
func RunCommands(t *testing.T, rig Rig) {
	for _, c := range []struct {
		name string
		run  func(bench)
	}{
		{"a look has three answers", looks},
		{"volumes are made, named and removed", volumes},
		{"a copy is like its source", copies},
		{"a copy that is cut off leaves its source alone", cutOff},
		{"instances are defined, started, stopped, forgotten", lives},
		{"what is in use stays", inUse},
		{"an instance migrates", migrates},
		{"an instance migrates with its volume", migratesWithVolume},
		{"a migration is aborted", migrationAborted},
		{"a migration goes on without its caller", migrationGoesOn},
		{"a disk moves while it is used", pivots},
		{"a block copy is aborted", blockCopyAborted},
		{"jobs need what they work on", jobsNeed},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*rig.Limit)
			defer cancel()
			c.run(bench{rig, t, ctx, "hvt" + random(8)})
		})
	}
}

func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz"[rand.IntN(26)]
	}
	return string(b)
}

func (b bench) must(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

func (b bench) want(what string, got, want error) {
	b.Helper()
	if !errors.Is(got, want) {
		b.Errorf("%s = %v, want %v", what, got, want)
	}
}

// until polls a condition; b.ctx and Limit bound it.
func (b bench) until(what string, ok func() bool) {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(b.Limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			b.Fatalf("not within %v: %s", b.Limit, what)
		case <-b.ctx.Done():
			b.Fatalf("%v: %s", context.Cause(b.ctx), what)
		}
	}
}

func (b bench) disk(pool, name string) hypervisor.Disk {
	return hypervisor.Disk{Pool: pool, Path: "volumes/" + b.name + "-" + name}
}

// path is where this process reaches a volume of h.
func (b bench) path(h Host, d hypervisor.Disk) string {
	b.Helper()
	pools, err := h.Pools(b.ctx)
	b.must("list pools", err)
	for _, p := range pools {
		if p.ID == d.Pool {
			return filepath.Join(p.Path, d.Path)
		}
	}
	b.Fatalf("pool %s is not among %+v", d.Pool, pools)
	return ""
}

// clean removes a volume at the end, whatever became of the test.
func (b bench) clean(h Host, d hypervisor.Disk) {
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), b.Limit)
		defer cancel()
		if err := h.DeleteVolume(ctx, d); err != nil {
			b.Errorf("clean up: %v", err)
		}
	})
}

// volume makes one with content from an offset on; empty content leaves it as it was made.
func (b bench) volume(h Host, d hypervisor.Disk, size int64, content []byte, offset int64) {
	b.Helper()
	b.clean(h, d)
	b.must("create volume", h.CreateVolume(b.ctx, hypervisor.CreateSpec{Disk: d, Format: hypervisor.Raw, Size: size}))
	if len(content) > 0 {
		f, err := os.OpenFile(b.path(h, d), os.O_WRONLY, 0)
		b.must("open volume", err)
		_, err = f.WriteAt(content, offset)
		b.must("fill volume", errors.Join(err, f.Close()))
	}
}

// instance runs a guest with one disk on A and waits until it writes. It ends on both
// hosts with the test.
func (b bench) instance(d hypervisor.Disk) (id string) {
	b.Helper()
	id = b.name
	b.volume(b.A, d, b.DiskSize, content(int(b.DiskSize-b.GuestSize)), b.GuestSize)
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), b.Limit)
		defer cancel()
		for _, h := range []Host{b.A, b.B} {
			if err := errors.Join(h.AbortMigration(ctx, id), h.Stop(ctx, id, true), h.Undefine(ctx, id)); err != nil {
				b.Errorf("clean up: %v", err)
			}
		}
	})
	b.must("define", b.A.Define(b.ctx, b.Define(id, hypervisor.DiskSpec{Disk: d, Format: hypervisor.Raw})))
	b.must("start", b.A.Start(b.ctx, id))
	b.writes(b.A, d)
	return id
}

// writes waits until the guest has written more, and checks all it wrote.
func (b bench) writes(h Host, d hypervisor.Disk) uint64 {
	b.Helper()
	path := b.path(h, d)
	first, last := b.Check(b.T, path), uint64(0)
	b.until("the guest writes to "+d.Path, func() bool { last = b.Check(b.T, path); return last > first })
	return last
}

// runs checks where the instance runs, and with which disk.
func (b bench) runs(h Host, id string, d hypervisor.Disk) {
	b.Helper()
	s := h.LookInstance(b.ctx, id)
	if s.Answer != hypervisor.Present || s.State != hypervisor.Running || len(s.Disks) != 1 || s.Disks[0] != d {
		b.Errorf("instance %s is %+v, want it running with %+v", id, s, d)
	}
}

func (b bench) absent(h Host, id string) {
	b.Helper()
	if s := h.LookInstance(b.ctx, id); s.Answer != hypervisor.Absent {
		b.Errorf("instance %s is %+v, want it absent", id, s)
	}
}

func same(t *testing.T, got, want string) bool {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(a, w)
}
