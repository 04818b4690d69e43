// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/sequence"
)

// handoverLimit is how long the target may take to let the instance go on.
const handoverLimit = 5 * time.Second

// migration is a job that moves an instance away. The engine's mu guards what changes.
type migration struct {
	progress hypervisor.Progress
	cancel   context.CancelCauseFunc
}

// migrate goes on when the caller does not wait: it belongs to the engine's ctx.
func (e *Engine) migrate(ctx context.Context, m hypervisor.Migration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v, def, err := e.beginMigration(m, cancel)
	if err != nil {
		return fmt.Errorf("migrate instance %s: %w", m.Instance, err)
	}
	v.tasks.Add(1)
	defer v.tasks.Done()
	err = e.move(ctx, v, m, def)
	e.mu.Lock()
	defer e.mu.Unlock()
	v.migration = nil
	if err != nil {
		return fmt.Errorf("migrate instance %s: %w", m.Instance, err)
	}
	return nil
}

// beginMigration returns the instance and what it will be at the target.
func (e *Engine) beginMigration(m hypervisor.Migration, cancel context.CancelCauseFunc) (*vm, hypervisor.Definition, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[m.Instance]
	switch {
	case v == nil || v.state != hypervisor.Running:
		return nil, hypervisor.Definition{}, fmt.Errorf("%w: it does not run here", hypervisor.ErrNotFound)
	case v.migration != nil || len(v.jobs) > 0:
		return nil, hypervisor.Definition{}, fmt.Errorf("%w: it has a job", hypervisor.ErrBusy)
	}
	def := v.def
	def.Disks = slices.Clone(def.Disks)
	for _, move := range m.Moves {
		i := diskAt(v, move.From)
		if i < 0 {
			return nil, def, fmt.Errorf("disk %s: %w", move.From.Path, hypervisor.ErrNotFound)
		}
		def.Disks[i] = hypervisor.DiskSpec{Disk: move.To, Format: move.Format}
	}
	v.migration = &migration{cancel: cancel, progress: hypervisor.Progress{Total: int64(max(1, def.MemoryMiB)) << 20}}
	return v, def, nil
}

func (e *Engine) move(ctx context.Context, v *vm, m hypervisor.Migration, def hypervisor.Definition) error {
	w, err := dial(ctx, m.To)
	if err != nil {
		return err
	}
	defer w.conn.Close()
	if _, err := w.call(ctx, request{Op: "incoming", Def: def}); err != nil {
		return err
	}
	v.io.Lock()
	v.dirty = nil
	v.io.Unlock()
	pace := newPace(m.BytesPerSecond, e.cfg.JobRate)
	for _, move := range m.Moves {
		if err := e.moveDisk(ctx, w, v, move, pace); err != nil {
			return err
		}
	}
	if err := e.moveMemory(ctx, w, v, pace); err != nil {
		return err
	}
	return e.handOver(ctx, w, v, m)
}

func (e *Engine) moveDisk(ctx context.Context, w *wire, v *vm, move hypervisor.DiskMove, pace *pace) error {
	f, err := e.openDisk(ctx, "read", move.From, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	e.mu.Lock()
	v.migration.progress.Total += info.Size()
	e.mu.Unlock()
	buf := make([]byte, copyChunk)
	for at := int64(0); ; {
		n, err := f.ReadAt(buf, at)
		if n > 0 {
			if _, err := w.call(ctx, request{Op: "chunk", Chunk: chunk{Disk: move.To, Offset: at, Data: buf[:n]}}); err != nil {
				return err
			}
		}
		at += int64(n)
		e.advance(v, int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = pace.wait(ctx, int64(n))
		}
		if err != nil {
			return err
		}
	}
}

func (e *Engine) advance(v *vm, n int64) {
	e.mu.Lock()
	v.migration.progress.Done += n
	e.mu.Unlock()
}

// moveMemory takes the time that memory takes, and notices a target that is gone.
func (e *Engine) moveMemory(ctx context.Context, w *wire, v *vm, pace *pace) error {
	const step = 1 << 20
	for range max(1, v.def.MemoryMiB) {
		if _, err := w.call(ctx, request{Op: "ping"}); err != nil {
			return err
		}
		if err := pace.wait(ctx, step); err != nil {
			return err
		}
		e.advance(v, step)
	}
	return nil
}

// handOver stops the guest here, sends what is left, and lets it go on there.
func (e *Engine) handOver(ctx context.Context, w *wire, v *vm, m hypervisor.Migration) error {
	v.io.Lock()
	defer v.io.Unlock()
	for _, move := range m.Moves {
		if err := e.sendDirty(ctx, w, v, move); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverLimit)
	defer cancel()
	if _, err := w.call(ctx, request{Op: "arrived", ID: m.Instance, Record: handover{Next: v.next, Run: v.run}}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v.state = hypervisor.Stopped
	v.stop()
	return e.drop(m.Instance)
}

func (e *Engine) sendDirty(ctx context.Context, w *wire, v *vm, move hypervisor.DiskMove) error {
	f, err := e.openDisk(ctx, "read", move.From, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, sequence.Sector)
	for _, n := range v.dirty {
		at := sequence.Offset(n)
		if _, err := f.ReadAt(buf, at); err != nil {
			return err
		}
		if _, err := w.call(ctx, request{Op: "chunk", Chunk: chunk{Disk: move.To, Offset: at, Data: buf}}); err != nil {
			return err
		}
	}
	return nil
}

// incoming makes the empty shell of an instance that comes from another host.
func (e *Engine) incoming(def hypervisor.Definition) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.vms[def.ID]
	if before != nil && before.state != hypervisor.Stopped {
		return fmt.Errorf("receive instance %s: %w: it runs here", def.ID, hypervisor.ErrBusy)
	}
	e.vms[def.ID] = &vm{def: def, state: hypervisor.Paused, detail: "migrating in", coming: true, before: before}
	return nil
}

func (e *Engine) arrived(ctx context.Context, id string, from handover) error {
	e.mu.Lock()
	v := e.vms[id]
	if v == nil || !v.coming {
		e.mu.Unlock()
		return fmt.Errorf("receive instance %s: %w", id, hypervisor.ErrNotFound)
	}
	v.persistent, v.before = true, nil
	err := e.save(v.def)
	disks := v.disks()
	e.mu.Unlock()
	if err != nil {
		return err
	}
	// QEMU takes its disks now. Where it cannot, the instance goes on at the source, and its
	// definition stays here, as with libvirt 9.
	for _, d := range disks {
		f, err := e.openDisk(ctx, "write", d, os.O_RDWR)
		if err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			v.state, v.detail, v.coming = hypervisor.Stopped, "", false
			return fmt.Errorf("receive instance %s: %w", id, err)
		}
		if err := f.Close(); err != nil { // nothing was written
			return fmt.Errorf("receive instance %s: %w", id, err)
		}
	}
	return e.runGuest(ctx, v, from)
}

// forget drops an instance that did not arrive; "" is none.
func (e *Engine) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.vms[id]; v != nil && v.coming {
		delete(e.vms, id)
		if v.before != nil {
			e.vms[id] = v.before
		}
	}
}

func (e *Engine) migrationJob(id string) hypervisor.JobSight {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[id]
	if v == nil || v.migration == nil {
		return hypervisor.JobSight{Answer: hypervisor.Absent}
	}
	return hypervisor.JobSight{Answer: hypervisor.Present, Progress: v.migration.progress}
}

func (e *Engine) abortMigration(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.vms[id]; v != nil && v.migration != nil {
		v.migration.cancel(errAborted)
	}
	return nil
}
