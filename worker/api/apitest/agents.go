// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"cmp"
	"context"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Agents has every host linked to its owner, and every worker on its list.
func (f *Fleet) Agents(_ context.Context, algorithm string) ([]v1.Agent, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	var ids []string
	for _, w := range f.WorkerL {
		ids = append(ids, w.ID)
	}
	var out []v1.Agent
	for _, h := range f.HostMap {
		out = append(out, v1.Agent{Host: h.Spec.ID, Owner: h.Status.Owner, Carrier: h.Status.Owner, Algorithm: cmp.Or(algorithm, "ring"), Workers: ids})
	}
	return out, nil
}

func (f *Fleet) RebalanceAgent(ctx context.Context, _, host string) (v1.Agent, error) {
	all, err := f.Agents(ctx, "")
	if err != nil {
		return v1.Agent{}, err
	}
	for _, a := range all {
		if a.Host == host {
			return a, nil
		}
	}
	return v1.Agent{}, missing("host", host)
}
