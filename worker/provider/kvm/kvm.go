// SPDX-License-Identifier: Apache-2.0

// Package kvm is the HA provider for KVM hypervisors whose instances live on shared
// pools (ha.md §5): health is the agent's own report, activity is what neighbours see
// of the host's stamps, disks and network.
//
// It refuses to look itself: the worker only counts votes of agents.
//
// A host with pools of its own alone is protected only where ha.kvm.local says so; then
// silence of the agent's link, of every probe to two neighbours, on more than the
// management network, and a power level that reads ON stand for stamps and disks.
//
// Invariants: any movement or answer is active; idle needs every shared pool read by
// two readers (one only where no second exists), each with a control stamp that moved,
// and one family outside the agent that was once seen alive and is now silent.
package kvm

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// Provider implements provider.Provider.
type Provider struct {
	ask   provider.Asker
	epoch func(reader string) *agentpb.Epoch // epoch of the slot of the agent that is asked
}

// New makes a provider that asks agents through a.
func New(a provider.Asker, epoch func(string) *agentpb.Epoch) *Provider {
	return &Provider{ask: a, epoch: epoch}
}

// Kind is the provider's name in host specs, and the one of hosts that name none.
const Kind = "kvm"

// Describe implements provider.Provider. Neighbours are the witnesses, so it takes two.
func (*Provider) Describe() provider.Descriptor {
	return provider.Descriptor{Kind: Kind, Resource: "a KVM hypervisor with an agent", Partitions: provider.PartitionKinds,
		Needed: ha.Needed{Members: 2, Why: "one to fail and one to see it"}}
}

// Eligible implements provider.Provider.
func (*Provider) Eligible(f provider.Facts) (ha.Verdict, string) {
	switch {
	case len(f.Pools) == 0 && !f.Local:
		return ha.Fail, "no shared pool on record: nobody could see whether it still writes (setting ha.kvm.local protects such hosts)"
	case len(f.Pools) == 0 && onlyManagement(f):
		return ha.Fail, "no shared pool on record, and no probe address on another network than management, such as icmp://10.1.0.7#storage: its silence could be the network's"
	case !f.PowerTested:
		return ha.Fail, f.PowerWhy
	}
	return ha.Pass, ""
}

// Health implements provider.Provider: libvirt answers and every shared pool can be
// used. What the agent does not know yet is unknown.
func (*Provider) Health(f provider.Facts, r *agentpb.Report) (ha.Verdict, string) {
	if r == nil {
		return ha.Unknown, "no report yet"
	}
	if !r.HypervisorOk {
		return ha.Fail, "its hypervisor does not answer" + detail(r.HypervisorDetail)
	}
	verdict, why := ha.Pass, "its agent reports hypervisor and pools in order"
	for _, id := range f.Pools {
		k := slices.IndexFunc(r.Pools, func(p *agentpb.PoolReport) bool { return p.Id == id })
		if k < 0 {
			return ha.Fail, fmt.Sprintf("its agent does not know pool %s", id)
		}
		switch p := r.Pools[k]; {
		case p.State == agentpb.PoolReport_FAILED:
			return ha.Fail, fmt.Sprintf("it cannot use pool %s%s", id, detail(p.Detail))
		case p.State == agentpb.PoolReport_HUNG:
			return ha.Fail, fmt.Sprintf("pool %s hangs for it%s", id, detail(p.Detail))
		case p.State == agentpb.PoolReport_UNKNOWN:
			verdict, why = ha.Unknown, fmt.Sprintf("its agent has not tried pool %s yet", id)
		}
	}
	return verdict, why
}

// Activity implements provider.Provider.
func (p *Provider) Activity(ctx context.Context, q provider.Question) ha.Check {
	verdict, why, votes, sig := Judge(q.Subject, p.gather(ctx, q), Needed(q))
	if verdict == ha.Unknown && len(votes) == 0 {
		why += fmt.Sprintf(": none of the %d other hosts is linked and healthy", q.Others)
	}
	return ha.Check{ID: q.ID, Asked: q.Asked, Done: time.Now().UTC(), Verdict: verdict, Reason: why, Votes: votes, Signals: sig}
}

// Baseline implements provider.Sampler.
func (p *Provider) Baseline(ctx context.Context, q provider.Question) provider.Baseline {
	var b provider.Baseline
	for _, r := range p.gather(ctx, q) {
		if r.Err != nil {
			continue
		}
		seen := Look(q.Subject, r.Answer)
		b.Disks, b.Probe = b.Disks || seen.Disks, b.Probe || seen.Probe
	}
	return b
}

// gather asks up to q.Max readers at once, preferring different failure domains.
func (p *Provider) gather(ctx context.Context, q provider.Question) []Reading {
	readers := Chosen(q)
	out := make([]Reading, len(readers))
	var wg sync.WaitGroup
	for i, r := range readers {
		wg.Go(func() {
			out[i] = Reading{Reader: r.Host}
			a, err := p.ask.Ask(ctx, r.Host, p.request(q, r, readers))
			switch {
			case err != nil:
				out[i].Err = fmt.Errorf("could not ask: %w", err)
			case a.GetActivity() == nil:
				out[i].Err = fmt.Errorf("answered something else than an activity check")
			default:
				out[i].Answer = a.GetActivity()
			}
		})
	}
	wg.Wait()
	return out
}

// request is what one of the chosen readers is asked.
func (p *Provider) request(q provider.Question, r provider.Reader, chosen []provider.Reader) *agentpb.Request {
	a := &agentpb.ActivityRequest{Host: q.Subject.Host, WindowMs: q.Window.Milliseconds(), RememberMs: q.Remember.Milliseconds()}
	if !q.Heard.IsZero() {
		a.QuietMs = max(0, time.Since(q.Heard).Milliseconds())
	}
	controls := q.Readers
	if q.Remember > 0 {
		controls = chosen // they are read again and again: a few will do
	}
	for _, p := range q.Subject.Probes {
		address, _ := provider.Network(p)
		a.Probes = append(a.Probes, address)
	}
	for _, pool := range q.Subject.Pools {
		pq := &agentpb.PoolQuery{Pool: pool, Disks: disksOn(q.Subject, pool)}
		for _, o := range controls {
			if o.Host != r.Host {
				pq.Controls = append(pq.Controls, o.Host)
			}
		}
		a.Pools = append(a.Pools, pq)
	}
	return &agentpb.Request{Epoch: p.epoch(r.Host), Body: &agentpb.Request_Activity{Activity: a}}
}

// Chosen are the readers that are asked: those who can say idle first, one of each failure
// domain before a second one of any.
func Chosen(q provider.Question) []provider.Reader { return choose(able(q), q.Max) }

// able are the readers that mount every shared pool of the subject, if there are any:
// others could not say idle, and would take the places of those who can.
func able(q provider.Question) []provider.Reader {
	out := slices.DeleteFunc(slices.Clone(q.Readers), func(r provider.Reader) bool {
		return slices.ContainsFunc(q.Subject.Pools, func(p string) bool { return !slices.Contains(r.Pools, p) })
	})
	if len(out) == 0 {
		return q.Readers
	}
	return out
}

// choose takes up to n readers, one of each failure domain first.
func choose(all []provider.Reader, n int) []provider.Reader {
	if n <= 0 || n > len(all) {
		n = len(all)
	}
	taken := make(map[string]bool, n)
	var first, rest []provider.Reader
	for _, r := range all {
		if r.Domain != "" && !taken[r.Domain] {
			taken[r.Domain] = true
			first = append(first, r)
			continue
		}
		rest = append(rest, r)
	}
	return append(first, rest...)[:n]
}
