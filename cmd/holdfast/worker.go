// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newWorkerCmd is `holdfast worker`: which workers may own hosts.
func newWorkerCmd(e *env) *cobra.Command {
	return group("worker", "Take a worker out of service and put it back",
		"A drained worker hands over all hosts it owns and takes none, also after it was restarted, until it is undrained.\nHosts notice nothing: each has exactly one owner at every moment.",
		`  # empty a worker before its machine is rebooted
  holdfast worker drain worker-1 --reason 'new kernel' --wait
  holdfast worker undrain worker-1

  # what it would mean
  holdfast worker drain worker-1 --dry-run`,
		newDrainCmd(e), newUndrainCmd(e))
}

func newDrainCmd(e *env) *cobra.Command {
	var out outputFlags
	var s safety
	var req v1.DrainRequest
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "drain WORKER", Short: "Let a worker hand over all it owns and take nothing", Args: cobra.ExactArgs(1),
		Long: "Puts a drain on record: the worker hands over its slots, a few at a time, and takes none until it is undrained. A restart changes nothing about that.\n" +
			"The last worker that is ready is refused. With --wait it goes on until the worker owns nothing and no agent is linked to it; exit code 6 when the time is over, the drain stays.",
		Example: `  holdfast worker drain worker-1 --dry-run
  holdfast worker drain worker-1 --reason 'new kernel' --wait
  holdfast worker drain worker-1 --yes --wait --timeout 10m`,
		ValidArgsFunction: e.completeWorkers,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id := args[0]
		o, err := out.options(e)
		if err != nil {
			return err
		}
		if !wait && cmd.Flags().Changed("timeout") {
			return usage(errors.New("timeout: only --wait has one"))
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		plan, err := api.PlanDrain(cmd.Context(), id, req)
		if err != nil {
			return fmt.Errorf("drain %s: %w", id, err)
		}
		if s.dry {
			return e.showFleetPlan(o, "drain "+id, plan)
		}
		if err := e.printFleetPlan(e.Stderr, o, "drain "+id, plan); err != nil {
			return err
		}
		if err := e.confirm(cmd.Context(), s, "drain "+id, id); err != nil {
			return err
		}
		w, err := api.DrainWorker(cmd.Context(), id, req)
		if err != nil {
			return fmt.Errorf("drain %s: %w", id, err)
		}
		if wait {
			if w, err = e.waitDrained(cmd.Context(), api, w, timeout); err != nil {
				return err
			}
		}
		return e.show(o, w, func(t *text) { t.printf("worker %s: %s, owns %s\n", id, e.state(w.State), owned(w)) })
	}
	out.registerFormat(c)
	s.register(c)
	f := c.Flags()
	f.StringVar(&req.Reason, "reason", "", "why, for the record")
	f.BoolVar(&req.Force, "force", false, "also the last worker that is ready: it keeps what it owns until another comes")
	f.BoolVar(&wait, "wait", false, "wait until the worker owns nothing and no agent is linked to it")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "longest wait")
	return c
}

const (
	drainNews  = 2 * time.Second // how often a wait tells what is left
	drainDoubt = 7               // looks without a drain that mean it was taken back: a worker that has not heard of it yet may answer one
)

// waitDrained looks until the worker owns nothing and no agent is linked to it, and tells what is left, now and
// then. A fleet that does not answer is waited for too.
func (e *env) waitDrained(ctx context.Context, api *v1.Client, w v1.Worker, timeout time.Duration) (v1.Worker, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	told, last, doubts, why := "", time.Time{}, 0, ""
	for {
		if w.Drain != nil && w.Slots == 0 && unlinked(w) {
			return w, nil
		}
		if now := left(w); now != told && time.Since(last) >= drainNews {
			told, last = now, time.Now()
			fmt.Fprintf(e.Stderr, "worker %s: %s left\n", w.ID, now)
		}
		select {
		case <-ctx.Done():
			return w, ctx.Err()
		case <-deadline.C:
			return w, &exitError{fmt.Errorf("drain %s: timed out after %v with %s left%s; the drain stays", w.ID, timeout, left(w), why), exitTimeout}
		case <-tick.C:
		}
		next, err := api.Worker(ctx, w.ID)
		var p *v1.Problem
		switch {
		case err == nil && next.Drain != nil:
			w, why, doubts = next, "", 0
		case err == nil:
			if doubts++; doubts == drainDoubt {
				return next, &exitError{fmt.Errorf("drain %s: it was undrained meanwhile", w.ID), exitConflict}
			}
		case errors.As(err, &p) && p.Away():
			why = ": " + err.Error()
		default:
			return w, err
		}
	}
}

// owned says what a worker owns.
func owned(w v1.Worker) string {
	if w.Slots == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d slots with %d hosts", w.Slots, w.Hosts)
}

// unlinked says that no agent is linked to the worker: it says so itself, or does not run.
func unlinked(w v1.Worker) bool {
	return w.Links != nil && *w.Links == 0 || w.State == "absent"
}

// left says what a draining worker has still to get rid of.
func left(w v1.Worker) string {
	switch {
	case unlinked(w):
		return owned(w)
	case w.Links == nil:
		return owned(w) + ", links unknown"
	}
	return fmt.Sprintf("%s, %d links", owned(w), *w.Links)
}

func newUndrainCmd(e *env) *cobra.Command {
	var out outputFlags
	var req v1.DrainRequest
	var dry bool
	c := &cobra.Command{
		Use: "undrain WORKER", Short: "Let a drained worker take its share again", Args: cobra.ExactArgs(1),
		Long:              "Takes the drain off the record. The worker is given its share of the slots, a few at a time, once the fleet is quiet.",
		Example:           "  holdfast worker undrain worker-1 --dry-run\n  holdfast worker undrain worker-1\n  holdfast worker undrain worker-1 --reason 'kernel is in' -o json",
		ValidArgsFunction: e.completeWorkers,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id := args[0]
		o, err := out.options(e)
		if err != nil {
			return err
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		if dry {
			plan, err := api.PlanUndrain(cmd.Context(), id, req)
			if err != nil {
				return fmt.Errorf("undrain %s: %w", id, err)
			}
			return e.showFleetPlan(o, "undrain "+id, plan)
		}
		w, err := api.UndrainWorker(cmd.Context(), id, req)
		if err != nil {
			return fmt.Errorf("undrain %s: %w", id, err)
		}
		return e.show(o, w, func(t *text) { t.printf("worker %s: %s, owns %s\n", id, e.state(w.State), owned(w)) })
	}
	out.registerFormat(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "print what would be done and do nothing")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	return c
}
