// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"strings"
	"sync"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

func disk(r command.Ref) hypervisor.Disk { return hypervisor.Disk{Pool: r.Pool, Path: r.Path} }
func ref(d hypervisor.Disk) command.Ref  { return command.Ref{Pool: d.Pool, Path: d.Path} }

func definition(id string, d command.Definition) hypervisor.Definition {
	out := hypervisor.Definition{ID: id, MemoryMiB: d.MemoryMiB, CPUs: d.CPUs}
	for _, x := range d.Disks {
		out.Disks = append(out.Disks, hypervisor.DiskSpec{Disk: disk(x.Ref), Format: hypervisor.Format(x.Format)})
	}
	if d.Kernel != "" {
		out.Kernel = &hypervisor.Kernel{Image: d.Kernel, Initrd: d.Initrd, Args: d.Args}
	}
	return out
}

// Look says what is so on this host, three-valued. It changes nothing.
func (x *Executor) Look(ctx context.Context, id string, q command.Question) command.HostEvidence {
	out := command.HostEvidence{
		Host: x.o.Host, Answered: true, Boot: x.o.Boot, Process: x.o.Process, Working: x.Working(id), Files: map[string]command.FileSight{},
	}
	if q.Job { // before all else: what a job did that has ended stays so, what one still does does not
		out.Job = x.lookJob(ctx, q.Spec)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	if q.Instance {
		all.Go(func() { out.Instance = x.lookInstance(ctx, q.Spec.Instance) })
	}
	for _, f := range q.Files {
		all.Go(func() {
			s := x.lookFile(ctx, f)
			mu.Lock()
			defer mu.Unlock()
			out.Files[f.String()] = s
		})
	}
	all.Wait()
	// One that began or ended while we looked makes the look worth nothing.
	out.Working = out.Working || x.Working(id)
	return out
}

func (x *Executor) lookInstance(ctx context.Context, id string) command.InstanceSight {
	s, _ := x.seeInstance(ctx, id)
	return s
}

// seeInstance is lookInstance that tells a look without an answer (errLeft) from one that
// was answered with why nothing can be seen.
func (x *Executor) seeInstance(ctx context.Context, id string) (command.InstanceSight, error) {
	instances, ok := x.o.Hypervisor.(hypervisor.Instances)
	if !ok {
		return command.InstanceSight{Answer: command.CouldNotLook, Why: errUnsupported.Error()}, nil
	}
	s, err := look(ctx, x, "instance "+id, func(ctx context.Context) (hypervisor.InstanceSight, bool) {
		s := instances.LookInstance(ctx, id)
		return s, s.Answer != hypervisor.CouldNotLook
	})
	if err != nil {
		return command.InstanceSight{Answer: command.CouldNotLook, Why: err.Error()}, err
	}
	out := command.InstanceSight{Answer: answer(s.Answer), Why: s.Reason}
	if s.Answer == hypervisor.Present {
		out.State, out.Why, out.Elsewhere = string(s.State), s.Detail, s.Elsewhere
		for _, d := range s.Disks {
			out.Disks = append(out.Disks, ref(d))
		}
	}
	return out, nil
}

func (x *Executor) lookJob(ctx context.Context, spec command.Spec) command.JobSight {
	var see func(ctx context.Context) hypervisor.JobSight
	if spec.Kind == command.Migrate {
		if m, ok := x.o.Hypervisor.(hypervisor.Migrator); ok {
			see = func(ctx context.Context) hypervisor.JobSight { return m.MigrationJob(ctx, spec.Instance) }
		}
	} else if b, ok := x.o.Hypervisor.(hypervisor.BlockCopier); ok && len(spec.Items) == 1 {
		see = func(ctx context.Context) hypervisor.JobSight {
			return b.BlockJob(ctx, spec.Instance, disk(spec.Items[0].From))
		}
	}
	if see == nil {
		return command.JobSight{Answer: command.CouldNotLook, Why: errUnsupported.Error()}
	}
	s, err := look(ctx, x, "job of instance "+spec.Instance, func(ctx context.Context) (hypervisor.JobSight, bool) {
		s := see(ctx)
		return s, s.Answer != hypervisor.CouldNotLook
	})
	if err != nil {
		return command.JobSight{Answer: command.CouldNotLook, Why: err.Error()}
	}
	return command.JobSight{Answer: answer(s.Answer), Why: s.Reason, Ready: s.Ready, To: ref(s.To), Done: s.Progress.Done, Total: s.Progress.Total}
}

func (x *Executor) lookFile(ctx context.Context, f command.Ref) command.FileSight {
	s, _ := x.seeFile(ctx, f)
	return s
}

// seeFile is lookFile that tells a look without a whole answer (errLeft) from one that was
// answered with why nothing can be seen, or who uses it cannot be known.
func (x *Executor) seeFile(ctx context.Context, f command.Ref) (command.FileSight, error) {
	storage, ok := x.o.Hypervisor.(hypervisor.Storage)
	if !ok {
		return command.FileSight{Answer: command.CouldNotLook, Why: errUnsupported.Error()}, nil
	}
	s, err := look(ctx, x, "file "+f.String(), func(ctx context.Context) (hypervisor.VolumeSight, bool) {
		s := storage.LookVolume(ctx, disk(f))
		return s, s.Answer != hypervisor.CouldNotLook && s.UsersUnknown == ""
	})
	if err != nil && s.Answer == hypervisor.CouldNotLook {
		s.Reason = err.Error()
	}
	out := command.FileSight{Answer: answer(s.Answer), Why: s.Reason, Size: s.Size, Allocation: s.Allocation, Unknown: s.UsersUnknown}
	for _, u := range s.UsedBy {
		out.Users = append(out.Users, string(u.Kind)+"/"+u.ID)
	}
	return out, err
}

func answer(a hypervisor.Answer) command.Answer {
	switch a {
	case hypervisor.Present:
		return command.Present
	case hypervisor.Absent:
		return command.Absent
	}
	return command.CouldNotLook
}

func userKind(user string) hypervisor.UserKind {
	kind, _, _ := strings.Cut(user, "/")
	return hypervisor.UserKind(kind)
}

func uses(s command.InstanceSight, f command.Ref) bool {
	for _, d := range s.Disks {
		if d == f {
			return true
		}
	}
	return false
}

// usesOnly: it uses the new disk and not the old one.
func usesOnly(s command.InstanceSight, item command.Item) bool {
	return uses(s, item.To) && !uses(s, item.From)
}
