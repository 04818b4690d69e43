// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// migrate has the hypervisors move a running instance.
func (x *Executor) migrate(ctx context.Context, w *work) result {
	s := w.spec
	migrator := x.o.Hypervisor.(hypervisor.Migrator)
	if w.reattach {
		if err := x.o.Journal.Step(w.id, command.Backend, "waiting again for the migration to "+s.Target); err != nil {
			return cannotTell("wait for the migration: %v", err)
		}
		return x.awaitMigration(ctx, w, migrator)
	}
	if err := x.o.Journal.Step(w.id, command.Backend, fmt.Sprintf("the hypervisors move instance %s to %s", s.Instance, s.Target)); err != nil {
		return failed("", "nothing was done: %v", err)
	}
	m := hypervisor.Migration{Instance: s.Instance, To: s.Address, Pools: s.Paths, BytesPerSecond: s.Rate}
	for _, item := range s.Items {
		m.Moves = append(m.Moves, hypervisor.DiskMove{From: disk(item.From), To: disk(item.To), Format: hypervisor.Format(item.Format)})
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		x.watchMigration(ctx, w, migrator, ended)
	}()
	err := x.transfer(ctx, w.id, 0, time.Second, func(ctx context.Context) error { return migrator.Migrate(ctx, m) })
	close(ended)
	<-watched
	if ctx.Err() != nil {
		return result{}
	}
	x.o.Observe(ctx, w.id, Transferred)
	switch {
	case err == nil:
		return completed(command.Running, "instance %s runs on %s", s.Instance, s.Target)
	case errors.Is(err, errLeft), errors.Is(err, hypervisor.ErrUnsure):
		return cannotTell("move instance %s: %v", s.Instance, err)
	case errors.Is(err, hypervisor.ErrBusy), errors.Is(err, hypervisor.ErrNotFound):
		return cannotTell("move instance %s: %v", s.Instance, err)
	}
	return x.stays(ctx, w, fmt.Sprintf("move instance %s: %v", s.Instance, err))
}

// watchMigration tells the progress, and aborts when the work is cancelled.
func (x *Executor) watchMigration(ctx context.Context, w *work, migrator hypervisor.Migrator, ended <-chan struct{}) {
	first, aborted := true, false
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		cancel := w.cancel
		if w.cancelled() {
			cancel = nil // it has woken us once
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-cancel:
		case <-ended:
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		job := x.lookJob(ctx, w.spec)
		if job.Answer != command.Present {
			continue
		}
		w.tell(job.Done, job.Total, 0)
		if first {
			first = false
			x.o.Observe(ctx, w.id, Transfer)
		}
		if w.cancelled() && !aborted {
			aborted = x.abort(ctx, w, func(ctx context.Context) error { return migrator.AbortMigration(ctx, w.spec.Instance) })
		}
	}
}

// awaitMigration waits until the job of an earlier process has ended.
func (x *Executor) awaitMigration(ctx context.Context, w *work, migrator hypervisor.Migrator) result {
	aborted := false
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		job := x.lookJob(ctx, w.spec)
		switch {
		case ctx.Err() != nil:
			return result{}
		case job.Answer == command.Absent:
			return x.stays(ctx, w, "the migration has ended")
		case job.Answer == command.Present:
			w.tell(job.Done, job.Total, 0)
			if w.cancelled() && !aborted {
				aborted = x.abort(ctx, w, func(ctx context.Context) error { return migrator.AbortMigration(ctx, w.spec.Instance) })
			}
		}
		if !pause(ctx, wait) {
			return result{}
		}
	}
}

// stays: it failed only if the instance is seen running here and nothing moves it. What is
// at the target this host does not know.
func (x *Executor) stays(ctx context.Context, w *work, why string) result {
	job := x.lookJob(ctx, w.spec) // first: a job that has ended changes nothing any more
	s := x.lookInstance(ctx, w.spec.Instance)
	if s.Answer == command.Present && s.State == command.Running && job.Answer == command.Absent {
		return failed(s.State, "%s; it runs here", why)
	}
	return cannotTell("%s; here it is %s %s", why, s.Answer, s.State)
}
