// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/probe"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/worker"
)

// newChildCmd is what `holdfast dev` starts this binary as: a worker, an agent or the
// guests of a simulated host, told what to be by an environment variable.
func newChildCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "child worker|agent|guest NAME", Hidden: true, Args: cobra.ExactArgs(2),
		Short: "Be a part of a dev fleet (started by holdfast dev)",
		RunE: func(cmd *cobra.Command, args []string) error {
			run, ok := map[string]func(context.Context, *slog.Logger, []byte) error{
				"worker": runChildWorker, "agent": runChildAgent, "guest": runChildGuest,
			}[args[0]]
			text := e.Getenv(world.ChildEnv)
			if !ok || text == "" {
				return usage(fmt.Errorf("child: %q: started by holdfast dev only, as worker, agent or guest", args[0]))
			}
			log := slog.New(slog.NewTextHandler(e.Stderr, nil))
			return run(cmd.Context(), log, []byte(text))
		},
	}
}

func runChildWorker(ctx context.Context, log *slog.Logger, text []byte) error {
	var c childWorker
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read worker's part: %w", err)
	}
	w, err := worker.New(worker.Options{
		ID: c.ID, Zone: c.Zone, Etcd: []string{c.Etcd}, ListenAPI: c.API, ListenAgents: c.Agents,
		LeaseTTL: seconds(c.LeaseTTL), SecretsDir: c.SecretsDir, Version: version, Logger: log,
	})
	if err != nil {
		return fmt.Errorf("set up worker %s: %w", c.ID, err)
	}
	return w.Run(ctx)
}

func runChildAgent(ctx context.Context, log *slog.Logger, text []byte) error {
	var c world.Agent
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read agent's part: %w", err)
	}
	pool, err := probe.NewDir(c.Pool, c.PoolDir, false)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Options{
		Host: c.Host, Workers: c.Workers, StateDir: c.StateDir, Version: version, Logger: log,
		Dial:       func(ctx context.Context, addr string) (net.Conn, error) { return world.Dial(ctx, c.Cable, addr) },
		Hypervisor: simhv.Host{Boot: c.Boot, All: c.Instances, Refused: c.Refused},
		Pools:      []probe.Pool{c.Fault.Pool(pool)},
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func runChildGuest(ctx context.Context, _ *slog.Logger, text []byte) error {
	var g world.Guest
	if err := json.Unmarshal(text, &g); err != nil {
		return fmt.Errorf("read guest's part: %w", err)
	}
	return g.Run(ctx)
}
