// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"reflect"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
)

// partition is what worker/partition.go is: the owner of one partition's HA state, at
// the worker that owns its hosts.
type partition struct {
	f     *Fleet
	w     *worker
	path  string
	rec   ha.PartitionRecord
	woken bool
}

func newPartition(f *Fleet, path string) *partition {
	return &partition{f: f, path: path, rec: ha.NewPartition(path, f.now)}
}

// wake asks for a reassessment, soon and once.
func (p *partition) wake() {
	if p.woken {
		return
	}
	p.woken = true
	p.f.after(0, func() {
		p.woken = false
		p.assess()
	})
}

func (p *partition) facts() ha.PartitionFacts {
	f := ha.PartitionFacts{Disabled: p.f.disabled(p.path), Needed: kvmProvider.Describe().Needed}
	for _, h := range p.f.members[p.path] {
		if o := h.owner; o != nil {
			f.Count(o.rec, o.told.healthy)
		} else {
			f.Count(h.rec, false)
		}
	}
	return f
}

// assess decides, commits and tells the members.
func (p *partition) assess() {
	if p.w == nil || !p.w.alive || p.w.paused || p.w.session == 0 || !p.f.etcdUp || p.w.noEtcd {
		return // whoever comes next wakes it
	}
	next, effects := ha.StepPartition(p.rec, p.facts(), p.f.now.Add(p.w.skew))
	if len(effects) == 0 && reflect.DeepEqual(next, p.rec) {
		return
	}
	for _, e := range effects {
		p.f.log.partition(p, e)
	}
	changed := p.rec.State != next.State
	p.rec = next
	if !changed {
		return
	}
	for _, h := range p.f.members[p.path] {
		if o := h.owner; o != nil {
			o.post(o.tellPartition)
		}
	}
}

func (f *Fleet) slotOf(path string) slot { return f.slots[ring.SlotOf(path, slotCount)] }
