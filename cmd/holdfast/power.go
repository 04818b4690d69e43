// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// powerVerbs are the orders of `holdfast power`. Dangerous ones end what runs on the host.
var powerVerbs = []struct {
	verb, short, long string
	dangerous         bool
}{
	{"on", "Switch a host on", "Switches the host on and gives it its quiet period. A host that is on already stays as it is.", false},
	{"off", "Switch a host off hard", "Cuts the power of the host through its devices and reads it until it is settled OFF. Everything that runs there ends at once.", true},
	{"soft", "Ask a host to shut down", "Asks the operating system to shut down. A host that does not obey in time stays on and is watched again.", true},
	{"reset", "Reset a host", "Pulls the reset line: everything that runs there ends at once and the host boots again. It proves nothing about OFF.", true},
	{"cycle", "Power a host off and on", "Cuts the power and gives it back. Everything that runs there ends at once and the host boots again.", true},
	{"identify", "Blink a host's locator light", "Lets the host's locator light blink for a while, for the person in front of the rack. Nothing else changes.", false},
	{"test", "Test a host's power devices", "Goes through the steps of the power test with each device and prints them: reach, log in, status, identity, privilege (it blinks for a second). Nothing is switched. A test that does not pass ends with exit code 5.", false},
}

// newPowerCmd is `holdfast power`.
func newPowerCmd(e *env) *cobra.Command {
	subs := []*cobra.Command{newPowerStatusCmd(e), newPowerExplainCmd(e), newPowerHistoryCmd(e), newPowerDeviceCmd(e), newPowerProfileCmd(e), newPowerSecretCmd(e)}
	for _, v := range powerVerbs {
		var out outputFlags
		var s safety
		var reason string
		c := &cobra.Command{
			Use: v.verb + " HOST", Short: v.short, Long: v.long, Args: cobra.ExactArgs(1),
			ValidArgsFunction: e.completeHosts,
			Example:           "  holdfast power " + v.verb + " h-17\n  holdfast power " + v.verb + " h-17 --dry-run\n  holdfast power " + v.verb + " h-17 --yes --reason 'exchange of a fan'",
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			return e.order(cmd.Context(), out, s, v.dangerous, args[0], v1.OrderRequest{Verb: v.verb, Reason: reason})
		}
		out.registerFormat(c)
		s.register(c)
		c.Flags().StringVar(&reason, "reason", "", "why, for the record")
		subs = append(subs, c)
	}
	return group("power", "Read and switch the power of hosts",
		"Gives orders about the power of one host to the worker that owns it; the answer comes once the order is on record.\nOrders of operators are not held by arming or budgets, but they are counted and shown.",
		`  # what the devices read
  holdfast power status h-17

  # what would happen, then do it
  holdfast power off h-17 --dry-run
  holdfast power off h-17 --reason 'burning smell'

  # are the devices fit for fencing?
  holdfast power test h-17

  # which device would be used, and why
  holdfast power explain h-17`, subs...)
}

func newPowerStatusCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "status HOST…", Short: "Show what the power devices of hosts read", Args: cobra.MinimumNArgs(1),
		Long:              "Shows each power device with its last reading, its age and the last test. UNKNOWN is never OFF.",
		Example:           "  holdfast power status h-17\n  holdfast power status h-17 h-18 -o json\n  holdfast power status h-17 --no-headers",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, hosts []string) error {
		var rows []deviceRow
		for _, id := range hosts {
			h, err := api.Host(ctx, id)
			if err != nil {
				return err
			}
			for _, d := range h.Status.Devices {
				rows = append(rows, deviceRow{id, h.Status.Power, d})
			}
		}
		return printError(devicesTable.List(e.Stdout, e.Stderr, o, rows))
	})
	out.register(c)
	return c
}
