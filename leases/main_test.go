// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/leases"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// eventually polls cond until it holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func await(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// open opens a session that nobody renews.
func open(t testing.TB, c *leases.Client, worker, boot string, ttl time.Duration) *leases.Session {
	t.Helper()
	s, err := c.OpenSession(t.Context(), leases.SessionConfig{Worker: worker, Boot: boot, TTL: ttl, Record: map[string]any{"zone": "z1"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs f until the test ends or stop is called, which returns f's error.
func run(t testing.TB, f func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var err error
	go func() { defer close(done); err = f(ctx) }()
	stop = func() error { cancel(); <-done; return err }
	t.Cleanup(func() { _ = stop() })
	return stop
}

func claimOne(t testing.TB, s *leases.Session, slot int) leases.Claim {
	t.Helper()
	got, err := s.Claim(t.Context(), []int{slot})
	if err != nil || len(got) != 1 {
		t.Fatalf("claim slot %d: %v, %v", slot, got, err)
	}
	return got[0]
}

func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}
