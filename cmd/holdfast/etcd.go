// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newEtcdCmd is `holdfast etcd`: what only operators can know of etcd.
func newEtcdCmd(e *env) *cobra.Command {
	return group("etcd", "Tell the fleet what was done to etcd",
		"The workers notice by themselves when etcd is away, slow or full. That it was restored from a backup, and that this is meant, is for people to say.",
		`  # after docs/etcd-restore.md was followed up to here
  holdfast etcd raise-generation --dry-run
  holdfast etcd raise-generation --reason 'restored the backup of 04:00'

  # and then
  holdfast get incidents`,
		newRaiseGenerationCmd(e))
}

func newRaiseGenerationCmd(e *env) *cobra.Command {
	var out outputFlags
	var s safety
	var req v1.GenerationRequest
	c := &cobra.Command{
		Use: "raise-generation", Short: "Let agents obey a restored etcd", Args: cobra.NoArgs,
		Long: "Raises the generation of the etcd data above everything that agents have reported. All workers notice at once and open new sessions, no slot moves.\n" +
			"The owners that etcd knows then rank above all that agents have obeyed before the restore, and what was held because of that goes on.\n" +
			"Do it once per restore, when the restored data are what you want: see docs/etcd-restore.md.",
		Example: `  holdfast etcd raise-generation --dry-run
  holdfast etcd raise-generation --reason 'restored the backup of 04:00'
  holdfast etcd raise-generation --yes -o json`,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		plan, err := api.RaiseGeneration(ctx, req, true)
		if err != nil {
			return fmt.Errorf("raise generation: %w", err)
		}
		if s.dry {
			return e.show(o, plan, func(t *text) { printGeneration(t, plan) })
		}
		t := &text{w: e.Stderr, now: e.Now()}
		if printGeneration(t, plan); t.err != nil {
			return t.err
		}
		if err := e.confirm(ctx, s, "raise generation", strconv.FormatInt(plan.To, 10)); err != nil {
			return err
		}
		req.From = plan.From
		done, err := api.RaiseGeneration(ctx, req, false)
		if err != nil {
			return fmt.Errorf("raise generation: %w", err)
		}
		return e.show(o, done, func(t *text) { t.printf("generation: %d, was %d\n", done.To, done.From) })
	})
	out.registerFormat(c)
	s.register(c)
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	return c
}

func printGeneration(t *text, g v1.Generation) {
	t.printf("Plan: raise the generation of etcd cluster %s from %d to %d\n", g.Cluster, g.From, g.To)
	t.section("It will:", []string{"let every worker open a new session, with the slots it has", "let agents obey these owners, whatever they have obeyed before"})
	t.section("Careful:", []string{"what was done since the backup is not on record: look at incidents and at hosts that are off first"})
	t.section(fmt.Sprintf("Workers (%d):", len(g.Workers)), g.Workers)
	t.section(fmt.Sprintf("Hosts held until then, as this worker knows (%d):", len(g.Hosts)), g.Hosts)
}
