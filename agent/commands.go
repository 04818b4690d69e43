// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/exec"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

const (
	journalDir = "journal"
	// progressEvery is how often progress is told at most.
	progressEvery = time.Second
	// maxSteps and maxStepBytes bound one frame of steps.
	maxSteps     = 256
	maxStepBytes = frame.Max / 2
)

// commands is the agent's part in commands (commands.md). Until it is opened, and where
// the journal cannot be, it knows none and takes none.
type commands struct {
	log *slog.Logger

	mu      sync.Mutex
	journal *journal.Journal
	exec    *exec.Executor
	failed  error          // why there is no journal
	ended   map[string]int // to be forgotten, up to which step
	deletes bool           // somebody is at it
	closed  bool           // nobody begins to be any more
	deleter sync.WaitGroup
}

// openCommands reads the journal and starts what works on commands; wait ends that.
func (a *Agent) openCommands(ctx context.Context, boot string) (wait func()) {
	c := &a.commands
	c.log = a.opts.Logger
	j, err := journal.Open(filepath.Join(a.opts.StateDir, journalDir), boot, a.process)
	if err != nil {
		// No reason to be silent as a host: it still beats, it only takes no commands.
		a.opts.Logger.Error("journal of commands cannot be used, commands are refused", "cause", err)
		c.mu.Lock()
		c.failed = err
		c.mu.Unlock()
		return func() {}
	}
	j.OnWrite(func(took time.Duration) { a.metrics.journalWrite.Observe(took.Seconds()) })
	if a.opts.SyncJournal != nil {
		j.SyncWith(a.opts.SyncJournal)
	}
	for _, p := range j.Problems() {
		a.opts.Logger.Error("journal file set aside", "file", p.File, "cause", p.Why)
	}
	x := exec.New(exec.Options{
		Host: a.opts.Host, Boot: boot, Process: a.process, Journal: j, Hypervisor: a.opts.Hypervisor, Logger: a.opts.Logger, Observe: a.opts.Observe,
	})
	c.mu.Lock()
	c.journal, c.exec = j, x
	c.mu.Unlock()
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = x.Run(ctx) // it ends with ctx, and has no other end
	}()
	return func() {
		stop()
		<-done
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.deleter.Wait()
	}
}

func (c *commands) get() (*journal.Journal, *exec.Executor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.failed != nil:
		return nil, nil, fmt.Errorf("the journal cannot be used: %w", c.failed)
	case c.exec == nil:
		return nil, nil, fmt.Errorf("the journal is not read yet")
	}
	return c.journal, c.exec, nil
}

// entries is how far the journal is with each command, as far as that is durable: of one
// that is just being begun nothing is, but it is here. It waits for no write.
func (c *commands) entries() []*agentpb.JournalEntry {
	j, x, err := c.get()
	if err != nil {
		return nil
	}
	var out []*agentpb.JournalEntry
	for _, id := range x.Beginning() {
		out = append(out, &agentpb.JournalEntry{Command: id})
	}
	for _, e := range j.All() {
		out = append(out, &agentpb.JournalEntry{Command: e.ID, Seq: int32(len(e.Steps))})
	}
	return out
}

// problems are the files that were set aside, and why there is no journal.
func (c *commands) problems() []string {
	j, _, err := c.get()
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, p := range j.Problems() {
		out = append(out, p.File+": "+p.Why)
	}
	return out
}

// troubles is how many problems there are; none while the journal is not read yet.
func (c *commands) troubles() int {
	c.mu.Lock()
	j, failed := c.journal, c.failed
	c.mu.Unlock()
	switch {
	case failed != nil:
		return 1
	case j == nil:
		return 0
	}
	return len(j.Problems())
}

// changed is closed when there is a step that was not there at the call.
func (c *commands) changed() <-chan struct{} {
	j, _, err := c.get()
	if err != nil {
		return nil
	}
	return j.Changed()
}

// writing is since when the journal's oldest write that has not come back is under way;
// zero: there is none.
func (c *commands) writing() time.Time {
	c.mu.Lock()
	j := c.journal
	c.mu.Unlock()
	if j == nil {
		return time.Time{}
	}
	return j.Writing()
}

// forget has deleted what the worker has on record to its end. It does not wait for that: a
// link goes on while the disk hangs.
func (c *commands) forget(all []*agentpb.JournalEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exec == nil || c.closed {
		return
	}
	if c.ended == nil {
		c.ended = map[string]int{}
	}
	for _, e := range all {
		c.ended[e.GetCommand()] = int(e.GetSeq())
	}
	if len(c.ended) > 0 && !c.deletes {
		c.deletes = true
		c.deleter.Go(func() { c.delete(c.exec) })
	}
}

// delete forgets one command after the other, until none is left.
func (c *commands) delete(x *exec.Executor) {
	next := func() (id string, seq int, ok bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for id, seq = range c.ended {
			delete(c.ended, id)
			return id, seq, true
		}
		c.deletes = false
		return "", 0, false
	}
	for id, seq, ok := next(); ok; id, seq, ok = next() {
		if err := x.Forget(id, seq); err != nil {
			c.log.Warn("command not forgotten", "command", id, "cause", err)
		}
	}
}

// handle does what a worker asks about a command. An error says that it was not worked
// on; a refusal in the answer is this host's last word on it.
func (c *commands) handle(ctx context.Context, r *agentpb.CommandRequest) (*agentpb.CommandAnswer, error) {
	_, x, err := c.get()
	if err != nil {
		return nil, fmt.Errorf("refuse command: %w", err)
	}
	var out any
	switch r.GetVerb() {
	case agentpb.CommandRequest_RUN:
		var spec command.Spec
		if err := decode(r, &spec); err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
		if err := x.Start(ctx, r.GetCommand(), spec); err != nil {
			if ctx.Err() != nil || exec.Unanswered(err) {
				return nil, err
			}
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
	case agentpb.CommandRequest_CANCEL:
		x.Cancel(r.GetCommand())
	case agentpb.CommandRequest_REATTACH:
		if err := x.Reattach(r.GetCommand()); err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
	case agentpb.CommandRequest_LOOK:
		var q command.Question
		if err := decode(r, &q); err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
		out = x.Look(ctx, r.GetCommand(), q)
	case agentpb.CommandRequest_TIDY:
		var chore command.Chore
		if err := decode(r, &chore); err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
		out = x.Tidy(ctx, r.GetCommand(), chore)
	case agentpb.CommandRequest_MAKE:
		var spec command.Spec
		if err := decode(r, &spec); err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
		paths, err := x.Make(ctx, r.GetCommand(), spec)
		if exec.Unanswered(err) {
			return nil, err // it is asked again
		}
		if err != nil {
			return &agentpb.CommandAnswer{Refused: err.Error()}, nil
		}
		out = paths
	default:
		return &agentpb.CommandAnswer{Refused: "this agent's version does not know what to do with it"}, nil
	}
	if out == nil {
		return &agentpb.CommandAnswer{}, nil
	}
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return &agentpb.CommandAnswer{Body: b}, nil
}

func decode(r *agentpb.CommandRequest, into any) error {
	if err := json.Unmarshal(r.GetBody(), into); err != nil {
		return fmt.Errorf("decode %v of command %s: %w", r.GetVerb(), r.GetCommand(), err)
	}
	return nil
}

// told is the last step of each command that was sent.
type told struct {
	mu   sync.Mutex
	last map[string]int
}

// news is what of an entry was not sent yet; it counts as sent then.
func (t *told) news(e journal.Entry) []command.JournalStep {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = map[string]int{}
	}
	from := min(t.last[e.ID], len(e.Steps))
	t.last[e.ID] = len(e.Steps)
	return e.Steps[from:]
}

// again has the steps sent again that the worker does not have: those it may just be
// writing down come twice, which is harmless.
func (t *told) again(known []*agentpb.JournalEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range known {
		if t.last[k.GetCommand()] > int(k.GetSeq()) {
			t.last[k.GetCommand()] = int(k.GetSeq())
		}
	}
}

// sendSteps sends the steps that this session has not heard of yet, some at a time; held: there are
// commands in the journal.
func (s *session) sendSteps() (held bool, err error) {
	j, _, err := s.agent.commands.get()
	if err != nil {
		return false, nil // nothing to tell, and the Hello has said why
	}
	out, size := &agentpb.Steps{}, 0
	flush := func() error {
		if len(out.Steps) == 0 {
			return nil
		}
		err := s.send(&agentpb.Up{Frame: &agentpb.Up_Steps{Steps: out}})
		out, size = &agentpb.Steps{}, 0
		return err
	}
	for _, e := range j.All() {
		held = true
		for _, step := range s.told.news(e) {
			b, err := json.Marshal(step)
			if err != nil {
				return held, fmt.Errorf("encode step of command %s: %w", e.ID, err)
			}
			if len(out.Steps) >= maxSteps || size+len(b) > maxStepBytes {
				if err := flush(); err != nil {
					return held, err
				}
			}
			out.Steps = append(out.Steps, &agentpb.JournalStep{Command: e.ID, Step: b})
			size += len(b)
		}
	}
	return held, flush()
}

// sendProgress tells how far commands are.
func (s *session) sendProgress() error {
	_, x, err := s.agent.commands.get()
	if err != nil {
		return nil
	}
	out := &agentpb.Progresses{}
	for id, p := range x.Progress() {
		out.Progress = append(out.Progress, &agentpb.Progress{Command: id, Done: p.Done, Total: p.Total, Rate: p.Rate})
	}
	if len(out.Progress) == 0 {
		return nil
	}
	return s.send(&agentpb.Up{Frame: &agentpb.Up_Progress{Progress: out}})
}
