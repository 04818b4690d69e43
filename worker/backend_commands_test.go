// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestLostOrderIsAnError: an order about a command that did not come to be on record, because
// somebody else had written the command meanwhile, is answered with an error, whether it goes
// by a plain commit (reconcile) or with the command's resources (resolve); given again, to the
// next owner, it is carried out.
func TestLostOrderIsAnError(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	records := map[string]command.Record{}
	for _, verb := range []string{"reconcile", "resolve"} {
		rec := command.New("c-"+verb, "h1", "ann", "", command.Spec{Kind: command.Copy}, nil, time.Now().UTC(), time.Time{})
		rec.State, rec.Next = command.NeedsOperator, time.Time{}
		records[verb] = rec
		r.put(t, leases.CommandKey("h1", rec.ID), rec)
	}
	w, _ := r.worker(t, "w1")
	b := (*backend)(w)
	for verb, rec := range records {
		eventually(t, "the owner holds "+rec.ID, func() bool {
			held := false
			err := w.commanding(t.Context(), "h1", func(_ context.Context, c *commander) { held = c.all[rec.ID] != nil })
			return err == nil && held
		})
		key := leases.CommandKey("h1", rec.ID)
		r.put(t, key, rec)
		_, rev := read[command.Record](t, r, key)
		if got, err := b.OrderCommand(t.Context(), "ann", rec.ID, verb, v1.CommandOrder{Reason: "test"}); !refusedAs(err, v1.CodeConflict, verb, rec.ID) || got.ID != "" {
			t.Errorf("%s that was not committed: %+v, %v", verb, got, err)
		}
		if _, now := read[command.Record](t, r, key); now != rev {
			t.Errorf("%s: the record is at revision %d, want %d", verb, now, rev)
		}
		eventually(t, verb+" is carried out by the next owner", func() bool {
			_, err := b.OrderCommand(t.Context(), "ann", rec.ID, verb, v1.CommandOrder{Reason: "test"})
			return err == nil
		})
	}
}
