// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// census is what the guards may know of all hosts, kept up to date as
// records change. Owners ask it about their host; it never waits for anybody.
type census struct {
	mu    sync.Mutex
	c     *guard.Census
	areas map[string]bool // whose counts have changed since they were looked at
	wake  chan struct{}   // holds a token while there are any

	order sync.Mutex  // one host is counted at a time: as it is on record last
	held  atomic.Bool // nobody is counted yet, all will be at once
}

func newCensus() *census {
	return &census{c: guard.NewCensus(nil), areas: map[string]bool{}, wake: make(chan struct{}, 1)}
}

func (c *census) put(f guard.HostFact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(c.c.Put(f))
}

func (c *census) remove(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch(c.c.Remove(host))
}

func (c *census) touch(areas []string) {
	for _, a := range areas {
		c.areas[a] = true
	}
	if len(areas) == 0 {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// siblings are the hosts that share an ancestor with one.
func (c *census) siblings(host string) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]bool{}
	for _, a := range c.c.AreasOf(host) {
		if k := guard.KindOf(a); k.Level() && k != guard.AreaCluster {
			continue
		}
		for _, h := range c.c.Members(a) {
			out[h] = h != host
		}
	}
	return out
}

func (c *census) survey(q guard.Question) guard.AreaFacts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.Survey(q)
}

// hold keeps the census empty until countAll: at a start each host's records come one by
// one, and a count after each would be thrown away by the next. Call it before the first.
func (v *view) hold() { v.census.held.Store(true) }

// countAll counts all hosts that are on record, once after hold. Who owns hosts asks the
// census, so it has to be called before.
func (v *view) countAll() {
	if !v.census.held.CompareAndSwap(true, false) {
		return
	}
	for host := range v.hosts() {
		v.count(host)
	}
}

// count puts a host as it is on record into the census.
func (v *view) count(host string) {
	if v.census.held.Load() {
		return
	}
	v.census.order.Lock()
	defer v.census.order.Unlock()
	v.mu.RLock()
	spec, ok := v.specs[host]
	rec := v.ha[host].Val
	v.mu.RUnlock()
	if !ok {
		v.census.remove(host)
		return
	}
	rec.Host = host
	f := rec.Fact(spec.Val.Partition, spec.Val.Labels, spec.Val.Pools)
	f.Out = f.Out || spec.Val.Maintenance || spec.Val.HADisabled || spec.Val.Disabled // its owner may not have said so yet
	v.census.put(f)
}

// recount makes the census anew when the labels that name failure domains were changed.
func (v *view) recount(now time.Time) {
	labels := guard.ParseLabels(v.effective("", "", now).String("guard.cause.labels"))
	v.census.mu.Lock()
	same := slices.Equal(labels, v.census.c.Labels())
	if !same {
		v.census.c = guard.NewCensus(labels)
	}
	v.census.mu.Unlock()
	if same {
		return
	}
	for host := range v.hosts() {
		v.count(host)
	}
}

// survey is what the guards of this host must know of all others. Age is that of the
// copy it rests on; answered are siblings that have just been asked.
func (o *owner) survey(now, since time.Time, age time.Duration, answered map[string]time.Time) guard.AreaFacts {
	q := guard.Question{
		At: now, Host: o.host, Since: since, Share: o.shares(now), Round: roundOf(o.policy), Age: age, MaxAge: readAgeLimit,
		Cooldown: o.eff.Duration("guard.storm.cooldown"), Heard: o.w.heard(o.host, answered), Storms: o.w.view.storm,
	}
	return o.w.view.census.survey(q)
}

// shares are the limits of guard share, by level.
func (o *owner) shares(now time.Time) map[string]int {
	out, path := map[string]int{}, o.spec.Val.Partition
	levels, prefixes := guard.Levels(path), settings.Prefixes(path)
	for i := range levels {
		out[levels[i]] = o.w.view.effective(prefixes[i], "", now).Int("guard.unhealthy.share")
	}
	return out
}

// roundOf is how long after a host fell silent those that fell with it have shown: pings
// come at any moment of the interval.
func roundOf(p ha.Policy) time.Duration { return p.PingInterval + time.Second }

// heard looks up when siblings of a host were heard last; those of other workers are not
// known here.
func (w *Worker) heard(host string, answered map[string]time.Time) func(string) time.Time {
	at := map[string]time.Time{}
	siblings := w.view.census.siblings(host)
	for h := range siblings {
		if p := w.shown.get(h); p != nil {
			at[h] = p.lastPing
		}
	}
	for h, t := range answered {
		if t.After(at[h]) {
			at[h] = t
		}
	}
	return func(h string) time.Time { return at[h] }
}

// maxProbed bounds how many siblings are asked for one host; the others' pings must do.
const maxProbed = 64

// round waits until it can be said who fell together with the host: siblings that were
// not heard since are asked, once, and waited for until the round is over, and as long as
// an answer may take (ha.md §6, guards common cause and share). It returns who answered, and when.
func (w *Worker) round(ctx context.Context, host string, since time.Time, share map[string]int, round, patience time.Duration) map[string]time.Time {
	if since.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Until(since.Add(round)), patience))
	defer cancel()
	var mu sync.Mutex
	answered := map[string]time.Time{}
	undecided := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return w.view.census.survey(guard.Question{At: time.Now(), Host: host, Since: since, Share: share, Round: round, Heard: w.heard(host, answered)}).Undecided()
	}
	if !undecided() {
		return nil
	}
	var wg sync.WaitGroup
	probes, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for _, h := range w.silent(host, since) {
		if w.lookNow(h) {
			continue // what is seen is published
		}
		wg.Go(func() {
			if _, err := w.door.Ask(probes, h, &agentpb.Request{Epoch: w.epochOf(h), Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}}}); err == nil {
				mu.Lock()
				answered[h] = time.Now().UTC()
				mu.Unlock()
			}
		})
	}
	for undecided() && pause(ctx, 20*time.Millisecond) {
	}
	stop()
	wg.Wait()
	return answered
}

// silent lists siblings of a host, here, that were not heard since.
func (w *Worker) silent(host string, since time.Time) (out []string) {
	heard := w.heard(host, nil)
	for h := range w.view.census.siblings(host) {
		if at := heard(h); h != host && !at.IsZero() && !at.After(since) && len(out) < maxProbed {
			out = append(out, h)
		}
	}
	return out
}
