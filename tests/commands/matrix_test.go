// SPDX-License-Identifier: Apache-2.0

package commands

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/exec"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	sim "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

// steps are where a command is interrupted.
var steps = map[string]exec.Point{
	"before-journal": exec.Received, "after-journal": exec.Journaled, "mid-transfer": exec.Transfer,
	"after-transfer-before-answer": exec.Transferred, "after-answer-before-ack": exec.Ended,
}

// hold is one command that was held at its step.
type hold struct {
	*scene
	reached chan struct{}
	once    sync.Once
	release chan struct{}
	free    sync.Once
}

// holdAt lets the first command that comes to a point wait there.
func holdAt(s *scene, p exec.Point) *hold {
	h := &hold{scene: s, reached: make(chan struct{}), release: make(chan struct{})}
	s.source.mu.Lock()
	s.source.at = func(ctx context.Context, _ string, at exec.Point) {
		if at != p {
			return
		}
		h.once.Do(func() { close(h.reached) })
		select {
		case <-h.release:
		case <-ctx.Done():
		}
	}
	s.source.mu.Unlock()
	return h
}

func (h *hold) letGo() { h.free.Do(func() { close(h.release) }) }

// await waits until the command is at its step.
func (h *hold) await() {
	select {
	case <-h.reached:
	case <-time.After(patience):
		h.t.Errorf("%s did not come to its step", h.name)
	}
}

// interruption is what happens to commands that are held; at returns when things are
// mended again. Exactly one of one and all is set.
type interruption struct {
	one  func(h *hold)
	all  func(r *rig, hs []*hold)
	ends bool // what runs on the hosts ends: a record may say that an instance ran until then
}

const outage = 1200 * time.Millisecond

var interruptions = map[string]interruption{
	"link-cut": {one: func(h *hold) {
		h.source.cable(true)
		h.letGo()
		within(outage)
		h.source.cable(false)
	}},
	"agent-killed": {one: func(h *hold) {
		h.source.kill()
		h.letGo()
		within(outage / 4)
		h.source.start()
	}},
	"agent-restarted": {one: func(h *hold) {
		h.source.restart()
		h.letGo()
	}},
	"host-power-cycled": {ends: true, one: func(h *hold) {
		h.source.off()
		h.letGo()
		within(outage / 4)
		h.source.on()
		h.source.start()
	}},
	"target-power-cycled": {ends: true, one: func(h *hold) {
		h.target.off()
		h.letGo()
		within(outage / 4)
		h.target.on()
		h.target.start()
	}},
	"destination-full":      {one: breakPool(sim.Full)},
	"destination-read-only": {one: breakPool(sim.ReadOnly)},
	"destination-gone":      {one: breakPool(sim.Gone)},
	"worker-killed": {all: func(r *rig, hs []*hold) {
		r.kill(r.workers[0])
		letGo(hs)
	}},
	"all-workers-down": {all: func(r *rig, hs []*hold) {
		for _, m := range r.workers {
			m.stop()
		}
		letGo(hs)
		within(outage)
		for _, m := range r.workers {
			r.startWorker(m)
		}
	}},
	"etcd-away": {all: func(r *rig, hs []*hold) {
		r.etcd.Stop()
		letGo(hs)
		within(8 * time.Second) // longer than a lease
		r.etcd.Restart(r.t)
	}},
}

func letGo(hs []*hold) {
	for _, h := range hs {
		h.letGo()
	}
}

// breakPool breaks the pool that the command writes to, for a while, for both hosts.
func breakPool(kind sim.Kind) func(h *hold) {
	return func(h *hold) {
		pool := h.to.ID
		if h.req.Kind == "migrate" {
			pool = h.far.ID
		}
		for _, x := range h.hosts() {
			h.r.must(x.faults.Set(map[string]sim.Fault{pool: {Kind: kind}}))
		}
		h.letGo()
		within(outage)
		for _, x := range h.hosts() {
			h.r.must(x.faults.Set(nil))
		}
	}
}

// TestInterrupted is the matrix of the issue: each kind, running and stopped, at each step,
// with each interruption. Afterwards the records say the truth, and nothing is left.
func TestInterrupted(t *testing.T) {
	for name, what := range interruptions {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.worker("w1")
			if what.all != nil {
				r.worker("w2")
			}
			var holds []*hold
			for _, kind := range kinds {
				if kind == "template" || name == "target-power-cycled" && !strings.HasPrefix(kind, "migrate") {
					continue // a copy like the other; no target
				}
				for step := range steps {
					holds = append(holds, r.hold(t, kind, step, len(holds)))
				}
			}
			r.interrupt(t, what, holds)
		})
	}
}

// hold makes the scene of one case.
func (r *rig) hold(t *testing.T, kind, step string, n int) *hold {
	s := newScene(t, r, fmt.Sprintf("%s-%d", kind, n), kind, hypervisor.Local, hypervisor.NFS)
	s.name = kind + "/" + step
	return holdAt(s, steps[step])
}

// interrupt lets all come to their steps, interrupts them, and checks what came of it.
func (r *rig) interrupt(t *testing.T, what interruption, holds []*hold) {
	results := make([]command.Record, len(holds))
	hosts := make([]string, len(holds))
	ids := make([]string, len(holds))
	each(holds, func(n int, h *hold) {
		c := h.ask()
		hosts[n], ids[n] = c.Host, c.ID
		h.await()
		if what.one != nil {
			what.one(h)
		}
	})
	if what.all != nil {
		what.all(r, holds)
	}
	began := time.Now()
	each(holds, func(n int, h *hold) { results[n] = r.over(hosts[n], ids[n]) })
	t.Logf("all over %v after the interruption", time.Since(began).Round(10*time.Millisecond))
	for n, h := range holds {
		rec := results[n]
		t.Run(h.name, func(t *testing.T) {
			h.t = t
			if rec.Outcome == nil {
				t.Fatalf("%s without an outcome: %s", rec.State, rec.Reason)
			}
			t.Logf("%s, done %v: %s", rec.State, rec.Outcome.Done, rec.Outcome.Why)
			r.ends = what.ends
			h.check(rec)
		})
	}
}

func each(holds []*hold, do func(n int, h *hold)) {
	var all sync.WaitGroup
	for n, h := range holds {
		all.Go(func() { do(n, h) })
	}
	all.Wait()
}
