// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

const someSize = 3<<20 + 4096

// content is bytes without zeros in a row.
func content(n int) []byte {
	all := make([]byte, 0, n+sha256.Size)
	for sum := sha256.Sum256(nil); len(all) < n; sum = sha256.Sum256(sum[:]) {
		all = append(all, sum[:]...)
	}
	return all[:n]
}

// looks: absent and could-not-look are different answers (pitfalls.md R1).
func looks(b bench) {
	d := b.disk(b.Shared, "look")
	if s := b.A.LookVolume(b.ctx, d); s.Answer != hypervisor.Absent {
		b.Errorf("a volume nobody made is %+v, want absent", s)
	}
	b.volume(b.A, d, someSize, content(4096), 0)
	if s := b.A.LookVolume(b.ctx, d); s.Answer != hypervisor.Present || s.Size != someSize || s.Allocation < 4096 || len(s.UsedBy) > 0 || s.UsersUnknown != "" {
		b.Errorf("look = %+v, want it present with %d bytes and no user", s, someSize)
	}
	for _, bad := range []hypervisor.Disk{
		{Pool: "hvt-no-such-pool", Path: "v"}, {Pool: b.Shared, Path: "../v"}, {Pool: b.Shared, Path: "/v"}, {Pool: b.Shared},
		{Pool: b.Shared, Path: filepath.Dir(d.Path)}, {Pool: b.Shared, Path: ".holdfast/stamps/h"},
	} {
		if s := b.A.LookVolume(b.ctx, bad); s.Answer != hypervisor.CouldNotLook || s.Reason == "" {
			b.Errorf("look at %+v = %+v, want could-not-look with a reason", bad, s)
		}
	}
	if err := os.Symlink("/etc/hostname", b.path(b.A, b.disk(b.Shared, "link"))); err == nil {
		defer os.Remove(b.path(b.A, b.disk(b.Shared, "link")))
		if s := b.A.LookVolume(b.ctx, b.disk(b.Shared, "link")); s.Answer != hypervisor.CouldNotLook {
			b.Errorf("look at a symbolic link = %+v, want could-not-look", s)
		}
	}
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	if s := b.A.LookVolume(ended, b.disk(b.Shared, "other")); s.Answer != hypervisor.CouldNotLook {
		b.Errorf("look under an ended context = %+v, want could-not-look", s)
	}
	if _, err := b.A.Volumes(b.ctx, "hvt-no-such-pool"); err == nil {
		b.Error("a pool that is not there was listed")
	}
}

func volumes(b bench) {
	d, other := b.disk(b.LocalPool, "v"), b.disk(b.LocalPool, "w")
	spec := hypervisor.CreateSpec{Disk: d, Format: hypervisor.Raw, Size: someSize}
	b.volume(b.A, d, someSize, nil, 0)
	b.want("create again", b.A.CreateVolume(b.ctx, spec), hypervisor.ErrExists)
	if err := b.A.CreateVolume(b.ctx, hypervisor.CreateSpec{Disk: other, Format: hypervisor.Raw}); err == nil {
		b.Error("a volume of size 0 was made")
	}
	b.volume(b.A, other, someSize, nil, 0)
	all, err := b.A.Volumes(b.ctx, b.LocalPool)
	b.must("list volumes", err)
	if !slices.Contains(all, d) || !slices.Contains(all, other) {
		b.Errorf("volumes %+v lack %+v or %+v", all, d, other)
	}
	b.want("rename to a taken name", b.A.RenameVolume(b.ctx, d, other.Path), hypervisor.ErrExists)
	fresh := b.disk(b.LocalPool, "sub/x")
	b.clean(b.A, fresh)
	b.must("rename", b.A.RenameVolume(b.ctx, d, fresh.Path))
	b.want("rename again", b.A.RenameVolume(b.ctx, d, fresh.Path), hypervisor.ErrNotFound)
	if s := b.A.LookVolume(b.ctx, fresh); s.Answer != hypervisor.Present || s.Size != someSize {
		b.Errorf("look at the new name = %+v", s)
	}
	for range 2 {
		b.must("delete", b.A.DeleteVolume(b.ctx, fresh))
	}
	if s := b.A.LookVolume(b.ctx, fresh); s.Answer != hypervisor.Absent {
		b.Errorf("look after delete = %+v, want absent", s)
	}
}

func copies(b bench) {
	from := b.disk(b.LocalPool, "from")
	b.volume(b.A, from, someSize, content(someSize/2), 0)
	for _, pool := range []string{b.LocalPool, b.Shared} {
		to := b.disk(pool, "to")
		b.clean(b.A, to)
		var last hypervisor.Progress
		spec := hypervisor.CopySpec{From: from, To: to, Format: hypervisor.Raw}
		b.must("copy", b.A.CopyVolume(b.ctx, spec, func(p hypervisor.Progress) {
			if p.Done < last.Done || p.Total != someSize || p.Done > p.Total {
				b.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		}))
		if last.Done != someSize {
			b.Errorf("last progress is %+v, want all of %d", last, someSize)
		}
		if !same(b.T, b.path(b.A, to), b.path(b.A, from)) {
			b.Errorf("copy to pool %s differs", pool)
		}
		b.want("copy again", b.A.CopyVolume(b.ctx, spec, nil), hypervisor.ErrExists)
	}
	missing := hypervisor.CopySpec{From: b.disk(b.LocalPool, "missing"), To: b.disk(b.LocalPool, "never"), Format: hypervisor.Raw}
	b.want("copy nothing", b.A.CopyVolume(b.ctx, missing, nil), hypervisor.ErrNotFound)
	if s := b.A.LookVolume(b.ctx, missing.To); s.Answer != hypervisor.Absent {
		b.Errorf("a copy of nothing left %+v", s)
	}
}

func cutOff(b bench) {
	from, to := b.disk(b.Shared, "from"), b.disk(b.LocalPool, "to")
	b.volume(b.A, from, someSize, content(someSize), 0)
	b.clean(b.A, to)
	ctx, cancel := context.WithCancelCause(b.ctx)
	stop := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- b.A.CopyVolume(ctx, hypervisor.CopySpec{From: from, To: to, Format: hypervisor.Raw, BytesPerSecond: someSize / 20}, nil)
	}()
	b.until("the copy has a user", func() bool { return len(b.A.LookVolume(b.ctx, to).UsedBy) > 0 })
	b.want("delete while it is written", b.A.DeleteVolume(b.ctx, to), hypervisor.ErrBusy)
	cancel(stop)
	if err := <-done; err == nil {
		b.Error("a copy that was cut off returned nil")
	}
	b.until("the copy has no user", func() bool { return len(b.A.LookVolume(b.ctx, to).UsedBy) == 0 })
	if s := b.A.LookVolume(b.ctx, from); s.Answer != hypervisor.Present || s.Size != someSize {
		b.Errorf("the source is %+v", s)
	}
}
