// SPDX-License-Identifier: Apache-2.0

package systemd_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/systemd"
	"github.com/holdfast-ha/holdfast/agent/systemd/systemdtest"
)

// A daemon that says it is not alive tells nothing until it is again.
func TestWatch(t *testing.T) {
	l := systemdtest.Listen(t)
	s := systemd.From(l.Env(3*time.Millisecond), slog.New(slog.DiscardHandler))
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	s.Ready()
	go func() {
		defer close(done)
		s.Watch(ctx, func() bool {
			if asked.Add(1) == 3 { // before it is told that it runs
				s.Stopping()
			}
			return asked.Load() >= 3
		})
	}()
	for _, want := range []string{"READY=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := l.Next(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	cancel()
	<-done
}

// Nobody is told where nobody listens, and the watchdog of another process is none of ours.
func TestNobody(t *testing.T) {
	none := systemd.From(func(string) string { return "" }, slog.New(slog.DiscardHandler))
	if none != nil {
		t.Error("there is a supervisor without a socket")
	}
	none.Ready()
	none.Watch(t.Context(), nil) // returns
	none.Stopping()
	l := systemdtest.Listen(t)
	for pid, want := range map[string]time.Duration{"": time.Second, "1": 0} {
		s := systemd.From(func(key string) string {
			if key == "WATCHDOG_PID" {
				return pid
			}
			return l.Env(time.Second)(key)
		}, slog.New(slog.DiscardHandler))
		if got := s.Limit(); got != want {
			t.Errorf("WATCHDOG_PID %q: limit %v, want %v", pid, got, want)
		}
	}
}
