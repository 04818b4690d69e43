// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Several commands go in one transaction (leases.md §1): so many, and so many operations.
const (
	batchCommands = 16
	batchOps      = 100
)

// commandBatch is what was decided and is not on record yet.
type commandBatch struct {
	c         *commander
	order     []*pendingCommand
	by        map[*heldCommand]*pendingCommand
	announced []v1.Event
}

type pendingCommand struct {
	h       *heldCommand
	next    command.Record
	steps   []command.JournalStep
	effects []command.Effect
	word    *v1.Event // of an operator; it is audited
}

// record is a command as it will be.
func (b *commandBatch) record(h *heldCommand) command.Record {
	if p := b.by[h]; p != nil {
		return p.next
	}
	return h.rec
}

func (b *commandBatch) add(h *heldCommand, next command.Record, effects []command.Effect, step *command.JournalStep) {
	p := b.by[h]
	if p == nil {
		p = &pendingCommand{h: h}
		if b.by == nil {
			b.by = map[*heldCommand]*pendingCommand{}
		}
		b.by[h] = p
		b.order = append(b.order, p)
	}
	if step != nil && step.Seq > b.seq(p) {
		p.steps = append(p.steps, *step)
	}
	p.next = next
	p.effects = append(p.effects, effects...)
}

func (b *commandBatch) seq(p *pendingCommand) int {
	if n := len(p.steps); n > 0 {
		return p.steps[n-1].Seq
	}
	return p.h.rec.Seq
}

// announce adds an event that belongs to no command on record.
func (b *commandBatch) announce(typ, severity, msg string) {
	b.announced = append(b.announced, b.c.event(typ, severity, msg, command.Record{Host: b.c.o.host}))
}

func (c *commander) event(typ, severity, msg string, r command.Record) v1.Event {
	x := v1.Event{
		ID: newEventID(), At: c.now(), Type: typ, Severity: severity, Host: r.Host, Partition: c.o.home, Worker: c.o.s.Worker(),
		Message: msg, Data: map[string]string{"epoch": c.o.claim.Epoch.String()},
	}
	if r.ID != "" {
		x.Message = fmt.Sprintf("%s %s: %s", r.Kind, r.ID, msg)
		x.Data["command"], x.Data["state"] = r.ID, string(r.State)
	}
	if r.Spec.Instance != "" {
		x.Instances = []string{r.Spec.Instance}
	}
	return x
}

// settles: the resources change with it.
func (p *pendingCommand) settles() bool {
	was := p.h.rec
	return was.Outcome == nil && p.next.Outcome != nil || was.Outcome != nil && p.next.Outcome != nil && was.Outcome.Done != p.next.Outcome.Done || !was.Released && p.next.Released
}

// ops are the writes of one command but for its resources.
func (c *commander) ops(p *pendingCommand) (ops []leases.Op, events []v1.Event) {
	id := p.next.ID
	ops = append(ops, leases.Put(leases.CommandKey(c.o.host, id), p.next))
	if p.next.Acked && !p.h.rec.Acked {
		for n := 1; n <= p.h.rec.Seq && n <= batchOps/2; n++ { // more than that were deleted before
			ops = append(ops, leases.Delete(leases.JournalKey(c.o.host, id, n)))
		}
	} else {
		for _, s := range p.steps {
			ops = append(ops, leases.Put(leases.JournalKey(c.o.host, id, s.Seq), s))
		}
	}
	for _, e := range p.effects {
		if e.Kind == command.Announce {
			x := c.event(e.Type, string(e.Severity), e.Reason, p.next)
			ops, events = append(ops, leases.Put(leases.EventKey(x.ID), x)), append(events, x)
		}
	}
	if p.word != nil {
		was, err := asWas(p.h.rec, p.h.rev)
		if err != nil {
			c.o.log.Error("audit an order", "command", id, "cause", err) // the record itself could not be written then
		}
		ops = append(ops, c.o.w.auditOf(*p.word, ops[:1], map[string]json.RawMessage{leases.CommandKey(c.o.host, id): was}))
	}
	return ops, events
}

// flush puts everything that was decided on record, then acts. The error is why some of it is
// not on record, and nothing of that was started: somebody else has written there, the slot has
// gone, or etcd did not answer before it went. This owner has ended then.
func (c *commander) flush(ctx context.Context, b *commandBatch) (failed error) {
	var group []*pendingCommand
	var ops []leases.Op
	events := b.announced
	for _, x := range events {
		ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
	}
	send := func() {
		if len(ops) == 0 {
			return
		}
		g := c.o.claim.Guard()
		for _, p := range group {
			g = g.At(leases.CommandKey(c.o.host, p.next.ID), p.h.rev)
		}
		rev, err := c.commit(ctx, g, ops)
		if err == nil {
			c.o.w.announced(events)
			for _, p := range group {
				c.committed(ctx, p, rev)
			}
		}
		failed = cmp.Or(failed, err)
		group, ops, events = nil, nil, nil
	}
	for _, p := range b.order {
		if p.settles() {
			continue
		}
		c.dropSteps(ctx, p)
		more, told := c.ops(p)
		if len(group) >= batchCommands || len(ops)+len(more) > batchOps {
			send()
		}
		group, ops, events = append(group, p), append(ops, more...), append(events, told...)
	}
	send()
	for _, p := range b.order {
		if p.settles() {
			failed = cmp.Or(failed, c.settle(ctx, p))
		}
	}
	*b = commandBatch{c: c}
	return failed
}

// dropSteps deletes the journal keys of a command that the agent has forgotten, where
// they are too many for the transaction that says so.
func (c *commander) dropSteps(ctx context.Context, p *pendingCommand) {
	if !p.next.Acked || p.h.rec.Acked {
		return
	}
	for from := batchOps/2 + 1; from <= p.h.rec.Seq; from += batchOps {
		var ops []leases.Op
		for n := from; n < from+batchOps && n <= p.h.rec.Seq; n++ {
			ops = append(ops, leases.Delete(leases.JournalKey(c.o.host, p.next.ID, n)))
		}
		if _, err := c.commit(ctx, c.o.claim.Guard().At(leases.CommandKey(c.o.host, p.next.ID), p.h.rev), ops); err != nil {
			return
		}
	}
}

// commit writes until it is written or is not ours to write. A conflict on one of our own
// records means that somebody else wrote it: the owner ends and the host is adopted anew.
func (c *commander) commit(ctx context.Context, g leases.Guard, ops []leases.Op) (int64, error) {
	rev, err := c.try(ctx, g, ops)
	if errors.Is(err, leases.ErrConflict) {
		c.o.w.metrics.commits.WithLabelValues("conflict").Inc()
		c.o.jobs.stop(fmt.Errorf("commit commands: %w", err))
	}
	return rev, err
}

// try is commit that leaves a conflict to its caller.
func (c *commander) try(ctx context.Context, g leases.Guard, ops []leases.Op) (int64, error) {
	failed := false
	defer func() {
		if failed {
			c.o.w.health.clear("CommitsFail")
		}
	}()
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		rev, err := c.o.write(ctx, c.o.w.view.underWay(c.o.host), g, ops)
		if err != nil && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		switch {
		case err == nil:
			c.o.w.metrics.commits.WithLabelValues("ok").Inc()
			return rev, nil
		case errors.Is(err, leases.ErrFenced):
			c.o.w.metrics.commits.WithLabelValues("fenced").Inc()
			c.o.jobs.stop(fmt.Errorf("commit commands: %w", leases.ErrFenced))
			return 0, err
		case errors.Is(err, leases.ErrConflict):
			return 0, err
		}
		failed = true
		c.o.w.metrics.commits.WithLabelValues("error").Inc()
		c.o.log.Warn("commit commands", "cause", err)
		c.o.w.health.set("CommitsFail", "critical", fmt.Sprintf("commands of host %s: %v; nothing is done about them before it is on record", c.o.host, err))
		if !pause(ctx, backoff) {
			return 0, fmt.Errorf("%w; then: %w", err, context.Cause(ctx))
		}
	}
}

// committed is everything that follows a commit.
func (c *commander) committed(ctx context.Context, p *pendingCommand, rev int64) {
	was := p.h.rec
	p.h.rec, p.h.rev, p.h.quiet = p.next, rev, time.Time{}
	switch p.next.State {
	case command.Interrupted, command.Dangling, command.Reconciling:
		if p.h.broken.IsZero() {
			p.h.broken = p.next.Since
		}
	case command.Pending, command.Sent, command.Started, command.Processing, command.Backend:
		p.h.broken = time.Time{}
	}
	c.o.w.metrics.commandStep(was, p.next, p.h.broken)
	if was.State != p.next.State {
		c.o.log.Info("command", "command", p.next.ID, "kind", p.next.Kind, "from", was.State, "to", p.next.State, "cause", p.next.Reason, "epoch", c.o.claim.Epoch)
	}
	c.mu.Lock()
	c.known[p.next.ID] = knownOf(p.next)
	if p.next.Released {
		delete(c.progress, p.next.ID)
	}
	c.mu.Unlock()
	if !p.next.Open() {
		delete(c.all, p.next.ID)
	}
	for _, e := range p.effects {
		c.start(ctx, p.h, e)
	}
}

// settleTries is how often resources are read again that somebody else wrote meanwhile.
const settleTries = 10

// settle puts an outcome, or a release, on record together with the resources: in one
// transaction, once. The error is why it is not on record.
func (c *commander) settle(ctx context.Context, p *pendingCommand) error {
	key := leases.CommandKey(c.o.host, p.next.ID)
	var err error
	for range settleTries {
		g := c.o.claim.Guard().At(key, p.h.rev)
		ops, events := c.ops(p)
		var changed []leases.Op
		if changed, err = c.resources(ctx, p, &g); err == nil {
			ops = append(ops, changed...)
			if p.next.Released && !p.h.rec.Released {
				ops = append(ops, c.trim(c.now())...)
			}
			var rev int64
			if rev, err = c.try(ctx, g, ops); err == nil {
				c.o.w.announced(events)
				c.committed(ctx, p, rev)
				return nil
			}
		}
		var conflict *leases.ConflictError
		if errors.As(err, &conflict) && conflict.Key == key {
			c.o.jobs.stop(fmt.Errorf("commit command: %w", err))
			return err
		}
		if !pause(ctx, 50*time.Millisecond) {
			return err
		}
		c.o.log.Info("settle again", "command", p.next.ID, "cause", err)
	}
	// Nothing was written: the host's commands are read anew, and this one is decided again.
	err = fmt.Errorf("settle command %s: its resources could not be written: %w", p.next.ID, err)
	c.o.jobs.stop(err)
	return err
}

// resources are the writes of a command's resources: where they are now, once, when the
// outcome is set; that they are free again when it is released.
func (c *commander) resources(ctx context.Context, p *pendingCommand, g *leases.Guard) (ops []leases.Op, err error) {
	was, now := p.h.rec, p.next
	truth := now.Outcome != nil && (was.Outcome == nil || was.Outcome.Done != now.Outcome.Done)
	for _, hold := range now.Holds {
		key := leases.Root + hold
		kv, err := c.get(ctx, key)
		if errors.Is(err, leases.ErrNotFound) {
			continue // forgotten by hand: nothing is left to be true
		}
		if err != nil {
			return nil, err
		}
		kind, id, _ := strings.Cut(hold, "/")
		var op leases.Op
		switch kind {
		case "volumes":
			op, err = changeRecord(key, kv, func(v *v1.Volume) bool { return settleVolume(v, id, now, truth, c.now()) })
		case "templates":
			op, err = changeRecord(key, kv, func(t *v1.Template) bool { return settleTemplate(t, now, truth) })
		case "instances":
			op, err = changeRecord(key, kv, func(i *v1.Instance) bool { return settleInstance(i, now, truth, c.now()) })
		}
		if err != nil {
			return nil, err
		}
		*g = g.At(key, kv.ModRevision)
		ops = append(ops, op)
	}
	return ops, nil
}

func (c *commander) get(ctx context.Context, key string) (leases.KV, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	return c.o.w.client.Get(ctx, key)
}

// changeRecord decodes, changes and encodes; change returns false to delete it.
func changeRecord[T any](key string, kv leases.KV, change func(*T) bool) (leases.Op, error) {
	var v T
	if err := kv.Decode(&v); err != nil {
		return leases.Op{}, err
	}
	if !change(&v) {
		return leases.Delete(key), nil
	}
	return leases.Put(key, v), nil
}

func settleVolume(v *v1.Volume, id string, r command.Record, truth bool, now time.Time) bool {
	if v.Command != r.ID {
		return true
	}
	for _, item := range r.Spec.Items {
		switch {
		case !truth:
		case item.As == id && r.Kind == command.Copy:
			if !r.Outcome.Done {
				return false // it never came to be
			}
			v.State, v.Since = "ready", now
		case item.Volume == id && r.Kind != command.Copy && r.Outcome.Done:
			v.Pool, v.Path, v.Since = item.To.Pool, item.To.Path, now
		case item.Volume == id && r.Kind != command.Copy:
			v.Pool, v.Path = item.From.Pool, item.From.Path
		}
	}
	if r.Released {
		v.Command, v.State, v.Since = "", "ready", now
	}
	return true
}

func settleTemplate(t *v1.Template, r command.Record, truth bool) bool {
	if t.Command != r.ID {
		return true
	}
	for _, item := range r.Spec.Items {
		to := v1.Place{Pool: item.To.Pool, Path: item.To.Path}
		if truth && item.As == "" {
			t.Copies = slices.DeleteFunc(t.Copies, func(p v1.Place) bool { return p == to })
			if r.Outcome.Done {
				t.Copies = append(t.Copies, to)
			}
		}
	}
	if r.Released {
		t.Command = ""
	}
	return true
}

func settleInstance(i *v1.Instance, r command.Record, truth bool, now time.Time) bool {
	if i.Command != r.ID {
		return true
	}
	if truth {
		switch {
		case r.Kind == command.Migrate && r.Outcome.Done:
			i.Host, i.Since, i.Generation = r.Spec.Target, now, i.Generation+1
		case r.Kind == command.Migrate && i.Host != r.Host:
			i.Host, i.Since, i.Generation = r.Host, now, i.Generation+1
		}
		switch r.Outcome.Ran {
		case command.Running, command.Paused:
			i.State = "running"
		case command.Stopped:
			i.State = "stopped"
		}
	}
	if r.Released {
		i.Command = ""
	}
	return true
}
