// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"sort"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/worker/api"
)

// health is the registry of named warnings of this worker. CLI, console, /readyz and
// metrics all render it.
type health struct {
	mu  sync.Mutex
	now func() time.Time
	all map[string]api.Warning
}

func newHealth(now func() time.Time) *health {
	return &health{now: now, all: map[string]api.Warning{}}
}

// set raises a warning, or updates its text; since stays.
func (h *health) set(code, severity, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, ok := h.all[code]
	if !ok {
		w = api.Warning{Code: code, Since: h.now().UTC()}
	}
	w.Severity, w.Text = severity, text
	h.all[code] = w
}

func (h *health) clear(code string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, code)
}

func (h *health) list() []api.Warning {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]api.Warning, 0, len(h.all))
	for _, w := range h.all {
		out = append(out, w)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Code < out[j].Code })
	return out
}
