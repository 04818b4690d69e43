// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// asking is the shape of a verb that asks workers: how its answer is to look is settled
// before anything is sent. out is nil for a verb whose answer is one line.
func (e *env) asking(out *outputFlags, ask func(ctx context.Context, api *v1.Client, o print.Options, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		var o print.Options
		var err error
		if out != nil {
			if o, err = out.options(e); err != nil {
				return err
			}
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		return ask(cmd.Context(), api, o, args)
	}
}

// planned shows the plan of a dangerous verb and asks for the name of what is at stake. Of
// a dry run the plan is the answer. meant says whether to go on.
func (e *env) planned(ctx context.Context, s safety, o print.Options, plan v1.Plan, what, name string) (meant bool, err error) {
	if s.dry {
		return false, e.show(o, plan, func(t *text) { e.printPlan(t, plan) })
	}
	t := &text{w: e.Stderr, now: e.Now()}
	if e.printPlan(t, plan); t.err != nil {
		return false, t.err
	}
	err = e.confirm(ctx, s, what, name)
	return err == nil, err
}

// tryable gives verbs without a plan of their own the flag --dry-run: the workers check
// everything and answer what would come of it.
func (e *env) tryable(cmds ...*cobra.Command) {
	for _, c := range cmds {
		var dry bool
		c.Flags().BoolVar(&dry, "dry-run", false, "have everything checked and print what would come of it, change nothing")
		send := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if !dry {
				return send(cmd, args)
			}
			var will v1.DryRun
			cmd.SetContext(v1.WithDryRun(cmd.Context(), &will))
			fmt.Fprintln(e.Stderr, "dry run, nothing is changed; it would be:")
			if err := send(cmd, args); err != nil {
				return err
			}
			for _, line := range will.Will {
				fmt.Fprintf(e.Stderr, "  %s\n", line)
			}
			return nil
		}
	}
}
