// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Workers implements api.Backend.
func (b *backend) Workers(context.Context) ([]v1.Worker, error) {
	out := b.view.fleet(b.slotN)
	for i := range out {
		b.ownFacts(&out[i])
	}
	return out, nil
}

// ownFacts fills in what only a worker itself knows, if that is this one.
func (b *backend) ownFacts(x *v1.Worker) {
	x.Answers = v1.AnswersUnknown
	if x.ID != b.o.ID {
		return
	}
	n := b.door.Counts()
	left := time.Duration(b.w().leaseValid() * float64(time.Second))
	x.Keys = b.ring.Ring().IDs()
	x.Answers, x.Links, x.Standby, x.LeaseLeft = v1.AnswersYes, &n.Links, &n.Standby, left.Round(100*time.Millisecond).String()
}

// Worker implements api.Backend.
func (b *backend) Worker(ctx context.Context, id string) (v1.Worker, error) {
	all, err := b.Workers(ctx)
	if err != nil {
		return v1.Worker{}, err
	}
	if i := slices.IndexFunc(all, func(x v1.Worker) bool { return x.ID == id }); i >= 0 {
		return all[i], nil
	}
	return v1.Worker{}, notFound("worker", id)
}

// WorkerAPI implements api.Backend.
func (b *backend) WorkerAPI(id string) (string, bool) {
	if m, live := b.view.worker(id); live && id != b.o.ID {
		return b.wire.apiURL(m.API), false
	}
	return "", id == b.o.ID
}

// checkDrain says whether the drain of a worker may be set or taken back, and who could
// take over what it owns.
func (b *backend) checkDrain(ctx context.Context, id string, on bool, r v1.DrainRequest) (v1.Worker, []string, error) {
	x, err := b.Worker(ctx, id)
	if err != nil {
		return x, nil, err
	}
	if r.Force && !on {
		return x, nil, badField("force", "force: only a drain can be forced")
	}
	heirs := takers(b.view.ringInput(b.slotN), id)
	if on && x.Drain == nil && len(heirs) == 0 && !r.Force {
		return x, nil, refused(fmt.Sprintf("worker %s is the last that is ready: nobody could take over its %d slots with %d hosts", id, x.Slots, x.Hosts),
			"start or undrain another worker first; forced, it keeps what it owns until another comes, and what others lose stays without an owner")
	}
	return x, heirs, nil
}

// RaiseGeneration implements api.Backend.
func (b *backend) RaiseGeneration(ctx context.Context, who string, r v1.GenerationRequest) (v1.Generation, error) {
	w, key := b.w(), leases.ConfigGenerationKey()
	kv, err := b.client.Get(ctx, key)
	var now leases.GenerationRecord
	if err == nil {
		err = kv.Decode(&now)
	}
	if err != nil {
		return v1.Generation{}, etcdProblem("generation", err)
	}
	g := v1.Generation{From: now.Generation, To: max(now.Generation, w.newestGeneration()) + 1, Cluster: strconv.FormatUint(b.client.ClusterID(), 16)}
	w.mu.Lock()
	g.Hosts = slices.Sorted(maps.Keys(w.back.hosts))
	w.mu.Unlock()
	b.view.mu.RLock()
	g.Workers = slices.Sorted(maps.Keys(b.view.workers))
	b.view.mu.RUnlock()
	if r.From != 0 && r.From != g.From {
		return v1.Generation{}, v1.Problemf(v1.CodeConflict, "the generation is %d, not %d", g.From, r.From).WithHint("look at the plan again")
	}
	x := b.audit("etcd.generation", who, fmt.Sprintf("the generation of the etcd data was raised from %d to %d", g.From, g.To), r.Reason)
	_, err = b.write(ctx, "generation", leases.Unowned().At(key, kv.ModRevision), x, leases.Put(key, leases.GenerationRecord{V: 1, Generation: g.To}))
	return g, err
}

// PlanDrain implements api.Backend.
func (b *backend) PlanDrain(ctx context.Context, id string, on bool, r v1.DrainRequest) (v1.FleetPlan, error) {
	x, _, err := b.checkDrain(ctx, id, on, r)
	switch {
	case err != nil:
		return v1.FleetPlan{}, err
	case x.State == stateAbsent || !on && x.Drain == nil:
		return b.PlanFleet(ctx, nil, nil)
	case on:
		return b.PlanFleet(ctx, []string{id}, nil)
	}
	return b.PlanFleet(ctx, nil, []v1.Joiner{{ID: id}})
}

// DrainWorker implements api.Backend. Setting what is set, and taking back what is not,
// changes nothing.
func (b *backend) DrainWorker(ctx context.Context, who, id string, on bool, r v1.DrainRequest) (v1.Worker, error) {
	x, heirs, err := b.checkDrain(ctx, id, on, r)
	if err != nil || on == (x.Drain != nil) {
		return x, err
	}
	had, _ := get(b.view, b.view.drains, id)
	key := leases.DrainKey(id)
	guard := leases.Unowned().At(key, had.Rev)
	d := v1.Drain{V: 1, Worker: id, By: who, At: time.Now().UTC(), Reason: r.Reason}
	e := b.audit("worker.drain", who, "worker "+id+" is to hand over all it owns", r.Reason)
	op := leases.Put(key, d)
	if on && !r.Force {
		// Two that are drained at the same time must not both count on the other.
		guard = guard.At(leases.DrainKey(heirs[0]), 0)
	}
	if !on {
		e, op = b.audit("worker.undrain", who, "worker "+id+" takes its share again", r.Reason), leases.Delete(key)
	}
	e.Worker = id
	if _, err := b.write(ctx, "worker "+id, guard, e, op); err != nil {
		return v1.Worker{}, err
	}
	if on {
		x.Drain = &d
		return shownState(x), nil
	}
	x.Drain = nil
	if rec, live := b.view.worker(id); live {
		x.State, x.Since = rec.State, rec.Since
	}
	return x, nil
}

// PlanFleet implements api.Backend.
func (b *backend) PlanFleet(_ context.Context, without []string, add []v1.Joiner) (v1.FleetPlan, error) {
	add = slices.Clone(add)
	for i, j := range add {
		if err := checkJoiner(j); err != nil {
			return v1.FleetPlan{}, err
		}
		if m, live := b.view.worker(j.ID); live && j.Weight == 0 {
			add[i].Weight = m.Weight
		}
	}
	in, err := changeMembers(b.view.ringInput(b.slotN), without, add)
	if err != nil {
		return v1.FleetPlan{}, err
	}
	p := planFleet(in, in.Load)
	p.Without, p.Add = without, add
	return p, nil
}

func checkJoiner(j v1.Joiner) error {
	var errs []string
	if err := leases.CheckID("worker", j.ID); err != nil {
		errs = append(errs, err.Error())
	}
	if j.Zone != "" {
		if err := leases.CheckID("zone", j.Zone); err != nil {
			errs = append(errs, err.Error())
		}
	}
	if j.Weight < 0 || j.Weight > 100 {
		errs = append(errs, fmt.Sprintf("weight %d, allowed are 1 to 100", j.Weight))
	}
	if len(errs) == 0 {
		return nil
	}
	return badField("add", "add: "+strings.Join(errs, "; "))
}
