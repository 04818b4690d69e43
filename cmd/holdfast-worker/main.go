// SPDX-License-Identifier: Apache-2.0

// Command holdfast-worker is one management worker (package worker) under a parent of the
// same binary (package parent). It reads its few bootstrap fields from a file, the
// environment and flags, the later one winning, and runs until SIGTERM or SIGINT; SIGHUP
// restarts the worker in place, with the binary as it is on disk then. It exits with 0
// after an orderly stop, 1 after a failure, 2 when its options cannot be used (no restart
// will mend that), 128 + n when the worker was killed by signal n.
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
	"runtime/debug"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/agent/systemd"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker"
	"github.com/holdfast-ha/holdfast/worker/parent"
)

// gcPercent is GOGC where the environment does not say it. Nearly all that a worker keeps are
// idle agents' connections, which the collector would let grow to twice their size; a worker
// that has nothing to do but to answer pings spends a few hundredths more of its CPU on it.
const gcPercent = 50

// loadPercent is GOGC until loadTime after the first copy of etcd is complete, when the first
// slots are taken: all that is read and begun until then stays, so the collector would walk it
// again and again for nothing.
const (
	loadPercent = 300
	loadTime    = 10 * time.Second
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := load(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return 0
	case err == nil && c.version:
		fmt.Fprintf(stdout, "holdfast-worker %s\n", version)
		return 0
	}
	code := 0
	if err == nil {
		code, err = serve(ctx, c, getenv, stdout, stderr)
	}
	switch {
	case err == nil:
		return code
	case errors.Is(err, errUsage), errors.Is(err, worker.ErrOptions):
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	return 1
}

// serve is the worker in a child, and the parent in the process that was started.
func serve(ctx context.Context, c *config, getenv func(string) string, stdout, stderr io.Writer) (int, error) {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	c.options.Logger, c.options.Version = log, version
	child, err := parent.Attach()
	if err != nil {
		return 1, err
	}
	if child != nil {
		c.options.APIListener, c.options.AgentsListener = child.API, child.Agents
		c.options.Parent = child
	}
	if child != nil && os.Getenv("GOGC") == "" {
		debug.SetGCPercent(loadPercent)
		c.options.Loaded = func() {
			time.AfterFunc(loadTime, func() {
				debug.SetGCPercent(gcPercent)
				debug.FreeOSMemory() // what was only read through
			})
		}
	}
	w, err := worker.New(c.options)
	if err != nil {
		return 1, err
	}
	if child == nil {
		return supervise(ctx, c, systemd.From(getenv, log), log, stdout, stderr)
	}
	go child.Live(w.Alive) // ends with the process
	log.Info("worker starts", "worker", c.options.ID, "version", version)
	if err := w.Run(ctx); err != nil {
		return 1, fmt.Errorf("run worker: %w", err)
	}
	log.Info("worker stopped", "worker", c.options.ID)
	return 0, nil
}

func supervise(ctx context.Context, c *config, above *systemd.Supervisor, log *slog.Logger, stdout, stderr io.Writer) (int, error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("find this binary: %w", err)
	}
	etcd, err := worker.EtcdConfig(c.options)
	if err != nil {
		return 1, err
	}
	restart := make(chan os.Signal, 1)
	signal.Notify(restart, syscall.SIGHUP)
	defer signal.Stop(restart)
	return parent.Run(ctx, parent.Config{
		Worker: c.options.ID, ListenAPI: c.options.ListenAPI, ListenAgents: c.options.ListenAgents,
		Exec: exe, Args: os.Args[1:], Stdout: stdout, Stderr: stderr, Restart: restart, Systemd: above, Logger: log.With("worker", c.options.ID),
		Etcd: func(ctx context.Context) (*leases.Client, error) {
			return leases.Dial(ctx, etcd)
		},
	})
}
