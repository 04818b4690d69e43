// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/providertest"
)

// world is a host with a pool and a probe address, and what its neighbours see of it.
type world struct{ truth atomic.Value }

func (w *world) Ask(ctx context.Context, host string, _ *agentpb.Request) (*agentpb.Answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	see := func(stamp, disks, control, probe agentpb.Seen) (*agentpb.Answer, error) {
		return &agentpb.Answer{Body: &agentpb.Answer_Activity{Activity: sees(host, stamp, disks, control, probe).Answer}}, nil
	}
	switch truth := w.truth.Load().(providertest.Truth); {
	case truth == providertest.Healthy, truth == providertest.Torn && host == "h3":
		return see(moved, moved, moved, moved)
	case truth == providertest.Sick: // its agent is dead, its kernel answers
		return see(still, still, moved, moved)
	case truth == providertest.Dead, truth == providertest.Torn:
		return see(still, still, moved, still)
	case truth == providertest.Garbled:
		return &agentpb.Answer{Body: &agentpb.Answer_Health{Health: &agentpb.HealthAnswer{}}}, nil
	case truth == providertest.Mute:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, errors.New("not linked")
}

func report(truth providertest.Truth) *agentpb.Report {
	r := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "p1", State: agentpb.PoolReport_OK}}}
	switch truth {
	case providertest.Sick:
		r.HypervisorOk = false
	case providertest.Blind:
		r.Pools[0].State = agentpb.PoolReport_UNKNOWN
	}
	return r
}

func TestContract(t *testing.T) {
	providertest.Run(t, func(*testing.T) providertest.World {
		w := new(world)
		f := subject(true, true)
		f.PowerTested = true
		return providertest.World{
			Provider: New(w, func(string) *agentpb.Epoch { return nil }), Facts: f,
			Readers: []provider.Reader{{Host: "h2", Pools: []string{"p1"}}, {Host: "h3", Pools: []string{"p1"}}},
			Set:     func(t providertest.Truth) { w.truth.Store(t) },
			Report:  report,
		}
	})
}
