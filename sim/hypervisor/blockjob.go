// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// blockJob copies a disk of a running instance. The guest's writes go to both sides from
// the beginning; the engine's mu guards what changes.
type blockJob struct {
	copy     hypervisor.BlockCopy
	progress hypervisor.Progress
	begun    bool // its file exists
	ready    bool
	cancel   context.CancelCauseFunc
	done     chan struct{}
}

var errAborted = errors.New("aborted")

func (e *Engine) blockCopy(ctx context.Context, c hypervisor.BlockCopy) error {
	job := &blockJob{copy: c, done: make(chan struct{})}
	ctx, job.cancel = context.WithCancelCause(ctx)
	v, err := e.addJob(job)
	if err != nil {
		job.cancel(err)
		return fmt.Errorf("copy disk %s of %s: %w", c.From.Path, c.Instance, err)
	}
	size, err := e.beginCopy(ctx, c)
	if err != nil {
		e.mu.Lock()
		delete(v.jobs, c.From)
		e.mu.Unlock()
		job.cancel(err)
		close(job.done)
		return fmt.Errorf("copy disk %s of %s: %w", c.From.Path, c.Instance, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	job.progress.Total, job.begun = size, true
	v.tasks.Go(func() {
		defer close(job.done)
		e.carry(ctx, v, job)
	})
	return nil
}

// addJob takes the disk's place for a job.
func (e *Engine) addJob(job *blockJob) (*vm, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[job.copy.Instance]
	switch {
	case v == nil || v.state == hypervisor.Stopped || v.coming:
		return nil, fmt.Errorf("%w: it does not run here", hypervisor.ErrNotFound)
	case diskAt(v, job.copy.From) < 0:
		return nil, fmt.Errorf("%w: it has no such disk", hypervisor.ErrNotFound)
	case v.jobs[job.copy.From] != nil || v.migration != nil:
		return nil, fmt.Errorf("%w: it has a job", hypervisor.ErrBusy)
	}
	v.jobs[job.copy.From] = job
	return v, nil
}

func diskAt(v *vm, d hypervisor.Disk) int {
	for i, have := range v.def.Disks {
		if have.Disk == d {
			return i
		}
	}
	return -1
}

func (e *Engine) beginCopy(ctx context.Context, c hypervisor.BlockCopy) (size int64, err error) {
	f, err := e.openDisk(ctx, "read", c.From, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	path, err := e.pools.Reserve(ctx, c.To)
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Truncate(path, info.Size())
}

// carry copies, then keeps both sides alike until the job is pivoted or ends.
func (e *Engine) carry(ctx context.Context, v *vm, job *blockJob) {
	pace := newPace(job.copy.BytesPerSecond, e.cfg.JobRate)
	size := job.progress.Total
	var err error
	for at := int64(0); at < size && err == nil; {
		var n int64
		if n, err = e.carryChunk(ctx, v, job.copy, at); err == nil {
			err = pace.wait(ctx, n)
		}
		at += n
		e.mu.Lock()
		job.progress.Done = at
		e.mu.Unlock()
	}
	if err == nil {
		e.mu.Lock()
		job.ready = true
		e.mu.Unlock()
		<-ctx.Done()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.jobs[job.copy.From] == job {
		delete(v.jobs, job.copy.From)
	}
}

func (e *Engine) carryChunk(ctx context.Context, v *vm, c hypervisor.BlockCopy, at int64) (int64, error) {
	v.io.Lock()
	defer v.io.Unlock()
	f, err := e.openDisk(ctx, "read", c.From, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, copyChunk)
	n, err := f.ReadAt(buf, at)
	if n == 0 {
		return 0, err
	}
	return int64(n), e.write(ctx, c.To, buf[:n], at)
}

func (e *Engine) blockJob(id string, d hypervisor.Disk) hypervisor.JobSight {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[id]
	if v == nil || v.jobs[d] == nil {
		return hypervisor.JobSight{Answer: hypervisor.Absent}
	}
	job := v.jobs[d]
	return hypervisor.JobSight{Answer: hypervisor.Present, Progress: job.progress, Ready: job.ready, To: job.copy.To}
}

func (e *Engine) pivot(ctx context.Context, id string, d hypervisor.Disk) error {
	e.mu.Lock()
	v := e.vms[id]
	e.mu.Unlock()
	if v == nil {
		return fmt.Errorf("pivot disk %s of %s: %w", d.Path, id, hypervisor.ErrNotFound)
	}
	v.io.Lock()
	defer v.io.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	job := v.jobs[d]
	switch {
	case job == nil:
		return fmt.Errorf("pivot disk %s of %s: %w: it has no job", d.Path, id, hypervisor.ErrNotFound)
	case !job.ready:
		return fmt.Errorf("pivot disk %s of %s: %w: its job is not ready", d.Path, id, hypervisor.ErrBusy)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	def := v.def
	def.Disks = append([]hypervisor.DiskSpec(nil), v.def.Disks...)
	def.Disks[diskAt(v, d)] = hypervisor.DiskSpec{Disk: job.copy.To, Format: job.copy.Format}
	if v.persistent {
		if err := e.save(def); err != nil {
			return err
		}
	}
	v.def = def
	delete(v.jobs, d)
	job.cancel(errAborted)
	return nil
}

func (e *Engine) abortBlockCopy(id string, d hypervisor.Disk) error {
	e.mu.Lock()
	v := e.vms[id]
	var job *blockJob
	if v != nil {
		job = v.jobs[d]
	}
	if job == nil {
		e.mu.Unlock()
		return nil
	}
	job.cancel(errAborted)
	e.mu.Unlock()
	<-job.done
	return nil
}
