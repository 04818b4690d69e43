// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// racks is six hosts in two racks, all AVAILABLE, whose agents a test can silence.
type racks struct {
	*rig
	w      *Worker
	b      *backend
	mu     sync.Mutex
	silent map[string]bool
}

func newRacks(t *testing.T) *racks {
	t.Helper()
	r := &racks{rig: newRig(t), silent: map[string]bool{}}
	r.put(t, leases.SettingKey("global", "preset"), v1.SettingRecord{V: 1, Value: "fast"})
	hosts := []string{"h1", "h2", "h3", "h4", "h5", "h6"}
	for i, h := range hosts {
		r.host(t, h, true)
		spec, _ := read[v1.HostSpec](t, r.rig, leases.HostSpecKey(h))
		spec.Labels = map[string]string{"rack": []string{"7", "8"}[i/3]}
		r.put(t, leases.HostSpecKey(h), spec)
	}
	r.w, _ = r.worker(t, "w1")
	r.b = (*backend)(r.w)
	background(t, func(ctx context.Context) error {
		for pause(ctx, 50*time.Millisecond) {
			for _, h := range hosts {
				r.mu.Lock()
				silent := r.silent[h]
				r.mu.Unlock()
				if silent {
					continue
				}
				report := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "nfs1", State: agentpb.PoolReport_OK}}}
				(*door)(r.w).Ping(&link.Session{Host: h, Boot: "boot-" + h}, &agentpb.Ping{Report: report}, time.Now())
			}
		}
		return nil
	})
	eventually(t, "all hosts are AVAILABLE", func() bool {
		return !slices.ContainsFunc(hosts, func(h string) bool { return r.state(t, h) != ha.Available })
	})
	return r
}

func (r *racks) state(t *testing.T, host string) ha.State {
	t.Helper()
	rec, _ := read[ha.Record](t, r.rig, leases.HostHAKey(host))
	return rec.State
}

func (r *racks) silence(on bool, hosts ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range hosts {
		r.silent[h] = on
	}
}

// holds are the guards about other hosts that would hold an action on a host now.
func (r *racks) holds(t *testing.T, host string) (out []string) {
	t.Helper()
	err := r.w.live(t.Context(), host, func(ctx context.Context, o *owner) {
		for _, a := range guard.Evaluate(o.snapshot(ctx, guard.Recover, placeReady{})).Holding() {
			if slices.Contains([]string{"storage", "share", "common cause", "cooldown"}, a.Guard) {
				out = append(out, a.Guard)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *racks) told(t *testing.T, kind string) (out []string) {
	t.Helper()
	for _, x := range r.events(t, 0) {
		if strings.HasPrefix(x, kind+" ") {
			out = append(out, x)
		}
	}
	return out
}

// TestDeadRackIsOneStorm: three hosts of a rack fall together: nothing may be switched
// off, one area incident tells of it with one page, and when they are back the cooldown
// holds (ha.md §6: share, common cause, cooldown).
func TestDeadRackIsOneStorm(t *testing.T) {
	t.Parallel()
	r := newRacks(t)
	if held := r.holds(t, "h1"); len(held) > 0 {
		t.Fatalf("in a healthy fleet: held by %v", held)
	}
	r.silence(true, "h1")
	eventually(t, "h1 is suspected", func() bool { return r.state(t, "h1") != ha.Available })
	eventually(t, "one dead host is held by none of them", func() bool { return len(r.holds(t, "h1")) == 0 })
	r.silence(true, "h2", "h3")
	eventually(t, "the storm is on record, and paged", func() bool {
		a, err := r.b.Area(t.Context(), "rack/z/7")
		return err == nil && a.State == "STORM" && !a.Paged.IsZero() && len(a.Members) == 3
	})
	if held := r.holds(t, "h1"); !slices.Equal(held, []string{"share", "common cause", "cooldown"}) {
		t.Errorf("in the storm: held by %v", held)
	}
	if held := r.holds(t, "h5"); !slices.Equal(held, []string{"share", "common cause", "cooldown"}) { // one pool, one cluster
		t.Errorf("a host of the other rack: held by %v", held)
	}
	if area := r.w.view.pagedArea("h2"); area != "rack/z/7" {
		t.Errorf("h2's own pages go to %q", area)
	}
	if pages := r.told(t, "area.storm"); len(pages) != 1 || !strings.Contains(pages[0], "rack/z/7") {
		t.Errorf("pages: %q", pages)
	}
	areas, err := r.b.Areas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range areas {
		if a.Area != "rack/z/7" && a.Under != "rack/z/7" {
			t.Errorf("%s is a storm of its own: %+v", a.Area, a)
		}
	}
	r.silence(false, "h1", "h2", "h3")
	eventually(t, "the storm is over", func() bool {
		a, err := r.b.Area(t.Context(), "rack/z/7")
		return err == nil && a.State == "COOLDOWN" && a.Until.After(time.Now())
	})
	eventually(t, "the cooldown holds, and nothing else", func() bool { return slices.Equal(r.holds(t, "h4"), []string{"cooldown"}) })
	r.put(t, leases.SettingKey("zone/z", "guard.storm.cooldown"), v1.SettingRecord{V: 1, Value: "1s"})
	eventually(t, "the cooldown is over", func() bool { return len(r.holds(t, "h4")) == 0 })
	if n := len(r.told(t, "area.storm-ended")); n == 0 {
		t.Error("nobody was told that the storm ended")
	}
}

// TestBudgetIsResetAndGranted: a latched budget is opened by a human, with a reason, for
// the record (ha.md §4).
func TestBudgetIsResetAndGranted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	b := r.watching(t, "w-9")
	scope := "cluster/" + cluster
	r.put(t, leases.BudgetKey(scope), map[string]any{"v": 1, "times": []time.Time{time.Now().UTC(), time.Now().UTC(), time.Now().UTC()}, "latched": true})
	see := func() (x v1.Budget) {
		all, err := b.Budgets(t.Context(), scope)
		if err != nil || len(all) != 1 || all[0].Scope != scope {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	eventually(t, "it is shown as latched", func() bool { x := see(); return x.Latched && x.Used == 3 && x.Limit == 3 && x.Next != "" })
	x, err := b.ChangeBudget(t.Context(), "ann", scope, true, v1.BudgetRequest{Reason: "power test", Extra: 2, For: "1h"})
	if err != nil || x.Latched || x.Used != 3 || x.Limit != 5 || len(x.Grants) != 1 || x.Grants[0].By != "ann" || x.Grants[0].Reason != "power test" {
		t.Fatalf("granted: %+v, %v", x, err)
	}
	eventually(t, "the grant is in force", func() bool { return see().Limit == 5 })
	x, err = b.ChangeBudget(t.Context(), "bob", scope, false, v1.BudgetRequest{Reason: "all looked at"})
	if err != nil || x.Latched || x.Used != 0 || x.Limit != 3 || x.Reset == nil || x.Reset.By != "bob" {
		t.Fatalf("reset: %+v, %v", x, err)
	}
	if _, err := b.ChangeBudget(t.Context(), "bob", "zone/nowhere", false, v1.BudgetRequest{Reason: "x"}); err == nil {
		t.Error("the budget of a zone that is not there was reset")
	}
	all, err := b.Budgets(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var scopes []string
	for _, x := range all {
		scopes = append(scopes, x.Scope)
	}
	if got := strings.Join(scopes, " "); got != "cluster/z/p/c pod/z/p zone/z" {
		t.Errorf("budgets of %s", got)
	}
	var log []string
	for _, x := range r.events(t, 0) {
		log = append(log, strings.Fields(x)[0])
	}
	slices.Sort(log)
	if got := strings.Join(log, " "); got != "budget.granted budget.reset" {
		t.Errorf("the log tells of %s", got)
	}
}

// TestBudgetLatchesWhenAsked: "an incident that asks and finds none latches" (ha.md §4);
// one that something else holds as well has not come to asking.
func TestBudgetLatchesWhenAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.host(t, "h1", false)
	o := loaded(t, r, "h1", time.Minute)
	r.put(t, leases.SettingKey("global", "budget.cluster"), v1.SettingRecord{V: 1, Value: "0/1h"})
	latched := func() bool {
		c, _ := read[budget.Counter](t, r, leases.BudgetKey("cluster/"+cluster))
		return c.Latched
	}
	eventually(t, "the setting is here", func() bool { return o.w.view.effective(cluster, "", time.Now()).String("budget.cluster") == "0/1h" })
	o.refreshPolicy()
	for _, c := range []struct {
		also string
		want bool
	}{{"share", false}, {"", true}} {
		snap := o.snapshot(t.Context(), guard.Recover, placeReady{})
		rep := guard.Report{At: snap.At, Answers: []guard.Answer{{Guard: "claim", Verdict: guard.Allow}, {Guard: "budget", Verdict: guard.Hold}}}
		if c.also != "" {
			rep.Answers = append(rep.Answers, guard.Answer{Guard: c.also, Verdict: guard.Hold})
		}
		o.rec.Incident = &ha.Incident{ID: "i", Guards: &rep}
		o.latch(t.Context(), snap.At)
		if got := latched(); got != c.want {
			t.Errorf("held by budget and %q: latched %v", c.also, got)
		}
	}
	if told := strings.Join(r.events(t, 0), "\n"); strings.Count(told, "budget.exhausted") != 1 {
		t.Errorf("told: %s", told)
	}
}
