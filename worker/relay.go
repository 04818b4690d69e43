// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"maps"
	"sync"
	"time"

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

// carried is what there is to do about links whose carrier or owner has changed. It is
// filled by many and emptied by watchLinks, at the pace of etcd.
type carried struct {
	kick    chan struct{}
	written int64 // revision of the newest links/<host> from here; watchLinks' own

	mu      sync.Mutex
	records map[string]string // host, carrier that has to be on record
	handed  map[string]int64  // host handed over, revision of its slot from then on
}

func newCarried() *carried {
	return &carried{kick: make(chan struct{}, 1), records: map[string]string{}, handed: map[string]int64{}}
}

// by notes who carries the link of a host owned here; empty: this worker itself.
func (c *carried) by(host, carrier string) {
	c.mu.Lock()
	c.records[host] = carrier
	c.mu.Unlock()
	signal(c.kick)
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
		w.door.Tell(w.follow)
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
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	err := w.mirror.WaitRevision(cctx, w.carried.written)
	cancel()
	if err != nil && w.mirror.Age() > etcdTimeout {
		return false
	} // else a copy that is complete and never came to it: etcd was restored
	w.carried.written = 0
	w.carried.mu.Lock()
	all := w.carried.records
	w.carried.records = map[string]string{}
	w.carried.mu.Unlock()
	done := true
	for host, carrier := range all {
		if ctx.Err() != nil {
			return true
		}
		rev, err := w.recordLink(ctx, host, carrier)
		w.carried.written = max(w.carried.written, rev)
		if err != nil {
			w.log.Warn("record who carries a link", "host", host, "cause", err)
			done = false
			w.carried.mu.Lock()
			if _, newer := w.carried.records[host]; !newer {
				w.carried.records[host] = carrier
			}
			w.carried.mu.Unlock()
		}
	}
	return done
}

// recordLink returns the revision of what it wrote, 0 for nothing.
func (w *Worker) recordLink(ctx context.Context, host, carrier string) (int64, error) {
	w.mu.Lock()
	o, s := w.owners[host], w.session
	w.mu.Unlock()
	if o == nil || s == nil || s != o.s {
		return 0, nil // the next owner records it
	}
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
