// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// incidentOf turns an incident into what operators see.
func incidentOf(host, state string, i *ha.Incident) v1.Incident {
	x := v1.Incident{ID: i.ID, Host: host, Opened: i.Opened, Ended: i.Ended, Cause: i.Cause, Outcome: i.Outcome, Ledger: entriesOf(i.Ledger),
		Fell: i.Fell, Boot: i.Boot, Proof: proofOf(i.Proof), Steps: i.Steps}
	if i.Ended.IsZero() {
		x.State, x.Holds = state, holdsOf(i.Holds)
	}
	if i.Guards != nil {
		x.Guards = answersOf(i.Guards.Answers)
	}
	return x
}

// Incidents implements api.Backend: open ones from the hosts' records, closed ones from
// their own keys.
func (b *backend) Incidents(ctx context.Context, host string) ([]v1.Incident, error) {
	if host != "" {
		if _, ok := b.view.spec(host); !ok {
			return nil, notFound("host", host)
		}
	}
	byID := map[string]v1.Incident{}
	prefix := leases.IncidentsPrefix
	if host != "" {
		prefix += host + "/"
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(ctx, prefix)
	if err != nil {
		return nil, etcdProblem("incidents", err)
	}
	for _, kv := range kvs {
		h, _, _ := strings.Cut(strings.TrimPrefix(kv.Key, leases.IncidentsPrefix), "/")
		var i ha.Incident
		if err := kv.Decode(&i); err != nil {
			return nil, err
		}
		byID[i.ID] = incidentOf(h, "", &i)
	}
	b.view.mu.RLock()
	for h, r := range b.view.ha {
		if i := r.Val.Incident; i != nil && (host == "" || h == host) {
			byID[i.ID] = incidentOf(h, string(r.Val.State), i)
		}
	}
	b.view.mu.RUnlock()
	out := make([]v1.Incident, 0, len(byID))
	for _, i := range byID {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b v1.Incident) int {
		return cmp.Or(b.Opened.Compare(a.Opened), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Incident implements api.Backend.
func (b *backend) Incident(ctx context.Context, id string) (v1.Incident, error) {
	c, err := b.caseOf(ctx, id)
	if err != nil {
		return v1.Incident{}, err
	}
	state := ""
	if c.record != nil {
		state = string(c.record.State)
	}
	return incidentOf(c.host, state, &c.inc), nil
}

func decodeEvent(kv leases.KV) (v1.Event, error) {
	var x v1.Event
	if err := kv.Decode(&x); err != nil {
		return x, err
	}
	x.Revision = kv.ModRevision
	return x, nil
}

func sortEvents(out []v1.Event) {
	slices.SortFunc(out, func(a, b v1.Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	})
}

// Events implements api.Backend.
func (b *backend) Events(_ context.Context, f api.EventFilter) ([]v1.Event, error) {
	var out []v1.Event
	for _, kv := range b.eventsMirror.List(leases.EventsPrefix) {
		x, err := decodeEvent(kv)
		if err != nil {
			return nil, err
		}
		if f.Match(x) {
			out = append(out, x)
		}
	}
	sortEvents(out)
	return out, nil
}

// EventsKept implements api.Backend. A revision that etcd has not come to is from before it
// was restored: what was written since then is not what the caller has seen.
func (b *backend) EventsKept(ctx context.Context, after int64) error {
	if kv, ok := b.eventsMirror.Get(leases.EventsCutKey()); ok {
		c, err := decodeAs[eventsCut](kv)
		if err != nil {
			return fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		if after < c.At.Revision {
			return v1.Problemf(v1.CodeCompacted, "events after revision %d: those up to %d are no longer kept", after, c.At.Revision).
				WithHint("what is there now tells where things stand; go on without a revision")
		}
	}
	if after <= b.eventsMirror.Revision() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	now, err := b.client.Revision(ctx)
	if err != nil {
		return etcdProblem("events", err)
	}
	if after > now {
		return v1.Problemf(v1.CodeCompacted, "events after revision %d: etcd is at %d only, it was restored from an older copy", after, now).
			WithHint("go on without a revision")
	}
	return nil
}

// WatchEvents implements api.Backend.
func (b *backend) WatchEvents(ctx context.Context, f api.EventFilter, fn func(v1.Event) error) error {
	box := newMailbox()
	cancel := b.eventsMirror.Subscribe(leases.EventsPrefix, func(c leases.Change) {
		if !c.Deleted {
			box.put("", c.KV)
		}
	})
	defer cancel()
	var backlog []v1.Event
	for first := true; ; first = false {
		for msg, ok := box.take(); ok; msg, ok = box.take() {
			x, err := decodeEvent(msg.(leases.KV))
			if err != nil {
				return err
			}
			if f.Match(x) {
				backlog = append(backlog, x)
			}
		}
		if first {
			sortEvents(backlog) // what is replayed comes in the order of keys
		}
		for _, x := range backlog {
			if err := fn(x); err != nil {
				return err
			}
		}
		backlog = backlog[:0]
		select {
		case <-ctx.Done():
			return nil
		case <-box.ready:
		}
	}
}

// WatchHosts implements api.Backend. What changed since a revision is told by the revisions of
// the records that hosts are shown from, and which hosts were forgotten by the log.
func (b *backend) WatchHosts(ctx context.Context, f api.HostFilter, watch api.HostWatch) error {
	box := newMailbox()
	cancel := b.mirror.Subscribe(leases.HostsPrefix, func(c leases.Change) {
		if host, _, ok := leases.SplitHostKey(c.Key); ok {
			box.put(host, host)
		}
	})
	defer cancel()
	sent := map[string]string{} // a host that the caller may know and that is not told of: ""
	if watch.After > 0 {
		if err := b.upToDate(ctx, b.mirror); err != nil { // the caller may have been told by a worker that was ahead
			return err
		}
	}
	for first := true; ; first = false {
		for _, ok := box.take(); ok; _, ok = box.take() {
		}
		upTo := b.mirror.Revision() // subscribers, the view among them, have come at least as far
		hosts, err := b.Hosts(ctx, f)
		if err != nil {
			return err
		}
		if first && watch.After > 0 {
			if sent, err = b.knownAt(ctx, watch.After); err != nil {
				return err
			}
		}
		told := first
		present := map[string]bool{}
		for _, h := range hosts {
			present[h.Spec.ID] = true
		}
		for id, text := range sent {
			if !present[id] { // it is gone, or the filter selects it no more
				delete(sent, id)
				if text == unchanged {
					continue
				}
				told = true
				if err := watch.Host(v1.Host{Spec: v1.HostSpec{ID: id}, Deleted: true}); err != nil {
					return err
				}
			}
		}
		for _, h := range hosts {
			quiet := h
			quiet.Status.LastPing = time.Time{}
			text, err := json.Marshal(quiet)
			if err != nil {
				return err
			}
			was := sent[h.Spec.ID]
			sent[h.Spec.ID] = string(text)
			if was == string(text) || was == unchanged {
				continue
			}
			told = true
			if err := watch.Host(h); err != nil {
				return err
			}
		}
		if told {
			if err := watch.UpTo(upTo); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-box.ready:
			if !pause(ctx, 100*time.Millisecond) { // let a burst settle
				return nil
			}
		}
	}
}

// unchanged stands for what was told of a host before a watch was taken up again, when it is
// the same now.
const unchanged = "unchanged"

// knownAt are the hosts that somebody may know who was told of them up to a revision: those
// that are there, and those that were forgotten since. Errors: CodeUnavailable, the log has not
// come to the present in time.
func (b *backend) knownAt(ctx context.Context, after int64) (map[string]string, error) {
	if err := b.upToDate(ctx, b.eventsMirror); err != nil {
		return nil, err
	}
	known := map[string]string{}
	for id, spec := range b.view.hosts() {
		known[id] = ""
		if b.changedAt(id, spec) <= after {
			known[id] = unchanged
		}
	}
	gone, err := b.Events(ctx, api.EventFilter{Type: hostForgotten, After: after})
	for _, x := range gone {
		if _, there := known[x.Host]; !there {
			known[x.Host] = ""
		}
	}
	return known, err
}

// upToDate waits until a mirror shows all that is on record now. Errors: CodeUnavailable, it
// does not in time.
func (b *backend) upToDate(ctx context.Context, m *leases.Mirror) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if err := b.w().catchUp(ctx, m); err != nil {
		return v1.Problemf(v1.CodeUnavailable, "this worker does not see all that is on record now: %v", err).WithHint("try again, or at another worker")
	}
	return nil
}

// changedAt is the revision of the newest of the records that a host is shown from.
func (b *backend) changedAt(id string, spec versioned[v1.HostSpec]) int64 {
	state, _ := get(b.view, b.view.ha, id)
	link, _ := get(b.view, b.view.links, id)
	_, owned, _ := b.view.slotOwner(b.w().slotOf(spec.Val.Partition, id))
	return max(spec.Rev, state.Rev, b.view.powerRev(id), link.Rev, owned)
}

// hostForgotten is the event that tells of a host's end.
const hostForgotten = "host.forgotten"

const (
	maxEvents   = 20000
	maxEventAge = 7 * 24 * time.Hour
)

// oldEvents are those that the log does not keep, the oldest first.
func (w *Worker) oldEvents(ctx context.Context) (old []v1.Event, err error) {
	events, err := (*backend)(w).Events(ctx, api.EventFilter{})
	for i, x := range events {
		if len(events)-i > maxEvents || time.Since(x.At) > maxEventAge {
			old = append(old, x)
		}
	}
	return old, err
}
