// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func (f *Fleet) Incidents(_ context.Context, host string) ([]v1.Incident, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var out []v1.Incident
	for _, i := range f.IncL {
		if host == "" || i.Host == host {
			out = append(out, i)
		}
	}
	return out, nil
}

func (f *Fleet) Incident(_ context.Context, id string) (v1.Incident, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	for _, i := range f.IncL {
		if i.ID == id {
			return i, nil
		}
	}
	return v1.Incident{}, missing("incident", id)
}

func (f *Fleet) ExplainIncident(ctx context.Context, id string) (v1.Explanation, error) {
	i, err := f.Incident(ctx, id)
	x := v1.Explanation{Subject: "incident " + id + " of host " + i.Host, State: i.State, Since: i.Opened, Why: []string{i.Cause}, Guards: i.Guards, Story: i.Ledger}
	if !i.Ended.IsZero() {
		x.State, x.Since, x.Why = "ended", i.Ended, append(x.Why, "it ended with: "+i.Outcome)
		return x, err
	}
	if err != nil {
		return x, err
	}
	h, err := f.ExplainHost(ctx, i.Host)
	x.Holds, x.Next, x.WouldChange, x.OperatorMay = h.Holds, h.Next, h.WouldChange, h.OperatorMay
	x.WhyNot = []string{"guard armed holds: cluster z1/p1/c1 is disarmed"}
	x.Evidence = []string{"h-1 sees: idle: stamp and disks stood still for 6s"}
	return x, err
}

func (f *Fleet) ExportIncident(ctx context.Context, id string) (v1.IncidentExport, error) {
	if x, ok := f.Exports[id]; ok {
		return x, nil
	}
	i, err := f.Incident(ctx, id)
	if err != nil {
		return v1.IncidentExport{}, err
	}
	x := v1.IncidentExport{Format: v1.IncidentFormat, Version: v1.IncidentVersion, Exported: at(300), Software: "1.2", Incident: i}
	f.Mu.Lock()
	defer f.Mu.Unlock()
	for _, e := range f.EventL {
		if e.Incident == id {
			x.Events = append(x.Events, e)
		}
	}
	return x, nil
}
