// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	workerAPI    = 7080
	workerAgents = 7090
	workerStop   = 4 * time.Second // a worker gives its slots back before it ends
	maxPause     = 10 * time.Minute
)

// childWorker is what a worker child of `holdfast dev` is told.
type childWorker struct {
	ID, Zone, Etcd, API, Agents, SecretsDir, KeyRing string
	LeaseTTL                                         int // seconds
}

// devWorkers are the worker children of a dev fleet.
type devWorkers struct {
	spawner *world.Spawner
	warn    func(string)

	mu  sync.Mutex
	all []*devWorker
}

type devWorker struct {
	spec   childWorker
	log    string
	proc   *world.Proc // nil: not started, or ended
	resume *time.Timer // set while it is paused
}

// newDevWorkers plans n workers, w1 and on, spread over the zones; it starts none.
func newDevWorkers(f *devFleet, n int) *devWorkers {
	w := &devWorkers{spawner: f.spawner, warn: f.warn}
	zones := f.zones()
	for i := range n {
		at := f.block.Worker(i + 1)
		id := fmt.Sprintf("w%d", i+1)
		w.all = append(w.all, &devWorker{log: f.dir.join(id + ".log"), spec: childWorker{
			ID: id, Zone: zones[i%len(zones)], Etcd: f.etcdURL,
			API:        netip.AddrPortFrom(at, workerAPI).String(),
			Agents:     netip.AddrPortFrom(at, workerAgents).String(),
			SecretsDir: f.dir.join("secrets"), KeyRing: f.dir.join("secrets", "ring"), LeaseTTL: f.preset.leaseTTL,
		}})
	}
	return w
}

func (w *devWorkers) ids() []string {
	return mapped(w.all, func(d *devWorker) string { return d.spec.ID })
}

// agents are the addresses at which agents find workers.
func (w *devWorkers) agents() []string {
	return mapped(w.all, func(d *devWorker) string { return d.spec.Agents })
}

// endpoints are the addresses of the operators' API.
func (w *devWorkers) endpoints() []string {
	return mapped(w.all, func(d *devWorker) string { return "http://" + d.spec.API })
}

func mapped[T any](in []T, f func(T) string) []string {
	out := make([]string, len(in))
	for i, x := range in {
		out[i] = f(x)
	}
	return out
}

func (w *devWorkers) startAll() error {
	for _, d := range w.all {
		if err := w.start(d.spec.ID, ""); err != nil {
			return err
		}
	}
	return nil
}

// start starts a worker that has ended and wakes one that is paused. binary is another
// holdfast to start it from, of another version; empty: this one.
func (w *devWorkers) start(id, binary string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, err := w.find(id)
	if err != nil {
		return err
	}
	if d.running() {
		if d.resume == nil || binary != "" {
			return v1.Problemf(v1.CodeConflict, "start worker %s: it runs already (process %d)", id, d.proc.PID())
		}
		return d.wake()
	}
	text, err := json.Marshal(d.spec)
	if err != nil {
		return fmt.Errorf("start worker %s: %w", id, err)
	}
	d.proc, err = w.spawner.Start(world.Child{
		Exec: cmp.Or(binary, selfExe), Args: []string{"child", "worker", id}, Log: d.log,
		Env: []string{world.ChildEnv + "=" + string(text), bmcUser + "=" + id},
	})
	if err != nil {
		return fmt.Errorf("start worker %s: %w", id, err)
	}
	proc := d.proc
	go func() { // ends with the child, which the spawner waits for
		<-proc.Done()
		if err := proc.Failed(); err != nil {
			w.warn(fmt.Sprintf("worker %s: %v (log: %s)", id, err, d.log))
		}
	}()
	return nil
}

// kill is kill -9 of the worker's process, which its parent notices; with parent, of
// both, which nobody does.
func (w *devWorkers) kill(id string, parent bool) error {
	return w.signal(id, "kill", func(d *devWorker) error {
		d.stopResume()
		if parent {
			return d.proc.Signal(syscall.SIGKILL) // and with it its child
		}
		return d.signalWorker(syscall.SIGKILL)
	}, true)
}

// stop is SIGTERM: the worker leaves its slots to itself as it is started next.
func (w *devWorkers) stop(id string) error {
	return w.signal(id, "stop", func(d *devWorker) error {
		if d.resume != nil {
			if err := d.wake(); err != nil { // a stopped process obeys nothing
				return err
			}
		}
		return d.proc.Signal(syscall.SIGTERM)
	}, true)
}

// restart is SIGHUP: the worker is replaced in place.
func (w *devWorkers) restart(id string) error {
	return w.signal(id, "restart", func(d *devWorker) error { return d.proc.Signal(syscall.SIGHUP) }, false)
}

// signal does something to a running worker, and waits for its end if that must follow:
// a started one must find its ports free.
func (w *devWorkers) signal(id, verb string, do func(*devWorker) error, ends bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, err := w.find(id)
	if err != nil {
		return err
	}
	if !d.running() {
		return v1.Problemf(v1.CodeConflict, "%s worker %s: it does not run", verb, id)
	}
	if ends {
		d.proc.Expect()
	}
	if err := do(d); err != nil {
		return fmt.Errorf("%s worker %s: %w", verb, id, err)
	}
	if ends {
		<-d.proc.Done()
	}
	return nil
}

// signalWorker signals the worker's process itself, the child of the one started here.
func (d *devWorker) signalWorker(sig syscall.Signal) error {
	pids, err := world.Children(d.proc.PID())
	for _, pid := range pids {
		err = errors.Join(err, syscall.Kill(pid, sig))
	}
	return err
}

// pause is SIGSTOP, and SIGCONT after a while.
func (w *devWorkers) pause(id string, d time.Duration) error {
	if d <= 0 || d > maxPause {
		return v1.BadField("for", "%v, allowed are more than 0s up to %v", d, maxPause)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p, err := w.find(id)
	if err != nil {
		return err
	}
	if !p.running() {
		return v1.Problemf(v1.CodeConflict, "pause worker %s: it does not run", id)
	}
	if err := p.signalWorker(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause worker %s: %w", id, err)
	}
	p.stopResume()
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if p.resume != timer {
			return // something else happened to it meanwhile
		}
		if err := p.wake(); err != nil {
			w.warn(err.Error())
		}
	})
	p.resume = timer
	return nil
}

// stopAll ends all workers in order, so that they leave their slots to themselves: a fleet
// that is started on the same data does not wait for leases to run out.
func (w *devWorkers) stopAll() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, d := range w.all {
		if !d.running() {
			continue
		}
		sig := syscall.SIGTERM
		if d.resume != nil {
			sig = syscall.SIGKILL // a stopped process obeys nothing else
			d.stopResume()
		}
		errs = append(errs, d.proc.Signal(sig))
	}
	ctx, cancel := context.WithTimeout(context.Background(), workerStop)
	defer cancel()
	for _, d := range w.all {
		if !d.running() {
			continue
		}
		select {
		case <-d.proc.Done():
		case <-ctx.Done():
			errs = append(errs, d.proc.Signal(syscall.SIGKILL))
			<-d.proc.Done()
		}
	}
	return errors.Join(errs...)
}

// devWorkerStatus is the truth about a worker process.
type devWorkerStatus struct {
	ID    string `json:"id"`
	State string `json:"state"` // runs, paused, ended
	PID   int    `json:"pid,omitempty"`
	API   string `json:"api"`
}

func (w *devWorkers) status() []devWorkerStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]devWorkerStatus, len(w.all))
	for i, d := range w.all {
		out[i] = devWorkerStatus{ID: d.spec.ID, State: "ended", API: "http://" + d.spec.API}
		if d.running() {
			out[i].State, out[i].PID = "runs", d.proc.PID()
			if d.resume != nil {
				out[i].State = "paused"
			}
		}
	}
	return out
}

func (w *devWorkers) find(id string) (*devWorker, error) {
	for _, d := range w.all {
		if d.spec.ID == id {
			return d, nil
		}
	}
	return nil, v1.Problemf(v1.CodeNotFound, "worker: %q, allowed are w1 to w%d", id, len(w.all))
}

func (d *devWorker) running() bool {
	if d.proc == nil {
		return false
	}
	select {
	case <-d.proc.Done():
		return false
	default:
		return true
	}
}

func (d *devWorker) stopResume() {
	if d.resume != nil {
		d.resume.Stop()
		d.resume = nil
	}
}

func (d *devWorker) wake() error {
	d.stopResume()
	if err := d.signalWorker(syscall.SIGCONT); err != nil {
		return fmt.Errorf("wake worker %s: %w", d.spec.ID, err)
	}
	return nil
}
