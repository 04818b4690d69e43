// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// States of a worker, as recorded by itself (the first three) and as shown.
const (
	stateStarting   = "starting" // reads the records; will take slots
	stateReady      = "ready"
	stateDraining   = "draining"
	stateRestarting = leases.Restarting
	stateDrained    = "drained"
	stateAbsent     = "absent"
)

// ringInput is the fleet as the ring plans it (leases.md §§2.3, 2.7): every live worker
// is a member; one that is drained or on its way out has no weight, one that restarts in
// place is frozen. Members are in order of their ids: all workers that see the same keys
// make the same input. The caller may change it, but for zones and hosts of slots.
func (v *view) ringInput(slots int) ring.Input {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l := v.layoutOf(slots)
	in := ring.Input{Slots: slots, Owner: make(map[int]string, len(v.slots)), SlotZone: l.zones, Load: l.hosts}
	for n, s := range v.slots {
		in.Owner[n] = s.Val.Worker
	}
	for id, m := range v.workers {
		x := ring.Member{ID: id, Zone: m.Val.Zone, Weight: m.Val.Weight, Frozen: m.Val.State == stateRestarting || m.Val.State == stateStarting}
		if _, drained := v.drains[id]; drained || (m.Val.State != stateReady && !x.Frozen) {
			x.Weight = 0
		}
		in.Members = append(in.Members, x)
	}
	slices.SortFunc(in.Members, func(a, b ring.Member) int { return cmp.Compare(a.ID, b.ID) })
	return in
}

// layout is where the hosts on record lie in the slots. Not to be changed.
type layout struct {
	specs int64 // version of the specs it was made of; 0: none
	slots int
	zones map[int]string // of each slot all of whose partitions lie in one; hosts without a partition are at home anywhere
	hosts map[int]int    // in each slot
}

// layoutOf makes the layout anew only after specs have changed: it is asked for in each
// step of a takeover, and 100,000 hosts take a while. The caller holds the lock.
func (v *view) layoutOf(slots int) layout {
	v.laid.Lock()
	defer v.laid.Unlock()
	if v.layout.slots == slots && v.layout.specs == v.specsNow {
		return v.layout
	}
	l := layout{specs: v.specsNow, slots: slots, zones: map[int]string{}, hosts: map[int]int{}}
	for path, hosts := range v.byPart {
		if len(hosts) == 0 {
			continue
		}
		if path == "" {
			for id := range hosts {
				l.hosts[ring.SlotOf(id, slots)]++
			}
			continue
		}
		n := ring.SlotOf(path, slots)
		l.hosts[n] += len(hosts)
		zone, _, _ := strings.Cut(path, "/")
		if have, ok := l.zones[n]; ok && have != zone {
			zone = "" // stays so: no zone is called that
		}
		l.zones[n] = zone
	}
	v.layout = l
	return l
}

// fleet lists the workers as operators see them, with what the view knows of each: the
// live ones, and those that are drained and not running, which would else be forgotten.
func (v *view) fleet(slots int) []v1.Worker {
	v.mu.RLock()
	defer v.mu.RUnlock()
	hosts := v.layoutOf(slots).hosts
	all := map[string]v1.Worker{}
	for id, m := range v.workers {
		all[id] = m.Val
	}
	for id, d := range v.drains {
		x, live := all[id]
		if !live {
			x = v1.Worker{ID: id, State: stateAbsent, Since: d.Val.At}
		}
		drain := d.Val
		x.Drain = &drain
		all[id] = x
	}
	owns := map[string][2]int{}
	for n, s := range v.slots {
		o := owns[s.Val.Worker]
		owns[s.Val.Worker] = [2]int{o[0] + 1, o[1] + hosts[n]}
	}
	var out []v1.Worker
	for id, x := range all {
		x.Slots, x.Hosts = owns[id][0], owns[id][1]
		out = append(out, shownState(x))
	}
	slices.SortFunc(out, func(a, b v1.Worker) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// shownState puts an operator's drain over the state that a worker has recorded.
func shownState(x v1.Worker) v1.Worker {
	if x.Drain == nil || x.State == stateAbsent || x.State == stateRestarting || x.State == stateStarting {
		return x
	}
	x.State, x.Since = stateDraining, x.Drain.At
	if x.Slots == 0 {
		x.State = stateDrained
	}
	return x
}

// changeMembers takes workers out of an input and puts others in: new ones, or members
// that take nothing now. Errors are Problems that name the worker.
func changeMembers(in ring.Input, without []string, add []v1.Joiner) (ring.Input, error) {
	in.Members = slices.Clone(in.Members)
	at := func(id string) int {
		return slices.IndexFunc(in.Members, func(m ring.Member) bool { return m.ID == id })
	}
	for _, j := range add {
		weight := max(j.Weight, 1)
		i := at(j.ID)
		switch {
		case i < 0:
			in.Members = append(in.Members, ring.Member{ID: j.ID, Zone: j.Zone, Weight: weight})
			continue
		case in.Members[i].Weight > 0:
			return in, badField("add", fmt.Sprintf("add: worker %s takes its share already, allowed are new ones and drained ones", j.ID))
		}
		in.Members[i].Weight, in.Members[i].Frozen = weight, false
		if j.Zone != "" {
			in.Members[i].Zone = j.Zone
		}
	}
	for _, id := range without {
		i := at(id)
		if i < 0 {
			return in, notFound("worker", id)
		}
		in.Members[i].Weight, in.Members[i].Frozen = 0, false
	}
	return in, nil
}

// takers lists the members that may take slots, except one.
func takers(in ring.Input, except string) (out []string) {
	for _, m := range in.Members {
		if m.Weight > 0 && !m.Frozen && m.ID != except {
			out = append(out, m.ID)
		}
	}
	slices.Sort(out)
	return out
}

// planFleet says where the ring puts the slots of an input, and the hosts in them.
func planFleet(in ring.Input, hosts map[int]int) v1.FleetPlan {
	p := v1.FleetPlan{Least: ring.Least(in), Targets: []v1.SlotMove{}, Members: []v1.FleetMember{}}
	members := map[string]*v1.FleetMember{}
	total, weights := 0, 0
	for _, m := range in.Members {
		members[m.ID] = &v1.FleetMember{ID: m.ID, Zone: m.Zone, Weight: m.Weight, Frozen: m.Frozen}
		weights += m.Weight
	}
	for _, t := range ring.Plan(in) {
		n := hosts[t.Slot]
		total += n
		p.Heaviest = max(p.Heaviest, n)
		if m := members[t.From]; m != nil {
			m.SlotsBefore++
			m.HostsBefore += n
		}
		if m := members[t.To]; m != nil {
			m.SlotsAfter++
			m.HostsAfter += n
		}
		switch {
		case t.From == t.To:
			continue
		case t.From == "":
			p.Orphans++
		default:
			p.Moves++
			p.HostsMoved += n
		}
		p.Targets = append(p.Targets, v1.SlotMove{Slot: t.Slot, From: t.From, To: t.To, Hosts: n})
	}
	for _, m := range members {
		p.Members = append(p.Members, *m)
	}
	slices.SortFunc(p.Members, func(a, b v1.FleetMember) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range p.Members {
		if m.HostsAfter > p.Peak {
			p.Peak, p.Mean = m.HostsAfter, float64(total*m.Weight)/float64(max(weights, 1))
		}
	}
	if len(takers(in, "")) == 0 {
		p.Warnings = append(p.Warnings, "no ready worker would be left: nothing is handed over, and what loses its owner stays without one")
	}
	return p
}
