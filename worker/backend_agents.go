// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"slices"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/lists"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Agents implements api.Backend.
func (b *backend) Agents(_ context.Context, algorithm string) ([]v1.Agent, error) {
	members, addresses := b.lists.present()
	out := []v1.Agent{}
	index := b.view.index
	if lists.Algorithm(algorithm) == lists.RoundRobin { // hosts may have none yet
		have, hosts, even := b.w().indices(algorithm)
		for _, x := range lists.Enrol(have, hosts, even) {
			have[x.Host] = x.To
		}
		index = func(host string) int { return have[host] }
	}
	for host := range b.view.hosts() {
		out = append(out, b.agent(host, members, addresses, algorithm, index(host)))
	}
	slices.SortFunc(out, func(a, b v1.Agent) int { return cmp.Compare(a.Host, b.Host) })
	return out, nil
}

// agent says where one host's agent belongs and is.
func (b *backend) agent(host string, members []string, addresses map[string]string, algorithm string, index int) v1.Agent {
	w := b.w()
	x := v1.Agent{Host: host, Workers: []string{}}
	list := w.listFrom(host, members, addresses, algorithm, index)
	x.Algorithm = list.GetAlgorithm()
	for _, m := range list.GetWorkers() {
		x.Workers = append(x.Workers, m.Id)
	}
	if i := w.view.index(host); i != lists.None {
		x.Index = &i
	}
	if spec, ok := w.view.spec(host); ok {
		if s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host)); held {
			x.Owner, x.Carrier = s.Worker, s.Worker
		}
	}
	if l, ok := get(w.view, w.view.links, host); ok {
		x.Carrier = l.Val.Worker
	}
	if len(x.Workers) > 0 && x.Workers[0] != x.Carrier {
		x.Moves = x.Workers[0]
	}
	return x
}

func notLinked(host string) error {
	return v1.Problemf(v1.CodeUnavailable, "host %s is not linked", host).WithHint("its agent links to the preferred worker when it comes")
}

// RebalanceAgent implements api.Backend.
func (b *backend) RebalanceAgent(ctx context.Context, who, host string) (v1.Agent, error) {
	w := b.w()
	if _, ok := w.view.spec(host); !ok {
		return v1.Agent{}, notFound("host", host)
	}
	members, addresses := w.lists.present()
	if w.door.Session(host) == nil {
		return v1.Agent{}, notLinked(host)
	}
	x := b.audit("agent.rebalance", who, "the agent of host "+host+" is asked to move to the worker that it prefers", "")
	x.Host = host
	do, err := b.noted(ctx, x)
	if err != nil {
		return v1.Agent{}, err
	}
	if do && !w.door.Move(host, &agentpb.Move{Check: true}) {
		return v1.Agent{}, notLinked(host)
	}
	if do {
		w.log.Info("agent asked to move", "host", host, "by", who)
	}
	return b.agent(host, members, addresses, "", w.view.index(host)), nil
}
