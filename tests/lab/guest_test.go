// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/sequence"
	"github.com/holdfast-ha/holdfast/tests/lab"
)

// rig is what one test has of the lab: two hosts, both on and in order, and one guest
// that at first runs on a with its disk at from. Nothing of it is left afterwards.
type rig struct {
	*testing.T
	a, b     host
	id       string
	from, to hypervisor.Disk
	seen     uint64 // the last record known to be written
}

func newRig(t *testing.T, from, to string) *rig {
	t.Helper()
	a, b := hosts(t)
	r := &rig{T: t, a: a, b: b, id: "guest"}
	r.from, r.to = hypervisor.Disk{Pool: from, Path: r.id}, hypervisor.Disk{Pool: to, Path: r.id + "-new"}
	t.Cleanup(r.clear)
	must(t, a.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: r.from, Format: hypervisor.Raw, Size: diskSize}))
	f, err := os.OpenFile(r.path(a, r.from), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("holdfast"), (diskSize-sequence.Size)/8), sequence.Size)
	must(t, errors.Join(err, f.Close()))
	must(t, a.Define(t.Context(), define(r.id, hypervisor.DiskSpec{Disk: r.from, Format: hypervisor.Raw})))
	must(t, a.Start(t.Context(), r.id))
	r.writes(a, r.from)
	return r
}

// clear brings the hosts back into order and removes what the test made.
func (r *rig) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	for _, h := range []host{r.a, r.b} {
		err := errors.Join(h.node.Thaw(), h.node.SetFault(ctx, lab.NoFault), h.node.Cable(ctx, true), h.node.On(ctx))
		wait(r.T, h.node.Name+" answers", func() bool { return h.Healthy(ctx) == nil })
		if err := errors.Join(err, h.AbortMigration(ctx, r.id), h.Stop(ctx, r.id, true), h.Undefine(ctx, r.id)); err != nil {
			r.Errorf("clear %s: %v", h.node.Name, err)
		}
	}
	for _, h := range []host{r.a, r.b} {
		for _, d := range []hypervisor.Disk{r.from, r.to} {
			if err := h.DeleteVolume(ctx, d); err != nil {
				r.Errorf("clear %s: %v", h.node.Name, err)
			}
		}
	}
}

func (r *rig) path(h host, d hypervisor.Disk) string {
	r.Helper()
	p, err := h.Path(d)
	must(r.T, err)
	return p
}

// writes waits until the guest has written to d beyond all that was ever seen: nothing
// is lost, nothing missing, and nobody else wrote.
func (r *rig) writes(h host, d hypervisor.Disk) {
	r.Helper()
	path := r.path(h, d)
	if now := check(r.T, path); now < r.seen {
		r.Errorf("%s is at record %d, %d was seen before", path, now, r.seen)
	} else {
		r.seen = now
	}
	wait(r.T, "the guest writes to "+path, func() bool { return check(r.T, path) > r.seen })
	r.seen = check(r.T, path)
}

func (r *rig) state(h host, want hypervisor.InstanceState, d hypervisor.Disk) {
	r.Helper()
	s := h.LookInstance(r.Context(), r.id)
	if s.Answer != hypervisor.Present || s.State != want || len(s.Disks) != 1 || s.Disks[0] != d {
		r.Errorf("on %s the guest is %+v, want it %s with %+v", h.node.Name, s, want, d)
	}
}

func (r *rig) absent(h host) {
	r.Helper()
	wait(r.T, "the guest is absent on "+h.node.Name, func() bool { return h.LookInstance(r.Context(), r.id).Answer == hypervisor.Absent })
}

// migrate starts a slow migration to b and returns when memory moves.
func (r *rig) migrate(moves ...hypervisor.DiskMove) (done <-chan error) {
	r.Helper()
	m := hypervisor.Migration{Instance: r.id, To: r.b.node.Peer(), Moves: moves, BytesPerSecond: 4 << 20, Pools: map[string]string{}}
	for _, d := range r.b.node.Dirs() {
		m.Pools[d.ID] = d.Path
	}
	over := make(chan error, 1)
	go func() { over <- r.a.Migrate(context.Background(), m) }()
	wait(r.T, "the migration moves", func() bool {
		select {
		case err := <-over:
			r.Fatalf("the migration ended: %v", err)
		default:
		}
		return r.a.MigrationJob(r.Context(), r.id).Progress.Done > 1<<20
	})
	return over
}

func (r *rig) copyDisk(rate int64) {
	r.Helper()
	must(r.T, r.a.StartBlockCopy(r.Context(), hypervisor.BlockCopy{Instance: r.id, From: r.from, To: r.to, Format: hypervisor.Raw, BytesPerSecond: rate}))
	wait(r.T, "the copy moves", func() bool { return r.a.BlockJob(r.Context(), r.id, r.from).Progress.Done > 0 })
}

func (r *rig) failed(done <-chan error) {
	r.Helper()
	select {
	case err := <-done:
		if err == nil {
			r.Error("the call returned nil")
		}
	case <-time.After(limit):
		r.Fatal("the call did not return")
	}
}

// power switches a host on and waits for its libvirt.
func (r *rig) power(h host) {
	r.Helper()
	must(r.T, h.node.On(r.Context()))
	wait(r.T, h.node.Name+" answers", func() bool { return h.Healthy(r.Context()) == nil })
}

// restarts starts the guest where it was stopped and sees it go on.
func (r *rig) restarts(h host, d hypervisor.Disk) {
	r.Helper()
	r.state(h, hypervisor.Stopped, d)
	must(r.T, h.Start(r.Context(), r.id))
	r.writes(h, d)
}

// torn is a copy that nobody uses and that may be removed.
func (r *rig) torn(h host) {
	r.Helper()
	if s := h.LookVolume(r.Context(), r.to); s.Answer != hypervisor.Present || len(s.UsedBy) > 0 || s.UsersUnknown != "" {
		r.Errorf("the torn copy is %+v, want it present and unused", s)
	}
}
