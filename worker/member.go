// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/leases"
)

// Workers that start together share the slots of a fleet that nobody owns at all from the
// beginning: each waits until so long after its registration, and, up to a limit, for
// those that are registered and still read the records.
const (
	settle      = 500 * time.Millisecond
	settleLimit = 10 * time.Second
)

// member keeps this worker a member of the fleet: it opens a session, owns slots under
// it, and begins again with a new one when the lease is lost. It registers before it has
// read the records, so that others know of it; but in the place of another process only
// when it could go on at once.
func (w *Worker) member(ctx context.Context) error {
	select {
	case <-w.mirror.Synced():
		w.o.Parent.Ready()
	case <-w.o.Parent.Turn():
	case <-ctx.Done():
		return nil
	}
	if !w.turn(ctx) {
		return nil
	}
	var earlier []string
	for ctx.Err() == nil {
		boot, state := uuid.NewString(), stateStarting
		if w.mirror.Revision() > 0 {
			state = stateReady
		}
		s, err := w.client.OpenSession(ctx, leases.SessionConfig{Worker: w.o.ID, Boot: boot, Earlier: earlier, TTL: w.o.LeaseTTL, Record: w.record(state)})
		switch {
		case errors.Is(err, leases.ErrConflict):
			w.health.set("WorkerIDTaken", "critical", fmt.Sprintf("another live worker is registered as %s: waiting until it is gone", w.o.ID))
		case err != nil:
			w.health.set(noLease, "critical", fmt.Sprintf("no lease could be had, so this worker owns nothing and does nothing: see the warnings about etcd (%v)", err))
		default:
			w.health.clear("WorkerIDTaken")
			w.health.clear(noLease)
			w.resume(s.Fleet().Generation)
			earlier = append(earlier, boot)
			err = w.reign(ctx, s, state)
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("not a member", "cause", err)
			if !pause(ctx, time.Second) {
				return nil
			}
		}
	}
	return nil
}

// turn waits until this process may serve; false when ctx ended first.
func (w *Worker) turn(ctx context.Context) bool {
	select {
	case <-w.o.Parent.Turn():
		return true
	case <-ctx.Done():
		return false
	}
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// reign owns slots under one session, until it is lost, the generation of the etcd data is
// raised, or ctx ends. When it returns no
// owner of this session runs any more, and etcd has been told so, if it can be.
func (w *Worker) reign(ctx context.Context, s *leases.Session, state string) error {
	w.o.Parent.OnSession(s.Boot(), s.LeaseID())
	w.mu.Lock()
	w.session = s
	w.mu.Unlock()
	w.log.Info("joined", "boot", s.Boot(), "lease_valid", time.Until(s.Deadline()).Round(time.Millisecond))
	owners, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// The session ends last: its orderly end gives the slots back, and by then no owner
	// may still be acting.
	sessionCtx, endSession := context.WithCancel(context.WithoutCancel(ctx))
	defer endSession()
	var sessionErr error
	sessionDone := make(chan struct{})
	go func() {
		defer close(sessionDone)
		sessionErr = s.Run(sessionCtx)
	}()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-s.Lost():
			stop(leases.ErrFenced)
		case <-owners.Done():
		}
	}()
	run := &reign{w: w, s: s, ctx: owners, began: time.Now(), slots: map[int]*slotRun{}}
	if state == stateReady || w.read(owners, s) {
		w.view.countAll()
		w.mu.Lock()
		w.reignBegan = time.Now().UTC()
		w.mu.Unlock()
		run.loop(owners)
	}
	raised := owners.Err() == nil // the loop ended by itself
	stop(errRaised)
	held := run.endAll()
	<-watching
	if (ctx.Err() != nil || raised) && s.Valid(0) && w.o.RestartGrace > 0 {
		w.suspend(ctx, s, held)
	}
	endSession()
	<-sessionDone
	w.mu.Lock()
	w.session = nil
	w.mu.Unlock()
	if sessionErr == nil || ctx.Err() != nil || raised {
		return nil
	}
	if err := s.End(ctx); err != nil {
		w.log.Warn("end lost session", "cause", err)
	}
	return fmt.Errorf("lease lost: %w", sessionErr)
}

// read waits until this worker has read the records, and says so; false when ctx ended
// first. While etcd does not take its word it is tried again: nobody
// counts on a worker that does not say that it is ready.
func (w *Worker) read(ctx context.Context, s *leases.Session) bool {
	select {
	case <-w.mirror.Synced():
	case <-ctx.Done():
		return false
	}
	for {
		uctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		err := s.Update(uctx, w.record(stateReady))
		cancel()
		if err == nil {
			return true
		}
		w.log.Warn("register as ready", "cause", err)
		if !pause(ctx, 200*time.Millisecond) {
			return false
		}
	}
}

// errRaised ends the work under a session whose generation is not the present one.
var errRaised = errors.New("the generation of the etcd data was raised")

// suspend leaves the slots to the next process of this worker for a while.
func (w *Worker) suspend(ctx context.Context, s *leases.Session, held []leases.Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), etcdTimeout)
	defer cancel()
	err := s.Suspend(ctx, w.o.RestartGrace, w.record(stateReady), held)
	if err != nil {
		w.log.Warn("suspend", "cause", err)
		return
	}
	w.log.Info("suspended", "slots", len(held), "grace", w.o.RestartGrace)
}
