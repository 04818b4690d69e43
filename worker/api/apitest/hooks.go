// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

// Hooks is an api.Hooks; it begins with the hook k1. It delivers nothing.
type Hooks struct {
	mu  sync.Mutex
	all map[string]v1.Hook
	rev int64
}

var _ api.Hooks = (*Hooks)(nil)

// NewHooks makes one.
func NewHooks() *Hooks {
	return &Hooks{rev: 7, all: map[string]v1.Hook{"k1": {
		Name: "k1", HookSpec: v1.HookSpec{Kind: v1.HookWeb, Target: "https://hooks.example.com", Severities: []string{"page"}}, By: "bob@10.0.0.9", SealedKey: "k2", Owner: "w-1", Revision: 7,
		Status: v1.HookStatus{State: v1.HookStates[0], Cursor: 5, Behind: 2},
	}}}
}

// Hooks implements api.Hooks.
func (h *Hooks) Hooks(context.Context) (out []v1.Hook, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.all)) {
		out = append(out, h.all[name])
	}
	return out, nil
}

// Hook implements api.Hooks.
func (h *Hooks) Hook(_ context.Context, name string) (v1.Hook, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.all[name]
	if !ok {
		return x, missing("webhook", name)
	}
	return x, nil
}

// PutHook implements api.Hooks.
func (h *Hooks) PutHook(ctx context.Context, who, name string, r v1.HookRequest, ifRev int64) (v1.Hook, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	had := h.all[name]
	if err := check("webhook "+name, had.Revision, ifRev); err != nil {
		return v1.Hook{}, err
	}
	spec := r.HookSpec
	if spec.Kind == v1.HookWeb {
		spec.Target = had.Target
		if len(r.URL) > 0 || had.Target == "" {
			origin, err := hook.ParseURL(string(r.URL))
			if err != nil {
				return v1.Hook{}, err
			}
			spec.Target = origin
		}
		if len(r.Key) > 0 || had.Target == "" {
			if _, err := hook.ParseKey(r.Key); err != nil {
				return v1.Hook{}, err
			}
		}
	}
	if _, err := hook.Parse(spec); err != nil {
		return v1.Hook{}, err
	}
	if tried(ctx, "hook "+name+" is declared") {
		had.Name, had.HookSpec = name, spec
		return had, nil
	}
	h.rev++
	had.Name, had.HookSpec, had.By, had.Revision, had.Status.State = name, spec, who, h.rev, v1.HookStates[0]
	h.all[name] = had
	return had, nil
}

// DeleteHook implements api.Hooks.
func (h *Hooks) DeleteHook(ctx context.Context, _, name string, ifRev int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	had, ok := h.all[name]
	if !ok {
		return missing("webhook", name)
	}
	if err := check("webhook "+name, had.Revision, ifRev); err != nil {
		return err
	}
	if !tried(ctx, "hook "+name+" is removed") {
		delete(h.all, name)
	}
	return nil
}

// EnableHook implements api.Hooks.
func (h *Hooks) EnableHook(ctx context.Context, _, name string, s v1.Switch) (v1.Hook, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, ok := h.all[name]
	if !ok {
		return x, missing("webhook", name)
	}
	x.Disabled, x.Status.State = !s.On, v1.HookStates[0]
	if !s.On {
		x.Status.State = "off"
	}
	if !tried(ctx, "hook "+name+" is switched") {
		h.all[name] = x
	}
	return x, nil
}

// TestHook implements api.Hooks: the hook called broken takes nothing.
func (h *Hooks) TestHook(ctx context.Context, _, name string) (v1.HookTest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.all[name]; !ok {
		return v1.HookTest{}, missing("webhook", name)
	}
	if tried(ctx, "hook "+name+" is sent a test event") {
		return v1.HookTest{Hook: name, Worker: "w-1"}, nil
	}
	t := v1.HookTest{Hook: name, Worker: "w-1", ID: "e1", OK: name != "broken", Took: "3ms"}
	if !t.OK {
		t.Error = "the receiver answers 500 Internal Server Error, allowed is 2xx"
	}
	return t, nil
}

// tried: it is a dry run, which is told what would be done.
func tried(ctx context.Context, what string) bool {
	t := api.DryRun(ctx)
	if t != nil {
		t.Would(what)
	}
	return t != nil
}
