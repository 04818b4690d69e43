// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	areasSoon  = 200 * time.Millisecond // changes of hosts' records are looked at together
	areasEvery = time.Second            // deadlines, and areas whose slot came here
)

// watchAreas keeps the incidents of areas whose slot this worker owns (ha.md §6, guard
// common cause): one storm, one record, one page. Guards do not wait for it: they look at
// the hosts themselves; what it adds is the page, the story and the cooldown.
func (w *Worker) watchAreas(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.mirror.Synced():
	}
	tick := time.NewTicker(areasEvery)
	defer tick.Stop()
	for {
		w.assessAreas(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.view.census.wake:
			if !pause(ctx, areasSoon) {
				return nil
			}
		}
	}
}

// assessAreas looks at all areas in a storm, and at those that were in one.
func (w *Worker) assessAreas(ctx context.Context) {
	now := time.Now().UTC()
	w.warn("Storm", "hosts failed together, nothing is switched off there", w.view.stormy())
	w.warn("BudgetLatched", "power-down budgets are used up, automation waits for a human (holdfast ha budget)", w.view.latched())
	w.warn("ProviderBlind", "nobody can tell whether these hosts are healthy, their scripts do not answer", w.unjudged())
	w.mu.Lock()
	s := w.session
	w.mu.Unlock()
	if s == nil || w.mirror.Age() > readAgeLimit {
		return // who cannot see begins no storm and ends none
	}
	looks := map[string]*guard.Look{}
	for _, l := range w.view.census.storms(func(level string) int {
		return w.view.effective(pathOf(level), "", now).Int("guard.unhealthy.share")
	}) {
		looks[l.Area] = &l
	}
	w.view.mu.RLock()
	for area, r := range w.view.areas {
		if _, ok := looks[area]; !ok && r.Val.Due(now) {
			looks[area] = nil
		}
	}
	w.view.mu.RUnlock()
	for area, look := range looks {
		w.mu.Lock()
		claim, mine := w.claims[w.slotOfArea(area)]
		w.mu.Unlock()
		if mine && w.mirror.Revision() >= claim.Epoch.Revision {
			w.assessArea(ctx, s, claim, area, look, now)
		}
	}
}

// warn keeps one named warning up as long as there is something to list.
func (w *Worker) warn(code, text string, what []string) {
	if len(what) == 0 {
		w.health.clear(code)
		return
	}
	w.health.set(code, "warning", text+": "+strings.Join(what, ", "))
}

// stormy are the areas in a storm that no other one explains.
func (v *view) stormy() (out []string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for area, r := range v.areas {
		if r.Val.Open && r.Val.Under == "" {
			out = append(out, area)
		}
	}
	slices.Sort(out)
	return out
}

func (v *view) latched() (out []string) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for scope, c := range v.budgets {
		if c.Val.Latched {
			out = append(out, scope)
		}
	}
	slices.Sort(out)
	return out
}

// pathOf is the path of a zone, pod or cluster; of other areas it is empty.
func pathOf(area string) string {
	if !guard.KindOf(area).Level() {
		return ""
	}
	_, path, _ := strings.Cut(area, "/")
	return path
}

// slotOfArea is the partition's own where the area is one.
func (w *Worker) slotOfArea(area string) int {
	if path := pathOf(area); path != "" {
		return w.slotOf(path, "")
	}
	return w.slotOf(area, "")
}

// areaLimits are the settings at the area: of a rack those of its zone, of a pool those of
// the whole fleet.
func (w *Worker) areaLimits(area string, now time.Time) ha.AreaLimits {
	path := pathOf(area)
	if _, name, _ := strings.Cut(area, "/"); path == "" && guard.KindOf(area) != guard.AreaPool {
		path, _, _ = strings.Cut(name, "/")
	}
	e := w.view.effective(path, "", now)
	silence := time.Duration(e.Int("ha.health.failures")) * e.Duration("agent.ping.interval")
	return ha.AreaLimits{Settle: silence, Cooldown: e.Duration("guard.storm.cooldown")}
}

func (w *Worker) assessArea(ctx context.Context, s *leases.Session, claim leases.Claim, area string, look *guard.Look, now time.Time) {
	had, _ := get(w.view, w.view.areas, area)
	had.Val.Area = area
	next, effects := ha.StepArea(had.Val, look, now, w.areaLimits(area, now))
	if len(effects) == 0 && reflect.DeepEqual(next, had.Val) {
		return
	}
	ops := []leases.Op{leases.Put(leases.AreaKey(area), next)}
	var events []v1.Event
	for _, e := range effects {
		x := v1.Event{ID: newEventID(), At: now, Type: e.Type, Severity: string(e.Severity), Partition: pathOf(area), Worker: s.Worker(), Message: e.Reason,
			Data: map[string]string{"area": area, "epoch": claim.Epoch.String()}}
		events = append(events, x)
		ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
	}
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	rev, err := s.Commit(cctx, claim.Guard().At(leases.AreaKey(area), had.Rev), ops...)
	cancel()
	switch {
	case errors.Is(err, leases.ErrConflict): // written a moment ago: the mirror shows it soon
		return
	case err != nil:
		w.log.Warn("commit area", "area", area, "cause", err)
		return
	}
	if next.Open != had.Val.Open {
		w.log.Info("area", "area", area, "storm", next.Open, "cause", next.Why, "epoch", claim.Epoch)
	}
	w.view.areaWritten(area, rev, next)
	w.announced(events)
}

// areaWritten takes over what was just committed, so that it is not decided again before
// the mirror shows it.
func (v *view) areaWritten(area string, rev int64, r ha.AreaRecord) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if had, known := v.areas[area]; had.Rev < rev {
		v.areas[area] = versioned[ha.AreaRecord]{Rev: rev, Val: r}
		v.areaEnded(area, had.Val, known)
	}
}

// areaChanged lets hosts of an area that are held be asked again: a storm that ended or
// began is one of the things that clear holds, or place them.
func (w *Worker) areaChanged(area string) {
	members := w.view.census.members(area)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range members {
		if p, o := w.shown.get(h), w.owners[h]; p != nil && o != nil && len(p.record.Holds()) > 0 {
			o.in.put("area", readersChanged{})
		}
	}
}

func (c *census) storms(limit func(string) int) []guard.Look {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.Storms(limit)
}

func (c *census) members(area string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.c.Members(area)
}

// stormsOf are the storms that a host is in, without those that another one explains.
func (v *view) stormsOf(host string) (out []ha.AreaRecord) {
	v.census.mu.Lock()
	areas := v.census.c.AreasOf(host)
	v.census.mu.Unlock()
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, a := range areas {
		if r := v.areas[a].Val; r.Open && (r.Under == "" || !slices.Contains(areas, r.Under)) {
			out = append(out, r)
		}
	}
	return out
}

// pagedArea is the area whose one page tells of a host too; empty: none does.
func (v *view) pagedArea(host string) string {
	v.census.mu.Lock()
	areas := v.census.c.AreasOf(host)
	v.census.mu.Unlock()
	v.mu.RLock()
	defer v.mu.RUnlock()
	slices.Sort(areas)
	for _, a := range areas {
		r := v.areas[a].Val
		if over := v.areas[r.Under].Val; r.Under != "" && over.Open && !over.Paged.IsZero() {
			return r.Under
		}
		if r.Open && !r.Paged.IsZero() {
			return a
		}
	}
	return ""
}
