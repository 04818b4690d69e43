// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newPartitionCmd is `holdfast partition`: zones, pods and clusters taken out of service
// and put back, with all that is below them.
func newPartitionCmd(e *env) *cobra.Command {
	return group("partition", "Take a zone, pod or cluster out of service or put it back",
		"Says whether a zone, pod or cluster takes part at all. Where it is only HA that is not wanted, see `holdfast ha disable`.",
		`  holdfast partition disable z1/p1/c1 --reason 'being moved'
  holdfast partition enable z1/p1/c1
  holdfast get partitions`,
		newPartitionSwitchCmd(e, "enable", true), newPartitionSwitchCmd(e, "disable", false))
}

// newPartitionSwitchCmd turns the switch of one partition. Disabling leaves its hosts
// without protection, so that it shows its plan and asks.
func newPartitionSwitchCmd(e *env, use string, on bool) *cobra.Command {
	var out outputFlags
	var s safety
	var reason string
	c := &cobra.Command{
		Use: use + " PARTITION", Short: strings.ToUpper(use[:1]) + use[1:] + " a zone, pod or cluster", Args: cobra.ExactArgs(1),
		Long:              "Says whether a partition takes part. HA works where the partition and all above it are enabled, and HA is wanted at each of them.",
		Example:           fmt.Sprintf("  holdfast partition %[1]s z1/p1/c1\n  holdfast partition %[1]s z1 --reason 'as agreed'\n  holdfast partition %[1]s z1/p1 --dry-run", use),
		ValidArgsFunction: e.completePartitions,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, args []string) error {
		path := args[0]
		what := "partition " + use + " " + path
		if !on || s.dry {
			plan, err := haPlan(ctx, api, "partition", path, on)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			plan.Host, plan.Verb = path, "partition "+use
			if meant, err := e.planned(ctx, s, o, plan, what, path); !meant {
				return err
			}
		}
		p, err := api.SetPartition(ctx, path, "enabled", v1.Switch{On: on, Reason: reason})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return e.show(o, p, func(t *text) { t.printf("partition %s: %sd; it is %s\n", path, use, e.state(p.State)) })
	})
	out.registerFormat(c)
	s.register(c)
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
