// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

// pool is a shared pool with its two lanes, and what the last stamps on it said.
type pool struct {
	probe.Pool
	stamps  *lane         // our own stamps
	samples *lane         // looking at others
	tried   chan struct{} // closed after the first stamp was tried
	written []byte        // our last stamp as it was read back; nil when that is not known

	mu      sync.Mutex
	counter uint64    // of the last stamp tried
	acked   uint64    // of the last stamp the storage has acknowledged
	at      time.Time // when that was
	err     error     // of the last stamp tried
}

// newPool begins at a random counter: a restarted agent must never write what an earlier
// one has written, or a stamp could look still while it moves.
func newPool(p probe.Pool) *pool {
	return &pool{
		Pool: p, counter: rand.Uint64() >> 1,
		tried: make(chan struct{}), stamps: newLane("pool "+p.ID(), accessLimit), samples: newLane("pool "+p.ID(), accessLimit),
	}
}

// stampLoop stamps one pool, whatever becomes of the link, the hypervisor and the other
// pools (ha.md §5.1).
func (a *Agent) stampLoop(ctx context.Context, p *pool) error {
	var last error
	for first := true; ; first = false {
		began := time.Now()
		err := p.stamp(ctx, a.opts.Host)
		if ctx.Err() != nil {
			return nil
		}
		if first {
			close(p.tried)
		}
		switch {
		case err != nil && last == nil:
			a.opts.Logger.Warn("pool cannot be stamped", "pool", p.ID(), "cause", err)
		case err == nil && last != nil:
			a.opts.Logger.Info("pool is stamped again", "pool", p.ID())
		}
		last = err
		if !a.settings.pause(ctx, began, func(v values) time.Duration { return v.stamp }) {
			return nil
		}
	}
}

// stamp writes the next stamp and reads it back.
func (p *pool) stamp(ctx context.Context, host string) error {
	p.mu.Lock()
	p.counter++
	counter := p.counter
	p.mu.Unlock()
	_, err := through(ctx, p.stamps, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, p.writeAndRead(ctx, host, counter)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err == nil {
		p.acked, p.at = counter, time.Now()
	}
	return err
}

// writeAndRead also fails when somebody else writes stamps in this host's name: a second
// agent with the same host id would make a dead host look alive for ever. Only the lane's
// holder touches p.written.
func (p *pool) writeAndRead(ctx context.Context, host string, counter uint64) error {
	before, err := p.ReadStamp(ctx, host)
	foreign := err == nil && p.written != nil && !bytes.Equal(before, p.written)
	p.written = nil
	if err := p.WriteStamp(ctx, host, counter); err != nil {
		return err
	}
	after, err := p.ReadStamp(ctx, host)
	switch {
	case err != nil:
		return err
	case bytes.Equal(before, after):
		return fmt.Errorf("stamp on pool %s does not change when written", p.ID())
	case foreign:
		err = fmt.Errorf("stamp of %s on pool %s was written by somebody else: is there a second agent for this host?", host, p.ID())
	}
	p.written = after
	return err
}

// acknowledged is the counter of the last stamp that the storage has taken.
func (p *pool) acknowledged() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked
}

// report says how the pool is, from this host's own stamps.
func (p *pool) report(interval time.Duration) *agentpb.PoolReport {
	r := &agentpb.PoolReport{Id: p.ID()}
	stuck := p.stamps.hung()
	if stuck == nil {
		stuck = p.samples.hung()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var hung *hungError
	switch {
	case stuck != nil:
		r.State, r.Detail = agentpb.PoolReport_HUNG, stuck.Error()
	case errors.As(p.err, &hung):
		r.State, r.Detail = agentpb.PoolReport_HUNG, p.err.Error()
	case p.err != nil:
		r.State, r.Detail = agentpb.PoolReport_FAILED, p.err.Error()
	case p.at.IsZero():
		r.Detail = "no stamp written yet"
	case time.Since(p.at) > interval+2*accessLimit:
		r.Detail = fmt.Sprintf("no stamp written for %ds", int(time.Since(p.at).Seconds()))
	default:
		r.State = agentpb.PoolReport_OK
	}
	return r
}
