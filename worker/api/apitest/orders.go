// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"fmt"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func (f *Fleet) PlanOrder(ctx context.Context, id string, o v1.OrderRequest) (v1.Plan, error) {
	h, err := f.Host(ctx, id)
	if err != nil {
		return v1.Plan{}, err
	}
	return v1.Plan{
		Host: id, Verb: o.Verb, Instances: h.Status.Instances,
		Will:     []string{"worker w-1 sends chassis control '" + o.Verb + "' to device bmc at 10.0.3.1", "it reads the device until it is settled"},
		Warnings: []string{fmt.Sprintf("%d instances end at once", len(h.Status.Instances))},
		Guards:   guards[:1],
		Budgets:  []v1.Budget{{Scope: "cluster/z1/p1/c1", Used: 1, Limit: 3, Window: "1h"}},
	}, nil
}

func (f *Fleet) Order(ctx context.Context, who, id string, o v1.OrderRequest) (v1.OrderResult, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	h, ok := f.HostMap[id]
	if !ok {
		return v1.OrderResult{}, missing("host", id)
	}
	r := v1.OrderResult{ID: "o-1", Host: id, Verb: o.Verb, State: h.Status.State, Message: "on record"}
	switch {
	case o.Verb == "confirm-off" && h.Status.Linked == v1.LinkedYes && o.Second == "":
		return r, v1.Problemf(v1.CodeRefused, "host %s gave a sign of life 2s ago", id).WithHint("a second operator may override this: --second NAME")
	case o.Verb == "retry" && h.Status.State != "FAILED":
		return r, v1.Problemf(v1.CodeConflict, "host %s is %s, only a host that is FAILED can be tried again", id, h.Status.State)
	case o.Verb == "test":
		r.Steps = []string{"bmc: reach 0.4ms", "bmc: log in as holdfast", "bmc: status ON"}
		r.Message = "passed"
		if h.Status.Power == "UNKNOWN" {
			r.Steps, r.Message, r.Failed = []string{"bmc: reach: no answer in 2s"}, "failed at reach", true
		}
	}
	f.note(who, "order %s %s %q %q", o.Verb, id, o.Reason, o.Second)
	return r, nil
}
