// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

const (
	// lookLimit is how long one look may take.
	lookLimit = 5 * time.Second
	// lookGrace is how long one may take to say what it has seen by then.
	lookGrace = 100 * time.Millisecond
	// beginLimit is how long the first step of a command may take to be durable.
	beginLimit = 5 * time.Second
	// actLimit is how long one call that changes something, and is no transfer, may take.
	actLimit = 60 * time.Second
	// endLimit is how long a transfer may take to end once it was told to.
	endLimit = 10 * time.Second
)

// errLeft says that a call did not come back: what it was to do may be done or not.
var errLeft = errors.New("no answer")

// call runs fn with a deadline, and leaves it behind when it does not return soon after
// that: storage that hangs must not hang us.
func call[T any](ctx context.Context, limit, grace time.Duration, fn func(context.Context) (T, error)) (T, error) {
	var none T
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %v", errLeft, limit))
		defer cancel()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := fn(ctx)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
		if cause := context.Cause(ctx); errors.Is(cause, errLeft) {
			return none, cause
		}
		return none, fmt.Errorf("%w: %w", errLeft, context.Cause(ctx))
	}
}

// Unanswered says of an error that what was to be done may be done or not: nothing but a
// look, or the same request once more, can tell.
func Unanswered(err error) bool {
	return errors.Is(err, errLeft) || errors.Is(err, hypervisor.ErrUnsure)
}

// look is a call that only looks, of which fn says whether it saw all: where it did not
// because its time was over, there is no answer (errLeft). One look of a kind is under way at
// a time: a second one waits for the first, so that of storage that hangs one call is left
// behind for each thing that is looked at, however often it is asked.
func look[T any](ctx context.Context, x *Executor, what string, fn func(context.Context) (value T, all bool)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeoutCause(ctx, lookLimit, fmt.Errorf("%w within %v", errLeft, lookLimit))
	defer cancel()
	leave, err := x.turns.enter(ctx, what)
	if err != nil {
		return none, err
	}
	return call(ctx, 0, lookGrace, func(ctx context.Context) (T, error) {
		defer leave()
		value, seen := fn(ctx)
		if !seen && ctx.Err() != nil {
			return value, context.Cause(ctx)
		}
		return value, nil
	})
}

// turns lets one at a time do what has one name.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // closed when it is free again
}

// enter waits until nobody else has the name; leave gives it back. The error is the cause of
// ctx's end.
func (t *turns) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		t.mu.Lock()
		other := t.taken[name]
		if other == nil {
			mine := make(chan struct{})
			t.taken[name] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				delete(t.taken, name)
				t.mu.Unlock()
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// act is a call that changes something for a command, and is no transfer.
func (x *Executor) act(ctx context.Context, id string, fn func(context.Context) error) error {
	return x.transfer(ctx, id, actLimit, time.Second, fn)
}

// transfer is a call that changes something for a command. Until it has come back this
// process is at work on the command (Working), also when it was left behind: nobody may
// judge what it can still change.
func (x *Executor) transfer(ctx context.Context, id string, limit, grace time.Duration, fn func(context.Context) error) error {
	x.count(id, 1)
	_, err := call(ctx, limit, grace, func(ctx context.Context) (struct{}, error) {
		defer x.count(id, -1)
		return struct{}{}, fn(ctx)
	})
	return err
}

// abort asks for the end of a command's job, and says whether that was heard. It is for loops:
// one that has not come back is waited for, and why it failed is logged.
func (x *Executor) abort(ctx context.Context, w *work, fn func(context.Context) error) bool {
	limited, cancel := context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("%w within %v", errLeft, actLimit))
	defer cancel()
	leave, err := x.turns.enter(limited, "end of "+w.id)
	if err == nil {
		err = x.act(limited, w.id, func(ctx context.Context) error { defer leave(); return fn(ctx) })
	}
	if err != nil && ctx.Err() == nil {
		x.o.Logger.Warn("job of a cancelled command not ended yet", "command", w.id, "cause", err)
	}
	return err == nil
}

func (x *Executor) count(id string, n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.acts[id] += n; x.acts[id] == 0 {
		delete(x.acts, id)
	}
}

// pause waits for d or until ctx ends, and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
