// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/leases"
)

// linkRecord is the value of links/<host>: who carries the link of a host, where that is
// not its owner.
type linkRecord struct {
	V      int    `json:"v"`
	Worker string `json:"worker"`
	Boot   string `json:"boot"`
}

// carried is what there is to do about links whose carrier or owner may have changed. It is
// filled by many and emptied by watchLinks, at the pace of etcd.
type carried struct {
	kick chan struct{}

	mu      sync.Mutex
	owners  bool             // other workers may own what they did not own at the last look
	written int64            // revision of the newest links/<host> from here; 0: the copy has it
	looks   map[string]bool  // hosts owned here: whether the record is right
	handed  map[string]int64 // host handed over, revision of its slot from then on
}

func newCarried() *carried {
	return &carried{kick: make(chan struct{}, 1), looks: map[string]bool{}, handed: map[string]int64{}}
}

// linked lets it be seen whether the record says who carries the link of a host owned here: the
// session that the host has then counts, not the Hello that was the reason to look. Of two that
// come over different workers the older may be heard later.
func (c *carried) linked(host string) {
	c.mu.Lock()
	c.looks[host] = true
	c.mu.Unlock()
	signal(c.kick)
}

// reowned lets all links be looked at whose hosts other workers own: whether they do.
func (c *carried) reowned() {
	c.mu.Lock()
	c.owners = true
	c.mu.Unlock()
	signal(c.kick)
}

// follows says once whether they are to be looked at.
func (c *carried) follows() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.owners
	c.owners = false
	return is
}

// moved notes that a host was handed over, in a slot of this revision.
func (c *carried) moved(host string, rev int64) {
	c.mu.Lock()
	c.handed[host] = rev
	c.mu.Unlock()
	signal(c.kick)
}

// linksRetry is after how long it is looked again at what could not be done about links.
const linksRetry = 250 * time.Millisecond

// watchLinks keeps the links to and from this worker going to the owners of their hosts,
// and records who carries them, until ctx ends.
func (w *Worker) watchLinks(ctx context.Context) error {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.carried.kick:
		case <-retry.C:
		}
		if w.carried.follows() {
			w.door.Tell(w.follow)
		}
		again := w.rehome()
		if !w.recordLinks(ctx) || again {
			retry.Reset(linksRetry)
		}
	}
}

// follow asks the agents whose links this worker holds for a Hello when another worker owns
// their host than the one they were carried to.
func (w *Worker) follow(host, owner string) *agentpb.Down {
	if owner == "" || owner == w.o.ID {
		return nil // it asks by itself, or is told when its host is handed over
	}
	spec, ok := w.view.spec(host)
	if !ok {
		return nil // its owner says so
	}
	s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host))
	if _, live := w.view.worker(s.Worker); !held || !live || s.Worker == owner {
		return nil
	}
	return &agentpb.Down{Frame: &agentpb.Down_Again{Again: &agentpb.Again{}}}
}

// rehome lets the links of hosts that were handed over lead to their new owners, once this
// worker's own copy of the slots says so; true: some have to wait.
func (w *Worker) rehome() (again bool) {
	w.carried.mu.Lock()
	all := maps.Clone(w.carried.handed)
	w.carried.mu.Unlock()
	seen := w.mirror.Revision()
	for host, rev := range all {
		if rev > seen {
			again = true
			continue
		}
		if o, _ := w.owned(host); o == nil { // else it has come back
			w.door.Rehome(host)
		}
		w.carried.mu.Lock()
		if w.carried.handed[host] == rev {
			delete(w.carried.handed, host)
		}
		w.carried.mu.Unlock()
	}
	return again
}

// recordLinks writes links/<host> of the hosts owned here where it differs, each under the
// claim of its owner; false: some are left. It is judged by the copy, which has to show what was
// written last.
func (w *Worker) recordLinks(ctx context.Context) bool {
	w.carried.mu.Lock()
	newest := w.carried.written
	w.carried.mu.Unlock()
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	err := w.mirror.WaitRevision(cctx, newest)
	cancel()
	if err != nil && w.mirror.Age() > etcdTimeout {
		return false
	} // else a copy that is complete and never came to it: etcd was restored
	w.carried.mu.Lock()
	w.carried.written = 0
	all := w.carried.looks
	w.carried.looks = map[string]bool{}
	w.carried.mu.Unlock()
	var left atomic.Bool
	var some errgroup.Group
	some.SetLimit(recordsAtOnce)
	for host := range all {
		if ctx.Err() != nil {
			break
		}
		some.Go(func() error {
			rev, err := w.recordLink(ctx, host)
			w.carried.mu.Lock()
			defer w.carried.mu.Unlock()
			w.carried.written = max(w.carried.written, rev)
			if err != nil {
				w.log.Warn("record who carries a link", "host", host, "cause", err)
				left.Store(true)
				w.carried.looks[host] = true
			}
			return nil
		})
	}
	_ = some.Wait() // what failed is noted
	return !left.Load()
}

// recordsAtOnce is how many of these records are under way: a worker's end moves thousands of links.
const recordsAtOnce = 16

// recordLink returns the revision of what it wrote, 0 for nothing.
func (w *Worker) recordLink(ctx context.Context, host string) (int64, error) {
	w.mu.Lock()
	o, s := w.owners[host], w.session
	w.mu.Unlock()
	ses := w.door.Session(host)
	if o == nil || s == nil || s != o.s || ses == nil {
		return 0, nil // the next owner records it, or the next session has it recorded
	}
	carrier := ses.Carrier
	have, on := get(w.view, w.view.links, host)
	m, _ := w.view.worker(carrier)
	op := leases.Put(leases.LinkKey(host), linkRecord{V: 1, Worker: carrier, Boot: m.Boot})
	switch {
	case carrier == "" && !on, on && have.Val.Worker == carrier && have.Val.Boot == m.Boot:
		return 0, nil
	case carrier == "":
		op = leases.Delete(leases.LinkKey(host))
	}
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	return s.Commit(cctx, o.claim.Guard(), op)
}
