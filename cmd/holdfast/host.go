// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newHostCmd is `holdfast host`: what operators say about one host.
func newHostCmd(e *env) *cobra.Command {
	maintenance := group("maintenance", "Put a host into maintenance or take it out",
		"In maintenance nothing is done to the host by itself and no new work is placed there. Its readings go on.",
		`  holdfast host maintenance on h-17 --reason 'new memory'
  holdfast host maintenance off h-17
  holdfast get hosts --state INELIGIBLE`,
		newHostSwitchCmd(e, "on", "maintenance", true, "Put a host into maintenance"),
		newHostSwitchCmd(e, "off", "maintenance", false, "Take a host out of maintenance"))
	return group("host", "Tell Holdfast about one host: maintenance, confirmed off, enabled",
		"Says something about one host that only a person can know. Hosts are declared with `holdfast apply`.",
		`  # hands off while somebody works on it
  holdfast host maintenance on h-17 --reason 'new memory'

  # I stand in front of it and it is off
  holdfast host confirm-off h-17 --reason 'PSU burnt, cables pulled'

  # forget it
  holdfast host delete h-17`,
		maintenance, newConfirmOffCmd(e),
		newHostSwitchCmd(e, "enable", "enabled", true, "Let a host take part again"),
		newHostSwitchCmd(e, "disable", "enabled", false, "Take a host out of HA and allocation"),
		newHostDeleteCmd(e))
}

// newHostSwitchCmd turns one switch of a host.
func newHostSwitchCmd(e *env, use, what string, on bool, short string) *cobra.Command {
	var out outputFlags
	var reason string
	c := &cobra.Command{
		Use: use + " HOST", Short: short, Args: cobra.ExactArgs(1),
		Long:              short + ". The reason is kept with the host and shown to everybody.",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		h, err := api.SetHost(ctx, args[0], what, v1.Switch{On: on, Reason: reason})
		if err != nil {
			return fmt.Errorf("%s %s %s: %w", what, use, args[0], err)
		}
		return e.show(o, h, func(t *text) {
			t.printf("host %s: %s %s; it is %s\n", h.Spec.ID, what, onOff(on), e.state(h.Status.State))
		})
	})
	e.tryable(c)
	out.registerFormat(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	c.Example = fmt.Sprintf("  holdfast host %[1]s h-17\n  holdfast host %[1]s h-17 --reason 'new memory'\n  holdfast host %[1]s h-17 -o json", examplePath(use, what))
	return c
}

func examplePath(use, what string) string {
	if what == "maintenance" {
		return "maintenance " + use
	}
	return use
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func newConfirmOffCmd(e *env) *cobra.Command {
	var out outputFlags
	var s safety
	req := v1.OrderRequest{Verb: "confirm-off"}
	c := &cobra.Command{
		Use: "confirm-off HOST", Short: "State that a host is off for certain", Args: cobra.ExactArgs(1),
		Long: "Takes your word as proof that the host is off: its instances may be restarted elsewhere. If it is not, two of each may write to the same disk.\n" +
			"It is refused while there is a sign of life; a second operator's name overrides that.",
		Example: `  holdfast host confirm-off h-17 --dry-run
  holdfast host confirm-off h-17 --reason 'cables pulled'
  holdfast host confirm-off h-17 --reason 'agent runs on a copy' --second jane`,
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return e.order(cmd.Context(), out, s, true, args[0], req)
	}
	out.registerFormat(c)
	s.register(c)
	c.Flags().StringVar(&req.Reason, "reason", "", "how you know, for the record")
	c.Flags().StringVar(&req.Second, "second", "", "second operator, who overrides a sign of life")
	return c
}

func newHostDeleteCmd(e *env) *cobra.Command {
	var s safety
	c := &cobra.Command{
		Use: "delete HOST", Short: "Forget a host", Args: cobra.ExactArgs(1),
		Long:              "Removes the declaration of the host: nobody watches it any more and nothing is done to it. Nothing is switched off.",
		Example:           "  holdfast host delete h-17 --dry-run\n  holdfast host delete h-17\n  holdfast host delete h-17 --yes",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(nil, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		h, err := api.Host(ctx, args[0])
		if err != nil {
			return err
		}
		plan := v1.Plan{Host: args[0], Verb: "delete", Instances: h.Status.Instances,
			Will: []string{fmt.Sprintf("stop watching host %s, which is %s and %s", args[0], h.Status.State, h.Status.Power), "keep its events and incidents"}}
		if s.dry { // the worker says whether it would be refused
			if err := api.DeleteHost(v1.WithDryRun(ctx, nil), args[0], h.Revision); err != nil {
				return fmt.Errorf("delete %s: %w", args[0], err)
			}
		}
		if meant, err := e.planned(ctx, s, o, plan, "delete "+args[0], args[0]); !meant {
			return err
		}
		if err := api.DeleteHost(ctx, args[0], h.Revision); err != nil {
			return fmt.Errorf("delete %s: %w", args[0], err)
		}
		_, err = fmt.Fprintf(e.Stdout, "host %s: deleted\n", args[0])
		return err
	})
	s.register(c)
	return c
}
