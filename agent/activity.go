// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

const (
	// minProbes is how many probes of an address are sent in a window at least; each waits
	// a second at most.
	minProbes = 3
	// maxWindow keeps an absurd request from holding its place for hours.
	maxWindow = 5 * time.Minute
)

// activity looks at another host for one window (ha.md §5): each pool twice, and its
// network in between, all side by side. What cannot be looked at is unknown, with the
// reason; the error is for requests that make no sense.
func (a *Agent) activity(ctx context.Context, q *agentpb.ActivityRequest) (*agentpb.ActivityAnswer, error) {
	window := time.Duration(q.GetWindowMs()) * time.Millisecond
	if err := a.checkActivity(ctx, q, window); err != nil {
		return nil, fmt.Errorf("check activity: %w", err)
	}
	asked := time.Now()
	out := &agentpb.ActivityAnswer{
		Pools:  make([]*agentpb.PoolAnswer, len(q.Pools)),
		Probes: make([]*agentpb.ProbeAnswer, len(q.Probes)),
	}
	known := a.watches.get(q.Host)
	if q.QuietMs == 0 {
		known = nil
	}
	if q.RememberMs > 0 {
		a.remember(ctx, q)
	}
	wanted := since(asked, time.Duration(q.QuietMs)*time.Millisecond, window)
	began := make([]time.Time, len(q.Pools)+len(q.Probes)) // of what is from memory
	var looks sync.WaitGroup
	for i, p := range q.Pools {
		looks.Go(func() {
			if known != nil {
				if out.Pools[i], began[i] = a.recall(ctx, known, p, wanted); out.Pools[i] != nil {
					return
				}
			}
			out.Pools[i], began[i] = a.watchPool(ctx, q.Host, p, window), time.Time{}
		})
	}
	for i, address := range q.Probes {
		looks.Go(func() {
			k := len(q.Pools) + i
			if known != nil {
				if out.Probes[i], began[k] = known.recallProbe(ctx, address, asked, wanted); out.Probes[i] != nil {
					return
				}
			}
			out.Probes[i], began[k] = a.probe(ctx, address, window), time.Time{}
		})
	}
	looks.Wait()
	out.TookMs, out.RememberedMs = time.Since(asked).Milliseconds(), remembered(asked, began)
	return out, nil
}

// remembered is how long before a request the latest of its looks began, if all of them
// began before, in milliseconds.
func remembered(asked time.Time, began []time.Time) int64 {
	if len(began) == 0 {
		return 0
	}
	least := maxWindow
	for _, at := range began {
		if at.IsZero() {
			return 0
		}
		least = min(least, asked.Sub(at))
	}
	return max(0, least).Milliseconds()
}

// checkActivity refuses what could not give a right answer. A window in which a live host
// may not stamp at all would make it look still.
func (a *Agent) checkActivity(ctx context.Context, q *agentpb.ActivityRequest, window time.Duration) error {
	if err := probe.CheckHost(q.GetHost()); err != nil {
		return err
	}
	if q.Host == a.opts.Host {
		return fmt.Errorf("host %s cannot look at itself", q.Host)
	}
	if least := 2 * a.settings.get().stamp; window < least || window > maxWindow {
		return fmt.Errorf("window_ms is %d: want two stamp intervals (%d) to %d", q.WindowMs, least.Milliseconds(), maxWindow.Milliseconds())
	}
	if err := checkRemember(q); err != nil {
		return err
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < window {
		return fmt.Errorf("window_ms is %d: the request's timeout leaves only %d", q.WindowMs, time.Until(end).Milliseconds())
	}
	return nil
}

// watchPool takes two samples of a pool, the window apart, and compares them.
func (a *Agent) watchPool(ctx context.Context, host string, q *agentpb.PoolQuery, window time.Duration) *agentpb.PoolAnswer {
	i := slices.IndexFunc(a.pools, func(p *pool) bool { return p.ID() == q.GetPool() })
	if i < 0 {
		return &agentpb.PoolAnswer{Pool: q.GetPool(), Detail: "pool is not configured on this host"}
	}
	p := a.pools[i]
	look := a.looker(p, host, q)
	first, err := through(ctx, p.samples, look.first)
	if err == nil && !sleep(ctx, window) {
		err = fmt.Errorf("wait for the window: %w", context.Cause(ctx))
	}
	if err != nil {
		return &agentpb.PoolAnswer{Pool: p.ID(), Detail: err.Error()}
	}
	second, err := through(ctx, p.samples, look.second)
	if err != nil {
		return &agentpb.PoolAnswer{Pool: p.ID(), Detail: err.Error()}
	}
	return look.compare(first, second)
}

// looker looks at what a query asks about on one of this host's pools.
func (a *Agent) looker(p *pool, host string, q *agentpb.PoolQuery) looker {
	look := looker{pool: p, self: a.opts.Host, host: host, controls: []string{a.opts.Host}, disks: q.Disks}
	for _, c := range q.Controls {
		if c != host && !slices.Contains(look.controls, c) {
			look.controls = append(look.controls, c)
		}
	}
	return look
}

// probeWait is how long an answer to one probe is waited for.
func probeWait(window time.Duration) time.Duration { return min(window/minProbes, time.Second) }

// probe asks an address again and again during the window. One answer is an answer;
// silence is said only when every probe was sent.
func (a *Agent) probe(ctx context.Context, address string, window time.Duration) *agentpb.ProbeAnswer {
	out := &agentpb.ProbeAnswer{Address: address}
	wait := probeWait(window)
	var unsent error
	for range window / wait {
		attempt, cancel := context.WithTimeout(ctx, wait)
		answered, err := a.opts.Prober.Probe(attempt, address)
		if answered {
			cancel()
			out.Answer = agentpb.Seen_SEEN_MOVED
			return out
		}
		unsent = cmp.Or(unsent, err)
		<-attempt.Done() // one that ends early is not repeated early
		cancel()
		if ctx.Err() != nil {
			unsent = context.Cause(ctx)
			break
		}
	}
	if unsent != nil {
		out.Detail = unsent.Error()
		return out
	}
	out.Answer = agentpb.Seen_SEEN_STILL
	return out
}
