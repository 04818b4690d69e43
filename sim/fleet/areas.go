// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
)

// Incidents of areas, as worker/areas.go keeps them.

// areasSoon: changes of hosts' records are looked at together.
const (
	areasSoon  = 200 * time.Millisecond
	areasEvery = time.Second
)

// lookAtAreas asks for a look at all areas, soon and once.
func (f *Fleet) lookAtAreas(in time.Duration) {
	at := f.now.Add(in)
	if !f.areasAt.IsZero() && !at.Before(f.areasAt) {
		return
	}
	f.areasAt = at
	f.at(at, func() {
		if f.areasAt.Equal(at) {
			f.areasAt = time.Time{}
			f.assessAreas()
		}
	})
}

func (f *Fleet) assessAreas() {
	if !f.etcdUp {
		f.lookAtAreas(areasEvery)
		return
	}
	looks := map[string]*guard.Look{}
	for _, l := range f.census.Storms(func(level string) int { return f.effectiveOf(pathOf(level), "").Int("guard.unhealthy.share") }) {
		looks[l.Area] = &l
	}
	for area, r := range f.areas {
		if _, ok := looks[area]; !ok && r.Due(f.now) {
			looks[area] = nil
		}
	}
	for _, area := range slices.Sorted(maps.Keys(looks)) {
		f.assessArea(area, looks[area])
	}
}

// assessArea steps one area, if the worker that owns its slot is there.
func (f *Fleet) assessArea(area string, look *guard.Look) {
	s := f.slots[slotOfArea(area)]
	if s.w == nil || !s.w.alive || s.w.paused || s.w.noEtcd || s.w.session != s.session {
		f.lookAtAreas(areasEvery)
		return
	}
	had := f.areas[area]
	had.Area = area
	next, effects := ha.StepArea(had, look, f.now.Add(s.w.skew), f.areaLimits(area))
	if at := next.PageAt; !at.IsZero() {
		f.lookAtAreas(max(areasEvery, at.Add(-s.w.skew).Sub(f.now)))
	}
	if len(effects) == 0 && reflect.DeepEqual(next, had) {
		return
	}
	for _, w := range f.workers {
		if w.alive && !w.paused && !w.noEtcd {
			w.seeArea(area, next)
		}
	}
	f.areas[area] = next
	for _, e := range effects {
		f.log.area(f.now, area, e)
	}
	if next.Open == had.Open {
		return
	}
	for _, id := range f.census.Members(area) {
		if o := f.byID[id].owner; o != nil && len(o.rec.Holds()) > 0 {
			o.post(func() { o.step(ha.Event{Kind: ha.EvPolicy}) })
		}
	}
}

func pathOf(area string) string {
	if !guard.KindOf(area).Level() {
		return ""
	}
	_, path, _ := strings.Cut(area, "/")
	return path
}

func slotOfArea(area string) int {
	if path := pathOf(area); path != "" {
		return ring.SlotOf(path, slotCount)
	}
	return ring.SlotOf(area, slotCount)
}

func (f *Fleet) areaLimits(area string) ha.AreaLimits {
	path := pathOf(area)
	if _, name, _ := strings.Cut(area, "/"); path == "" && guard.KindOf(area) != guard.AreaPool {
		path, _, _ = strings.Cut(name, "/")
	}
	e := f.effectiveOf(path, "")
	return ha.AreaLimits{Settle: time.Duration(e.Int("ha.health.failures")) * e.Duration("agent.ping.interval"), Cooldown: e.Duration("guard.storm.cooldown")}
}

// storm is an area incident as it is on record, its end by this worker's clock.
func (w *worker) storm(area string) (guard.AreaNow, bool) {
	r, ok := w.f.areas[area]
	if !ok || !r.Over() {
		return guard.AreaNow{Open: r.Open}, ok
	}
	if s, seen := w.areas[area]; !seen || s.Open || !s.Ended.Equal(r.Ended) {
		w.seeArea(area, r)
	}
	return guard.AreaNow{Ended: w.f.now.Add(w.skew).Add(-w.f.now.Sub(w.areaEnds[area]))}, ok
}

// seeArea takes over a record of an area.
func (w *worker) seeArea(area string, r ha.AreaRecord) {
	had, known := w.areas[area]
	w.areaEnds[area] = w.f.now.Add(-r.EndedAgo(had, known, w.f.now.Sub(w.areaEnds[area]), w.f.now.Add(w.skew)))
	w.areas[area] = r
}

// pagedArea is the area whose one page tells of a host too; empty: none does.
func (f *Fleet) pagedArea(host string) string {
	areas := f.census.AreasOf(host)
	slices.Sort(areas)
	for _, a := range areas {
		r := f.areas[a]
		if over := f.areas[r.Under]; r.Under != "" && over.Open && !over.Paged.IsZero() {
			return r.Under
		}
		if r.Open && !r.Paged.IsZero() {
			return a
		}
	}
	return ""
}
