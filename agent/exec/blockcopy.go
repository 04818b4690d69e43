// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

const (
	pollFirst = 50 * time.Millisecond // between two looks at a job
	pollMost  = time.Second
	// turnLimit is how long after a pivot the instance may take to show which disk it uses.
	turnLimit = 30 * time.Second
)

// blockCopy has the hypervisor mirror a disk of a running instance and turn over to it.
func (x *Executor) blockCopy(ctx context.Context, w *work) result {
	item := w.spec.Items[0]
	copier := x.o.Hypervisor.(hypervisor.BlockCopier)
	if !w.reattach {
		if err := x.o.Journal.Step(w.id, command.Backend, fmt.Sprintf("the hypervisor copies %s to %s under instance %s", item.From, item.To, w.spec.Instance)); err != nil {
			return failed("", "nothing was done: %v", err)
		}
		spec := hypervisor.BlockCopy{Instance: w.spec.Instance, From: disk(item.From), To: disk(item.To), Format: hypervisor.Format(item.Format), BytesPerSecond: w.spec.Rate}
		if err := x.act(ctx, w.id, func(ctx context.Context) error { return copier.StartBlockCopy(ctx, spec) }); err != nil {
			if ctx.Err() != nil {
				return result{}
			}
			if job := x.lookJob(ctx, w.spec); job.Answer != command.Present || job.To != item.To {
				return x.whichDisk(ctx, w, fmt.Sprintf("start block copy: %v", err))
			}
		}
	} else if err := x.o.Journal.Step(w.id, command.Backend, "waiting again for the block copy to "+item.To.String()); err != nil {
		return cannotTell("wait for the block copy: %v", err)
	}
	return x.awaitBlockCopy(ctx, w, copier)
}

// awaitBlockCopy waits until both sides are alike and turns over.
func (x *Executor) awaitBlockCopy(ctx context.Context, w *work, copier hypervisor.BlockCopier) result {
	item := w.spec.Items[0]
	aborted, first := false, true
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		job := x.lookJob(ctx, w.spec)
		switch {
		case ctx.Err() != nil:
			return result{}
		case job.Answer == command.Present && job.To != item.To:
			return cannotTell("the disk has another's block job, to %s", job.To)
		case job.Answer == command.Present && w.cancelled() && !aborted:
			aborted = x.abort(ctx, w, func(ctx context.Context) error {
				return copier.AbortBlockCopy(ctx, w.spec.Instance, disk(item.From))
			})
			wait = pollFirst
		case job.Answer == command.Present:
			w.tell(job.Done, job.Total, 0)
			if first {
				first = false
				x.o.Observe(ctx, w.id, Transfer)
			}
			if job.Ready && !w.cancelled() {
				return x.pivot(ctx, w, copier)
			}
		case job.Answer == command.Absent && aborted:
			return x.whichDisk(ctx, w, "cancelled")
		case job.Answer == command.Absent:
			return x.whichDisk(ctx, w, "the block job ended by itself")
		}
		cancel := w.cancel
		if w.cancelled() {
			cancel = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-cancel:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (x *Executor) pivot(ctx context.Context, w *work, copier hypervisor.BlockCopier) result {
	item := w.spec.Items[0]
	if err := x.o.Journal.Step(w.id, command.Backend, "both sides are alike, turning over to "+item.To.String()); err != nil {
		// Not turned over without a word on it: the job waits, and so does the worker.
		return cannotTell("turn over to %s: %v", item.To, err)
	}
	err := x.act(ctx, w.id, func(ctx context.Context) error { return copier.Pivot(ctx, w.spec.Instance, disk(item.From)) })
	why := "turned over"
	if err != nil {
		why = fmt.Sprintf("turn over: %v", err)
	}
	if ctx.Err() != nil {
		return result{}
	}
	x.o.Observe(ctx, w.id, Transferred)
	return x.whichDisk(ctx, w, why)
}

// whichDisk says how it ended by the disk that the instance uses, and by nothing else.
func (x *Executor) whichDisk(ctx context.Context, w *work, why string) result {
	item := w.spec.Items[0]
	end := time.Now().Add(turnLimit)
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		job := x.lookJob(ctx, w.spec) // first: a job that has ended changes nothing any more
		s := x.lookInstance(ctx, w.spec.Instance)
		switch uses := uses(s, item.From); {
		case ctx.Err() != nil:
			return result{}
		case s.Answer == command.Present && !uses && usesOnly(s, item):
			return completed(s.State, "instance %s uses %s", w.spec.Instance, item.To)
		case s.Answer == command.Present && uses && !usesOnly(s, item) && job.Answer == command.Absent:
			return failed(s.State, "%s; instance %s uses %s", why, w.spec.Instance, item.From)
		case time.Now().After(end):
			return cannotTell("%s; instance %s is %s, its block job %s", why, w.spec.Instance, s.Answer, job.Answer)
		}
		if !pause(ctx, wait) {
			return result{}
		}
	}
}
