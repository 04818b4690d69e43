// SPDX-License-Identifier: Apache-2.0

package hook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

var errFenced = errors.New("fenced")

// world is an event log, a store of one cursor and a receiver.
type world struct {
	log *hook.Log

	mu     sync.Mutex
	events map[string]v1.Event
	cut    hook.Position
	owner  int               // that may save
	answer func(n int) error // to the nth attempt
	seen
}

// seen is what tests look at.
type seen struct {
	cursor         hook.Cursor
	saves, tries   int
	disabled, gaps int // counted results
	notices        []string
	got            []hook.CloudEvent
}

func (w *world) look() seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

func newWorld() *world {
	return &world{log: hook.NewLog(), events: map[string]v1.Event{}, answer: func(int) error { return nil }}
}

func (w *world) add(rev int64, typ, severity string) {
	id := fmt.Sprintf("e%06d", rev)
	w.mu.Lock()
	w.events[id] = v1.Event{ID: id, Revision: rev, Type: typ, Severity: severity, Host: "h1", Partition: "z1/p1/c1", At: time.Now()}
	w.mu.Unlock()
	w.log.Add(hook.Position{Revision: rev, ID: id})
}

// drop takes events out of the log as retention does.
func (w *world) drop(through int64) {
	w.mu.Lock()
	var gone []string
	for id, x := range w.events {
		if x.Revision <= through {
			gone = append(gone, id)
			delete(w.events, id)
		}
	}
	w.cut = hook.Position{Revision: through, ID: fmt.Sprintf("e%06d", through)}
	w.mu.Unlock()
	for _, id := range gone {
		w.log.Remove(id)
	}
}

func (w *world) After(p hook.Position) (hook.Position, bool, <-chan struct{}) { return w.log.After(p) }

func (w *world) Read(p hook.Position) (v1.Event, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x, ok := w.events[p.ID]
	return x, ok, nil
}

func (w *world) Cut() hook.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// store is the view of one owner.
type store struct {
	*world
	me int
}

func (s store) Load(context.Context) (hook.Cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor, nil
}

func (s store) Save(_ context.Context, c hook.Cursor, tell ...hook.Notice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner != s.me {
		return errFenced
	}
	s.cursor = c
	s.saves++
	for _, n := range tell {
		s.notices = append(s.notices, n.Type)
	}
	return nil
}

func (store) Ended(err error) bool { return errors.Is(err, errFenced) }

type receiver struct{ *world }

func (r receiver) Send(ctx context.Context, d hook.Delivery) error {
	r.mu.Lock()
	r.tries++
	n, answer := r.tries, r.answer
	r.mu.Unlock()
	if err := answer(n); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e hook.CloudEvent
	if err := json.Unmarshal(d.Body, &e); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, e)
	return nil
}

func (receiver) Close() {}

func (w *world) answers(f func(n int) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// run starts an owner of the hook; the returned function ends it and returns its error.
func (w *world) run(t *testing.T, spec v1.HookSpec, enabled time.Time) (stop func() error) {
	t.Helper()
	conf, err := hook.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.owner++
	me := w.owner
	w.mu.Unlock()
	r := &hook.Runner{
		Name: "k", Config: conf, Enabled: enabled, Store: store{w, me}, Feed: w, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Open: func() (hook.Sender, error) { return receiver{w}, nil },
		Count: func(result string) {
			w.mu.Lock()
			switch result {
			case "disabled":
				w.disabled++
			case "gap":
				w.gaps++
			}
			w.mu.Unlock()
		},
		Show: func(hook.Cursor, bool) {},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

// ids of what the receiver got, in order.
func (w *world) ids() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.got {
		out = append(out, e.ID)
	}
	return out
}

func want(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("e%06d", i))
	}
	return out
}

var web = v1.HookSpec{Kind: v1.HookWeb, Target: "https://r.example"}

// A receiver that was away for an hour misses nothing and gets everything once, in order.
func TestReceiverAwayForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		stop := w.run(t, web, time.Time{})
		w.add(1, "host.state", "info")
		synctest.Wait()
		w.answers(func(int) error { return errors.New("connection refused") })
		for rev := int64(2); rev <= 61; rev++ {
			w.add(rev, "host.state", "info")
			elapse(time.Minute)
		}
		if got := w.ids(); !slices.Equal(got, want(1, 1)) {
			t.Errorf("while it was away it got %v", got)
		}
		tries := w.look().tries
		if tries < 10 || tries > 60 {
			t.Errorf("%d attempts in an hour, want them to back off to one in 5 minutes or so", tries)
		}
		w.answers(func(int) error { return nil })
		elapse(6 * time.Minute)
		synctest.Wait()
		if got := w.ids(); !slices.Equal(got, want(1, 61)) {
			t.Errorf("got %v, want each event once and in order", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if w.look().cursor.At.Revision != 61 || w.look().cursor.Failures != 0 || len(w.look().notices) != 0 {
			t.Errorf("cursor %+v, notices %v", w.look().cursor, w.look().notices)
		}
	})
}

// An owner that vanishes amid deliveries has the next one repeat what was delivered since
// the cursor was written, and nothing else; a late one is fenced.
func TestTakeoverRepeatsOnlyTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		first := w.run(t, web, time.Time{})
		synctest.Wait() // it has loaded before the log has anything
		for rev := int64(1); rev <= 100; rev++ {
			w.add(rev, "host.state", "info")
			elapse(90 * time.Millisecond)
		}
		saved, delivered := w.look().cursor.At.Revision, len(w.look().got)
		if delivered != 100 || saved < 40 || saved == 100 {
			t.Fatalf("delivered %d, cursor at %d: want all, and a cursor behind", delivered, saved)
		}
		second := w.run(t, web, time.Time{}) // the first one is fenced from here on
		elapse(time.Second)
		w.add(101, "host.state", "info")
		if err := first(); err != nil && !errors.Is(err, errFenced) {
			t.Errorf("the first owner ends with %v", err)
		}
		elapse(time.Second)
		got := w.ids()
		after := got[100:]
		seen := map[string]int{}
		for _, id := range after {
			seen[id]++
		}
		for i := int64(1); i <= 101; i++ {
			id := fmt.Sprintf("e%06d", i)
			switch n := seen[id]; {
			case i <= saved && n > 0:
				t.Errorf("%s came again although the cursor was past it", id)
			case i > saved && i <= 100 && n != 1:
				t.Errorf("%s came %d times after the takeover, want 1", id, n)
			}
		}
		if err := second(); err != nil {
			t.Error(err)
		}
		if w.look().cursor.At.Revision != 101 {
			t.Errorf("cursor %+v", w.look().cursor)
		}
	})
}

// An orderly end writes the cursor: nothing comes twice.
func TestOrderlyEndRepeatsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for rev := int64(1); rev <= 20; rev++ {
			w.add(rev, "host.state", "info")
		}
		for range 3 {
			stop := w.run(t, web, time.Time{})
			synctest.Wait()
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
		if got := w.ids(); !slices.Equal(got, want(1, 20)) {
			t.Errorf("got %v", got)
		}
	})
}

// The cursor is written rarely, whether events are delivered or passed over.
func TestCursorIsWrittenRarely(t *testing.T) {
	for _, c := range []struct {
		name  string
		types []string
		most  int
	}{{"delivered", nil, 22}, {"passed over", []string{"other"}, 2}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, spec := newWorld(), web
				spec.Types = c.types
				stop := w.run(t, spec, time.Time{})
				for rev := int64(1); rev <= 1000; rev++ { // in 100 seconds
					w.add(rev, "host.state", "info")
					elapse(100 * time.Millisecond)
				}
				synctest.Wait()
				if w.look().saves > c.most {
					t.Errorf("%d writes for 1000 events in 100 s, want at most %d", w.look().saves, c.most)
				}
				if err := stop(); err != nil {
					t.Error(err)
				}
				if w.look().cursor.At.Revision != 1000 {
					t.Errorf("cursor %+v at the end", w.look().cursor)
				}
			})
		})
	}
}

// A hook that fails for long enough and often enough is switched off, once, with a word in
// the log; enabled again it goes on from where it was.
func TestDisabledAndEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, spec := newWorld(), web
		spec.DisableFailures, spec.DisableAfter, spec.RetryMax = 10, "2h", "1m"
		w.answers(func(int) error { return &hook.RefusedError{Status: 500} })
		w.add(1, "host.state", "info")
		stop := w.run(t, spec, time.Time{})
		elapse(110 * time.Minute)
		if !w.look().cursor.Disabled.IsZero() || w.look().cursor.Failures < 10 {
			t.Errorf("after 110 minutes: %+v, want failures and no end yet", w.look().cursor)
		}
		elapse(20 * time.Minute)
		if w.look().cursor.Disabled.IsZero() || !slices.Equal(w.look().notices, []string{hook.NoticeDisabled}) || !strings.Contains(w.look().cursor.LastError, "500") {
			t.Errorf("after 130 minutes: %+v, notices %v", w.look().cursor, w.look().notices)
		}
		tries := w.look().tries
		elapse(24 * time.Hour)
		if w.look().tries != tries {
			t.Errorf("%d attempts of a hook that is off", w.look().tries-tries)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		w.answers(func(int) error { return nil })
		stop = w.run(t, spec, time.Time{}) // a takeover does not switch it on
		elapse(time.Hour)
		if len(w.ids()) > 0 {
			t.Error("it delivers although it was switched off")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		w.add(2, "host.state", "info")
		stop = w.run(t, spec, time.Now())
		synctest.Wait()
		if got := w.ids(); !slices.Equal(got, want(1, 2)) {
			t.Errorf("enabled, it delivers %v", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if !w.look().cursor.Disabled.IsZero() || w.look().cursor.Failures != 0 {
			t.Errorf("cursor %+v", w.look().cursor)
		}
	})
}

// A receiver that says 410 wants no more.
func TestGoneSwitchesOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.answers(func(int) error { return &hook.RefusedError{Status: 410, Gone: true} })
		w.add(1, "host.state", "info")
		stop := w.run(t, web, time.Time{})
		elapse(time.Hour)
		if w.look().tries != 1 || w.look().cursor.Disabled.IsZero() {
			t.Errorf("%d attempts, %+v", w.look().tries, w.look().cursor)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// Retry-After is kept to.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.answers(func(n int) error {
			if n == 1 {
				return &hook.RefusedError{Status: 429, After: 10 * time.Minute}
			}
			return nil
		})
		w.add(1, "host.state", "info")
		stop := w.run(t, web, time.Time{})
		elapse(9 * time.Minute)
		if w.look().tries != 1 {
			t.Errorf("%d attempts in 9 minutes, it had asked for 10", w.look().tries)
		}
		elapse(2 * time.Minute)
		if got := w.ids(); !slices.Equal(got, want(1, 1)) {
			t.Errorf("got %v", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// What retention took before it was delivered is told as one gap, before what follows it;
// also when the owner changed in between, and whatever the filter is.
func TestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, spec := newWorld(), web
		spec.Severities = []string{"page"}
		w.add(1, "host.state", "page")
		stop := w.run(t, spec, time.Time{})
		synctest.Wait()
		w.answers(func(int) error { return errors.New("away") })
		for rev := int64(2); rev <= 10; rev++ {
			w.add(rev, "host.state", "page")
		}
		elapse(time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		w.drop(6)
		w.answers(func(int) error { return nil })
		stop = w.run(t, spec, time.Time{})
		elapse(time.Minute)
		if err := stop(); err != nil {
			t.Error(err)
		}
		got := w.ids()
		if !slices.Equal(got, append([]string{"e000001", "gap-k-1-6"}, want(7, 10)...)) {
			t.Errorf("got %v", got)
		}
		if g := w.look().got[1]; g.Type != hook.TypeGap || g.Severity != "warning" || !strings.Contains(fmt.Sprint(g.Data), "through") {
			t.Errorf("gap event %+v", g)
		}
		if w.look().cursor.Gaps != 1 || !slices.Equal(w.look().notices, []string{hook.NoticeGap}) || w.look().gaps != 1 {
			t.Errorf("cursor %+v, notices %v", w.look().cursor, w.look().notices)
		}
		w.drop(10) // all delivered: no gap
		stop = w.run(t, spec, time.Time{})
		elapse(time.Minute)
		if err := stop(); err != nil || len(w.ids()) != 6 {
			t.Errorf("%v, got %v", err, w.ids())
		}
	})
}

// elapse lets virtual time pass until everybody waits again.
func elapse(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
