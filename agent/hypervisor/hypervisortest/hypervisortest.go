// SPDX-License-Identifier: Apache-2.0

// Package hypervisortest is the conformance suite of the hypervisor port: every
// adapter, real or simulated, passes it. It asks only what the port promises.
package hypervisortest

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// limit is how long any call of a healthy adapter may take.
const limit = 10 * time.Second

// Run tests the adapter that open returns: one of a healthy host. open is called once
// for every test and cleans up through its *testing.T.
func Run(t *testing.T, open func(*testing.T) hypervisor.Hypervisor) {
	t.Run("name", func(t *testing.T) {
		h := open(t)
		if first, again := h.Name(), h.Name(); first == "" || first != again {
			t.Errorf("Name() = %q, then %q, want a constant, non-empty name", first, again)
		}
	})
	t.Run("one boot has one id", func(t *testing.T) { bootID(t, open(t)) })
	t.Run("healthy", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := open(t).Healthy(ctx); err != nil {
			t.Errorf("Healthy() = %v, want nil", err)
		}
	})
	t.Run("instances are named and their disks lie inside pools", func(t *testing.T) {
		instances(t, list(t, open(t)))
	})
	t.Run("calls are safe side by side", func(t *testing.T) { together(t, open(t)) })
	t.Run("an ended context ends the call", func(t *testing.T) { ended(t, open(t)) })
	t.Run("refused instances do not run", func(t *testing.T) { refuse(t, open(t)) })
}

func bootID(t *testing.T, h hypervisor.Hypervisor) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	first, err := h.BootID(ctx)
	if err != nil || first == "" {
		t.Fatalf("BootID() = %q, %v, want an id", first, err)
	}
	if again, err := h.BootID(ctx); err != nil || again != first {
		t.Errorf("BootID() again = %q, %v, want %q", again, err, first)
	}
}

func list(t *testing.T, h hypervisor.Hypervisor) []hypervisor.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	all, err := h.Instances(ctx)
	if err != nil {
		t.Fatalf("Instances() = %v, want nil", err)
	}
	return all
}

func instances(t *testing.T, all []hypervisor.Instance) {
	seen := map[string]bool{}
	for _, i := range all {
		if i.ID == "" || seen[i.ID] {
			t.Errorf("instance id %q is empty or given twice", i.ID)
		}
		seen[i.ID] = true
		for _, d := range i.Disks {
			if d.Pool == "" || !filepath.IsLocal(d.Path) {
				t.Errorf("instance %s: disk %+v does not lie inside a pool", i.ID, d)
			}
		}
	}
}

func together(t *testing.T, h hypervisor.Hypervisor) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, bootErr := h.BootID(ctx)
			_, listErr := h.Instances(ctx)
			if err := h.Healthy(ctx); err != nil || bootErr != nil || listErr != nil {
				t.Errorf("side by side: Healthy %v, BootID %v, Instances %v", err, bootErr, listErr)
			}
		})
	}
	all.Wait()
}

// ended accepts an answer as well as an error: what counts is that the call returns.
func ended(t *testing.T, h hypervisor.Hypervisor) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Healthy(ctx)
		_, _ = h.BootID(ctx)
		_, _ = h.Instances(ctx)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		t.Error("a call under an ended context did not return")
	}
}

// refuse holds for adapters that are no Gatekeeper as well: they have nothing to prove.
func refuse(t *testing.T, h hypervisor.Hypervisor) {
	keeper, ok := h.(hypervisor.Gatekeeper)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ids := []string{"hypervisortest-no-such-instance"}
	for _, i := range list(t, h) {
		ids = append(ids, i.ID)
	}
	for range 2 { // idempotent
		if err := keeper.Refuse(ctx, ids); err != nil {
			t.Fatalf("Refuse(%v) = %v, want nil", ids, err)
		}
	}
	if left := list(t, h); len(left) != 0 {
		t.Errorf("Instances() after all were refused = %+v, want none", left)
	}
	if err := keeper.Refuse(ctx, nil); err != nil {
		t.Errorf("Refuse(nil) = %v, want nil", err)
	}
}
