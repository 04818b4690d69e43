// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// budgetOf is a counter as operators see it.
func budgetOf(scope string, c budget.Counter, limit int, window time.Duration, now time.Time) v1.Budget {
	f := c.Facts(now, limit, window)
	b := v1.Budget{Scope: scope, Used: f.Used, Limit: f.Limit, Window: window.String(), Latched: f.Latched, LatchedAt: c.LatchedAt}
	if f.NextIn > 0 {
		b.Next = f.NextIn.Round(time.Second).String()
	}
	for _, g := range c.Grants {
		if now.Before(g.Until) {
			b.Grants = append(b.Grants, v1.BudgetGrant{Extra: g.Extra, Until: g.Until, By: g.By, At: g.At, Reason: g.Reason})
		}
	}
	if r := c.LastReset; r != nil {
		b.Reset = &v1.BudgetReset{By: r.By, At: r.At, Reason: r.Reason}
	}
	return b
}

// budgetLimit is the setting of a budget at its scope.
func (b *backend) budgetLimit(scope string, now time.Time) (limit int, window time.Duration) {
	kind, rest, _ := strings.Cut(scope, "/")
	path, host := rest, ""
	if kind == "host" {
		spec, _ := b.view.spec(rest)
		path, host = spec.Val.Partition, rest
	}
	return b.view.effective(path, host, now).Rate("budget." + kind)
}

// budget is a budget as the view shows it.
func (b *backend) budget(scope string, now time.Time) v1.Budget {
	limit, window := b.budgetLimit(scope, now)
	c, _ := get(b.view, b.view.budgets, scope)
	return budgetOf(scope, c.Val, limit, window, now)
}

// Budgets implements api.Backend.
func (b *backend) Budgets(_ context.Context, scope string) ([]v1.Budget, error) {
	if scope != "" {
		if _, _, err := b.scopePath(scope); err != nil {
			return nil, err
		}
	}
	all := map[string]string{} // scope to the partition it is in
	b.view.mu.RLock()
	for s := range b.view.budgets {
		if host, is := strings.CutPrefix(s, "host/"); is {
			all[s] = b.view.specs[host].Val.Partition
		}
	}
	b.view.mu.RUnlock()
	for _, path := range b.partitionPaths() {
		for i, level := range guard.Levels(path) {
			all[level] = settings.Prefixes(path)[i]
		}
	}
	kind, top, _ := strings.Cut(scope, "/")
	if kind == "host" {
		all = map[string]string{scope: top}
	}
	var out []v1.Budget
	for s, path := range all {
		if within(path, top) {
			out = append(out, b.budget(s, time.Now()))
		}
	}
	slices.SortFunc(out, func(a, b v1.Budget) int { return cmp.Compare(a.Scope, b.Scope) })
	return out, nil
}

// partitionPaths are the partitions that were declared or have hosts, some twice.
func (b *backend) partitionPaths() []string {
	b.view.mu.RLock()
	defer b.view.mu.RUnlock()
	return slices.AppendSeq(slices.Collect(maps.Keys(b.view.parts)), maps.Keys(b.view.byPart))
}

// ChangeBudget implements api.Backend.
func (b *backend) ChangeBudget(ctx context.Context, who, scope string, grant bool, r v1.BudgetRequest) (v1.Budget, error) {
	path, host, err := b.scopePath(scope)
	if err != nil {
		return v1.Budget{}, err
	}
	if host == "" {
		if _, err := b.Partition(ctx, path); err != nil {
			return v1.Budget{}, err
		}
	}
	key, now := leases.BudgetKey(scope), time.Now().UTC()
	var c budget.Counter
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := b.client.Get(cctx, key)
	switch {
	case errors.Is(err, leases.ErrNotFound):
	case err == nil:
		err = kv.Decode(&c)
		if err != nil {
			return v1.Budget{}, fmt.Errorf("decode %s: %w", key, err)
		}
	default:
		return v1.Budget{}, etcdProblem("budget "+scope, err)
	}
	limit, window := b.budgetLimit(scope, now)
	human := budget.Human{By: who, Reason: r.Reason, At: now}
	typ, msg := "budget.reset", fmt.Sprintf("power-down budget %s was reset: %d of %d were used in %s", scope, c.Used(now, window), c.Limit(now, limit), window)
	if grant {
		d := duration(r.For)
		c = c.Grant(budget.Grant{Human: human, Extra: r.Extra, Until: now.Add(d)})
		typ, msg = "budget.granted", fmt.Sprintf("power-down budget %s was granted %d more for %s", scope, r.Extra, d)
	} else {
		c = c.Reset(human)
	}
	x := b.audit(typ, who, msg, r.Reason)
	x.Host, x.Partition = host, path
	x.Data["scope"] = scope
	if _, err := b.write(ctx, "budget "+scope, leases.Unowned().At(key, kv.ModRevision), x, leases.Put(key, c)); err != nil {
		return v1.Budget{}, err
	}
	return budgetOf(scope, c, limit, window, now), nil
}

// budgetChanged lets hosts below a budget that are held be asked again: it may have been
// reset, or granted more.
func (w *Worker) budgetChanged(scope string) {
	kind, rest, _ := strings.Cut(scope, "/")
	w.mu.Lock()
	defer w.mu.Unlock()
	for h, o := range w.owners {
		here := kind == "host" && h == rest || kind != "host" && within(o.home, rest)
		if p := w.shown.get(h); here && p != nil && heldBy(*p.record, "budget") {
			o.in.put("budget", readersChanged{})
		}
	}
}

func heldBy(r ha.Record, guard string) bool {
	return slices.ContainsFunc(r.Holds(), func(h ha.Hold) bool { return h.By == guard })
}

// Areas implements api.Backend.
func (b *backend) Areas(context.Context) ([]v1.Area, error) {
	b.view.mu.RLock()
	all := maps.Clone(b.view.areas)
	b.view.mu.RUnlock()
	var out []v1.Area
	for _, r := range all {
		out = append(out, b.area(r.Val))
	}
	slices.SortFunc(out, func(a, b v1.Area) int { return cmp.Compare(a.Area, b.Area) })
	return out, nil
}

// Area implements api.Backend.
func (b *backend) Area(_ context.Context, area string) (v1.Area, error) {
	r, ok := get(b.view, b.view.areas, area)
	if !ok {
		if len(b.view.census.members(area)) > 0 {
			return v1.Area{}, v1.Problemf(v1.CodeNotFound, "area %q was never in a storm", area)
		}
		return v1.Area{}, notFound("area", area)
	}
	return b.area(r.Val), nil
}

func (b *backend) area(r ha.AreaRecord) v1.Area {
	now := time.Now()
	x := v1.Area{Area: r.Area, State: "OVER", Began: r.Began, Ended: r.Ended, Why: r.Why, Under: r.Under, Hosts: r.Hosts, More: r.More, Paged: r.Paged, Members: []v1.AreaMember{}}
	if over := r.Ended.Add(b.w().areaLimits(r.Area, now).Cooldown); !r.Open && over.After(now) {
		x.State, x.Until = "COOLDOWN", over
	}
	if r.Open {
		x.State = "STORM"
	}
	for _, m := range r.Members {
		rec, _ := get(b.view, b.view.ha, m.Host)
		x.Members = append(x.Members, v1.AreaMember{Host: m.Host, State: string(rec.Val.State), Since: m.Since, Left: m.Left})
	}
	return x
}
