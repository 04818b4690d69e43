// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"sync"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Trial is a dry run on its way through a backend. It goes with the context so that no
// call can be written that has none: whoever is about to change something asks DryRun
// first, and says what would come of it instead.
type Trial struct {
	mu  sync.Mutex
	out v1.DryRun
}

type trialKey struct{}

// WithTrial makes a dry run of what is done under the context.
func WithTrial(ctx context.Context) (context.Context, *Trial) {
	t := &Trial{}
	return context.WithValue(ctx, trialKey{}, t), t
}

// DryRun is the dry run that a call belongs to; nil: it is meant.
func DryRun(ctx context.Context) *Trial {
	t, _ := ctx.Value(trialKey{}).(*Trial)
	return t
}

// Would notes what would be done and which records would change.
func (t *Trial) Would(what string, changes ...v1.AuditChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.Will = append(t.out.Will, what)
	t.out.Changes = append(t.out.Changes, changes...)
}

func (t *Trial) result() v1.DryRun {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.out
	if out.Will == nil {
		out.Will = []string{}
	}
	return out
}

// done answers a change that has nothing to tell, or what it would do.
func (c *call) done() error {
	if t := DryRun(c.ctx()); t != nil {
		return c.reply(t.result())
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
