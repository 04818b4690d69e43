// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// values are the settings an agent acts on (ha.md §4).
type values struct {
	ping  time.Duration // between two pings
	stamp time.Duration // between two stamps
	retry time.Duration // before asking again when nobody owns the host
}

// halfOpen is after how long without an answered ping a link is given up (agents.md).
func (v values) halfOpen() time.Duration { return 2*v.ping + time.Second }

// settings hold the values in force. Workers push them with Welcome and Pong.
type settings struct {
	mu      sync.Mutex
	now     values
	changed chan struct{} // closed at the next change
}

// newSettings has the defaults, but stamps as often as any preset asks for: until a
// worker has told the interval, neighbours may be reading with the shortest window.
func newSettings() *settings {
	return &settings{
		now:     values{ping: 5 * time.Second, stamp: 500 * time.Millisecond, retry: 500 * time.Millisecond},
		changed: make(chan struct{}),
	}
}

// get returns the values in force.
func (s *settings) get() values {
	v, _ := s.watch()
	return v
}

// watch returns the values in force and a channel that is closed when they change.
func (s *settings) watch() (values, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

// pause waits until the interval that of picks has passed since began, by the values in
// force meanwhile, and says whether ctx is still alive.
func (s *settings) pause(ctx context.Context, began time.Time, of func(values) time.Duration) bool {
	for {
		v, changed := s.watch()
		timer := time.NewTimer(time.Until(began.Add(of(v))))
		select {
		case <-timer.C:
			return ctx.Err() == nil
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// apply takes over what a worker sent; nil and zero fields change nothing. A value that
// cannot be meant is refused, the others are still applied.
func (s *settings) apply(p *agentpb.Settings) error {
	if p == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var refused error
	next := s.now
	for _, f := range []struct {
		name string
		ms   int64
		to   *time.Duration
	}{
		{"ping_interval_ms", p.GetPingIntervalMs(), &next.ping},
		{"stamp_interval_ms", p.GetStampIntervalMs(), &next.stamp},
		{"hello_retry_ms", p.GetHelloRetryMs(), &next.retry},
	} {
		switch {
		case f.ms == 0:
		case f.ms < 10 || f.ms > 600_000:
			refused = fmt.Errorf("apply settings: %s is %d: want 10 to 600000", f.name, f.ms)
		default:
			*f.to = time.Duration(f.ms) * time.Millisecond
		}
	}
	if next != s.now {
		s.now = next
		close(s.changed)
		s.changed = make(chan struct{})
	}
	return refused
}
