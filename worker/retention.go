// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
)

// Closed incidents that are kept for each host; more go in the transaction that closes
// the next one, a bounded number at a time.
const (
	maxIncidents   = 100
	maxIncidentAge = 90 * 24 * time.Hour
	maxForgotten   = 32
)

// outlived are the deletions of closed incidents beyond those that are kept, the oldest
// first. When they cannot be listed nothing is forgotten: the next one to close will.
func (o *owner) outlived(ctx context.Context, closing string, now time.Time) (ops []leases.Op) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	prefix := leases.IncidentsPrefix + o.host + "/"
	kvs, _, err := o.w.client.List(ctx, prefix)
	if err != nil {
		o.log.Info("list closed incidents", "cause", err)
		return nil
	}
	type closed struct {
		id     string
		opened time.Time
		ended  time.Time
	}
	var all []closed
	for _, kv := range kvs {
		id := strings.TrimPrefix(kv.Key, prefix)
		var i ha.Incident
		if json.Unmarshal(kv.Value, &i) != nil || id == closing {
			continue // what cannot be read is somebody's evidence: kept
		}
		all = append(all, closed{id, i.Opened, i.Ended})
	}
	slices.SortFunc(all, func(a, b closed) int { return a.opened.Compare(b.opened) })
	for k, i := range all {
		beyond := len(all)-k >= maxIncidents // with the one that closes now
		old := !i.ended.IsZero() && now.Sub(i.ended) > maxIncidentAge
		if (beyond || old) && len(ops) < maxForgotten {
			ops = append(ops, leases.Delete(leases.IncidentKey(o.host, i.id)))
		}
	}
	return ops
}
