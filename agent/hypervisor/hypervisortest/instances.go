// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"context"
	"slices"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

func lives(b bench) {
	d := b.disk(b.LocalPool, "disk")
	b.absent(b.A, b.name)
	b.want("start what is not defined", b.A.Start(b.ctx, b.name), hypervisor.ErrNotFound)
	id := b.instance(d)
	b.must("start again", b.A.Start(b.ctx, id))
	b.runs(b.A, id, d)
	if all := list(b.T, b.A); !slices.ContainsFunc(all, func(i hypervisor.Instance) bool { return i.ID == id && slices.Equal(i.Disks, []hypervisor.Disk{d}) }) {
		b.Errorf("instances %+v lack %s", all, id)
	}
	for range 2 {
		b.must("stop", b.A.Stop(b.ctx, id, true))
	}
	s := b.A.LookInstance(b.ctx, id)
	if s.Answer != hypervisor.Present || s.State != hypervisor.Stopped || !s.Persistent || !slices.Equal(s.Disks, []hypervisor.Disk{d}) {
		b.Errorf("stopped instance is %+v", s)
	}
	if slices.ContainsFunc(list(b.T, b.A), func(i hypervisor.Instance) bool { return i.ID == id }) {
		b.Error("a stopped instance is among those that run")
	}
	last := b.Check(b.T, b.path(b.A, d))
	b.must("start", b.A.Start(b.ctx, id))
	if next := b.writes(b.A, d); next <= last {
		b.Errorf("after a restart it is at %d, was at %d", next, last)
	}
	b.must("stop", b.A.Stop(b.ctx, id, true))
	for range 2 {
		b.must("undefine", b.A.Undefine(b.ctx, id))
	}
	b.absent(b.A, id)
	if s := b.A.LookVolume(b.ctx, d); s.Answer != hypervisor.Present {
		b.Errorf("the volume of a forgotten instance is %+v", s)
	}
}

func inUse(b bench) {
	d := b.disk(b.Shared, "disk")
	id := b.instance(d)
	want := []hypervisor.User{{Kind: hypervisor.ByInstance, ID: id}}
	if s := b.A.LookVolume(b.ctx, d); !slices.Equal(s.UsedBy, want) || s.UsersUnknown != "" {
		b.Errorf("users are %+v (%s), want %+v", s.UsedBy, s.UsersUnknown, want)
	}
	b.want("delete", b.A.DeleteVolume(b.ctx, d), hypervisor.ErrBusy)
	b.want("rename", b.A.RenameVolume(b.ctx, d, d.Path+"-2"), hypervisor.ErrBusy)
	b.writes(b.A, d)
}

func (b bench) migration(id string, rate int64, moves ...hypervisor.DiskMove) hypervisor.Migration {
	b.Helper()
	pools, err := b.B.Pools(b.ctx)
	b.must("list pools", err)
	m := hypervisor.Migration{Instance: id, To: b.ToB, Moves: moves, BytesPerSecond: rate, Pools: map[string]string{}}
	for _, p := range pools {
		m.Pools[p.ID] = p.Path
	}
	return m
}

// migrates: it runs at the target and nowhere else, and no write is lost.
func migrates(b bench) {
	d := b.disk(b.Shared, "disk")
	id := b.instance(d)
	b.must("migrate", b.A.Migrate(b.ctx, b.migration(id, 0)))
	b.absent(b.A, id)
	b.runs(b.B, id, d)
	if s := b.B.LookInstance(b.ctx, id); !s.Persistent {
		b.Errorf("at the target it is %+v, want it persistent", s)
	}
	b.writes(b.B, d)
	b.want("migrate again", b.A.Migrate(b.ctx, b.migration(id, 0)), hypervisor.ErrNotFound)
}

func migratesWithVolume(b bench) {
	from, to := b.disk(b.LocalPool, "from"), b.disk(b.LocalPool, "to")
	b.volume(b.B, to, b.DiskSize, nil, 0)
	id := b.instance(from)
	before := b.writes(b.A, from)
	b.must("migrate", b.A.Migrate(b.ctx, b.migration(id, 0, hypervisor.DiskMove{From: from, To: to, Format: hypervisor.Raw})))
	b.absent(b.A, id)
	b.runs(b.B, id, to)
	if after := b.writes(b.B, to); after <= before {
		b.Errorf("the copy is at %d, the source was at %d", after, before)
	}
	if s := b.A.LookVolume(b.ctx, from); s.Answer != hypervisor.Present || len(s.UsedBy) > 0 {
		b.Errorf("the volume left behind is %+v, want it present without a user", s)
	}
}

func migrationAborted(b bench) {
	d := b.disk(b.Shared, "disk")
	id := b.instance(d)
	if s := b.A.MigrationJob(b.ctx, id); s.Answer != hypervisor.Absent {
		b.Errorf("job before it began = %+v", s)
	}
	b.must("abort nothing", b.A.AbortMigration(b.ctx, id))
	done := make(chan error, 1)
	go func() { done <- b.A.Migrate(b.ctx, b.migration(id, b.Slow)) }()
	b.until("the job moves", func() bool {
		s := b.A.MigrationJob(b.ctx, id)
		return s.Answer == hypervisor.Present && s.Progress.Done > 0 && s.Progress.Total >= s.Progress.Done
	})
	b.want("migrate beside it", b.A.Migrate(b.ctx, b.migration(id, 0)), hypervisor.ErrBusy)
	b.must("abort", b.A.AbortMigration(b.ctx, id))
	if err := <-done; err == nil {
		b.Error("an aborted migration returned nil")
	}
	b.runs(b.A, id, d)
	b.until("the target has forgotten it", func() bool { return b.B.LookInstance(b.ctx, id).Answer == hypervisor.Absent })
	if s := b.A.MigrationJob(b.ctx, id); s.Answer != hypervisor.Absent {
		b.Errorf("job after it was aborted = %+v", s)
	}
	b.writes(b.A, d)
}

// migrationGoesOn: the answer is lost, the work is not (lab.md §3).
func migrationGoesOn(b bench) {
	d := b.disk(b.Shared, "disk")
	id := b.instance(d)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() { done <- b.A.Migrate(ctx, b.migration(id, 2*b.Slow)) }()
	b.until("there is a job", func() bool { return b.A.MigrationJob(b.ctx, id).Answer == hypervisor.Present })
	cancel()
	b.want("a call whose context ended", <-done, hypervisor.ErrUnsure)
	b.until("it has arrived", func() bool {
		s := b.B.LookInstance(b.ctx, id)
		return s.State == hypervisor.Running && b.A.LookInstance(b.ctx, id).Answer == hypervisor.Absent
	})
	b.writes(b.B, d)
}

func pivots(b bench) {
	from, to := b.disk(b.LocalPool, "from"), b.disk(b.Shared, "to")
	b.clean(b.A, to) // cleaned after the instance
	id := b.instance(from)
	spec := hypervisor.BlockCopy{Instance: id, From: from, To: to, Format: hypervisor.Raw, BytesPerSecond: b.DiskSize / 2}
	b.want("pivot without a job", b.A.Pivot(b.ctx, id, from), hypervisor.ErrNotFound)
	b.must("start block copy", b.A.StartBlockCopy(b.ctx, spec))
	if s := b.A.BlockJob(b.ctx, id, from); s.Answer != hypervisor.Present || s.To != to {
		b.Errorf("job = %+v, want it present and to %+v", s, to)
	}
	b.want("pivot too early", b.A.Pivot(b.ctx, id, from), hypervisor.ErrBusy)
	b.want("a second job", b.A.StartBlockCopy(b.ctx, hypervisor.BlockCopy{Instance: id, From: from, To: b.disk(b.Shared, "second"), Format: hypervisor.Raw}), hypervisor.ErrBusy)
	if s := b.A.LookVolume(b.ctx, to); !slices.Equal(s.UsedBy, []hypervisor.User{{Kind: hypervisor.ByBlockJob, ID: id}}) {
		b.Errorf("users of the copy are %+v (%s)", s.UsedBy, s.UsersUnknown)
	}
	b.until("the job is ready", func() bool { return b.A.BlockJob(b.ctx, id, from).Ready })
	b.must("pivot", b.A.Pivot(b.ctx, id, from))
	b.runs(b.A, id, to)
	if s := b.A.BlockJob(b.ctx, id, to); s.Answer != hypervisor.Absent {
		b.Errorf("job after the pivot = %+v", s)
	}
	last := b.writes(b.A, to)
	b.must("delete the source", b.A.DeleteVolume(b.ctx, from))
	b.must("stop", b.A.Stop(b.ctx, id, true))
	b.must("start", b.A.Start(b.ctx, id))
	b.runs(b.A, id, to)
	if next := b.writes(b.A, to); next <= last {
		b.Errorf("after a restart it is at %d, was at %d", next, last)
	}
}

func blockCopyAborted(b bench) {
	from, to := b.disk(b.Shared, "from"), b.disk(b.LocalPool, "to")
	b.clean(b.A, to) // cleaned after the instance
	id := b.instance(from)
	b.must("abort nothing", b.A.AbortBlockCopy(b.ctx, id, from))
	spec := hypervisor.BlockCopy{Instance: id, From: from, To: to, Format: hypervisor.Raw, BytesPerSecond: b.DiskSize / 10}
	b.must("start block copy", b.A.StartBlockCopy(b.ctx, spec))
	b.must("abort", b.A.AbortBlockCopy(b.ctx, id, from))
	b.until("the job has gone", func() bool { return b.A.BlockJob(b.ctx, id, from).Answer == hypervisor.Absent })
	b.runs(b.A, id, from)
	if s := b.A.LookVolume(b.ctx, to); s.Answer != hypervisor.Present || len(s.UsedBy) > 0 {
		b.Errorf("the file of the aborted copy is %+v, want it present without a user", s)
	}
	b.want("copy onto it", b.A.StartBlockCopy(b.ctx, spec), hypervisor.ErrExists)
	b.writes(b.A, from)
}

func jobsNeed(b bench) {
	d := b.disk(b.Shared, "none")
	b.want("migrate nothing", b.A.Migrate(b.ctx, b.migration(b.name, 0)), hypervisor.ErrNotFound)
	b.want("block copy of nothing", b.A.StartBlockCopy(b.ctx, hypervisor.BlockCopy{Instance: b.name, From: d, To: d, Format: hypervisor.Raw}), hypervisor.ErrNotFound)
	b.want("pivot nothing", b.A.Pivot(b.ctx, b.name, d), hypervisor.ErrNotFound)
	if s := b.A.BlockJob(b.ctx, b.name, d); s.Answer != hypervisor.Absent {
		b.Errorf("job of nothing = %+v, want absent", s)
	}
	if s := b.A.MigrationJob(b.ctx, b.name); s.Answer != hypervisor.Absent {
		b.Errorf("job of nothing = %+v, want absent", s)
	}
	id := b.instance(b.disk(b.Shared, "disk"))
	b.want("block copy of another disk", b.A.StartBlockCopy(b.ctx, hypervisor.BlockCopy{Instance: id, From: d, To: b.disk(b.LocalPool, "x"), Format: hypervisor.Raw}), hypervisor.ErrNotFound)
}
