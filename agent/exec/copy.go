// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// copy copies a file that nobody writes to: under its temporary name until it is complete
// and durable, then it gets its final name at once.
func (x *Executor) copy(ctx context.Context, w *work) result {
	item := w.spec.Items[0]
	copier := x.o.Hypervisor.(hypervisor.Copier)
	if err := x.untilStill(ctx, w, item.From); err != nil {
		return failed("", "nothing was done: %v", err)
	}
	if err := x.o.Journal.Step(w.id, command.Processing, fmt.Sprintf("copying %s to %s, to be %s", item.From, item.Temp(), item.To)); err != nil {
		return failed("", "nothing was done: %v", err)
	}
	spec := hypervisor.CopySpec{From: disk(item.From), To: disk(item.Temp()), Format: hypervisor.Format(item.Format), BytesPerSecond: w.spec.Rate}
	running, done := w.until(ctx)
	first := true
	err := x.transfer(running, w.id, 0, endLimit, func(ctx context.Context) error {
		return copier.CopyVolume(ctx, spec, func(p hypervisor.Progress) {
			w.tell(p.Done, p.Total, 0)
			if first {
				first = false
				x.o.Observe(ctx, w.id, Transfer)
			}
		})
	})
	done()
	switch {
	case ctx.Err() != nil:
		return result{}
	case w.cancelled():
		return failed("", "cancelled; %s is not there", item.To)
	case err != nil: // it has not got its name, whatever became of the copy
		return failed("", "copy to %s: %v", item.Temp(), err)
	}
	x.o.Observe(ctx, w.id, Transferred)
	if err := x.untilStill(ctx, w, item.From); err != nil {
		return failed("", "%v; %s is not there", err, item.To)
	}
	if err := x.o.Journal.Step(w.id, command.Processing, fmt.Sprintf("copied, %s becomes %s", item.Temp(), item.To)); err != nil {
		return failed("", "copied, but not named %s: %v", item.To, err)
	}
	err = x.act(ctx, w.id, func(ctx context.Context) error { return copier.RenameVolume(ctx, disk(item.Temp()), item.To.Path) })
	if err != nil {
		if final := x.lookFile(ctx, item.To); final.Answer == command.Absent && !errors.Is(err, errLeft) && !errors.Is(err, hypervisor.ErrUnsure) {
			return failed("", "name %s: %v", item.To, err)
		}
		return cannotTell("name %s: %v", item.To, err)
	}
	if w.spec.Kind == command.MigrateVolume && w.spec.Instance != "" {
		// Where it is not defined anew now, the worker's look finds that.
		if err := x.redefine(ctx, w.id, w.spec); err != nil {
			return completed(command.Stopped, "%s is complete; the definition of %s still names %s: %v", item.To, w.spec.Instance, item.From, err)
		}
		return completed(command.Stopped, "%s is complete", item.To)
	}
	return completed("", "%s is complete", item.To)
}

// untilStill is nil when nobody here writes to the volume. A look that has no answer says
// nothing about it: it is made again until there is one or the work is cancelled, which its
// deadline does too; the journal tells what is waited for.
func (x *Executor) untilStill(ctx context.Context, w *work, from command.Ref) error {
	running, done := w.until(ctx)
	defer done()
	for wait, told := pollFirst, false; ; wait = min(2*wait, pollMost) {
		err := x.standsStill(running, w.spec, from)
		switch {
		case err == nil:
			return nil
		case running.Err() != nil:
			return fmt.Errorf("%w while it waited: %w", context.Cause(running), err)
		case !errors.Is(err, errLeft):
			return err
		case !told:
			told = true
			x.o.Logger.Warn("command waits for a look", "command", w.id, "cause", err)
			if err := x.o.Journal.Step(w.id, command.Processing, fmt.Sprintf("waiting: a look at %v; it is looked again until it is cancelled", err)); err != nil {
				return err
			}
		}
		if !pause(running, wait) {
			return context.Cause(running)
		}
	}
}

// standsStill: nobody here writes to the volume. An instance that was started behind the
// worker's back would put into it what the copy does not have. errLeft: that is not known yet.
func (x *Executor) standsStill(ctx context.Context, spec command.Spec, from command.Ref) error {
	if spec.Instance != "" {
		s, err := x.seeInstance(ctx, spec.Instance)
		switch {
		case err != nil:
			return fmt.Errorf("instance %s: %w", spec.Instance, err)
		case s.Answer == command.CouldNotLook:
			return fmt.Errorf("instance %s: %s", spec.Instance, s.Why)
		case s.Answer == command.Present && s.State != command.Stopped:
			return fmt.Errorf("instance %s is %s", spec.Instance, s.State)
		}
	}
	s, err := x.seeFile(ctx, from)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", from, err)
	case s.Answer == command.CouldNotLook:
		return fmt.Errorf("%s: %s", from, s.Why)
	case s.Answer == command.Absent:
		return fmt.Errorf("%s is not there", from)
	}
	for _, u := range s.Users {
		if kind := userKind(u); kind == hypervisor.ByInstance || kind == hypervisor.ByBlockJob {
			return fmt.Errorf("%s is in use by %s", from, u)
		}
	}
	if s.Unknown != "" {
		return fmt.Errorf("%s: who uses it is not known: %s", from, s.Unknown)
	}
	return nil
}

// redefine lets the stopped instance's definition name its disks where they are now.
func (x *Executor) redefine(ctx context.Context, id string, spec command.Spec) error {
	after := spec.After()
	s := x.lookInstance(ctx, spec.Instance)
	switch instances, ok := x.o.Hypervisor.(hypervisor.Instances); {
	case s.Answer == command.Absent:
		return nil
	case s.Answer != command.Present:
		return errors.New(s.Why)
	case s.State != command.Stopped:
		return fmt.Errorf("it is %s", s.State)
	case !ok || after == nil:
		return errUnsupported
	default:
		return x.act(ctx, id, func(ctx context.Context) error { return instances.Define(ctx, definition(spec.Instance, *after)) })
	}
}
