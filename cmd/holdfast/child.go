// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/worker"
	"github.com/holdfast-ha/holdfast/worker/parent"
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

// runChildWorker is the parent of a worker, which starts this binary once more, and in
// that the worker.
func runChildWorker(ctx context.Context, log *slog.Logger, text []byte) error {
	var c childWorker
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read worker's part: %w", err)
	}
	link, err := parent.Attach()
	if err != nil {
		return err
	}
	if link == nil {
		return runParent(ctx, log, c)
	}
	w, err := worker.New(worker.Options{
		ID: c.ID, Zone: c.Zone, Etcd: []string{c.Etcd}, ListenAPI: c.API, ListenAgents: c.Agents,
		APIListener: link.API, AgentsListener: link.Agents, Parent: link,
		LeaseTTL: seconds(c.LeaseTTL), RestartGrace: devRestartGrace, SecretsDir: c.SecretsDir, KeyRing: c.KeyRing, Version: version, Logger: log,
		InsecureLoopback: true,
	})
	if err != nil {
		return fmt.Errorf("set up worker %s: %w", c.ID, err)
	}
	return w.Run(ctx)
}

const devRestartGrace = 15 * time.Second

func runParent(ctx context.Context, log *slog.Logger, c childWorker) error {
	restart := make(chan os.Signal, 1)
	signal.Notify(restart, syscall.SIGHUP)
	defer signal.Stop(restart)
	code, err := parent.Run(ctx, parent.Config{
		Worker: c.ID, ListenAPI: c.API, ListenAgents: c.Agents, Exec: selfExe, Args: os.Args[1:],
		Stdout: os.Stdout, Stderr: os.Stderr, Restart: restart, Logger: log.With("worker", c.ID),
		Etcd: func(ctx context.Context) (*leases.Client, error) {
			return leases.Dial(ctx, leases.Config{Endpoints: []string{c.Etcd}, Logger: log})
		},
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("worker %s ended with status %d", c.ID, code)
	}
	return err
}

func runChildAgent(ctx context.Context, log *slog.Logger, text []byte) error {
	var a world.Agent
	if err := json.Unmarshal(text, &a); err != nil {
		return fmt.Errorf("read agent's part: %w", err)
	}
	return a.Run(ctx, version, log)
}

func runChildGuest(ctx context.Context, _ *slog.Logger, text []byte) error {
	var g world.Guest
	if err := json.Unmarshal(text, &g); err != nil {
		return fmt.Errorf("read guest's part: %w", err)
	}
	return g.Run(ctx)
}
