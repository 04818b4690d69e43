// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/probe"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

// Agent is what an agent child is told of its host.
type Agent struct {
	Host     string        `json:"host"`
	Boot     string        `json:"boot"`
	Engine   string        `json:"engine"` // socket of the hypervisor
	Dirs     []dirs.Dir    `json:"dirs"`   // the host's pools
	Refused  simhv.Refused `json:"refused"`
	Workers  []string      `json:"workers"`
	Cable    string        `json:"cable"` // for Dial
	StateDir string        `json:"stateDir"`
	Pool     string        `json:"pool"`
	PoolDir  string        `json:"poolDir"`
	Fault    Fault         `json:"fault"`
}

// Run is the agent, until ctx ends, which is no error.
func (a Agent) Run(ctx context.Context, version string, log *slog.Logger) error {
	pool, err := probe.NewDir(a.Pool, a.PoolDir, false)
	if err != nil {
		return err
	}
	hv, err := a.adapter(ctx)
	if err != nil {
		return err
	}
	self, err := agent.New(agent.Options{
		Host: a.Host, Workers: a.Workers, StateDir: a.StateDir, Version: version, Logger: log,
		Dial:       func(ctx context.Context, addr string) (net.Conn, error) { return Dial(ctx, a.Cable, addr) },
		Hypervisor: hv,
		Pools:      []probe.Pool{a.Fault.Pool(pool)},

		InsecureLoopback: true,
	})
	if err != nil {
		return err
	}
	return self.Run(ctx)
}

// engineWait is how long an agent that boots waits for the hypervisor beside it.
const engineWait = 10 * time.Second

// adapter is its hypervisor. It waits for the hypervisor to answer, as
// a unit does that starts after libvirtd, but not for ever.
func (a Agent) adapter(ctx context.Context) (hypervisor.Hypervisor, error) {
	r, err := simhv.NewRemote(simhv.RemoteConfig{Boot: a.Boot, Engine: a.Engine, Dirs: a.Dirs, Gate: a.Fault.gate(a.Dirs[0].ID), Refused: a.Refused})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	for r.Healthy(ctx) != nil && wait(ctx, faultPoll) == nil {
		// Not there yet.
	}
	return r, nil
}
