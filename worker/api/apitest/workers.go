// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// ChangeWorker changes a worker.
func (f *Fleet) ChangeWorker(id string, change func(*v1.Worker)) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	if w := f.worker(id); w != nil {
		change(w)
	}
}

// worker finds a worker or nil; the caller holds Mu.
func (f *Fleet) worker(id string) *v1.Worker {
	i := slices.IndexFunc(f.WorkerL, func(w v1.Worker) bool { return w.ID == id })
	if i < 0 {
		return nil
	}
	return &f.WorkerL[i]
}

func (f *Fleet) Workers(context.Context) ([]v1.Worker, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return slices.Clone(f.WorkerL), nil
}

func (f *Fleet) Worker(_ context.Context, id string) (v1.Worker, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	if w := f.worker(id); w != nil {
		return *w, nil
	}
	return v1.Worker{}, missing("worker", id)
}

func (f *Fleet) WorkerAPI(id string) (string, bool) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	url, elsewhere := f.APIs[id]
	return url, !elsewhere
}

// refuseDrain is the refusal of the drain of the last ready worker; the caller holds Mu.
func (f *Fleet) refuseDrain(id string, on bool, r v1.DrainRequest) error {
	if f.worker(id) == nil {
		return missing("worker", id)
	}
	if other := func(w v1.Worker) bool { return w.ID != id && w.State == "ready" }; on && !r.Force && !slices.ContainsFunc(f.WorkerL, other) {
		return v1.Problemf(v1.CodeRefused, "worker %s is the last that is ready", id).WithHint("start or undrain another worker first")
	}
	return nil
}

// DrainWorker notes a drain; the slots stay until a test moves them with ChangeWorker.
func (f *Fleet) DrainWorker(ctx context.Context, who, id string, on bool, r v1.DrainRequest) (v1.Worker, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if err := f.refuseDrain(id, on, r); err != nil {
		return v1.Worker{}, err
	}
	w := f.worker(id)
	if on {
		w.State, w.Drain = "draining", &v1.Drain{V: 1, Worker: id, By: who, At: at(240), Reason: r.Reason}
		w.Since = w.Drain.At
	} else {
		w.State, w.Drain = "ready", nil
	}
	f.note(who, "drain worker %s %v %q %v", id, on, r.Reason, r.Force)
	return *w, nil
}

func (f *Fleet) PlanDrain(ctx context.Context, id string, on bool, r v1.DrainRequest) (v1.FleetPlan, error) {
	f.Mu.Lock()
	err := f.refuseDrain(id, on, r)
	f.Mu.Unlock()
	if err != nil {
		return v1.FleetPlan{}, err
	}
	if on {
		return f.PlanFleet(ctx, []string{id}, nil)
	}
	return f.PlanFleet(ctx, nil, []v1.Joiner{{ID: id}})
}

// RaiseGeneration raises a generation that begins at 1.
func (f *Fleet) RaiseGeneration(ctx context.Context, who string, r v1.GenerationRequest) (v1.Generation, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	g := v1.Generation{From: 1 + f.Raised, To: 2 + f.Raised, Cluster: "cafe", Hosts: []string{"h-1"}}
	for _, w := range f.WorkerL {
		g.Workers = append(g.Workers, w.ID)
	}
	if r.From != 0 && r.From != g.From {
		return g, v1.Problemf(v1.CodeConflict, "the generation was raised by somebody else in the meantime")
	}
	f.Raised++
	f.note(who, "raise generation to %d %q", g.To, r.Reason)
	return g, nil
}

// PlanFleet moves all that goes to the first worker that stays, and half of what that
// has to each that is added.
func (f *Fleet) PlanFleet(_ context.Context, without []string, add []v1.Joiner) (v1.FleetPlan, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	p := v1.FleetPlan{Without: without, Add: add, Members: []v1.FleetMember{}, Targets: []v1.SlotMove{}, Heaviest: 2}
	for _, id := range without {
		if f.worker(id) == nil {
			return p, missing("worker", id)
		}
	}
	for _, w := range f.WorkerL {
		p.Members = append(p.Members, v1.FleetMember{ID: w.ID, Zone: w.Zone, Weight: w.Weight, SlotsBefore: w.Slots, SlotsAfter: w.Slots, HostsBefore: w.Hosts, HostsAfter: w.Hosts})
	}
	heir := slices.IndexFunc(p.Members, func(m v1.FleetMember) bool { return !slices.Contains(without, m.ID) })
	if heir < 0 {
		p.Warnings = []string{"no ready worker would be left"}
		return p, nil
	}
	move := func(from, to *v1.FleetMember, slots, hosts int) {
		from.SlotsAfter, from.HostsAfter, to.SlotsAfter, to.HostsAfter = from.SlotsAfter-slots, from.HostsAfter-hosts, to.SlotsAfter+slots, to.HostsAfter+hosts
		p.Moves, p.HostsMoved = p.Moves+slots, p.HostsMoved+hosts
		p.Targets = append(p.Targets, v1.SlotMove{Slot: 17, From: from.ID, To: to.ID, Hosts: hosts})
	}
	for i := range p.Members {
		if m := &p.Members[i]; slices.Contains(without, m.ID) {
			m.Weight = 0
			move(m, &p.Members[heir], m.SlotsAfter, m.HostsAfter)
		}
	}
	for _, j := range add {
		i := slices.IndexFunc(p.Members, func(m v1.FleetMember) bool { return m.ID == j.ID })
		if i == heir {
			continue
		}
		if i < 0 {
			i, p.Members = len(p.Members), append(p.Members, v1.FleetMember{ID: j.ID, Zone: j.Zone, Weight: max(j.Weight, 1)})
		}
		move(&p.Members[heir], &p.Members[i], p.Members[heir].SlotsAfter/2, p.Members[heir].HostsAfter/2)
	}
	p.Least, p.Peak, p.Mean = p.Moves, p.Members[heir].HostsAfter, 4
	return p, nil
}
