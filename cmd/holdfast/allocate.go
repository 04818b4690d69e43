// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newAllocateCmd is `holdfast allocate`: where may new work go (ha.md §8).
func newAllocateCmd(e *env) *cobra.Command {
	var out outputFlags
	var ha, all bool
	var partition string
	c := &cobra.Command{
		Use: "allocate", Short: "Rank the hosts that new work may go to",
		Long: "Lists hosts for new work, best first, with the reason for each place. Work that needs HA goes to AVAILABLE hosts only; other work prefers hosts outside HA.",
		Example: `  # for an instance that must survive its host
  holdfast allocate --ha -p z1/p1

  # the best one, for a script
  holdfast allocate --ha -o jsonpath='{.items[0].host}'

  # also those that are not allowed, and why
  holdfast allocate --all`,
		Args: cobra.NoArgs,
	}
	c.RunE = e.asking(&out, func(ctx context.Context, api *v1.Client, o print.Options, _ []string) error {
		items, err := api.Allocate(ctx, partition, ha)
		if err != nil {
			return err
		}
		if !all {
			kept := items[:0]
			for _, i := range items {
				if i.Allowed {
					kept = append(kept, i)
				}
			}
			items = kept
		}
		return printError(candidatesTable.List(e.Stdout, e.Stderr, o, items))
	})
	out.register(c)
	c.Flags().BoolVar(&ha, "ha", false, "the work needs HA")
	c.Flags().BoolVar(&all, "all", false, "show also hosts that are not allowed")
	c.Flags().StringVarP(&partition, "partition", "p", "", "only hosts of this partition and below it")
	e.completeFlag(c, "partition", e.completePartitions)
	return c
}
