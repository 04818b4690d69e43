// SPDX-License-Identifier: Apache-2.0

// Command holdfast-agent is the agent of one host (package agent). It reads its few
// bootstrap fields from a file, the environment and flags, the later one winning, runs
// until SIGTERM or SIGINT, and exits with 0 after an orderly stop, 1 after a failure,
// 2 when its options cannot be used (no restart will mend that).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/systemd"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := load(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return 0
	case err == nil && c.version:
		fmt.Fprintf(stdout, "holdfast-agent %s\nbuilt with hypervisors: %s\n", version, builtWith())
		return 0
	case err == nil:
		err = serve(ctx, c, getenv, stderr)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, agent.ErrOptions):
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	return 1
}

// supervised tells systemd that the agent is ready, that this process runs until run has
// returned, and that it stops. What the watchdog catches is a process that stands still; what
// hangs inside is in the agent's reports.
func supervised(ctx context.Context, above *systemd.Supervisor, run func(context.Context) error) error {
	watched, over := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	above.Ready()
	watch.Go(func() { above.Watch(watched, nil) })
	stopping := context.AfterFunc(ctx, above.Stopping)
	err := run(ctx)
	stopping()
	over()
	watch.Wait()
	return err
}

func serve(ctx context.Context, c *config, getenv func(string) string, stderr io.Writer) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	o.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	a, err := agent.New(o)
	if err != nil {
		return err
	}
	o.Logger.Info("agent starts", "host", o.Host, "version", version, "hypervisor", c.Hypervisor, "built_with", builtWith())
	err = supervised(ctx, systemd.From(getenv, o.Logger), a.Run)
	if err != nil {
		return fmt.Errorf("run agent: %w", err)
	}
	o.Logger.Info("agent stopped", "host", o.Host)
	return nil
}
