// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
)

// change is one change of a key, with the time this process learned of it.
type change struct {
	At     time.Time
	Rev    int64
	Key    string
	Del    bool
	Worker string // who holds a slot or a registration
	Boot   string
	State  string // of a registration
	Type   string // of an event
}

// observer follows what etcd says about ownership.
type observer struct {
	mu      sync.Mutex
	changes []change
	slots   map[int]change
	workers map[string]change
	moved   chan struct{} // closed and replaced at every change
}

// watched are the prefixes that tell of ownership and of what hosts go through.
var watched = []string{leases.SlotsPrefix, leases.WorkersPrefix, leases.EndsPrefix, leases.EventsPrefix}

func newObserver() *observer {
	return &observer{slots: map[int]change{}, workers: map[string]change{}, moved: make(chan struct{})}
}

// run watches until ctx ends; open is closed once all watches are there.
func (o *observer) run(ctx context.Context, client *clientv3.Client, open *sync.WaitGroup) error {
	var all sync.WaitGroup
	defer all.Wait()
	errs := make(chan error, len(watched))
	for _, prefix := range watched {
		all.Go(func() {
			for resp := range client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithFragment()) {
				if resp.Created {
					open.Done()
				}
				if err := resp.Err(); err != nil && ctx.Err() == nil {
					errs <- fmt.Errorf("watch %s: %w", prefix, err)
					return
				}
				o.take(resp, time.Now())
			}
			errs <- nil
		})
	}
	return <-errs
}

func (o *observer) take(resp clientv3.WatchResponse, now time.Time) {
	if len(resp.Events) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ev := range resp.Events {
		c := change{At: now, Rev: ev.Kv.ModRevision, Key: string(ev.Kv.Key), Del: ev.Type == clientv3.EventTypeDelete}
		_ = json.Unmarshal(ev.Kv.Value, &c) // of a deletion there is none
		o.changes = append(o.changes, c)
		if n, ok := leases.SplitSlotKey(c.Key); ok {
			put(o.slots, n, c)
		} else if id, ok := strings.CutPrefix(c.Key, leases.WorkersPrefix); ok {
			put(o.workers, id, c)
		}
	}
	close(o.moved)
	o.moved = make(chan struct{})
}

func put[K comparable](m map[K]change, k K, c change) {
	if c.Del {
		delete(m, k)
	} else {
		m[k] = c
	}
}

// mark is a point in the history: what has been seen before.
func (o *observer) mark() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.changes)
}

// since is what was seen after a mark.
func (o *observer) since(mark int) []change {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]change{}, o.changes[mark:]...)
}

// owners are the owners of all slots now.
func (o *observer) owners() map[int]change {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.slots)
}

// until waits until ok holds; it is asked after every change, with the lock held.
func (o *observer) until(limit time.Duration, ok func() bool) bool {
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		o.mu.Lock()
		fine, moved := ok(), o.moved
		o.mu.Unlock()
		if fine {
			return true
		}
		select {
		case <-moved:
		case <-end.C:
			return false
		}
	}
}

// counts are the slots of each worker. The caller holds the lock.
func (o *observer) counts() map[string]int {
	out := map[string]int{}
	for _, c := range o.slots {
		out[c.Worker]++
	}
	return out
}
