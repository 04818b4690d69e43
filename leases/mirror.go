// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	probeEvery   = time.Second
	probeTimeout = 2 * time.Second
)

// Synced is closed when the first listing is applied and told to all subscribers.
func (m *Mirror) Synced() <-chan struct{} { return m.synced }

// Get returns a mirrored key.
func (m *Mirror) Get(key string) (KV, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.index.get(key)
}

// List returns the mirrored keys below prefix in key order, all as of Revision.
func (m *Mirror) List(prefix string) []KV {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.index.list(prefix)
}

// Revision is the revision up to which all changes are applied; 0 before Synced.
func (m *Mirror) Revision() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rev
}

// Age says how long ago the content was last known to be complete. Like a lease it counts
// from when etcd was asked, not from when it answered: every second a linearizable read
// learns etcd's revision, and the mirror is as fresh as that read once it has applied it.
func (m *Mirror) Age() time.Duration {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.freshAt.IsZero() {
		return math.MaxInt64
	}
	return time.Since(m.freshAt)
}

// WaitRevision returns once the mirror has applied rev, such as that of a commit whose
// result is to be read here, and told its subscribers, or the context's cause.
func (m *Mirror) WaitRevision(ctx context.Context, rev int64) error {
	for {
		m.mu.RLock()
		have, advanced := m.rev, m.advanced
		m.mu.RUnlock()
		if have >= rev {
			return nil
		}
		poke(m.nudge)
		select {
		case <-advanced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Subscribe calls fn for every present key below prefix, oldest change first, and then
// for every change in revision order, always from Run's goroutine. fn must not block. A
// gap that had to be listed anew comes as its difference, deletions first. After cancel
// no call begins; one may be under way.
func (m *Mirror) Subscribe(prefix string, fn func(Change)) (cancel func()) {
	s := &subscription{prefix: prefix, fn: fn}
	m.mu.Lock()
	m.joining = append(m.joining, s)
	m.mu.Unlock()
	poke(m.work)
	return func() { s.over.Store(true) }
}

// OnBatch has fn called, from Run's goroutine, each time a listing or a response of etcd, which
// may hold hundreds of changes of one transaction, is applied as a whole and told to all
// subscribers. fn must not block. Call it once, before Run.
func (m *Mirror) OnBatch(fn func()) { m.batch = fn }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// join takes new subscriptions in and replays the content to them.
func (m *Mirror) join() {
	m.mu.Lock()
	joining := m.joining
	m.joining = nil
	m.mu.Unlock()
	for _, s := range joining {
		content := m.List(s.prefix)
		slices.SortFunc(content, byRevision)
		for _, kv := range content {
			s.tell(Change{Key: kv.Key, KV: kv})
		}
		m.subs = append(m.subs, s)
	}
}

func byRevision(a, b KV) int {
	return cmp.Or(cmp.Compare(a.ModRevision, b.ModRevision), strings.Compare(a.Key, b.Key))
}

func (s *subscription) tell(c Change) {
	if !s.over.Load() && strings.HasPrefix(c.Key, s.prefix) {
		s.fn(c)
	}
}

func (m *Mirror) tell(changes []Change) {
	m.subs = slices.DeleteFunc(m.subs, func(s *subscription) bool { return s.over.Load() })
	for _, c := range changes {
		for _, s := range m.subs {
			s.tell(c)
		}
	}
}

// apply takes one watch response in: whole revisions, never a part of one.
func (m *Mirror) apply(resp clientv3.WatchResponse) {
	m.mu.Lock()
	var changes []Change
	// A response that catches up names etcd's revision, not that of its last event.
	rev := resp.Header.GetRevision()
	for _, ev := range resp.Events {
		kv := fromPB(ev.Kv)
		rev = kv.ModRevision
		if kv.ModRevision <= m.rev || !m.wants(kv.Key) {
			continue
		}
		if ev.Type == clientv3.EventTypePut {
			m.index.put(kv)
			changes = append(changes, Change{Key: kv.Key, KV: kv})
		} else if old, ok := m.index.get(kv.Key); ok {
			m.index.delete(kv.Key)
			old.ModRevision = kv.ModRevision
			changes = append(changes, Change{Key: kv.Key, KV: old, Deleted: true})
		}
	}
	m.mu.Unlock()
	if !isClosed(m.history()) {
		m.client.history.saw(rev)
	}
	m.tell(changes) // whoever waits for the revision finds its subscribers up to date
	m.mu.Lock()
	if rev > m.rev {
		m.setRevision(rev)
	}
	m.mu.Unlock()
	m.batch()
}

// replace takes a listing in and tells the difference.
func (m *Mirror) replace(kvs []KV, rev int64, asOf time.Time, past <-chan struct{}) {
	m.join() // they get the content as changes
	if m.Revision() == 0 {
		m.fill(kvs, rev, asOf, past)
		return
	}
	m.mu.Lock()
	listed := make(map[string]bool, len(kvs))
	var gone, changed []Change
	for _, kv := range kvs { // in key order: the index only appends
		listed[kv.Key] = true
		// A restored etcd can have other content at the same revision.
		if old, ok := m.index.get(kv.Key); ok && old.ModRevision == kv.ModRevision && string(old.Value) == string(kv.Value) {
			continue
		}
		m.index.put(kv)
		changed = append(changed, Change{Key: kv.Key, KV: kv})
	}
	for _, old := range m.index.list("") {
		if !listed[old.Key] {
			m.index.delete(old.Key)
			old.ModRevision = rev
			gone = append(gone, Change{Key: old.Key, KV: old, Deleted: true})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(changed, func(a, b Change) int { return byRevision(a.KV, b.KV) })
	m.tell(append(gone, changed...))
	m.listed(rev, asOf, past)
}

// fill takes the first listing in, of as many keys as there are: nothing is copied that need
// not be.
func (m *Mirror) fill(kvs []KV, rev int64, asOf time.Time, past <-chan struct{}) {
	m.mu.Lock()
	for _, kv := range kvs { // in key order: the index only appends
		m.index.put(kv)
	}
	m.mu.Unlock()
	slices.SortFunc(kvs, byRevision)
	for _, kv := range kvs {
		m.tell([]Change{{Key: kv.Key, KV: kv}})
	}
	m.listed(rev, asOf, past)
	close(m.synced)
}

// listed takes note that the content is that of a listing.
func (m *Mirror) listed(rev int64, asOf time.Time, past <-chan struct{}) {
	m.mu.Lock()
	m.freshAt, m.pending, m.past = asOf, freshness{}, past
	m.setRevision(rev)
	m.mu.Unlock()
	m.batch()
}

// setRevision is called with the lock held.
func (m *Mirror) setRevision(rev int64) {
	m.rev = rev
	m.settle()
	close(m.advanced)
	m.advanced = make(chan struct{})
}

// settle makes the pending freshness good once everything up to it is applied.
func (m *Mirror) settle() {
	if !m.pending.at.IsZero() && m.rev >= m.pending.rev {
		m.freshAt, m.pending = m.pending.at, freshness{}
	}
}

// probe keeps Age honest, and lets the client notice an etcd that has gone back in time:
// the watch would wait silently for a revision that is far away.
func (m *Mirror) probe(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.nudge:
		}
		redial(m.client.watch, m.client.data)
		if m.Revision() > 0 {
			m.probeOnce(ctx)
		}
	}
}

func (m *Mirror) probeOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	asked := time.Now()
	rev, err := m.client.Revision(ctx)
	if err != nil {
		return // Age grows, that is the report
	}
	if isClosed(m.history()) {
		return // nothing here is of this etcd
	}
	m.mu.Lock()
	if m.rev >= rev || m.pending.at.IsZero() {
		m.pending = freshness{rev: rev, at: asked}
	}
	m.settle()
	behind := m.rev < rev
	m.mu.Unlock()
	if behind {
		// Only asks; the answer comes through the watch. An error shows as Age, too.
		_ = m.client.watch.RequestProgress(clientv3.WithRequireLeader(ctx))
	}
}
