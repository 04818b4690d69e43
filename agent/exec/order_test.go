// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"sync"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// turning is a hypervisor on which a job ends, and all that comes of it, right after whatever
// is looked at first.
type turning struct {
	*disks
	mu    sync.Mutex
	looks int
}

// over counts a look, and says whether the job had ended before it.
func (h *turning) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	return h.looks > 1
}

func (h *turning) job() hypervisor.JobSight {
	if h.over() {
		return hypervisor.JobSight{Answer: hypervisor.Absent}
	}
	return hypervisor.JobSight{Answer: hypervisor.Present, To: disk(spec.Items[0].To)}
}

func (h *turning) BlockJob(context.Context, string, hypervisor.Disk) hypervisor.JobSight {
	return h.job()
}
func (h *turning) MigrationJob(context.Context, string) hypervisor.JobSight { return h.job() }

func (h *turning) LookInstance(_ context.Context, id string) hypervisor.InstanceSight {
	uses := hypervisor.InstanceSight{Answer: hypervisor.Present, State: hypervisor.Running, Disks: []hypervisor.Disk{disk(spec.Items[0].From)}}
	if h.over() {
		uses.Disks[0] = disk(spec.Items[0].To)
		if id == "moves" {
			return hypervisor.InstanceSight{Answer: hypervisor.Absent}
		}
	}
	return uses
}

func (*turning) Define(context.Context, hypervisor.Definition) error           { return nil }
func (*turning) Start(context.Context, string) error                           { return nil }
func (*turning) Stop(context.Context, string, bool) error                      { return nil }
func (*turning) Undefine(context.Context, string) error                        { return nil }
func (*turning) StartBlockCopy(context.Context, hypervisor.BlockCopy) error    { return nil }
func (*turning) Pivot(context.Context, string, hypervisor.Disk) error          { return nil }
func (*turning) AbortBlockCopy(context.Context, string, hypervisor.Disk) error { return nil }
func (*turning) Migrate(context.Context, hypervisor.Migration) error           { return nil }
func (*turning) AbortMigration(context.Context, string) error                  { return nil }

// Jobs are looked at before what they change: seen the other way round, one that ends in
// between leaves an instance on its old disk, or on its old host, with no job: a failure, of
// what has just been completed.
func TestJobsAreLookedAtFirst(t *testing.T) {
	turns := command.Spec{V: 1, Kind: command.MigrateVolume, Live: true, Instance: "turns", Items: spec.Items}
	moves := command.Spec{V: 1, Kind: command.Migrate, Live: true, Instance: "moves", Target: "h2"}
	verdict := func(x *Executor, s command.Spec) command.Verdict {
		here := x.Look(t.Context(), "c1", command.Question{Spec: s, Job: true, Instance: true})
		e := command.Evidence{Hosts: map[string]command.HostEvidence{"h1": here}}
		e.Hosts["h2"] = command.HostEvidence{Answered: true, Instance: command.InstanceSight{Answer: command.Absent}} // asked at the same time, before it came
		return command.Judge(command.Record{Kind: s.Kind, Host: "h1", Spec: s}, e).Verdict
	}
	for name, failed := range map[string]func(x *Executor) bool{
		"a look at a block copy": func(x *Executor) bool { return verdict(x, turns) == command.IsFailed },
		"a look at a migration":  func(x *Executor) bool { return verdict(x, moves) == command.IsFailed },
		"the end of a block copy": func(x *Executor) bool {
			return x.whichDisk(t.Context(), &work{spec: turns}, "it ended").state == command.Failed
		},
		"the end of a migration": func(x *Executor) bool {
			return x.stays(t.Context(), &work{spec: moves}, "it ended").state == command.Failed
		},
	} {
		t.Run(name, func(t *testing.T) {
			if failed(New(Options{Host: "h1", Boot: "b1", Process: "p1", Hypervisor: &turning{disks: &disks{}}})) {
				t.Error("judged as failed, although it was completed in the middle of the look")
			}
		})
	}
}
