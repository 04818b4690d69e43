// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"encoding/json"
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
	x := v1.Incident{ID: i.ID, Host: host, Opened: i.Opened, Ended: i.Ended, Cause: i.Cause, Outcome: i.Outcome, Ledger: entriesOf(i.Ledger)}
	if i.Ended.IsZero() {
		x.State = state
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
	all, err := b.Incidents(ctx, "")
	if err != nil {
		return v1.Incident{}, err
	}
	for _, i := range all {
		if i.ID == id {
			return i, nil
		}
	}
	return v1.Incident{}, notFound("incident", id)
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

// WatchHosts implements api.Backend.
func (b *backend) WatchHosts(ctx context.Context, f api.HostFilter, fn func(v1.Host) error) error {
	box := newMailbox()
	cancel := b.mirror.Subscribe(leases.HostsPrefix, func(c leases.Change) {
		if host, _, ok := leases.SplitHostKey(c.Key); ok {
			box.put(host, host)
		}
	})
	defer cancel()
	sent := map[string]string{}
	for {
		for _, ok := box.take(); ok; _, ok = box.take() {
		}
		hosts, err := b.Hosts(ctx, f)
		if err != nil {
			return err
		}
		present := map[string]bool{}
		for _, h := range hosts {
			present[h.Spec.ID] = true
		}
		for id := range sent {
			if !present[id] { // it is gone, or the filter selects it no more
				delete(sent, id)
				if err := fn(v1.Host{Spec: v1.HostSpec{ID: id}, Deleted: true}); err != nil {
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
			if sent[h.Spec.ID] == string(text) {
				continue
			}
			sent[h.Spec.ID] = string(text)
			if err := fn(h); err != nil {
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
