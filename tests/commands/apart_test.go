// SPDX-License-Identifier: Apache-2.0

package commands

import (
	"context"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// owners are the workers that own source and target of the scenes.
func (r *rig) owners(h *hold) (source, target *member) {
	find := func(id string) *member {
		x, err := r.api.Host(context.Background(), id)
		if err != nil {
			return nil
		}
		for _, m := range r.workers {
			if m.id == x.Status.Owner {
				return m
			}
		}
		return nil
	}
	return find(h.source.id), find(h.target.id)
}

// atOwner does something to the owner of the source, or of the target.
func atOwner(ofTarget bool, do func(r *rig, m *member)) func(r *rig, hs []*hold) {
	return func(r *rig, hs []*hold) {
		source, target := r.owners(hs[0])
		if ofTarget {
			source = target
		}
		do(r, source)
	}
}

// apart are the interruptions that concern hosts of different owners; the others of the
// table are taken as they are.
var apart = map[string]interruption{
	"none": {all: func(_ *rig, hs []*hold) { letGo(hs) }},
	"source-owner-killed": {all: func(r *rig, hs []*hold) {
		atOwner(false, (*rig).kill)(r, hs)
		letGo(hs)
	}},
	"target-owner-killed": {all: func(r *rig, hs []*hold) {
		atOwner(true, (*rig).kill)(r, hs)
		letGo(hs)
	}},
	"source-owner-stands-still": {all: standStill(false)},
	"target-owner-stands-still": {all: standStill(true)},
	// The owner of the target is there, but nobody reaches it: its host has not answered.
	"target-owner-unreachable": {all: func(r *rig, hs []*hold) {
		atOwner(true, func(_ *rig, m *member) {
			m.front.Refuse(true)
			m.front.Cut()
			for _, h := range hs { // the source's process has to be looked after
				h.source.kill()
			}
			letGo(hs)
			for _, h := range hs {
				h.source.start()
			}
			within(outage)
			m.front.Refuse(false)
		})(r, hs)
	}},
}

func standStill(ofTarget bool) func(r *rig, hs []*hold) {
	return func(r *rig, hs []*hold) {
		atOwner(ofTarget, func(_ *rig, m *member) {
			m.silence(true)
			letGo(hs)
			within(8 * time.Second) // longer than a lease
			m.silence(false)
		})(r, hs)
	}
}

// carriedByOne lets all agents link to the first worker: what the other ones own is carried to
// them, and all that they ask of its agents goes the same way.
func (r *rig) carriedByOne() {
	r.t.Helper()
	r.put(leases.SettingKey("global", "agent.lb.algorithm"), v1.SettingRecord{V: 1, Value: "static", By: "test"})
	r.put(leases.SettingKey("global", "agent.lb.check.interval"), v1.SettingRecord{V: 1, Value: "1s", By: "test"})
}

// carried waits until all agents are linked to the first worker.
func (r *rig) carried() {
	r.t.Helper()
	eventually(r.t, "all agents are linked to "+r.workers[0].id, func() bool {
		all, err := r.api.Agents(context.Background(), "")
		return err == nil && !slices.ContainsFunc(all, func(a v1.Agent) bool { return a.Carrier != r.workers[0].id })
	})
}

// TestApart is the matrix where source and target have different owners. Without -full a
// part of it is run; with it, another time with all links at one of the workers.
func TestApart(t *testing.T) {
	all := maps.Clone(apart)
	points := []string{"mid-transfer"}
	carriers := []string{"owners"}
	if *full {
		maps.Copy(all, interruptions)
		points = slices.Sorted(maps.Keys(steps))
		carriers = append(carriers, "one")
	} else {
		all = map[string]interruption{"target-owner-killed": apart["target-owner-killed"]}
	}
	for name, what := range all {
		for _, carrier := range carriers {
			t.Run(name+"/carried by "+carrier, func(t *testing.T) {
				r := newRig(t)
				r.apart = true
				if carrier == "one" {
					r.carriedByOne()
				}
				r.worker("w1")
				r.worker("w2")
				var holds []*hold
				for _, kind := range []string{"migrate", "migrate-with"} {
					for _, step := range points {
						holds = append(holds, r.hold(t, kind, step, len(holds)))
					}
				}
				eventually(t, "source and target have different owners", func() bool {
					source, target := r.owners(holds[0])
					return source != nil && target != nil && source != target
				})
				if carrier == "one" {
					r.carried()
				}
				r.interrupt(t, what, holds)
			})
		}
	}
}

// A host is proven off in mid-copy, and all that have its shared pool are hosts of another
// owner: one of those looks and tidies. All links are at one worker, so that it or the source is
// asked by way of a worker that does not own it.
func TestAnotherOwnersHostIsTheWitness(t *testing.T) {
	r := newRig(t)
	r.apart = true
	r.carriedByOne()
	r.worker("w1")
	r.worker("w2")
	s := newScene(t, r, "x", "copy", hypervisor.NFS, hypervisor.NFS)
	s.target = r.host("t-x", s.from, s.to)
	h := holdAt(s, "transfer")
	eventually(t, "the hosts have different owners", func() bool {
		source, target := r.owners(h)
		return source != nil && target != nil && source != target
	})
	r.carried()
	c := s.ask()
	h.await()
	s.source.off()
	h.letGo()
	eventually(t, "an operator's word that it is off is taken", func() bool {
		_, err := r.api.Order(context.Background(), s.source.id, v1.OrderRequest{Verb: "confirm-off", Reason: "test", Second: "another"})
		if err != nil {
			t.Logf("confirm-off: %v; asked again", err)
		}
		return err == nil
	})
	var rec command.Record
	eventually(t, "the outcome is on record, and nothing is left", func() bool {
		rec, _ = record[command.Record](r, leases.CommandKey(c.Host, c.ID))
		return rec.Released
	})
	if rec.Outcome == nil || rec.Outcome.Done || !rec.Evidence.Hosts["t-x"].Answered {
		t.Errorf("%s: %s, evidence %+v", rec.State, rec.Reason, rec.Evidence)
	}
	if there, err := os.ReadDir(s.to.Path); err != nil || len(there) > 0 {
		t.Errorf("left on %s: %v (%v)", s.to.ID, there, err)
	}
}
