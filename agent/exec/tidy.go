// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// Tidy does what the worker found may be done, each after one more look, and says what
// came of each. It is idempotent.
func (x *Executor) Tidy(ctx context.Context, id string, c command.Chore) command.Chore {
	out := command.Chore{V: command.Version}
	for _, a := range c.Actions {
		err := errors.New("this process is at work on the command")
		if !x.Working(id) {
			err = x.tidy(ctx, id, c.Spec, a)
		}
		a.Done, a.Not = err == nil, ""
		if err != nil {
			a.Not = fmt.Sprintf("%s: %v", a.Deed, err)
		}
		x.o.Logger.Info("tidied", "command", id, "deed", a.Deed, "file", a.File.String(), "done", a.Done, "cause", a.Not)
		out.Actions = append(out.Actions, a)
	}
	return out
}

func (x *Executor) tidy(ctx context.Context, id string, spec command.Spec, a command.Action) error {
	switch a.Deed {
	case command.Delete:
		return x.delete(ctx, id, spec, a.File)
	case command.Define:
		return x.redefine(ctx, id, spec)
	case command.Undefine:
		return x.undefine(ctx, id, spec.Instance)
	}
	return errors.New("this agent does not know the deed")
}

// delete removes a file of the command, and only such a one.
func (x *Executor) delete(ctx context.Context, id string, spec command.Spec, f command.Ref) error {
	ours := false
	for _, item := range spec.Items {
		ours = ours || f == item.From && spec.Kind != command.Copy || f == item.To || f == item.Temp()
	}
	if !ours {
		return fmt.Errorf("%s is no file of the command", f)
	}
	s := x.lookFile(ctx, f)
	switch {
	case s.Answer == command.Absent:
		return nil
	case s.Answer != command.Present:
		return fmt.Errorf("%s: %s", f, s.Why)
	case len(s.Users) > 0:
		return fmt.Errorf("%s is in use by %s", f, strings.Join(s.Users, ", "))
	case s.Unknown != "":
		return fmt.Errorf("%s: who uses it is not known: %s", f, s.Unknown)
	}
	storage := x.o.Hypervisor.(hypervisor.Storage) // it has just looked
	return x.act(ctx, id, func(ctx context.Context) error { return storage.DeleteVolume(ctx, disk(f)) })
}

func (x *Executor) undefine(ctx context.Context, id, instance string) error {
	s := x.lookInstance(ctx, instance)
	switch instances, ok := x.o.Hypervisor.(hypervisor.Instances); {
	case s.Answer == command.Absent:
		return nil
	case s.Answer != command.Present:
		return errors.New(s.Why)
	case s.State != command.Stopped:
		return fmt.Errorf("instance %s is %s", instance, s.State)
	case !ok:
		return errUnsupported
	default:
		return x.act(ctx, id, func(ctx context.Context) error { return instances.Undefine(ctx, instance) })
	}
}

// Make makes the volumes that a migration is to fill, and returns where this host has its
// pools. It is idempotent: their names are the command's alone.
func (x *Executor) Make(ctx context.Context, id string, spec command.Spec) (map[string]string, error) {
	copier, ok := x.o.Hypervisor.(hypervisor.Copier)
	storage, looks := x.o.Hypervisor.(hypervisor.Storage)
	if !ok || !looks {
		return nil, errUnsupported
	}
	type pools struct {
		all []hypervisor.Pool
		err error
	}
	seen, err := look(ctx, x, "pools", func(ctx context.Context) (pools, bool) {
		all, err := storage.Pools(ctx)
		return pools{all, err}, err == nil
	})
	if err = cmp.Or(err, seen.err); err != nil {
		return nil, fmt.Errorf("list pools: %w", err)
	}
	paths := map[string]string{}
	for _, p := range seen.all {
		paths[p.ID] = p.Path
	}
	for _, item := range spec.Items {
		if _, has := paths[item.To.Pool]; !has {
			return nil, fmt.Errorf("pool %s is not on this host", item.To.Pool)
		}
		err := x.act(ctx, id, func(ctx context.Context) error {
			return copier.CreateVolume(ctx, hypervisor.CreateSpec{Disk: disk(item.To), Format: hypervisor.Format(item.Format), Size: item.Size})
		})
		if err != nil && !errors.Is(err, hypervisor.ErrExists) {
			return nil, fmt.Errorf("make %s: %w", item.To, err)
		}
	}
	return paths, nil
}
