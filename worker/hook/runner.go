// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	// The cursor is written at most so often while events are delivered. After a crash at
	// most these are delivered again.
	saveEvery = 5 * time.Second
	// While all events are passed over it is written more rarely: nobody is told twice.
	passEvery = 10 * time.Minute
	passMany  = 1000 // or after that many

	firstRetry = time.Second
	lastWord   = time.Second // to write the cursor when Run is told to end
)

// Store keeps the cursor of one hook. Save compares: an error for which Ended is true says
// that the hook is somebody else's, or another one, now.
type Store interface {
	Load(ctx context.Context) (Cursor, error)
	Save(ctx context.Context, c Cursor, tell ...Notice) error
	Ended(err error) bool
}

// Notice is something that the log is to be told together with a cursor.
type Notice struct{ Type, Message string }

// Types of notices.
const (
	NoticeDisabled = "hook.disabled"
	NoticeGap      = "hook.gap"
)

// Feed is the event log.
type Feed interface {
	// After is the first event after a position. changed is closed when another one has come.
	After(p Position) (next Position, ok bool, changed <-chan struct{})
	// Read returns the event of a position; ok is false when it is gone.
	Read(p Position) (x v1.Event, ok bool, err error)
	// Cut is the last position of which an event was dropped; what After no more knows is
	// in it already.
	Cut() Position
}

// Runner delivers the log to one hook. All fields are needed.
type Runner struct {
	Name    string
	Config  Config
	Enabled time.Time // when an operator last said that it is to deliver
	Store   Store
	Feed    Feed
	Open    func() (Sender, error) // an error counts as a failed attempt: it may be mended
	Log     *slog.Logger
	Now     func() time.Time
	Count   func(result string)        // of an attempt: ok, failed, gap, disabled
	Show    func(c Cursor, loose bool) // the cursor as it is, written or not; loose: Run has ended

	cur    Cursor
	saved  Cursor
	last   time.Time // of saving
	passed int       // events passed over since
	sender Sender
}

// Run delivers until ctx ends, then writes the cursor once more. It returns nil, or why
// it had to end: Store.Ended is true of the error.
func (r *Runner) Run(ctx context.Context) error {
	err := r.load(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer func() { r.Show(r.cur, true) }()
	defer func() {
		if r.sender != nil {
			r.sender.Close()
		}
	}()
	for ctx.Err() == nil && err == nil {
		err = r.next(ctx)
	}
	if err != nil {
		return err
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWord)
	defer cancel()
	if err := r.save(sctx); err != nil {
		r.Log.Warn("write the cursor of a hook at the end, its last events will be delivered again", "hook", r.Name, "cause", err)
	}
	return nil
}

// load reads the cursor, for as long as it takes.
func (r *Runner) load(ctx context.Context) error {
	for backoff := firstRetry; ; backoff = min(2*backoff, time.Minute) {
		cur, err := r.Store.Load(ctx)
		if err == nil {
			r.saved, r.cur, r.last = cur, cur.Enabled(r.Enabled), r.Now()
			r.Show(r.cur, false)
			return nil
		}
		if r.Store.Ended(err) || ctx.Err() != nil {
			return err
		}
		r.Log.Warn("read the cursor of a hook", "hook", r.Name, "cause", err)
		r.pause(ctx, jitter(backoff), nil)
	}
}

// next delivers one event or passes it over, or waits for one. Errors end the hook here.
func (r *Runner) next(ctx context.Context) error {
	if !r.cur.Disabled.IsZero() {
		if err := r.saveSoon(ctx); err != nil {
			return err
		}
		r.pause(ctx, r.untilSave(), nil)
		return nil
	}
	at, ok, changed := r.Feed.After(r.cur.At)
	if cut := r.Feed.Cut(); cut.Compare(r.cur.At) > 0 { // asked after the log, so nothing is missed between the two
		return r.gap(ctx, cut)
	}
	if !ok {
		if err := r.saveSoon(ctx); err != nil {
			return err
		}
		r.pause(ctx, r.untilSave(), changed)
		return nil
	}
	x, ok, err := r.Feed.Read(at)
	if err != nil {
		r.Log.Error("an event that cannot be read is not delivered", "hook", r.Name, "event", at.ID, "cause", err)
	}
	if err != nil || !ok || !r.Config.Wants(x) {
		r.cur.At = at
		r.passed++
		r.Show(r.cur, false)
		return r.saveSoon(ctx)
	}
	if sent, err := r.deliver(ctx, r.Config.cloudEvent(x)); !sent {
		return err
	}
	r.cur.At = at
	r.Show(r.cur, false)
	return r.saveSoon(ctx)
}

// gap tells the receiver, and then the log, that events were dropped.
func (r *Runner) gap(ctx context.Context, cut Position) error {
	if sent, err := r.deliver(ctx, r.Config.gapEvent(r.Name, r.cur.At, cut, r.Now())); !sent {
		return err
	}
	msg := fmt.Sprintf("hook %s: the log had dropped events after revision %d up to %d before they were delivered", r.Name, r.cur.At.Revision, cut.Revision)
	r.cur.At, r.cur.Gap = cut, r.Now()
	r.cur.Gaps++
	r.Count("gap")
	r.Show(r.cur, false)
	return r.mustSave(ctx, Notice{NoticeGap, msg})
}

// deliver tries until the receiver has taken the event. Not sent: ctx has ended, the hook
// was switched off, or, with an error, it is not ours any more.
func (r *Runner) deliver(ctx context.Context, e CloudEvent) (sent bool, _ error) {
	d, err := e.Encode()
	if err != nil {
		return false, err
	}
	for backoff := firstRetry; ; backoff = min(2*backoff, r.Config.RetryMax) {
		err := r.attempt(ctx, d)
		if err == nil {
			r.cur = r.cur.ok(r.Now())
			r.Count("ok")
			return true, nil
		}
		if ctx.Err() != nil {
			return false, nil // whether it has arrived is not known: it comes again
		}
		var refused *RefusedError
		errors.As(err, &refused)
		r.cur = r.cur.failed(r.Now(), r.Config, err, refused != nil && refused.Gone)
		r.Count("failed")
		r.Show(r.cur, false)
		r.Log.Warn("deliver an event to a hook", "hook", r.Name, "event", d.ID, "failures", r.cur.Failures, "cause", err)
		if !r.cur.Disabled.IsZero() {
			r.Count("disabled")
			return false, r.mustSave(ctx, Notice{NoticeDisabled, fmt.Sprintf("hook %s was switched off: %d attempts in a row failed since %s, the last: %v",
				r.Name, r.cur.Failures, r.cur.FailingSince.UTC().Format(time.RFC3339), err)})
		}
		if err := r.saveSoon(ctx); err != nil {
			return false, err
		}
		wait := jitter(backoff)
		if refused != nil {
			wait = max(wait, refused.After)
		}
		for until := r.Now().Add(wait); wait > 0 && ctx.Err() == nil; wait = until.Sub(r.Now()) {
			r.pause(ctx, min(wait, r.untilSave()), nil)
			if err := r.saveSoon(ctx); err != nil {
				return false, err
			}
		}
		if ctx.Err() != nil {
			return false, nil
		}
	}
}

func (r *Runner) attempt(ctx context.Context, d Delivery) error {
	if r.sender == nil {
		s, err := r.Open()
		if err != nil {
			return err
		}
		r.sender = s
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Timeout)
	defer cancel()
	return r.sender.Send(ctx, d)
}

// jitter is between half of d and d: receivers that come back are not met by all at once.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// due is when what has changed is to be written.
func (r *Runner) due() (at time.Time, changed bool) {
	only := r.saved
	only.At = r.cur.At
	switch {
	case r.cur == r.saved:
		return time.Time{}, false
	case r.cur == only && r.passed < passMany: // nobody was told anything
		return r.last.Add(passEvery), true
	}
	return r.last.Add(saveEvery), true
}

// untilSave is how long to wait at most for something to happen.
func (r *Runner) untilSave() time.Duration {
	if at, changed := r.due(); changed {
		return max(at.Sub(r.Now()), 10*time.Millisecond)
	}
	return passEvery
}

// saveSoon writes the cursor if it is time. It is tried again later when etcd is away.
func (r *Runner) saveSoon(ctx context.Context) error {
	if at, changed := r.due(); !changed || r.Now().Before(at) {
		return nil
	}
	err := r.save(ctx)
	if err != nil && !r.Store.Ended(err) {
		r.Log.Warn("write the cursor of a hook", "hook", r.Name, "cause", err)
		r.last = r.Now() // not at every event
		return nil
	}
	return err
}

// mustSave writes the cursor with its notices, for as long as it takes.
func (r *Runner) mustSave(ctx context.Context, tell Notice) error {
	for backoff := firstRetry; ctx.Err() == nil; backoff = min(2*backoff, time.Minute) {
		err := r.save(ctx, tell)
		if err == nil || r.Store.Ended(err) {
			return err
		}
		r.Log.Warn("write the cursor of a hook", "hook", r.Name, "cause", err)
		r.pause(ctx, jitter(backoff), nil)
	}
	return nil
}

func (r *Runner) save(ctx context.Context, tell ...Notice) error {
	if r.cur == r.saved && len(tell) == 0 {
		return nil
	}
	if err := r.Store.Save(ctx, r.cur, tell...); err != nil {
		return err
	}
	r.saved, r.last, r.passed = r.cur, r.Now(), 0
	return nil
}

func (r *Runner) pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-changed:
	}
}
