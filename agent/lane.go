// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// lane lets one access at a time at something that may hang. An access past its limit
// keeps the lane, and whoever asks meanwhile is told at once; nothing piles up.
type lane struct {
	what  string                              // named in errors
	limit time.Duration                       // after which an access is hung
	told  func(took time.Duration, err error) // of each access; nil: nobody counts
	turn  chan struct{}                       // holds a token while an access is under way

	mu    sync.Mutex
	since time.Time // when the access under way began; zero when there is none
}

func newLane(what string, limit time.Duration) *lane {
	return &lane{what: what, limit: limit, turn: make(chan struct{}, 1)}
}

// hungError says that an access has not come back for longer than its limit.
type hungError struct {
	what string
	age  time.Duration
}

func (e *hungError) Error() string {
	return fmt.Sprintf("%s has not answered for %ds", e.what, int(e.age.Seconds()))
}

// hung is the access that is past its limit, or nil.
func (l *lane) hung() *hungError {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() || time.Since(l.since) < l.limit {
		return nil
	}
	return &hungError{l.what, time.Since(l.since)}
}

// enter waits for the lane: until ctx ends or the access under way is hung.
func (l *lane) enter(ctx context.Context) error {
	for {
		l.mu.Lock()
		left := l.limit
		if !l.since.IsZero() {
			left -= time.Since(l.since)
		}
		l.mu.Unlock()
		expired := time.NewTimer(max(left, 0))
		select {
		case l.turn <- struct{}{}:
			expired.Stop()
			l.mark(time.Now())
			return nil
		case <-expired.C:
			if err := l.hung(); err != nil {
				return err
			}
		case <-ctx.Done():
			expired.Stop()
			return fmt.Errorf("wait for %s: %w", l.what, context.Cause(ctx))
		}
	}
}

func (l *lane) leave() {
	l.mark(time.Time{})
	<-l.turn
}

func (l *lane) mark(t time.Time) {
	l.mu.Lock()
	l.since = t
	l.mu.Unlock()
}

// through runs fn in the lane and returns what it returns, or an error as soon as ctx
// ends or the limit passes. Then fn is left behind: its context is ended, its result is
// dropped, and the lane is free when it returns.
func through[T any](ctx context.Context, l *lane, fn func(context.Context) (T, error)) (T, error) {
	began := time.Now()
	value, err := pass(ctx, l, fn)
	if l.told != nil && ctx.Err() == nil {
		l.told(time.Since(began), err)
	}
	return value, err
}

func pass[T any](ctx context.Context, l *lane, fn func(context.Context) (T, error)) (T, error) {
	var none T
	if err := l.enter(ctx); err != nil {
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	limited, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	go func() {
		defer l.leave()
		value, err := fn(limited)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-limited.Done():
	}
	if ctx.Err() != nil {
		return none, fmt.Errorf("wait for %s: %w", l.what, context.Cause(ctx))
	}
	return none, &hungError{l.what, l.limit}
}
