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

// health is what the hypervisor last said of itself.
type health struct {
	hypervisor  hypervisor.Hypervisor
	boot, check *lane
	list        *lane
	asked       chan struct{} // closed when the hypervisor was asked for the first time

	mu        sync.Mutex
	err       error // of the last round
	instances []hypervisor.Instance
}

func newHealth(h hypervisor.Hypervisor) *health {
	what := "hypervisor " + h.Name()
	return &health{
		hypervisor: h, asked: make(chan struct{}), err: fmt.Errorf("%s was not asked yet", what),
		boot: newLane(what, accessLimit), check: newLane(what, accessLimit), list: newLane(what, accessLimit),
	}
}

// healthLoop asks the hypervisor once per ping interval.
func (a *Agent) healthLoop(ctx context.Context) error {
	last := ""
	for first := true; ; first = false {
		began := time.Now()
		err := a.health.refresh(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if first {
			close(a.health.asked)
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		if now != last {
			a.opts.Logger.Info("hypervisor health changed", "healthy", err == nil, "cause", now)
		}
		last = now
		if !a.settings.pause(ctx, began, func(v values) time.Duration { return v.ping }) {
			return nil
		}
	}
}

// refresh asks whether the hypervisor answers and what runs, side by side.
func (h *health) refresh(ctx context.Context) error {
	var listErr error
	var listed sync.WaitGroup
	var all []hypervisor.Instance
	listed.Go(func() { all, listErr = through(ctx, h.list, h.hypervisor.Instances) })
	_, err := through(ctx, h.check, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.hypervisor.Healthy(ctx)
	})
	listed.Wait()
	if err == nil && listErr != nil {
		err = fmt.Errorf("list instances: %w", listErr)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	if listErr == nil {
		h.instances = all // else the last known: looking at too many disks does no harm
	}
	return err
}

// bootID names this boot of the host.
func (h *health) bootID(ctx context.Context) (string, error) {
	id, err := through(ctx, h.boot, h.hypervisor.BootID)
	if err == nil && strings.TrimSpace(id) == "" {
		err = fmt.Errorf("hypervisor %s gave an empty boot id", h.hypervisor.Name())
	}
	return id, err
}

// fill writes the hypervisor's part of a report.
func (h *health) fill(r *agentpb.Report) {
	stuck := h.check.hung()
	if stuck == nil {
		stuck = h.list.hung()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case stuck != nil:
		r.HypervisorDetail = stuck.Error()
	case h.err != nil:
		r.HypervisorDetail = h.err.Error()
	default:
		r.HypervisorOk = true
	}
	for _, i := range h.instances {
		out := &agentpb.Instance{Id: i.ID}
		for _, d := range i.Disks {
			out.Disks = append(out.Disks, &agentpb.Disk{Pool: d.Pool, Path: d.Path})
		}
		r.Instances = append(r.Instances, out)
	}
}

// running returns which of the given instances run here, asked anew.
func (h *health) running(ctx context.Context, ids []string) ([]string, error) {
	all, err := through(ctx, h.list, h.hypervisor.Instances)
	if err != nil {
		return nil, err
	}
	here := map[string]bool{}
	for _, i := range all {
		here[i.ID] = true
	}
	var found []string
	for _, id := range ids {
		if here[id] {
			found = append(found, id)
		}
	}
	return found, nil
}

// waitFirst waits until the hypervisor was asked and the pools were stamped once, so that
// the first Hello of a healthy host says so; but not longer than it takes to know that
// the hypervisor hangs, and hardly at all for a pool.
func (a *Agent) waitFirst(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, accessLimit+time.Second)
	defer cancel()
	await(limited, a.health.asked)
	limited, cancel = context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, p := range a.pools {
		await(limited, p.tried)
	}
}

func await(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
	case <-ctx.Done():
	}
}
