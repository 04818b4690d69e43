// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// door is the worker as agents' frames see it: it answers at once from what the owners
// have published and leaves everything else in their mailboxes.
type door Worker

func (d *door) Hello(h *agentpb.Hello) (*agentpb.Welcome, *agentpb.Refusal) {
	w := (*Worker)(d)
	o, p := w.owned(h.Host)
	if o == nil {
		return nil, w.refuse(h.Host)
	}
	refuse := outranks(h.HighestEpoch, p.epoch)
	o.in.put("", helloMsg{h, time.Now().UTC(), refuse})
	if refuse { // the agent would refuse us: the owner finds out why
		return nil, &agentpb.Refusal{
			Reason: agentpb.Refusal_NO_OWNER, Detail: "this host has obeyed a newer owner than the present one: see the worker's health if this lasts",
			RetryAfterMs: p.settings.HelloRetryMs,
		}
	}
	return &agentpb.Welcome{Worker: w.o.ID, Epoch: p.epoch, Settings: p.settings, Workers: w.wireWorkers(), Gate: p.gate}, nil
}

func (d *door) Ping(s *link.Session, ping *agentpb.Ping, at time.Time) (*agentpb.Pong, *agentpb.Refusal) {
	w := (*Worker)(d)
	o, p := w.owned(s.Host)
	if o == nil {
		return nil, w.refuse(s.Host)
	}
	o.commands.entries(ping.Journal)
	o.in.put("ping", pingMsg{boot: s.Boot, report: ping.Report, gate: ping.GateConfirmed, at: at.UTC()})
	pong := &agentpb.Pong{Seq: ping.Seq, Epoch: p.epoch, Settings: p.settings, Gate: p.gate}
	pong.Forget, pong.Known = o.commands.acks(ping.Journal)
	return pong, nil
}

func (d *door) Linked(s *link.Session, h *agentpb.Hello) {
	w := (*Worker)(d)
	if o, _ := w.owned(s.Host); o != nil {
		o.commands.linked(h)
		w.peerCame(s.Host)
	}
}

func (d *door) Steps(s *link.Session, st *agentpb.Steps) {
	if o, _ := (*Worker)(d).owned(s.Host); o != nil {
		o.commands.steps(st)
	}
}

func (d *door) Progress(s *link.Session, p *agentpb.Progresses) {
	if o, _ := (*Worker)(d).owned(s.Host); o != nil {
		o.commands.tell(p)
	}
}

func (d *door) Goodbye(s *link.Session, g *agentpb.Goodbye) {
	w := (*Worker)(d)
	o, _ := w.owned(s.Host)
	if o == nil {
		return
	}
	switch g.Kind {
	case agentpb.Goodbye_HOST_SHUTDOWN:
		o.in.put("", ha.Event{Kind: ha.EvGoodbye, At: time.Now().UTC(), Reason: "host-shutdown", Boot: s.Boot})
	case agentpb.Goodbye_HOST_REBOOT:
		o.in.put("", ha.Event{Kind: ha.EvGoodbye, At: time.Now().UTC(), Reason: "host-reboot", Boot: s.Boot})
	}
}

func (d *door) Gone(s *link.Session, cause error) {
	w := (*Worker)(d)
	if o, _ := w.owned(s.Host); o != nil && w.door.Session(s.Host) == nil {
		o.in.put("", goneMsg{time.Now().UTC()})
	}
}

// owned returns the owner of a host in this worker and what it has published.
func (w *Worker) owned(host string) (*owner, *published) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o, p := w.owners[host], w.shown[host]; o != nil && p != nil {
		return o, p
	}
	return nil, nil
}

// refuse says where else a host belongs (issue of lists and relay: until then a worker
// that does not own the host redirects to the owner).
func (w *Worker) refuse(host string) *agentpb.Refusal {
	retry := w.view.effective("", "", time.Now()).Duration("agent.hello.retry").Milliseconds()
	spec, ok := w.view.spec(host)
	if !ok {
		return &agentpb.Refusal{Reason: agentpb.Refusal_UNKNOWN_HOST, Detail: fmt.Sprintf("host %q is not on record", host), RetryAfterMs: max(retry, 2000)}
	}
	s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host))
	if m, live := w.view.worker(s.Worker); held && live && s.Worker != w.o.ID {
		return &agentpb.Refusal{Reason: agentpb.Refusal_NOT_OWNER, Detail: "another worker owns the host", Owner: wireWorker(m), RetryAfterMs: retry}
	}
	return &agentpb.Refusal{Reason: agentpb.Refusal_NO_OWNER, Detail: "no worker owns the host now", RetryAfterMs: retry}
}

func wireWorker(m v1.Worker) *agentpb.Worker {
	return &agentpb.Worker{Id: m.ID, Address: m.Agents}
}

// wireWorkers lists the live workers, this one first.
func (w *Worker) wireWorkers() []*agentpb.Worker {
	w.view.mu.RLock()
	defer w.view.mu.RUnlock()
	var out, rest []*agentpb.Worker
	for id, m := range w.view.workers {
		if id == w.o.ID {
			out = append(out, wireWorker(m.Val))
		} else {
			rest = append(rest, wireWorker(m.Val))
		}
	}
	return append(out, rest...)
}

// metricsLinked counts linked agents after a change.
func (o *owner) metricsLinked() { o.w.metrics.linked.Set(float64(o.w.door.Count())) }

var _ link.Handler = (*door)(nil)

// live runs fn on the owner of a host; a *v1.Problem when it is not here.
func (w *Worker) live(ctx context.Context, host string, fn func(ctx context.Context, o *owner)) error {
	w.mu.Lock()
	o := w.owners[host]
	w.mu.Unlock()
	if o == nil {
		return &v1.Problem{Status: 503, Code: "unavailable", Title: "not the owner", Detail: fmt.Sprintf("host %s is not owned by this worker now", host), Hint: "try again in a moment"}
	}
	return o.call(ctx, func(ctx context.Context) { fn(ctx, o) })
}
