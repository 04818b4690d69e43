// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// history is one line of revisions that only rise. It is over when etcd answers with a
// revision below one seen before, or as another cluster: it was restored, or is another
// one. What was learnt before, leases and claims included, then says nothing any more.
type history struct {
	mu      sync.Mutex
	seen    int64  // highest revision of any answer or watched change
	cluster uint64 // etcd's own id; 0 before the first answer
	over    chan struct{}
}

func newHistory() *history { return &history{over: make(chan struct{})} }

// present returns the channel that is closed when the present history is over.
func (h *history) present() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// revision is the highest revision seen.
func (h *history) revision() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

func (h *history) clusterID() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cluster
}

// saw takes note of a revision that exists.
func (h *history) saw(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = max(h.seen, rev)
}

// answered takes note of the answer to a linearizable request that was sent when before
// was the highest revision seen: a lower one can only come from an older etcd.
func (h *history) answered(r *pb.ResponseHeader, before int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.cluster != 0 && r.GetClusterId() != h.cluster || r.GetRevision() < before:
		h.end(r)
	default:
		h.seen = max(h.seen, r.GetRevision())
	}
	h.cluster = r.GetClusterId()
}

// heard takes note of an answer of which only the cluster's id is worth anything.
func (h *history) heard(r *pb.ResponseHeader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cluster != 0 && r.GetClusterId() != h.cluster {
		h.end(r)
		h.cluster = r.GetClusterId()
	}
}

func (h *history) end(r *pb.ResponseHeader) {
	h.seen = r.GetRevision()
	close(h.over)
	h.over = make(chan struct{})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
