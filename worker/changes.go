// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Workers that join or leave, and slots that pass from one to another, are events (ha.md §9).
// The keys that show them go with leases, in no transaction of anybody's; so one writer, the
// owner of slot 0, tells them afterwards, in one transaction with the record of what has been
// told. Whoever owns slot 0 next goes on from that record: nothing is told twice or never. A
// move of slots is told once it has come to rest, however many transactions it took.
const (
	movesRest  = 2 * time.Second  // without a change: a move of slots has come to rest
	movesLimit = 30 * time.Second // one that does not is told so far
	endPending = 3 * time.Second  // by then others have written down how a worker ended, if anybody knows
)

// told is the value of config/told: the workers and owners that the log has told of.
type told struct {
	V       int               `json:"v"`
	Workers map[string]string `json:"workers"`         // their boots
	Slots   map[string]string `json:"slots,omitempty"` // the slots of each, a bit each, in base64
}

// owners are the owners of all slots, by number; none: "".
func (t told) owners(slots int) ([]string, error) {
	out := make([]string, slots)
	for id, text := range t.Slots {
		bits, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("slots of worker %s: %w", id, err)
		}
		for n := range min(slots, 8*len(bits)) {
			if bits[n/8]&(1<<(n%8)) != 0 {
				out[n] = id
			}
		}
	}
	return out, nil
}

func slotsOf(owners []string) map[string]string {
	bits := map[string][]byte{}
	for n, id := range owners {
		if id == "" {
			continue
		}
		if bits[id] == nil {
			bits[id] = make([]byte, (len(owners)+7)/8)
		}
		bits[id][n/8] |= 1 << (n % 8)
	}
	out := map[string]string{}
	for id, b := range bits {
		out[id] = base64.StdEncoding.EncodeToString(b)
	}
	return out
}

// memberChange is a worker that came, went, or has another session now: another process has,
// and one that lost its lease.
type memberChange struct{ id, was, is string } // boots; empty: not there

// memberChanges compares the workers that were told of with those that are there, by id.
func memberChanges(was, is map[string]string) (out []memberChange) {
	ids := map[string]string{}
	maps.Copy(ids, was)
	maps.Copy(ids, is)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if was[id] != is[id] {
			out = append(out, memberChange{id, was[id], is[id]})
		}
	}
	return out
}

// slotMoves counts the slots that have passed from one worker to another. What nobody owned
// before was not handed off.
func slotMoves(was, is []string) map[[2]string][]int {
	out := map[[2]string][]int{}
	for n := range min(len(was), len(is)) {
		if was[n] != "" && is[n] != "" && was[n] != is[n] {
			k := [2]string{was[n], is[n]}
			out[k] = append(out[k], n)
		}
	}
	return out
}

// teller is the state of telling, of the owner of slot 0.
type teller struct {
	w     *Worker
	claim leases.Claim // of slot 0, under which last was read
	last  told
	rev   int64                // of the record; 0: there is none
	gone  map[string]time.Time // workers that have left and are not told of yet, and since when
	moved time.Time            // when slots were seen to change last
	since time.Time            // and first, since the last telling
	seen  []string             // owners as of the last look
}

// tellChanges writes these events while this worker owns slot 0, until ctx ends.
func (w *Worker) tellChanges(ctx context.Context) error {
	t := &teller{w: w, gone: map[string]time.Time{}}
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.told:
		case <-again.C:
		}
		wait, err := t.look(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			w.log.Warn("tell changes of workers", "cause", err)
			t.claim, wait = leases.Claim{}, time.Second // read anew
		}
		if wait > 0 {
			again.Reset(wait)
		}
	}
}

// look tells what can be told, and returns when to look again without being asked; 0: not.
func (t *teller) look(ctx context.Context, now time.Time) (time.Duration, error) {
	w := t.w
	w.mu.Lock()
	claim, mine := w.claims[0]
	s := w.session
	w.mu.Unlock()
	if !mine || s == nil {
		t.claim = leases.Claim{}
		return 0, nil
	}
	if w.mirror.Revision() < claim.Epoch.Revision {
		return mirrorSoon, nil // it does not show yet what the last teller saw
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if t.claim != claim {
		if err := t.load(ctx); err != nil {
			return 0, err
		}
		t.claim = claim
	}
	members, owners := w.view.present(w.slotN)
	next := told{V: 1, Workers: t.last.Workers, Slots: t.last.Slots}
	events, wait := t.tellMembers(members, &next, now)
	more, later, err := t.tellMoves(owners, &next, now)
	if err != nil {
		return 0, err
	}
	events = append(events, more...)
	if wait == 0 || later > 0 && later < wait {
		wait = later
	}
	if maps.Equal(next.Workers, t.last.Workers) && maps.Equal(next.Slots, t.last.Slots) {
		return wait, nil
	}
	ops := []leases.Op{leases.Put(leases.ToldKey(), next)}
	for _, x := range events {
		ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
	}
	rev, err := s.Commit(ctx, claim.Guard().At(leases.ToldKey(), t.rev), ops...)
	if err != nil {
		return 0, err
	}
	t.last, t.rev = next, rev
	w.announced(events)
	return wait, nil
}

func (t *teller) load(ctx context.Context) error {
	t.last, t.rev, t.gone, t.seen, t.moved, t.since = told{V: 1}, 0, map[string]time.Time{}, nil, time.Time{}, time.Time{}
	kv, err := t.w.client.Get(ctx, leases.ToldKey())
	if errors.Is(err, leases.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = kv.Decode(&t.last)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", leases.ToldKey(), err)
	}
	t.rev = kv.ModRevision
	return nil
}

// tellMembers tells of workers. Of one that has gone it waits a moment for how it ended.
func (t *teller) tellMembers(members map[string]v1.Worker, next *told, now time.Time) (events []v1.Event, wait time.Duration) {
	boots := map[string]string{}
	for id, m := range members {
		boots[id] = m.Boot
	}
	next.Workers = maps.Clone(t.last.Workers)
	if next.Workers == nil {
		next.Workers = map[string]string{}
	}
	for _, c := range memberChanges(t.last.Workers, boots) {
		how := ""
		if c.was != "" {
			end, _ := get(t.w.view, t.w.view.ends, c.id+"/"+c.was)
			how = string(end.Val.How)
		}
		if c.is == "" && how == "" {
			if t.gone[c.id].IsZero() {
				t.gone[c.id] = now
			}
			if left := endPending - now.Sub(t.gone[c.id]); left > 0 {
				wait = left
				continue
			}
		}
		delete(t.gone, c.id)
		typ, severity, text := "worker.joined", ha.Info, fmt.Sprintf("worker %s joined", c.id)
		switch {
		case c.is == "":
			typ, text = "worker.left", fmt.Sprintf("worker %s left: %s", c.id, endWords[leases.End(how)])
			if how != string(leases.Released) {
				severity = ha.Warning
			}
			delete(next.Workers, c.id)
		case c.was != "":
			typ, text = "worker.rejoined", fmt.Sprintf("worker %s registered anew; of its session before: %s", c.id, endWords[leases.End(how)])
		}
		if c.is != "" {
			next.Workers[c.id] = c.is
		}
		data := map[string]string{"boot": cmp.Or(c.is, c.was)}
		if how != "" {
			data["ended"] = how
		}
		events = append(events, t.event(typ, severity, c.id, text, data, now))
	}
	return events, wait
}

var endWords = map[leases.End]string{
	leases.Released: "it stopped in order",
	leases.Reaped:   "its process died, and its parent saw it",
	leases.Expired:  "its lease ran out, nobody knows what its process does",
	"":              "how it ended is not on record",
}

// tellMoves tells of slots that have other owners now, once that has come to rest.
func (t *teller) tellMoves(owners []string, next *told, now time.Time) (events []v1.Event, wait time.Duration, err error) {
	was, err := t.last.owners(len(owners))
	if err != nil {
		return nil, 0, err
	}
	if slices.Equal(was, owners) {
		t.seen, t.since = owners, time.Time{}
		return nil, 0, nil
	}
	if !slices.Equal(t.seen, owners) {
		t.seen, t.moved = owners, now
	}
	if t.since.IsZero() {
		t.since = now
	}
	rest := movesRest - now.Sub(t.moved)
	if limit := movesLimit - now.Sub(t.since); min(rest, limit) > 0 {
		return nil, min(rest, limit), nil
	}
	kept := slices.Clone(owners)
	for n, id := range kept {
		if id == "" { // nobody's now: whoever takes it takes it from the one who was told of
			kept[n] = was[n]
		}
	}
	next.Slots, t.since = slotsOf(kept), time.Time{}
	moves := slotMoves(was, owners)
	if len(moves) == 0 {
		return nil, 0, nil
	}
	hosts := t.w.view.hostsInSlots(t.w.slotN)
	var words []string
	slots, with := 0, 0
	for _, k := range slices.SortedFunc(maps.Keys(moves), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		words = append(words, fmt.Sprintf("%s to %s %d", k[0], k[1], len(moves[k])))
		slots += len(moves[k])
		for _, n := range moves[k] {
			with += hosts[n]
		}
	}
	text := fmt.Sprintf("%d slots with %d hosts have passed to other workers: %s", slots, with, strings.Join(words, ", "))
	return []v1.Event{t.event("slots.handed-off", ha.Info, "", text, map[string]string{"slots": fmt.Sprint(slots), "hosts": fmt.Sprint(with)}, now)}, 0, nil
}

func (t *teller) event(typ string, s ha.Severity, worker, text string, data map[string]string, now time.Time) v1.Event {
	return v1.Event{ID: newEventID(), At: now.UTC(), Type: typ, Severity: string(s), Worker: worker, Message: text, Data: data}
}

// present are the registered workers and the owners of all slots.
func (v *view) present(slots int) (map[string]v1.Worker, []string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	members, owners := make(map[string]v1.Worker, len(v.workers)), make([]string, slots)
	for id, m := range v.workers {
		members[id] = m.Val
	}
	for n, s := range v.slots {
		if n >= 0 && n < slots {
			owners[n] = s.Val.Worker
		}
	}
	return members, owners
}

// hostsInSlots are the hosts on record in each slot. Not to be changed.
func (v *view) hostsInSlots(slots int) map[int]int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.layoutOf(slots).hosts
}

// unreadyFor is how long there may be no worker to take slots before it is a warning: one
// that starts is ready soon.
const unreadyFor = 5 * time.Second

// warnUnready warns while no worker of the fleet may take slots: what one of them leaves
// would stay without an owner. It is told since when that is so, zero: it is not, and says so.
func (w *Worker) warnUnready(since, now time.Time) time.Time {
	const code = "NoReadyWorker"
	switch {
	case w.mirror.Revision() == 0 || w.mirror.Age() > readAgeLimit:
		return time.Time{} // who cannot see does not know
	case w.view.readyWorkers() > 0:
		w.health.clear(code)
		return time.Time{}
	case since.IsZero():
		return now
	case now.Sub(since) >= unreadyFor:
		w.health.set(code, "critical", "no worker is ready to take slots: all are drained, starting or on their way out. Hosts without an owner stay so: start a worker, or `holdfast worker undrain` one")
	}
	return since
}

// readyWorkers counts the workers that may take slots: registered, ready, not drained.
func (v *view) readyWorkers() (n int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for id, m := range v.workers {
		if _, drained := v.drains[id]; !drained && m.Val.State == stateReady && m.Val.Weight > 0 {
			n++
		}
	}
	return n
}
