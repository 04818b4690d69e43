// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// areas are one that is in a storm and one that it explains.
func areas() []v1.Area {
	members := []v1.AreaMember{{Host: "h-2", State: "SUSPECT", Since: at(180)}, {Host: "h-3", State: "FENCED", Since: at(181), Left: at(240)}}
	return []v1.Area{
		{Area: "pool/pool-a", State: "STORM", Began: at(182), Why: "3 hosts under it fell within 1m30s", Under: "rack/z1/7", Hosts: 12, Members: members},
		{Area: "rack/z1/7", State: "STORM", Began: at(181), Why: "3 hosts under it fell within 1m30s", Hosts: 4, Members: members, Paged: at(196)},
	}
}

func budgets() map[string]v1.Budget {
	out := map[string]v1.Budget{}
	for _, b := range []v1.Budget{
		{Scope: "cluster/z1/p1/c1", Used: 3, Limit: 3, Window: "1h0m0s", Next: "42m10s", Latched: true, LatchedAt: at(200)},
		{Scope: "pod/z1/p1", Used: 3, Limit: 8, Window: "1h0m0s", Grants: []v1.BudgetGrant{{Extra: 2, Until: at(7200), By: "ann@10.0.0.9", At: at(100), Reason: "power test"}}},
		{Scope: "zone/z1", Used: 3, Limit: 20, Window: "1h0m0s"},
	} {
		out[b.Scope] = b
	}
	return out
}

func (f *Fleet) Areas(context.Context) ([]v1.Area, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return slices.Clone(f.AreaL), nil
}

func (f *Fleet) Area(_ context.Context, area string) (v1.Area, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	if i := slices.IndexFunc(f.AreaL, func(a v1.Area) bool { return a.Area == area }); i >= 0 {
		return f.AreaL[i], nil
	}
	return v1.Area{}, missing("area", area)
}

func (f *Fleet) Budgets(_ context.Context, scope string) ([]v1.Budget, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Budget
	for at, b := range f.BudgetMap {
		_, path, _ := strings.Cut(at, "/")
		if _, top, _ := strings.Cut(scope, "/"); scope == "" || path == top || strings.HasPrefix(path, top+"/") {
			out = append(out, b)
		}
	}
	return out, nil
}

func (f *Fleet) ChangeBudget(ctx context.Context, who, scope string, grant bool, r v1.BudgetRequest) (v1.Budget, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	b, ok := f.BudgetMap[scope]
	if !ok {
		return b, missing("budget", scope)
	}
	b.Latched, b.LatchedAt, b.Next = false, time.Time{}, ""
	if grant {
		d, err := time.ParseDuration(r.For)
		if err != nil {
			return b, err
		}
		b.Limit += r.Extra
		b.Grants = append(b.Grants, v1.BudgetGrant{Extra: r.Extra, Until: at(300).Add(d), By: who, At: at(300), Reason: r.Reason})
		f.note(who, "grant %s %d for %s %q", scope, r.Extra, r.For, r.Reason)
	} else {
		b.Used, b.Grants, b.Reset = 0, nil, &v1.BudgetReset{By: who, At: at(300), Reason: r.Reason}
		f.note(who, "reset %s %q", scope, r.Reason)
	}
	f.BudgetMap[scope] = b
	return b, nil
}
