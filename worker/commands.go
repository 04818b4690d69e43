// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// commander keeps the commands whose source is one host: the owner's other goroutine,
// under the same claim, so that a command that waits for etcd or for an agent never
// keeps the host's own machine waiting. It runs only while there is something to do.
// Nothing here decides, see coordinator/command.
type commander struct {
	o     *owner
	in    *mailbox
	asks  rooms         // of requests, by the host that is asked
	looks chan struct{} // one token per look and tidying: a host has so many places of the worker's pool at most

	mu       sync.Mutex
	opened   bool
	closed   bool
	running  bool
	known    map[string]knownSteps
	progress map[string]v1.CommandProgress

	// Touched by run's goroutine only.
	all     map[string]*heldCommand
	unknown map[string]bool // entries of the agent's journal without a record, told once
}

// heldCommand is one command that is not over yet.
type heldCommand struct {
	rec   command.Record
	rev   int64
	busy  map[command.EffectKind]bool // requests that are under way
	quiet time.Time                   // a tick that was due changed nothing: not before then
	// broken is since when its outcome is not certain; zero: it is, or was when it came here.
	broken time.Time
}

// knownSteps is what is on record of a command and its journal.
type knownSteps struct {
	seq   int
	ended bool // the command is released: the agent may forget it
	open  bool
	kind  command.Kind
	state command.State
}

func knownOf(r command.Record) knownSteps {
	return knownSteps{seq: r.Seq, ended: r.Released, open: r.Open(), kind: r.Kind, state: r.State}
}

// count tells of each command that is not over.
func (c *commander) count(tell func(kind, state string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.known {
		if k.open {
			tell(string(k.kind), string(k.state))
		}
	}
}

// maxAsks bounds the requests of one host's commands that are under way to one host, and its
// commands that are looked at or tidied.
const maxAsks = 8

// rooms bounds what is under way by a name: a host that does not answer keeps no room of others.
type rooms struct {
	mu sync.Mutex
	of map[string]chan struct{}
}

// enter waits for room until ctx ends, whose cause is the error.
func (r *rooms) enter(ctx context.Context, name string) (leave func(), err error) {
	r.mu.Lock()
	room := r.of[name]
	if room == nil {
		if r.of == nil {
			r.of = map[string]chan struct{}{}
		}
		room = make(chan struct{}, maxAsks)
		r.of[name] = room
	}
	r.mu.Unlock()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func newCommander(o *owner) *commander {
	return &commander{
		o: o, in: newMailbox(), looks: make(chan struct{}, maxAsks), known: map[string]knownSteps{}, progress: map[string]v1.CommandProgress{},
		all: map[string]*heldCommand{}, unknown: map[string]bool{},
	}
}

// Messages of the mailbox beside callMsg.
type (
	stepMsg struct {
		id   string
		step command.JournalStep
	}
	entriesMsg  struct{ at map[string]int } // the whole journal of the agent
	linkedMsg   struct{ problems []string }
	peerMsg     struct{ host string }
	movedMsg    struct{} // slots have other owners
	overMsg     struct{ boot, why string }
	settingsMsg struct{}
	foundMsg    struct { // a record whose creation got no answer
		rec command.Record
		rev int64
	}
	doneMsg struct { // an effect has ended
		id     string
		effect command.EffectKind
		ev     command.Event
		feed   bool // ev is to be fed
	}
)

// open reads the records and begins. It is called once, before the host is published.
func (c *commander) open() {
	for _, kv := range c.o.w.mirror.List(leases.CommandsPrefix + c.o.host + "/") {
		var rec command.Record
		if err := kv.Decode(&rec); err != nil {
			c.o.log.Error("unreadable record", "key", kv.Key, "cause", err)
			continue
		}
		c.known[rec.ID] = knownOf(rec)
		if rec.Open() {
			c.all[rec.ID] = &heldCommand{rec: rec, rev: kv.ModRevision, busy: map[command.EffectKind]bool{}}
		}
	}
	c.mu.Lock()
	c.opened = true
	c.mu.Unlock()
	if len(c.all) > 0 {
		c.put("settings", settingsMsg{})
	}
}

// close lets nothing begin any more; what runs ends with the owner's context.
func (c *commander) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
}

// put queues a message and has somebody there to take it.
func (c *commander) put(key string, msg any) {
	c.in.put(key, msg)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opened && !c.closed && !c.running {
		c.running = true
		c.o.w.atWork.set(c, true)
		c.o.jobs.wg.Go(func() { c.run(c.o.jobs.ctx) })
	}
}

// rest says that nothing is left to do; the next message begins anew.
func (c *commander) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) > 0 || c.in.depth() > 0 {
		return false
	}
	c.running = false
	c.o.w.atWork.set(c, false)
	return true
}

func (c *commander) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if c.rest() {
			return
		}
		timer.Reset(c.untilNext())
		b := &commandBatch{c: c}
		select {
		case <-ctx.Done():
			continue
		case <-timer.C:
		case <-c.in.ready:
		}
		for msg, ok := c.in.take(); ok && ctx.Err() == nil; msg, ok = c.in.take() {
			c.handle(ctx, b, msg)
		}
		c.ticks(b)
		_ = c.flush(ctx, b) // when it fails this owner has ended; it has logged why
	}
	c.o.w.atWork.set(c, false)
}

func (c *commander) now() time.Time { return time.Now().UTC() }

func (c *commander) policy() command.Policy {
	e := c.o.w.view.effective(c.o.home, c.o.host, c.now())
	return command.Policy{Enabled: e.Bool("reconcile.enabled"), Interval: e.Duration("reconcile.interval"), MaxAttempts: e.Int("reconcile.max.attempts")}
}

func (c *commander) untilNext() time.Duration {
	next := c.now().Add(time.Hour)
	for _, h := range c.all {
		due := h.rec.Due()
		if due.IsZero() {
			continue
		}
		if due.Before(h.quiet) {
			due = h.quiet
		}
		if due.Before(next) {
			next = due
		}
	}
	return max(time.Millisecond, time.Until(next))
}

// ticks feeds what is due.
func (c *commander) ticks(b *commandBatch) {
	now := c.now()
	for _, h := range c.all {
		due := b.record(h).Due()
		if due.IsZero() || due.After(now) || h.quiet.After(now) {
			continue
		}
		if !c.step(b, h, command.Event{Kind: command.EvTick, At: now}) {
			h.quiet = now.Add(time.Second)
		}
	}
}

// handle takes one message.
func (c *commander) handle(ctx context.Context, b *commandBatch, msg any) {
	now := c.now()
	switch m := msg.(type) {
	case stepMsg:
		if h := c.find(b, m.id); h != nil {
			c.step(b, h, command.Event{Kind: command.EvStep, At: now, Step: &m.step})
		}
	case entriesMsg:
		c.compare(b, now, m.at)
	case linkedMsg:
		for _, p := range m.problems {
			b.announce("command.journal-problem", string(command.Warning), "the agent of "+c.o.host+" set a file of its journal aside: "+p)
		}
		c.each(b, command.Event{Kind: command.EvLinked, At: now}, func(command.Record) bool { return true })
	case peerMsg:
		c.each(b, command.Event{Kind: command.EvLinked, At: now}, func(r command.Record) bool { return r.Spec.Target == m.host })
	case movedMsg:
		c.each(b, command.Event{Kind: command.EvLinked, At: now}, c.missesPeer)
	case overMsg:
		c.each(b, command.Event{Kind: command.EvOver, At: now, Reason: "boot " + m.boot + " of " + c.o.host + " is over: " + m.why},
			func(r command.Record) bool { return r.Boot == "" || r.Boot == m.boot })
	case settingsMsg:
		for _, h := range c.all {
			h.quiet = time.Time{}
		}
	case foundMsg:
		c.hold(m.rec, m.rev)
	case doneMsg:
		if h := c.all[m.id]; h != nil {
			h.busy[m.effect] = false
			if m.feed {
				m.ev.At = now
				c.step(b, h, m.ev)
			}
		}
	case callMsg:
		_ = c.flush(ctx, b) // what it reads is on record, or this owner has ended
		if ctx.Err() == nil && m.taken.CompareAndSwap(false, true) {
			m.fn(ctx)
			close(m.done)
		}
	}
}

func (c *commander) each(b *commandBatch, ev command.Event, which func(command.Record) bool) {
	for _, h := range c.all {
		if which(h.rec) {
			c.step(b, h, ev)
		}
	}
}

// find returns a command of this host, also one that is over, of which the agent still
// has something to tell. Of one without a record (etcd was restored from an older copy, or
// the record was deleted by hand) it is told once by each owner; the agent keeps its entry,
// which is the only evidence then.
func (c *commander) find(b *commandBatch, id string) *heldCommand {
	if h := c.all[id]; h != nil {
		return h
	}
	var rec command.Record
	rev, err := c.o.recall(leases.CommandKey(c.o.host, id), &rec)
	if err != nil || rev == 0 {
		if !c.unknown[id] {
			c.unknown[id] = err == nil // what could not be read is not known to be missing
			c.o.log.Error("the agent's journal has a command without a record", "command", id, "cause", err)
			if err == nil {
				b.announce("command.unknown-entry", string(command.Warning), "the agent of "+c.o.host+" has command "+id+" in its journal, of which there is no record: it is kept there, below the agent's state directory in journal")
			}
		}
		return nil
	}
	h := &heldCommand{rec: rec, rev: rev, busy: map[command.EffectKind]bool{}}
	c.all[id] = h
	return h
}

// compare looks for what the agent's journal, as a whole, does not have.
func (c *commander) compare(b *commandBatch, now time.Time, at map[string]int) {
	for id, h := range c.all {
		if _, there := at[id]; !there && !h.busy[command.Send] {
			c.step(b, h, command.Event{Kind: command.EvAbsent, At: now})
		}
	}
}

// step is decide, then commit, then act (architecture.md §4.2); the commit and the acts
// are the batch's. It returns whether anything changes.
func (c *commander) step(b *commandBatch, h *heldCommand, ev command.Event) bool {
	was := b.record(h)
	next, effects := command.Step(was, ev, c.policy())
	if len(effects) == 0 && reflect.DeepEqual(next, was) {
		return false
	}
	b.add(h, next, effects, ev.Step)
	return true
}

// What the door brings.

// entries takes note of all that the agent's journal has.
func (c *commander) entries(all []*agentpb.JournalEntry) {
	c.mu.Lock()
	idle := !c.running
	c.mu.Unlock()
	if idle && len(all) == 0 {
		return
	}
	at := map[string]int{}
	for _, e := range all {
		at[e.GetCommand()] = int(e.GetSeq())
	}
	c.put("entries", entriesMsg{at})
}

// acks answers which of them the agent may delete: those with an end on record, and no
// step that is not; and of which it has to tell some steps again: a mailbox may have gone
// with its owner.
func (c *commander) acks(all []*agentpb.JournalEntry) (forget, known []*agentpb.JournalEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range all {
		switch k, ok := c.known[e.GetCommand()]; {
		case ok && int(e.GetSeq()) > k.seq:
			known = append(known, &agentpb.JournalEntry{Command: e.GetCommand(), Seq: int32(k.seq)})
		case k.ended:
			forget = append(forget, e)
		}
	}
	return forget, known
}

func (c *commander) linked(h *agentpb.Hello) {
	c.entries(h.GetJournal())
	c.mu.Lock()
	idle := !c.running
	c.mu.Unlock()
	if idle && len(h.GetJournalProblems()) == 0 {
		return
	}
	c.put("", linkedMsg{h.GetJournalProblems()})
}

func (c *commander) steps(st *agentpb.Steps) {
	for _, x := range st.GetSteps() {
		var step command.JournalStep
		if err := json.Unmarshal(x.GetStep(), &step); err != nil || leases.CheckID("command", x.GetCommand()) != nil || step.Seq < 1 {
			c.o.log.Error("unreadable step of the agent's journal", "command", x.GetCommand(), "cause", err)
			continue
		}
		c.put("", stepMsg{x.GetCommand(), step})
	}
}

// tell keeps what is shown of a command's progress.
func (c *commander) tell(p *agentpb.Progresses) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range p.GetProgress() {
		out := v1.CommandProgress{Done: x.GetDone(), Total: x.GetTotal(), Rate: x.GetRate()}
		if left := out.Total - out.Done; left >= 0 && out.Total > 0 && out.Rate > 0 {
			out.ETA = (time.Duration(left/out.Rate) * time.Second).String()
		}
		c.progress[x.GetCommand()] = out
	}
}

func (c *commander) over(boot, why string) { c.put("", overMsg{boot, why}) }
func (c *commander) policyChanged() {
	c.mu.Lock()
	idle := !c.running
	c.mu.Unlock()
	if !idle {
		c.put("settings", settingsMsg{})
	}
}

// trim are the deletions of records that have outlived command.keep, some at a time.
func (c *commander) trim(now time.Time) (ops []leases.Op) {
	keep := c.o.w.view.effective(c.o.home, c.o.host, now).Duration("command.keep")
	for _, kv := range c.o.w.mirror.List(leases.CommandsPrefix + c.o.host + "/") {
		var rec command.Record
		if kv.Decode(&rec) != nil || rec.Open() || now.Sub(rec.Ended) < keep || len(ops) >= maxForgotten {
			continue
		}
		ops = append(ops, leases.Delete(kv.Key))
		c.mu.Lock()
		delete(c.known, rec.ID)
		c.mu.Unlock()
	}
	return ops
}
