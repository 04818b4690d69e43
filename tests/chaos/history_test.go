// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/leases"
)

const readEvery = 50 * time.Millisecond

// change is one key in one revision.
type change struct {
	Rev   int64
	Key   string
	Val   []byte
	Lease int64
	Del   bool
	Seen  time.Time // by the watch: it was committed before
}

// mark says that what is newer than Rev was committed after At.
type mark struct {
	At  time.Time
	Rev int64
}

// history is everything that ever happened below /holdfast/v1/, in the order of
// revisions, and between which moments.
type history struct {
	cli    *clientv3.Client
	follow func(change) // told of each change, in order; returns promptly

	mu      sync.Mutex
	changes []change
	marks   []mark
	now     map[string]change // present content
	rev     int64             // seen so far
}

func newHistory(endpoints []string, follow func(change)) (*history, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("set up history: %w", err)
	}
	return &history{cli: cli, follow: follow, now: map[string]change{}}, nil
}

// run watches from revision 1 on, and reads often, until ctx ends.
func (h *history) run(ctx context.Context) error {
	defer h.cli.Close()
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { h.read(ctx); return nil })
	work.Go(func() error {
		for ctx.Err() == nil {
			if err := h.watch(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return work.Wait()
}

// watch follows until the stream breaks. Only a hole in the history is an error.
func (h *history) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range h.cli.Watch(ctx, leases.Root, clientv3.WithPrefix(), clientv3.WithRev(h.seen()+1)) {
		if errors.Is(resp.Err(), rpctypes.ErrCompacted) {
			return fmt.Errorf("history has a hole: seen up to revision %d, compacted to %d", h.seen(), resp.CompactRevision)
		}
		if resp.Err() != nil {
			return nil
		}
		seen := time.Now()
		for _, e := range resp.Events {
			h.add(change{Rev: e.Kv.ModRevision, Key: string(e.Kv.Key), Val: e.Kv.Value, Lease: e.Kv.Lease, Del: e.Type == clientv3.EventTypeDelete, Seen: seen})
		}
	}
	return nil
}

func (h *history) add(c change) {
	h.mu.Lock()
	h.changes = append(h.changes, c)
	if c.Del {
		delete(h.now, c.Key)
	} else {
		h.now[c.Key] = c
	}
	h.rev = max(h.rev, c.Rev)
	h.mu.Unlock()
	if h.follow != nil {
		h.follow(c)
	}
}

// read makes marks: a linearizable read that began at a time and shows revision n proves
// that n+1 was committed later.
func (h *history) read(ctx context.Context) {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		if rev, err := h.revision(ctx); err == nil {
			h.mu.Lock()
			h.marks = append(h.marks, mark{began, rev})
			h.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *history) revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := h.cli.Get(ctx, leases.ConfigSlotsKey())
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// seen is the newest revision in the history.
func (h *history) seen() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rev
}

// caughtUp reports whether the history has everything that was committed before the call.
func (h *history) caughtUp(ctx context.Context) error {
	rev, err := h.revision(ctx)
	if err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	if seen := h.seen(); seen < rev {
		return fmt.Errorf("history is at revision %d, etcd at %d", seen, rev)
	}
	return nil
}

// compact throws away what the history has seen: watches of workers that are behind find
// it compacted.
func (h *history) compact(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := h.cli.Compact(ctx, h.seen())
	return err
}

// write is an operator's hand: it tries for so long, because it may meet no quorum.
func (h *history) write(limit time.Duration, op clientv3.Op) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := h.cli.Do(try, op)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// get is the present content of a key.
func (h *history) get(key string) (change, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.now[key]
	return c, ok
}

// all is everything so far. The slices are the caller's.
func (h *history) all() ([]change, []mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	marks := slices.Clone(h.marks)
	slices.SortStableFunc(marks, func(a, b mark) int { return cmp.Compare(a.Rev, b.Rev) })
	return slices.Clone(h.changes), marks
}

// notBefore is a moment before the commit of rev; zero: nothing is known.
func notBefore(marks []mark, rev int64) time.Time {
	n := sort.Search(len(marks), func(i int) bool { return marks[i].Rev >= rev })
	if n == 0 {
		return time.Time{}
	}
	return marks[n-1].At // reads follow each other: the last one that did not show it is the latest
}
