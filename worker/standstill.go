// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// standstill knows when this process last stood still: stopped, starved, or on a machine
// that was. Pings then wait unread in its sockets, and whoever judges a host by its own
// clock must listen first. A timer that fires in time tells nothing: the stop may have
// ended just before.
type standstill struct {
	log        *slog.Logger
	began      time.Time
	beat, over atomic.Int64 // ns since began: last sign of our own life; end of the last standstill, 0 for none
}

const (
	beatEvery = 100 * time.Millisecond
	beatLate  = 500 * time.Millisecond // more than this between two beats is a standstill
)

func newStandstill(log *slog.Logger) *standstill { return &standstill{log: log, began: time.Now()} }

// run beats until ctx ends.
func (s *standstill) run(ctx context.Context) error {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	s.beat.Store(int64(time.Since(s.began)))
	for {
		if gap := s.check(time.Since(s.began)); gap > 0 {
			s.log.Warn("this process stood still", "for", gap.Round(time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// check beats, and returns how long the standstill was that ended with it; 0: none.
func (s *standstill) check(now time.Duration) time.Duration {
	gap := now - time.Duration(s.beat.Swap(int64(now)))
	if gap <= beatLate {
		return 0
	}
	s.over.Store(int64(now))
	return gap
}

// ended returns when the last standstill ended; ok is false when there was none. Asked
// before the first beat after one, it says: now.
func (s *standstill) ended() (at time.Time, ok bool) {
	now := time.Since(s.began)
	if int64(now)-s.beat.Load() > int64(beatLate) {
		s.over.Store(int64(now))
	}
	over := s.over.Load()
	return s.began.Add(time.Duration(over)), over > 0
}

// Alive returns when the locks that all of a worker's work needs could be had: a process in
// which it does not return does nothing any more. It waits for nothing outside of the process,
// etcd least of all.
func (w *Worker) Alive() {
	w.leaseValid()
	w.view.generation()
}
