// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// partition owns the HA state of one partition (ha.md §2). It has the same slot as its
// hosts, so their owners are in this worker.
type partition struct {
	w     *Worker
	s     *leases.Session
	claim leases.Claim
	path  string
	log   *slog.Logger
	again chan struct{}
	rec   ha.PartitionRecord
	rev   int64
}

func newPartition(w *Worker, s *leases.Session, c leases.Claim, path string) *partition {
	return &partition{w: w, s: s, claim: c, path: path, log: w.log.With("partition", path), again: make(chan struct{}, 1)}
}

// wake asks for a reassessment; it never blocks.
func (p *partition) wake() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

func (p *partition) run(ctx context.Context) {
	if err := p.load(); err != nil {
		if ctx.Err() == nil {
			p.log.Error("adopt partition", "cause", err)
		}
		return
	}
	p.w.mu.Lock()
	p.w.parts[p.path] = p
	p.w.mu.Unlock()
	defer func() { // what the next owner commits is not ours to remember
		p.w.mu.Lock()
		if p.w.parts[p.path] == p {
			delete(p.w.parts, p.path)
			delete(p.w.partStates, p.path)
		}
		p.w.mu.Unlock()
	}()
	if p.rev != 0 {
		p.w.setPartitionState(p.path, p.rec)
	}
	t := time.NewTicker(time.Minute) // a safety net beside the wake-ups
	defer t.Stop()
	for {
		if !p.assess(ctx) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-p.again:
		case <-t.C:
		}
	}
}

// load takes the partition's record from the mirror, as owner.load does a host's.
func (p *partition) load() error {
	kv, ok := p.w.mirror.Get(leases.PartitionStateKey(p.path))
	if !ok {
		p.rec = ha.NewPartition(p.path, time.Now().UTC())
		return nil
	}
	var err error
	p.rev, err = decode(kv, &p.rec)
	return err
}

// facts counts the members (ha.md §2: eligible, fit, with an open incident). One whose
// owner is not there yet counts as it is on record and is not fit: a hand-off takes no
// partition down.
func (p *partition) facts() ha.PartitionFacts {
	f := ha.PartitionFacts{Disabled: p.w.view.disabled(p.path)}
	here := p.w.neighbours(p.path, "")
	for _, host := range p.w.view.members(p.path) {
		spec, _ := p.w.view.spec(host)
		f.Needed = f.Needed.With(p.w.providerOf(spec.Val.Provider).Describe().Needed)
		m, ok := here[host]
		if !ok {
			rec, _ := get(p.w.view, p.w.view.ha, host)
			m = &published{record: &rec.Val}
		}
		f.Count(*m.record, m.healthy)
	}
	return f
}

// assess decides, commits and tells the members; false: the slot is not ours any more.
func (p *partition) assess(ctx context.Context) bool {
	now := time.Now().UTC()
	next, effects := ha.StepPartition(p.rec, p.facts(), now)
	if len(effects) == 0 && reflect.DeepEqual(next, p.rec) {
		return true
	}
	ops := []leases.Op{leases.Put(leases.PartitionStateKey(p.path), next)}
	var events []v1.Event
	for _, e := range effects {
		x := v1.Event{ID: newEventID(), At: now, Type: e.Type, Severity: string(e.Severity), Partition: p.path, Worker: p.s.Worker(), Message: e.Reason,
			Data: map[string]string{"from": string(p.rec.State), "to": string(next.State), "epoch": p.claim.Epoch.String()}}
		events = append(events, x)
		ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
	}
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		rev, err := p.s.Commit(cctx, p.claim.Guard().At(leases.PartitionStateKey(p.path), p.rev), ops...)
		cancel()
		if err == nil {
			p.rev = rev
			break
		}
		if isLost(err) {
			p.log.Warn("partition lost", "cause", err)
			return false
		}
		p.log.Warn("commit partition", "cause", err)
		if !pause(ctx, backoff) {
			return false
		}
	}
	if p.rec.State != next.State {
		p.log.Info("partition state", "from", p.rec.State, "to", next.State, "cause", next.Reason)
	}
	p.rec = next
	p.w.announced(events)
	p.w.setPartitionState(p.path, next)
	return true
}

// isLost reports whether a commit's error means that the record is not ours any more.
func isLost(err error) bool {
	return errors.Is(err, leases.ErrFenced) || errors.Is(err, leases.ErrConflict)
}

// setPartitionState publishes a committed state and tells the member hosts.
func (w *Worker) setPartitionState(path string, r ha.PartitionRecord) {
	members := w.view.members(path)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partStates[path] = r
	for _, host := range members {
		if o := w.owners[host]; o != nil && o.home == path {
			o.in.put("partition", ha.Event{Kind: ha.EvPartition, At: time.Now().UTC(), Partition: r.State})
		}
	}
}

// partitionState is the state of a partition as its owner here has committed it, else
// as it is on record.
func (w *Worker) partitionState(path string) (ha.PartitionRecord, bool) {
	w.mu.Lock()
	r, ok := w.partStates[path]
	w.mu.Unlock()
	if ok {
		return r, true
	}
	v, ok := get(w.view, w.view.states, path)
	return v.Val, ok
}

// memberChanged asks the partition of a host for a reassessment.
func (w *Worker) memberChanged(path string) {
	w.mu.Lock()
	p := w.parts[path]
	w.mu.Unlock()
	if p != nil {
		p.wake()
	}
}

// enlist makes an owner known to links, partitions and operators.
func (w *Worker) enlist(o *owner) {
	w.mu.Lock()
	w.owners[o.host] = o
	w.mu.Unlock()
	o.listed = true
	o.publish()
	w.memberChanged(o.spec.Val.Partition)
}

func (w *Worker) delist(o *owner) {
	w.mu.Lock()
	if w.owners[o.host] == o {
		delete(w.owners, o.host)
		w.shown.drop(o.host)
	}
	w.mu.Unlock()
	o.listed = false
	w.lostAgents.back(o.host)
	if _, ok := w.view.spec(o.host); !ok {
		w.door.Drop(o.host, w.unknown(o.host))
	} // else its link stays, and goes to the next owner
	w.memberChanged(o.spec.Val.Partition)
}

func (w *Worker) publish(host string, p *published) {
	was := w.shown.put(host, p)
	other, reader := was == nil || was.healthy != p.healthy, (was != nil && was.reads()) != p.reads()
	if !other && !reader {
		return // as nearly always: no lock that hosts share
	}
	spec, ok := w.view.spec(host)
	if !ok {
		return
	}
	if other {
		w.memberChanged(spec.Val.Partition)
	}
	if reader {
		w.readersChanged(spec.Val.Partition, host)
	}
}

// board is what owners have published of their hosts. Ten thousand of them write to it with
// every ping, each to an entry of its own: there is no lock.
type board struct{ all sync.Map } // host: *entry

type entry = atomic.Pointer[published]

// get is what was published last of a host; nil: it is not owned here.
func (b *board) get(host string) *published {
	if e, ok := b.all.Load(host); ok {
		return e.(*entry).Load()
	}
	return nil
}

// put publishes, and returns what was there before.
func (b *board) put(host string, p *published) *published {
	e, ok := b.all.Load(host)
	if !ok {
		e, _ = b.all.LoadOrStore(host, new(entry))
	}
	return e.(*entry).Swap(p)
}

func (b *board) drop(host string) { b.all.Delete(host) }

// readersChanged tells the other hosts of a partition that one more, or one less, of
// their neighbours can look at them: what is held for want of readers is asked again.
func (w *Worker) readersChanged(path, except string) {
	members := w.view.members(path) // few of all hosts, who may all come at once
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, host := range members {
		if o := w.owners[host]; o != nil && o.home == path && host != except {
			o.in.put("readers", readersChanged{})
		}
	}
}

// neighbours are the published facts of the other hosts of a partition.
func (w *Worker) neighbours(path, except string) map[string]*published {
	members := w.view.members(path)
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]*published{}
	for _, host := range members {
		if p, o := w.shown.get(host), w.owners[host]; host != except && p != nil && o != nil && o.home == path {
			out[host] = p
		}
	}
	return out
}
