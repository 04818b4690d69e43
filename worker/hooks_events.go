// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const (
	hookChildren = 4               // programs of hooks at a time
	hookFailing  = 5 * time.Minute // until that is a warning
	hookGapShown = 24 * time.Hour  // so long a gap is warned of, or until the hook is enabled
)

// hookRecord is the value of hooks/<hook>.
type hookRecord struct {
	V int `json:"v"`
	v1.HookSpec
	Sealed  string    `json:"sealed,omitempty"` // a hookSecret
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Enabled time.Time `json:"enabled,omitzero"` // last word of an operator that it is to deliver
	Reason  string    `json:"reason,omitempty"`
}

// hookSecret is what is sealed of a webhook.
type hookSecret struct {
	URL string `json:"url"`
	Key []byte `json:"key"`
}

// hooks is what this worker knows of the hooks it delivers, and where the log has events.
type hooks struct {
	log      *hook.Log
	children *proc.Runner

	mu  sync.Mutex
	all map[string]hookShown
}

// hookShown is a hook that is delivered here.
type hookShown struct {
	hook.Cursor
	enabled time.Time
}

func newHooks() *hooks {
	return &hooks{log: hook.NewLog(), children: proc.NewRunner(hookChildren), all: map[string]hookShown{}}
}

// logged follows the event log, from the mirror's goroutine.
func (h *hooks) logged(c leases.Change) {
	id := strings.TrimPrefix(c.Key, leases.EventsPrefix)
	if c.Deleted {
		h.log.Remove(id)
		return
	}
	h.log.Add(hook.Position{Revision: c.KV.ModRevision, ID: id})
}

func (h *hooks) show(name string, s hookShown, loose bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[name] = s
	if loose {
		delete(h.all, name)
	}
}

func (h *hooks) shown() map[string]hookShown {
	if h == nil { // metrics are listed without a worker
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.all)
}

func (h *hooks) count(is func(hookShown) bool) (n int) {
	for _, s := range h.shown() {
		if is(s) {
			n++
		}
	}
	return n
}

// hookLag is the age in seconds of the oldest event that some hook here was not told of.
func (w *Worker) hookLag() float64 {
	var oldest time.Time
	for _, s := range w.hooks.shown() {
		if next, ok, _ := w.hooks.log.After(s.Cursor.At); ok {
			if x, ok, err := (hookFeed{w}).Read(next); err == nil && ok && (oldest.IsZero() || x.At.Before(oldest)) {
				oldest = x.At
			}
		}
	}
	if oldest.IsZero() {
		return 0
	}
	return max(0, time.Since(oldest).Seconds())
}

// warnHooks keeps the warnings about hooks that are delivered here.
func (w *Worker) warnHooks(now time.Time) {
	var off, failing, gaps []string
	all := w.hooks.shown()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		switch {
		case !s.Disabled.IsZero():
			off = append(off, fmt.Sprintf("%s since %s (%s)", name, s.Disabled.UTC().Format(time.RFC3339), s.LastError))
		case !s.FailingSince.IsZero() && now.Sub(s.FailingSince) >= hookFailing:
			failing = append(failing, fmt.Sprintf("%s since %s (%s)", name, s.FailingSince.UTC().Format(time.RFC3339), s.LastError))
		}
		if s.Gap.After(s.enabled) && now.Sub(s.Gap) < hookGapShown {
			gaps = append(gaps, fmt.Sprintf("%s at %s", name, s.Gap.UTC().Format(time.RFC3339)))
		}
	}
	w.warn("WebhookDisabled", "hooks that failed for too long get no events until `holdfast webhook enable`", off)
	w.warn("WebhookFailing", "hooks do not take events; they are tried again", failing)
	w.warn("WebhookGap", "hooks missed events that the log had dropped; `holdfast webhook enable` acknowledges it", gaps)
}

// slotOfHook is the slot whose owner delivers a hook.
func (w *Worker) slotOfHook(name string) int { return w.slotOf("", "hook/"+name) }

// startHooks makes the hooks that run equal to those on record in the owned slots.
func (r *reign) startHooks() {
	defer r.w.warnHooks(time.Now())
	seen := r.w.mirror.Revision()
	want, runs := map[int]map[string]bool{}, map[string]*hookRun{}
	for _, kv := range r.w.mirror.List(leases.HooksPrefix) {
		name := strings.TrimPrefix(kv.Key, leases.HooksPrefix)
		slot := r.w.slotOfHook(name)
		run := r.slots[slot]
		if run == nil {
			continue
		}
		if seen < run.claim.Epoch.Revision {
			r.fresh = true // the loop comes back soon
			continue
		}
		id := fmt.Sprintf("%s@%d", name, kv.ModRevision)
		add(want, slot, id)
		if run.hooks[id] == nil || run.hooks[id].over() {
			runs[id] = &hookRun{w: r.w, s: r.s, claim: run.claim, name: name, declared: kv}
		}
	}
	for n, run := range r.slots {
		over(run.hooks)
		reap(run.hooks, want[n])
	}
	for id, h := range runs {
		run := r.slots[h.claim.Slot]
		run.hooks[id] = r.start(run, h)
	}
}

// hookRun delivers one hook while this worker owns its slot. It is the hook's Store.
type hookRun struct {
	w        *Worker
	s        *leases.Session
	claim    leases.Claim
	name     string
	declared leases.KV
	rev      int64 // of the cursor
}

func (h *hookRun) run(ctx context.Context) {
	log := h.w.log.With("hook", h.name, "epoch", h.claim.Epoch)
	rec, err := decodeAs[hookRecord](h.declared)
	var conf hook.Config
	if err == nil {
		conf, err = hook.Parse(rec.HookSpec)
	}
	if err != nil {
		log.Error("a hook that cannot be read is not delivered", "cause", err)
		<-ctx.Done() // until it is another one
		return
	}
	if rec.Disabled {
		<-ctx.Done()
		return
	}
	r := &hook.Runner{
		Name: h.name, Config: conf, Enabled: rec.Enabled, Store: h, Feed: hookFeed{h.w}, Log: h.w.log,
		Now:   func() time.Time { return time.Now().UTC().Round(0) },
		Open:  func() (hook.Sender, error) { return h.w.hookSender(h.name, rec) },
		Count: func(result string) { h.w.metrics.deliveries.WithLabelValues(rec.Kind, result).Inc() },
		Show: func(c hook.Cursor, loose bool) {
			h.w.hooks.show(h.name, hookShown{c, rec.Enabled}, loose)
		},
	}
	if err := r.Run(ctx); err != nil && ctx.Err() == nil {
		log.Info("hook ended here", "cause", err)
		pause(ctx, time.Second) // it may be ours still, and its cursor somebody else's mistake
	}
}

// Load implements hook.Store.
func (h *hookRun) Load(ctx context.Context) (hook.Cursor, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := h.w.client.Get(ctx, leases.CursorKey(h.name))
	if err != nil {
		return hook.Cursor{}, err
	}
	h.rev = kv.ModRevision
	return decodeAs[hook.Cursor](kv)
}

// Save implements hook.Store.
func (h *hookRun) Save(ctx context.Context, c hook.Cursor, tell ...hook.Notice) error {
	c.V = 1
	ops := []leases.Op{leases.Put(leases.CursorKey(h.name), c)}
	var events []v1.Event
	for _, n := range tell {
		x := v1.Event{ID: newEventID(), At: time.Now().UTC(), Type: n.Type, Severity: string(ha.Warning), Worker: h.s.Worker(), Message: n.Message, Data: map[string]string{"hook": h.name}}
		events = append(events, x)
		ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	rev, err := h.s.Commit(ctx, h.claim.Guard().At(leases.CursorKey(h.name), h.rev), ops...)
	if err != nil {
		return err
	}
	h.rev = rev
	h.w.announced(events)
	return nil
}

// Ended implements hook.Store. A cursor that was written by somebody else, or of which it
// is not known whether it was written, is read again by the next run.
func (h *hookRun) Ended(err error) bool {
	return errors.Is(err, leases.ErrFenced) || errors.Is(err, leases.ErrConflict) || errors.Is(err, leases.ErrNotFound) || errors.Is(err, leases.ErrUnknownOutcome)
}

// hookSender opens what is sealed of a hook and makes what sends.
func (w *Worker) hookSender(name string, rec hookRecord) (hook.Sender, error) {
	if rec.Kind == v1.HookExec {
		return hook.NewExec(w.hooks.children, rec.Target, rec.Args), nil
	}
	plain, err := w.unseal(leases.HookKey(name), rec.Sealed)
	if err != nil {
		return nil, fmt.Errorf("%s: URL and key of the hook cannot be opened here: %w", secretsUnreadable, err)
	}
	defer clear(plain)
	var secret hookSecret
	if json.Unmarshal(plain, &secret) != nil { // the error would repeat some of it
		return nil, fmt.Errorf("%s: what was sealed is no URL and key", secretsUnreadable)
	}
	defer clear(secret.Key)
	return hook.NewWebhook(secret.URL, secret.Key, rec.CA, w.o.Version, time.Now)
}

// hookFeed is the event log as the mirror shows it.
type hookFeed struct{ w *Worker }

// After implements hook.Feed.
func (f hookFeed) After(p hook.Position) (hook.Position, bool, <-chan struct{}) {
	return f.w.hooks.log.After(p)
}

// Read implements hook.Feed.
func (f hookFeed) Read(p hook.Position) (v1.Event, bool, error) {
	kv, ok := f.w.eventsMirror.Get(leases.EventKey(p.ID))
	if !ok {
		return v1.Event{}, false, nil
	}
	x, err := decodeEvent(kv)
	return x, err == nil, err
}

// Cut implements hook.Feed.
func (f hookFeed) Cut() hook.Position {
	kv, ok := f.w.eventsMirror.Get(leases.EventsCutKey())
	if !ok {
		return hook.Position{}
	}
	cut, err := decodeAs[eventsCut](kv)
	if err != nil {
		f.w.log.Error("unreadable record", "key", kv.Key, "cause", err)
	}
	return cut.At
}
