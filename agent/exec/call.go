// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// lookLimit is how long one look may take.
	lookLimit = 5 * time.Second
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
		return none, fmt.Errorf("%w: %w", errLeft, context.Cause(ctx))
	}
}

// act is a call without a result.
func act(ctx context.Context, fn func(context.Context) error) error {
	_, err := call(ctx, actLimit, time.Second, func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) })
	return err
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
