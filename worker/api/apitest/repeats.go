// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"sync"

	"github.com/holdfast-ha/holdfast/worker/api"
)

// Repeats is an api.Repeats in memory; several handlers may share one.
type Repeats struct {
	mu sync.Mutex
	on map[string]api.Repeat
}

var _ api.Repeats = (*Repeats)(nil)

// BeginRequest implements api.Repeats.
func (x *Repeats) BeginRequest(_ context.Context, id string, r api.Repeat) (*api.Repeat, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was, ok := x.on[id]; ok {
		return &was, nil
	}
	if x.on == nil {
		x.on = map[string]api.Repeat{}
	}
	x.on[id] = r
	return nil, nil
}

// EndRequest implements api.Repeats.
func (x *Repeats) EndRequest(_ context.Context, id string, r *api.Repeat) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if delete(x.on, id); r != nil {
		x.on[id] = *r
	}
	return nil
}

// All is what is on record.
func (x *Repeats) All() (out []api.Repeat) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.on {
		out = append(out, r)
	}
	return out
}
