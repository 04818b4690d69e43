// SPDX-License-Identifier: Apache-2.0

// Command holdfast-worker is one management worker (package worker). It reads its few
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
	"syscall"

	"github.com/holdfast-ha/holdfast/worker"
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
	case err == nil:
		err = serve(ctx, c, stderr)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, worker.ErrOptions):
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	return 1
}

func serve(ctx context.Context, c *config, stderr io.Writer) error {
	c.options.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.level}))
	c.options.Version = version
	w, err := worker.New(c.options)
	if err != nil {
		return err
	}
	c.options.Logger.Info("worker starts", "worker", c.options.ID, "version", version)
	if err := w.Run(ctx); err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	c.options.Logger.Info("worker stopped", "worker", c.options.ID)
	return nil
}
