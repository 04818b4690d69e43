// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/sequence"
)

// vm is one instance. The engine's mu guards all but what io guards; whoever takes both
// takes io first.
type vm struct {
	def        hypervisor.Definition // with the disks it uses now
	persistent bool
	state      hypervisor.InstanceState
	detail     string
	coming     bool // on its way to here
	before     *vm  // what was defined here when it set out for here
	jobs       map[hypervisor.Disk]*blockJob
	migration  *migration
	stop       context.CancelFunc // ends the guest
	tasks      sync.WaitGroup     // the guest and its jobs

	io    sync.Mutex // one access of the guest, or of a job, at a time
	run   string
	next  uint64
	dirty []uint64 // records written while a migration moves disks
}

func (v *vm) disks() []hypervisor.Disk {
	var all []hypervisor.Disk
	for _, d := range v.def.Disks {
		all = append(all, d.Disk)
	}
	return all
}

func (e *Engine) start(ctx context.Context, id string) error {
	refused, err := e.cfg.Refused.read()
	if err != nil {
		return err
	}
	if slices.Contains(refused, id) {
		return fmt.Errorf("start instance %s: it must not run here", id)
	}
	e.mu.Lock()
	v := e.vms[id]
	if v == nil {
		e.mu.Unlock()
		return fmt.Errorf("start instance %s: %w", id, hypervisor.ErrNotFound)
	}
	disks, state := v.disks(), v.state
	e.mu.Unlock()
	if state != hypervisor.Stopped {
		return nil
	}
	last, err := e.lastRecord(ctx, disks[0])
	if err != nil {
		return fmt.Errorf("start instance %s: %w", id, err)
	}
	return e.runGuest(ctx, v, handover{Next: last + 1, Run: uuid.NewString()})
}

// runGuest lets a stopped instance or one that came in go on.
func (e *Engine) runGuest(ctx context.Context, v *vm, from handover) error {
	v.io.Lock()
	defer v.io.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.state == hypervisor.Running {
		return nil
	}
	v.run, v.next = from.Run, from.Next
	v.state, v.detail, v.coming, v.jobs = hypervisor.Running, "", false, map[hypervisor.Disk]*blockJob{}
	ctx, v.stop = context.WithCancel(ctx)
	v.tasks.Go(func() { e.guest(ctx, v) })
	return nil
}

func (e *Engine) lastRecord(ctx context.Context, d hypervisor.Disk) (uint64, error) {
	f, err := e.openDisk(ctx, "read", d, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	rep, err := sequence.Read(f)
	return rep.Last.N, err
}

// guest writes until ctx ends or a disk fails, which pauses it (error_policy=stop). No
// two guests keep the same pace: in step, one would hide the other on their disk.
func (e *Engine) guest(ctx context.Context, v *vm) {
	every := int64(e.cfg.WriteEvery)
	for {
		tick := time.NewTimer(time.Duration(every/2 + rand.Int64N(every)))
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if err := e.tick(ctx, v); err != nil && ctx.Err() == nil {
			e.mu.Lock()
			if v.state == hypervisor.Running {
				v.state, v.detail = hypervisor.Paused, "I/O error: "+err.Error()
			}
			e.mu.Unlock()
		}
	}
}

// tick writes the next record to all disks, and to the copies that jobs make of them.
func (e *Engine) tick(ctx context.Context, v *vm) error {
	v.io.Lock()
	defer v.io.Unlock()
	e.mu.Lock()
	run, moving := v.state == hypervisor.Running, v.migration != nil
	disks := v.disks()
	copies := map[hypervisor.Disk]*blockJob{}
	for d, j := range v.jobs {
		if j.begun {
			copies[d] = j
		}
	}
	e.mu.Unlock()
	if !run || ctx.Err() != nil {
		return nil
	}
	record := sequence.Record{N: v.next, Run: v.run}.Encode()
	for _, d := range disks {
		if err := e.write(ctx, d, record, sequence.Offset(v.next)); err != nil {
			return err
		}
		if j := copies[d]; j != nil {
			if err := e.write(ctx, j.copy.To, record, sequence.Offset(v.next)); err != nil {
				j.cancel(err) // the copy is lost, the instance is not
			}
		}
	}
	if moving {
		v.dirty = append(v.dirty, v.next)
	}
	v.next++
	return nil
}

// errEnded ends the jobs of an instance that ends.
var errEnded = errors.New("the instance has ended")

func (e *Engine) stop(id string) error {
	e.mu.Lock()
	v := e.vms[id]
	if v == nil || v.state == hypervisor.Stopped {
		e.mu.Unlock()
		return nil
	}
	for _, j := range v.jobs {
		j.cancel(errEnded)
	}
	if v.migration != nil {
		v.migration.cancel(errEnded)
	}
	if v.stop != nil {
		v.stop()
	}
	v.state, v.detail = hypervisor.Stopped, ""
	e.mu.Unlock()
	v.tasks.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.vms[id] == v && !v.persistent {
		delete(e.vms, id)
	}
	return nil
}
