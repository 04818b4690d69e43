// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
)

// places is how many readings the worker has under way at once (worker/pools.go).
const places = 512

// worker reads hosts as the worker does: through the gate, with one retry, in a pool of
// places, and the next time a jittered interval after the answer.
type worker struct {
	opener  power.Opener
	targets []power.Target
	pool    chan struct{}
	pulse   time.Duration // readings begin at multiples of it; 0: at any time
}

func newWorker(t testing.TB, c *child, limits power.Limits) *worker {
	w := &worker{opener: power.NewGate().For(ipmi.New(nil), power.Routine), pool: make(chan struct{}, places)}
	for _, i := range c.items {
		target := targetOf(t, i)
		target.Limits = limits
		w.targets = append(w.targets, target)
	}
	return w
}

// result is one reading.
type result struct {
	host int
	at   time.Time // when the answer was there
	err  error
}

func (w *worker) read(ctx context.Context, host int) result {
	_, err := power.ReadWithRetry(ctx, w.opener, w.targets[host])
	return result{host, time.Now(), err}
}

// once reads every host as fast as the pool allows.
func (w *worker) once(ctx context.Context) []result {
	all := make([]result, len(w.targets))
	var under sync.WaitGroup
	for host := range w.targets {
		w.pool <- struct{}{}
		under.Go(func() {
			all[host] = w.read(ctx, host)
			<-w.pool
		})
	}
	under.Wait()
	return all
}

// keep reads every host once per interval, ±10 %, from a random moment in the first, for
// so long.
func (w *worker) keep(ctx context.Context, interval, span time.Duration) []result {
	type due struct {
		host int
		at   time.Time
	}
	jitter := func(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }
	began := time.Now()
	start := func(at time.Time) time.Time {
		if w.pulse == 0 {
			return at
		}
		return began.Add((at.Sub(began)/w.pulse + 1) * w.pulse)
	}
	var all []result
	queue := make([]due, 0, len(w.targets))
	for host := range w.targets {
		queue = append(queue, due{host, start(began.Add(rand.N(interval)))})
	}
	slices.SortFunc(queue, func(a, b due) int { return a.at.Compare(b.at) })
	finished := make(chan result, len(w.targets))
	under := 0
	take := func(r result) {
		under--
		all = append(all, r)
		at := start(time.Now().Add(jitter(interval)))
		i, _ := slices.BinarySearchFunc(queue, at, func(d due, t time.Time) int { return d.at.Compare(t) })
		queue = slices.Insert(queue, i, due{r.host, at})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for time.Since(began) < span {
		timer.Reset(min(time.Until(queue0(queue, func(d due) time.Time { return d.at })), time.Until(began.Add(span))))
		select {
		case r := <-finished:
			take(r)
			continue
		case <-timer.C:
		}
		for len(queue) > 0 && !queue[0].at.After(time.Now()) {
			host := queue[0].host
			queue = queue[1:]
			under++
			go func() {
				w.pool <- struct{}{}
				r := w.read(ctx, host)
				<-w.pool
				finished <- r
			}()
		}
	}
	for under > 0 {
		take(<-finished)
	}
	return all
}

// queue0 is when the first is due; in an hour when there is none.
func queue0[T any](q []T, at func(T) time.Time) time.Time {
	if len(q) == 0 {
		return time.Now().Add(time.Hour)
	}
	return at(q[0])
}

// intervals are the times between readings of the same host that succeeded, sorted, in
// seconds.
func intervals(all []result) (out []float64) {
	last := map[int]time.Time{}
	for _, r := range all {
		if r.err != nil {
			continue
		}
		if was, ok := last[r.host]; ok {
			out = append(out, r.at.Sub(was).Seconds())
		}
		last[r.host] = r.at
	}
	slices.Sort(out)
	return out
}

func mean(v []float64) (sum float64) {
	for _, x := range v {
		sum += x
	}
	return sum / float64(max(1, len(v)))
}

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)-1, int(q*float64(len(v))))]
}

func failures(all []result) map[corepower.Kind]int {
	kinds := map[corepower.Kind]int{}
	for _, r := range all {
		if r.err != nil {
			kinds[power.KindOf(r.err)]++
		}
	}
	return kinds
}

// TestSweep: power.md §11.6 and §11.7, small: BMCs that take 30 to 60 ms are all read;
// dead ones are told apart and do not hold up the others.
func TestSweep(t *testing.T) {
	hosts := 300
	c := startFleet(t, hosts)
	c.set(t, "usual")
	w := newWorker(t, c, power.Limits{})
	if k := failures(w.once(t.Context())); len(k) != 0 {
		t.Errorf("sweep of healthy BMCs: %v", k)
	}
	w = newWorker(t, c, power.Limits{Packet: 400 * time.Millisecond, Answer: 1200 * time.Millisecond})
	base := intervals(w.keep(t.Context(), time.Second, 3*time.Second))
	c.set(t, "dead")
	all := w.keep(t.Context(), time.Second, 6*time.Second)
	dead := map[int]bool{}
	for _, r := range all {
		if r.err != nil {
			dead[r.host] = true
		}
	}
	if len(dead) < 3 || len(dead) > 3+hosts/20 { // a busy machine may be late for a few
		t.Errorf("%d of %d hosts failed, 3 are dead: %v", len(dead), hosts, failures(all))
	}
	with := intervals(all)
	t.Logf("interval %.3f s, with 1 %% dead %.3f s", mean(base), mean(with))
	if len(with) < hosts {
		t.Errorf("only %d intervals with dead neighbours", len(with))
	}
}
