// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/journal"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// Errors by which a request is refused; nothing was done.
var (
	errUnsupported = errors.New("this host's hypervisor cannot do that")
	errCancelled   = errors.New("cancelled")
	errLate        = fmt.Errorf("its disk has not taken the first step in the journal within %v: the command is not begun", beginLimit)
)

// Options are all required but Logger and Observe.
type Options struct {
	Host, Boot, Process string
	Journal             *journal.Journal
	Hypervisor          hypervisor.Hypervisor
	Logger              *slog.Logger
	// Observe is told of each Point that a command comes to, before it goes on; it may
	// block until ctx ends.
	Observe func(ctx context.Context, id string, at Point)
}

// Point is a place in the life of a command at this host.
type Point string

// The points, in their order.
const (
	Received    Point = "received"    // not in the journal yet
	Journaled   Point = "journaled"   // nothing done yet
	Transfer    Point = "transfer"    // some of it is done
	Transferred Point = "transferred" // all of it is done, no end in the journal yet
	Ended       Point = "ended"       // the end is in the journal
)

// Progress is how far a command is.
type Progress struct {
	Done, Total, Rate int64 // bytes, bytes per second
}

// Executor does commands. Make it with New, then call Run once.
type Executor struct {
	o     Options
	turns turns // of calls of which one is under way at a time

	mu      sync.Mutex
	working map[string]*work
	acts    map[string]int // calls of a command that change something and have not come back
	queue   []*work
	wake    chan struct{} // a token: the queue is not empty
}

// work is one command that this process is at work on.
type work struct {
	id       string
	spec     command.Spec
	reattach bool
	stop     context.CancelCauseFunc
	cancel   chan struct{} // closed when it is cancelled
	once     sync.Once
	refused  bool      // the journal took it too late
	begin    beginning // by the executor's lock

	mu       sync.Mutex
	progress Progress
	seen     bool // some progress was told
	began    time.Time
	beganAt  int64
}

// beginning is how far a work is with its first step in the journal.
type beginning int

const (
	begun       beginning = iota
	isBeginning           // being written
	late                  // not in time: it is not begun any more, whatever becomes of the write
)

// New makes an executor; it starts nothing.
func New(o Options) *Executor {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(context.Context, string, Point) {}
	}
	return &Executor{o: o, turns: turns{taken: map[string]chan struct{}{}}, working: map[string]*work{}, acts: map[string]int{}, wake: make(chan struct{}, 1)}
}

// Run works until ctx ends; then all that is this process's work ends with it.
func (x *Executor) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-x.wake:
		}
		x.mu.Lock()
		queue := x.queue
		x.queue = nil
		x.mu.Unlock()
		for _, w := range queue {
			wctx, stop := context.WithCancelCause(ctx)
			w.stop = stop
			all.Go(func() {
				defer stop(nil)
				defer x.leave(w)
				x.do(wctx, w)
			})
		}
	}
}

func (x *Executor) leave(w *work) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.working[w.id] == w {
		delete(x.working, w.id)
	}
}

// enter makes w the work on its command; false: this process is at work on it already, and
// how far that is with its beginning.
func (x *Executor) enter(w *work) (beginning, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if other := x.working[w.id]; other != nil {
		return other.begin, false
	}
	x.working[w.id] = w
	return w.begin, true
}

// Beginning are the commands whose first step is being written: the journal does not have
// them yet, but may have them at any moment.
func (x *Executor) Beginning() (ids []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, w := range x.working {
		if w.begin != begun {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (x *Executor) enqueue(w *work) {
	x.mu.Lock()
	x.queue = append(x.queue, w)
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Start takes a command: when it returns nil the journal has it, and it is worked on. One
// that the journal has already is not begun again, and is no error.
func (x *Executor) Start(ctx context.Context, id string, spec command.Spec) error {
	if err := x.check(spec); err != nil {
		return err
	}
	x.o.Observe(ctx, id, Received)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w := &work{id: id, spec: spec, cancel: make(chan struct{}), begin: isBeginning}
	switch far, free := x.enter(w); {
	case !free && far == isBeginning:
		return fmt.Errorf("journal: %w yet: the first step is being written", errLeft)
	case !free && far == late:
		return errLate
	case !free:
		return nil
	}
	if since := x.o.Journal.Writing(); !since.IsZero() && time.Since(since) > beginLimit {
		x.leave(w) // one more would hang as well
		return fmt.Errorf("the disk of the journal has not come back with a write since %s: the command is not begun", since.UTC().Format(time.RFC3339))
	}
	written := make(chan error, 1)
	go func() { written <- x.begin(w) }()
	limit := time.NewTimer(beginLimit)
	defer limit.Stop()
	select {
	case err := <-written:
		return err
	case <-limit.C:
	}
	x.mu.Lock()
	inTime := w.begin == begun
	if !inTime {
		w.begin = late
	}
	x.mu.Unlock()
	if inTime {
		return <-written
	}
	return errLate
}

// begin writes the first step of a work and lets it go on, unless that took too long: who
// sent the command was told then that it is not begun, and may have put that on record.
func (x *Executor) begin(w *work) error {
	err := x.o.Journal.Begin(w.id, w.spec, "taken by the agent")
	x.mu.Lock()
	w.refused = w.begin == late
	w.begin = begun
	x.mu.Unlock()
	switch {
	case errors.Is(err, journal.ErrKnown):
		x.leave(w)
		return nil
	case err != nil:
		x.leave(w)
		return fmt.Errorf("journal: %w", err)
	}
	x.enqueue(w)
	if w.refused {
		return errLate
	}
	return nil
}

// check refuses what this host cannot do.
func (x *Executor) check(spec command.Spec) error {
	if spec.V != command.Version {
		return fmt.Errorf("spec of version %d: this agent knows %d", spec.V, command.Version)
	}
	h := x.o.Hypervisor
	var ok bool
	switch {
	case spec.Kind == command.Migrate:
		_, ok = h.(hypervisor.Migrator)
	case spec.Kind == command.MigrateVolume && spec.Live:
		_, ok = h.(hypervisor.BlockCopier)
	case spec.Kind == command.MigrateVolume, spec.Kind == command.Copy:
		_, ok = h.(hypervisor.Copier)
	default:
		return fmt.Errorf("kind %q: this agent does not know it", spec.Kind)
	}
	if _, looks := h.(hypervisor.Storage); !ok || !looks {
		return fmt.Errorf("%s: %w", spec.Kind, errUnsupported)
	}
	if n := len(spec.Items); spec.Kind != command.Migrate && n != 1 {
		return fmt.Errorf("%s of %d volumes: want 1", spec.Kind, n)
	}
	return nil
}

// Reattach waits for the end of a job that runs without anybody waiting for it.
func (x *Executor) Reattach(id string) error {
	e, ok := x.o.Journal.Get(id)
	switch {
	case !ok:
		return errors.New("the journal does not know the command")
	case e.Last().Terminal():
		return nil
	case !e.Spec.Live:
		return errors.New("a copy does not outlive its process")
	}
	w := &work{id: id, spec: e.Spec, reattach: true, cancel: make(chan struct{})}
	if _, free := x.enter(w); free {
		x.enqueue(w)
	}
	return nil
}

// Cancel asks the work on a command to end. What comes of that is in the journal.
func (x *Executor) Cancel(id string) {
	x.mu.Lock()
	w := x.working[id]
	x.mu.Unlock()
	if w != nil {
		w.once.Do(func() { close(w.cancel) })
	}
}

// Working says whether this process is at work on a command, or a call of it that was left
// behind may still change something.
func (x *Executor) Working(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.working[id] != nil || x.acts[id] > 0
}

// Running counts the commands that this process is at work on, by kind.
func (x *Executor) Running() map[command.Kind]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := map[command.Kind]int{}
	for _, w := range x.working {
		out[w.spec.Kind]++
	}
	return out
}

// Forget deletes what the journal has of a command that the worker has on record to its
// end. One that this process is still at work on is cancelled first.
func (x *Executor) Forget(id string, seq int) error {
	if x.Working(id) {
		x.Cancel(id)
		return nil
	}
	return x.o.Journal.Forget(id, seq)
}

// Progress is how far each command is that this process is at work on.
func (x *Executor) Progress() map[string]Progress {
	x.mu.Lock()
	all := maps.Clone(x.working)
	x.mu.Unlock()
	out := map[string]Progress{}
	for id, w := range all {
		w.mu.Lock()
		if w.seen {
			out[id] = w.progress
		}
		w.mu.Unlock()
	}
	return out
}

// tell takes a progress over; the rate is that since the work began, unless it is known.
func (w *work) tell(done, total, rate int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.seen {
		w.began, w.beganAt, w.seen = now, done, true
	}
	if s := now.Sub(w.began).Seconds(); rate == 0 && s > 0.2 {
		rate = int64(float64(done-w.beganAt) / s)
	}
	w.progress = Progress{done, total, max(0, rate)}
}

// do works on one command.
func (x *Executor) do(ctx context.Context, w *work) {
	if !w.reattach && !w.refused {
		x.o.Observe(ctx, w.id, Journaled)
	}
	if ctx.Err() != nil {
		return
	}
	log := x.o.Logger.With("command", w.id, "kind", w.spec.Kind)
	log.Info("command begins", "reattach", w.reattach)
	var r result
	switch {
	case w.refused:
		r = failed("", "nothing was done: %v", errLate)
	case w.spec.Kind == command.Migrate:
		r = x.migrate(ctx, w)
	case w.spec.Live:
		r = x.blockCopy(ctx, w)
	default:
		r = x.copy(ctx, w)
	}
	if ctx.Err() != nil {
		return // the next process finds what is left
	}
	// Before the end is told: whoever hears of it and looks must not find us at work.
	x.leave(w)
	x.conclude(ctx, w, r)
	log.Info("command ended", "state", r.state, "cause", r.what)
}

// result is what this process says of a command's end: COMPLETED or FAILED of what it
// has seen itself, else INTERRUPTED, which is "cannot tell".
type result struct {
	state command.State
	what  string
	ran   string
}

func completed(ran, format string, args ...any) result {
	return result{command.Completed, fmt.Sprintf(format, args...), ran}
}

func failed(ran, format string, args ...any) result {
	return result{command.Failed, fmt.Sprintf(format, args...), ran}
}

func cannotTell(format string, args ...any) result {
	return result{command.Interrupted, fmt.Sprintf(format, args...), ""}
}

// conclude writes the end down, again and again until the disk takes it: what is not
// durable is not said.
func (x *Executor) conclude(ctx context.Context, w *work, r result) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := x.o.Journal.StepRan(w.id, r.state, r.what, r.ran)
		if err == nil {
			x.o.Observe(ctx, w.id, Ended)
			return
		}
		x.o.Logger.Warn("end of command is not in the journal yet", "command", w.id, "state", r.state, "cause", err)
		if !pause(ctx, wait) {
			return
		}
	}
}

// cancelled says whether somebody wants the work to end.
func (w *work) cancelled() bool {
	select {
	case <-w.cancel:
		return true
	default:
		return false
	}
}

// until returns a context that ends when the work is cancelled too.
func (w *work) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		select {
		case <-w.cancel:
			stop(errCancelled)
		case <-ctx.Done():
		}
		close(ended)
	}()
	return ctx, func() { stop(nil); <-ended }
}
