// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	watchTimeout = 5 * time.Second // until etcd confirms a watch
	minBackoff   = 50 * time.Millisecond
	maxBackoff   = 2 * time.Second
)

// Change is one change of a mirrored key. Of a deletion, KV is what was there last, with
// ModRevision = the revision of the deletion, or of the listing that missed it.
type Change struct {
	Key     string
	KV      KV
	Deleted bool
}

// Mirror is a local copy of some prefixes, kept by list-then-watch: the watch is opened
// first, so nothing falls between the two, and what is older than the listing is dropped.
//
// It is a cache. Read linearizably (Client.Get) before claiming or acting, and treat an
// Age that grows as blindness: take no new slots with a stale mirror (leases.md §5).
type Mirror struct {
	client   *Client
	prefixes []string
	root     string // the one prefix that is watched: one watch, hence one order
	synced   chan struct{}
	work     chan struct{} // new subscriptions for Run
	nudge    chan struct{} // somebody waits for a revision: probe now

	subs  []*subscription // touched by Run's goroutine only
	batch func()          // see OnBatch

	mu       sync.RWMutex
	index    index
	past     <-chan struct{} // closed when the content is of a history that is over
	rev      int64           // all changes up to here are applied; 0 before the first listing
	freshAt  time.Time       // the content is complete as of this moment
	pending  freshness       // becomes freshAt when rev has reached it
	advanced chan struct{}   // closed and replaced when rev rises
	joining  []*subscription
}

// freshness: at that time, by a linearizable read, etcd was at rev.
type freshness struct {
	rev int64
	at  time.Time
}

type subscription struct {
	prefix string
	fn     func(Change)
	over   atomic.Bool
}

// NewMirror prepares a mirror of all keys below the prefixes; none means everything.
func (c *Client) NewMirror(prefixes ...string) *Mirror {
	if len(prefixes) == 0 {
		prefixes = []string{Root}
	}
	root := prefixes[0]
	for _, p := range prefixes[1:] {
		for !strings.HasPrefix(p, root) {
			root = root[:len(root)-1]
		}
	}
	m := &Mirror{
		client: c, prefixes: slices.Clone(prefixes), root: root,
		synced: make(chan struct{}), work: make(chan struct{}, 1), nudge: make(chan struct{}, 1),
		index: make(index), advanced: make(chan struct{}), batch: func() {},
	}
	c.keeper.add(m)
	return m
}

// Run follows etcd until ctx ends and then returns nil. It reconnects for ever; how long
// it has been blind is what Age tells. Call it once.
func (m *Mirror) Run(ctx context.Context) error {
	var prober sync.WaitGroup
	defer prober.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prober.Go(func() { m.probe(ctx) })

	backoff := minBackoff
	relist := true
	for ctx.Err() == nil {
		before := m.Revision()
		err := m.follow(ctx, &relist)
		if m.Revision() != before {
			backoff = minBackoff
		}
		if ctx.Err() == nil {
			m.client.log.Debug("watch ended", "prefix", m.root, "cause", err)
			m.pause(ctx, backoff/2+rand.N(backoff))
		}
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// pause waits and serves new subscriptions meanwhile.
func (m *Mirror) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-m.work:
			m.join()
		}
	}
}

var (
	errWatchClosed = errors.New("watch closed")
	errRewound     = errors.New("etcd is at an older revision than it was, or another cluster: restored from a backup?")
)

// follow opens one watch and applies what it brings until it breaks. *relist says whether
// the content must be listed anew; otherwise the watch resumes where the last one ended.
func (m *Mirror) follow(ctx context.Context, relist *bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	*relist = *relist || isClosed(m.history())
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify(), clientv3.WithFragment()}
	if !*relist {
		opts = append(opts, clientv3.WithRev(m.Revision()+1))
	}
	events, err := m.open(ctx, opts)
	if err != nil {
		return err
	}
	if *relist {
		past := m.client.history.present()
		kvs, rev, asOf, err := m.list(ctx)
		if err != nil {
			return err
		}
		m.replace(kvs, rev, asOf, past)
		*relist = false
	}
	past := m.history()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.work:
			m.join()
		case <-past:
			return errRewound
		case resp, ok := <-events:
			if !ok {
				return errWatchClosed
			}
			if err := resp.Err(); err != nil {
				*relist = *relist || errors.Is(err, rpctypes.ErrCompacted)
				return err
			}
			m.apply(resp)
		}
	}
}

// open starts the watch and waits until etcd has confirmed it.
func (m *Mirror) open(ctx context.Context, opts []clientv3.OpOption) (clientv3.WatchChan, error) {
	// Watch itself blocks while there is no connection, so it needs its own way out.
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(watchTimeout, func() { cancel(errors.New("etcd did not confirm the watch in time")) })
	events := m.client.watch.Watch(clientv3.WithRequireLeader(ctx), m.root, opts...)
	resp, ok := <-events
	if !t.Stop() {
		return nil, context.Cause(ctx)
	}
	if !ok {
		return nil, errWatchClosed
	}
	return events, resp.Err()
}

func (m *Mirror) history() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.past
}

func (m *Mirror) wants(key string) bool {
	return slices.ContainsFunc(m.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// list reads all prefixes at one revision, not older than the moment it returns.
func (m *Mirror) list(ctx context.Context) (kvs []KV, rev int64, asOf time.Time, err error) {
	asOf = time.Now()
	for _, p := range m.prefixes {
		var part []KV
		if part, rev, err = m.client.listAt(ctx, p, rev); err != nil {
			return nil, 0, asOf, fmt.Errorf("list %s: %w", p, err)
		}
		kvs = append(kvs, part...)
	}
	return kvs, rev, asOf, nil
}
