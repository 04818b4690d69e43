// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// refuseLimit is how long a Gatekeeper may take to get rid of instances.
const refuseLimit = time.Minute

// gate is the rejoin contract of this boot (ha.md §7): what the worker asks us to confirm
// and what we have confirmed.
type gate struct {
	refuse *lane
	wake   chan struct{} // a token: there may be a gate to confirm
	news   chan struct{} // a token: a gate was confirmed, ping at once

	mu        sync.Mutex
	asked     *agentpb.Gate
	confirmed string
}

func newGate() *gate {
	return &gate{
		refuse: newLane("hypervisor (refusing instances)", refuseLimit),
		wake:   make(chan struct{}, 1), news: make(chan struct{}, 1),
	}
}

// ask takes over what a worker asks; nil asks for nothing.
func (g *gate) ask(asked *agentpb.Gate) {
	g.mu.Lock()
	g.asked = asked
	g.mu.Unlock()
	signal(g.wake)
}

// open is the gate that waits to be confirmed, or nil.
func (g *gate) open() *agentpb.Gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked.GetGeneration() == g.confirmed {
		return nil
	}
	return g.asked
}

// confirmedGeneration goes into every ping; empty while nothing was confirmed.
func (g *gate) confirmedGeneration() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.confirmed
}

func (g *gate) confirm(generation string) {
	g.mu.Lock()
	g.confirmed = generation
	g.mu.Unlock()
	signal(g.news)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// gateLoop confirms gates, and tries again once per ping interval while it cannot.
func (a *Agent) gateLoop(ctx context.Context) error {
	last := ""
	for {
		var again <-chan time.Time
		if asked := a.gate.open(); asked.GetGeneration() != "" {
			if err := a.keepOut(ctx, asked.MustNotRun); err == nil {
				last = ""
				a.gate.confirm(asked.Generation)
				a.opts.Logger.Info("rejoin gate confirmed", "generation", asked.Generation, "must_not_run", asked.MustNotRun)
			} else if ctx.Err() == nil {
				if err.Error() != last {
					a.opts.Logger.Warn("rejoin gate not confirmed", "generation", asked.Generation, "cause", err)
				}
				last = err.Error()
				again = time.After(a.settings.get().ping)
			}
		}
		select {
		case <-a.gate.wake:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// keepOut has the hypervisor refuse the instances, then looks whether it obeyed.
func (a *Agent) keepOut(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	if keeper, ok := a.opts.Hypervisor.(hypervisor.Gatekeeper); ok {
		_, err := through(ctx, a.gate.refuse, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, keeper.Refuse(ctx, ids)
		})
		if err != nil {
			return fmt.Errorf("refuse instances: %w", err)
		}
	}
	found, err := a.health.running(ctx, ids)
	if err != nil {
		return fmt.Errorf("list instances: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("instances that must not run here are running: %s", strings.Join(found, ", "))
	}
	return nil
}
