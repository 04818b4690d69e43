// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// limiter is a bounded pool whose size is a live setting: at most n holders, others
// wait in the order they came.
type limiter struct {
	waited prometheus.Observer // seconds for which places were waited for; nil: nobody counts

	mu      sync.Mutex
	n, held int
	queue   []chan struct{}
}

// acquire waits for a place until ctx ends; false: none was taken.
func (l *limiter) acquire(ctx context.Context) bool {
	defer observe(l.waited, time.Now())
	l.mu.Lock()
	if l.held < l.n && len(l.queue) == 0 {
		l.held++
		l.mu.Unlock()
		return true
	}
	ch := make(chan struct{})
	l.queue = append(l.queue, ch)
	l.mu.Unlock()
	select {
	case <-ch:
		return true
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.queue {
		if q == ch {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			return false
		}
	}
	l.held-- // it was handed over in the same moment
	l.hand()
	return false
}

func (l *limiter) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
	l.hand()
}

// resize changes the number of places; holders above a smaller number keep theirs.
func (l *limiter) resize(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n = n
	l.hand()
}

// waiting is how many stand in the queue.
func (l *limiter) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue)
}

func (l *limiter) hand() {
	for l.held < l.n && len(l.queue) > 0 {
		close(l.queue[0])
		l.queue = l.queue[1:]
		l.held++
	}
}

// pools bound what one worker does at once; a stuck item blocks nobody outside its
// pool, and no pool waits for another while it holds a place.
//
// commits and pressing are for the transactions of the owners of hosts: thousands have
// something to write at once when their agents come back, and etcd, asked by all of them, would
// answer none in time; who is not answered asks again, and it would never get out of that. The
// time of a transaction begins with its place, which is given back with its answer. A host about
// which something is done is pressing, and does not wait for those that have news only; one that
// waits with news, and is to press then, waits for that place first.
type pools struct {
	activity, recovery, power, reconcile limiter
	commits, pressing                    limiter
	powerRate                            *rate.Limiter
	powerRateWaited                      prometheus.Observer
}

// names are the pools as metrics call them.
func (p *pools) names() map[string]*limiter {
	return map[string]*limiter{"activity": &p.activity, "recovery": &p.recovery, "power": &p.power, "reconcile": &p.reconcile, "commits": &p.commits, "pressing-commits": &p.pressing}
}

// count has what waits for places counted; call it before anybody does.
func (p *pools) count(waited *prometheus.HistogramVec) {
	p.powerRateWaited = waited.WithLabelValues("power-rate")
	for name, l := range p.names() {
		l.waited = waited.WithLabelValues(name)
	}
}

func newPools() *pools {
	p := &pools{powerRate: rate.NewLimiter(20, 20)}
	p.activity.resize(50)
	p.recovery.resize(5)
	p.reconcile.resize(100)
	p.commits.resize(commitsAtOnce)
	p.pressing.resize(commitsAtOnce)
	p.power.resize(512) // 10,000 BMCs of 60 ms in 10 s, and places left when some are dead (power.md §4)
	return p
}

// commitsAtOnce is far more than etcd needs to have something to do at any time, and as many as it
// answers within a fraction of etcdTimeout, those of other workers included.
const commitsAtOnce = 64

const (
	pulse      = 5 * time.Second
	pulseAbove = 6 * pulse
)

// inPulse moves the time of an ordinary reading to the nearest of the moments at which
// readings begin together: ten thousand BMCs cost a third when their answers arrive close
// to each other as when each wakes the worker by itself (docs/power-performance.md). A
// reading that is wanted soon keeps its time.
func inPulse(at, now time.Time) time.Time {
	if at.Sub(now) < pulseAbove {
		return at
	}
	return at.Round(pulse)
}

// lossWindow counts agents whose pings stopped within the last minute, for the guard
// "self": a worker that loses many at once is likely to be blind itself.
type lossWindow struct {
	mu   sync.Mutex
	lost map[string]time.Time
}

const lossSpan = time.Minute

func (l *lossWindow) add(host string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		l.lost = map[string]time.Time{}
	}
	l.lost[host] = at
}

func (l *lossWindow) back(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.lost, host)
}

func (l *lossWindow) count(now time.Time) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h, at := range l.lost {
		if now.Sub(at) > lossSpan {
			delete(l.lost, h)
			continue
		}
		n++
	}
	return n
}
