// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// Who did not listen must not judge: a gap between two beats is noticed by whoever asks
// first, and remembered.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandstill(slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.run(ctx) }()
		<-time.After(3 * time.Second)
		if at, ok := s.ended(); ok {
			t.Errorf("a process that ran all the time stood still until %v", at)
		}
		stop()
		<-done
		<-time.After(2 * time.Second) // nothing beats
		at, ok := s.ended()
		if !ok || time.Since(at) > 0 {
			t.Errorf("a standstill that ends now is said to have ended at %v, %t", at, ok)
		}
		s.check(time.Since(s.began))
		<-time.After(beatEvery)
		s.check(time.Since(s.began))
		if again, _ := s.ended(); !again.Equal(at) {
			t.Errorf("it ended at %v, later it is said to have ended at %v", at, again)
		}
	})
}

// Pings that wait with whoever stood still, this worker or the one that carries the link, are
// not missed before they had time to arrive.
func TestStandstillOfTheCarrier(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0) }
	ends := func(s int) func() (time.Time, bool) { return func() (time.Time, bool) { return at(s), s > 0 } }
	policy := ha.Policy{PingInterval: time.Second, HealthFailures: 3}
	for _, c := range []struct {
		own, carrier, woke int
		missed             bool
	}{
		{0, 0, 0, true},
		{0, 13, 13, false},
		{13, 0, 13, false},
		{11, 13, 13, false},
		{13, 11, 13, false},
		{2, 3, 3, true},
	} {
		woke, stood := laterStandstill(ends(c.own), ends(c.carrier))
		if !woke.Equal(at(c.woke)) || stood != (c.woke > 0) {
			t.Errorf("own %d, carrier %d: ended at %v, %t", c.own, c.carrier, woke, stood)
		}
		if _, missed := (ha.Hearing{Last: at(10)}).Overdue(at(13), woke, stood, policy); missed != c.missed {
			t.Errorf("own %d, carrier %d: missed %t", c.own, c.carrier, missed)
		}
	}
}
