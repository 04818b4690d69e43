// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
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
