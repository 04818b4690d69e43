// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/leases"
)

// Each step of an open incident is kept with what it was made of, in the transaction that
// commits it: one small key more, none while nobody is suspected. What is kept of one
// incident is bounded by replay.Dropped; whose is kept, by the figures here.
const (
	maxReplaysOfHost = 8    // incidents
	maxReplays       = 1000 // incidents of the fleet
)

// recordStep numbers the step in the incidents that it belongs to and returns the writes
// that keep it. Next and effects are as decided; the numbers are all that is added to them.
func (o *owner) recordStep(ev ha.Event, next *ha.Record, effects []ha.Effect) (ops []leases.Op) {
	for _, id := range ha.Touched(o.rec, *next, effects) {
		n := 0
		if i := o.rec.Incident; i != nil && i.ID == id {
			n = i.Steps
		}
		step, err := o.recorder.Record(id, n, o.rec, ev, o.policy, *next, effects)
		if err != nil { // what is decided is not held up by what is told of it
			o.log.Error("record step", "incident", id, "cause", err)
			o.recorder.Break()
			continue
		}
		number(id, n+1, next, effects)
		ops = append(ops, leases.Put(leases.StepKey(o.host, id, n), step))
		from, to := replay.Dropped(n)
		for ; from < to; from++ {
			ops = append(ops, leases.Delete(leases.StepKey(o.host, id, from)))
		}
	}
	return ops
}

// number writes how many steps of an incident are on record into all that carries it.
func number(id string, n int, next *ha.Record, effects []ha.Effect) {
	counted := func(i *ha.Incident) *ha.Incident {
		if i == nil || i.ID != id {
			return i
		}
		c := *i
		c.Steps = n
		return &c
	}
	next.Incident = counted(next.Incident)
	for k := range effects {
		effects[k].Incident = counted(effects[k].Incident)
	}
}

// oldSteps are the deletions of steps whose incidents are too many or too old to be
// replayed any more. Those of open incidents stay.
func (w *Worker) oldSteps(ctx context.Context, now time.Time) ([]leases.Op, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	keys, err := w.client.Keys(ctx, leases.StepsPrefix)
	if err != nil {
		return nil, err
	}
	return surplusSteps(keys, now, func(host, incident string) bool {
		r, ok := get(w.view, w.view.ha, host)
		return ok && r.Val.Incident != nil && r.Val.Incident.ID == incident && r.Val.Incident.Ended.IsZero()
	}), nil
}

func surplusSteps(keys []leases.KV, now time.Time, open func(host, incident string) bool) (ops []leases.Op) {
	type incident struct {
		host, id string
		last     int64 // revision
		keys     []string
	}
	var all []*incident
	for _, kv := range keys {
		host, id, _, ok := leases.SplitStepKey(kv.Key)
		if !ok {
			continue
		}
		if n := len(all); n == 0 || all[n-1].host != host || all[n-1].id != id {
			all = append(all, &incident{host: host, id: id})
		}
		i := all[len(all)-1]
		i.keys, i.last = append(i.keys, kv.Key), max(i.last, kv.ModRevision)
	}
	slices.SortFunc(all, func(a, b *incident) int { return cmp.Compare(b.last, a.last) }) // the newest first
	ofHost := map[string]int{}
	for k, i := range all {
		ofHost[i.host]++
		if k < maxReplays && ofHost[i.host] <= maxReplaysOfHost && !outdated(begun(i.id), now) || open(i.host, i.id) {
			continue
		}
		for _, key := range i.keys {
			ops = append(ops, leases.Delete(key))
		}
	}
	return ops
}

// begun is when an incident was opened, by its name; zero: the name tells no time.
func begun(id string) time.Time {
	parts := strings.Split(id, ".")
	if len(parts) < 3 {
		return time.Time{}
	}
	t, err := time.Parse("20060102T150405", parts[len(parts)-2])
	if err != nil {
		return time.Time{}
	}
	return t
}

// hostOf is the host that an incident is named after; empty: the name tells none.
func hostOf(id string) string {
	if begun(id).IsZero() {
		return ""
	}
	parts := strings.Split(id, ".")
	return strings.Join(parts[:len(parts)-2], ".")
}
