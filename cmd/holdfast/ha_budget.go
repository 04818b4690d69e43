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

var budgetsTable = print.Table[v1.Budget]{
	Kind: "budget", Plural: "budgets",
	Name: func(b v1.Budget) string { return b.Scope },
	Columns: []print.Column[v1.Budget]{
		{Name: "SCOPE", Value: func(b v1.Budget) any { return b.Scope }},
		{Name: "USED", Value: func(b v1.Budget) any { return b.Used }},
		{Name: "LIMIT", Value: func(b v1.Budget) any { return b.Limit }},
		{Name: "WINDOW", Value: func(b v1.Budget) any { return span(b.Window) }},
		{Name: "STATE", Value: func(b v1.Budget) any { return print.State(budgetState(b)) }},
		{Name: "NEXT", Value: func(b v1.Budget) any { return span(b.Next) }},
		{Name: "GRANTS", Value: func(b v1.Budget) any { return grantsText(b) }},
		{Name: "LATCHED", Wide: true, Value: func(b v1.Budget) any { return print.Moment(b.LatchedAt) }},
	},
}

// budgetState: latched stops until somebody resets or grants, used up until the window
// has moved on.
func budgetState(b v1.Budget) string {
	switch {
	case b.Latched:
		return "latched"
	case b.Used >= b.Limit:
		return "used-up"
	}
	return "free"
}

func grantsText(b v1.Budget) string {
	var out []string
	for _, g := range b.Grants {
		out = append(out, fmt.Sprintf("+%d until %s", g.Extra, print.Exact(g.Until)))
	}
	return strings.Join(out, ", ")
}

// newBudgetCmd is `holdfast ha budget`: how many power-downs are left, and who may say
// that there are more.
func newBudgetCmd(e *env) *cobra.Command {
	var out outputFlags
	c := &cobra.Command{
		Use: "budget [SCOPE]", Short: "Show power-down budgets; reset one or grant it more", Args: cobra.MaximumNArgs(1),
		Long: "Lists how many incidents with a power action a host, cluster, pod or zone may see in a window, and how many it saw.\n" +
			"A budget that an incident found used up is latched: nothing is switched off below it until somebody resets it or grants more.",
		Example: `  holdfast ha budget
  holdfast ha budget pod/z1/p1 -o wide
  holdfast ha budget reset cluster/z1/p1/c1 --reason 'PDU replaced, all three looked at'
  holdfast ha budget grant zone/z1 --extra 5 --for 4h --reason 'planned power test'`,
		ValidArgsFunction: e.completeScopes,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		scope := ""
		if len(args) == 1 {
			if _, _, err := splitScope(args[0]); err != nil {
				return err
			}
			scope = args[0]
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		items, err := api.Budgets(cmd.Context(), scope)
		if err != nil {
			return err
		}
		return printError(budgetsTable.List(e.Stdout, e.Stderr, o, items))
	}
	out.register(c)
	c.AddCommand(
		newBudgetChangeCmd(e, "reset", "Forget what a budget has spent and open it again",
			"Says that what was switched off is understood. The budget is as if nothing had been spent, grants end, and it is not latched any more.",
			"  holdfast ha budget reset cluster/z1/p1/c1 --reason 'PDU replaced, all three looked at'\n  holdfast ha budget reset host/h-17 --reason 'new board'\n  holdfast ha budget reset zone/z1 --reason 'storm over' -o json", (*v1.Client).ResetBudget),
		newBudgetChangeCmd(e, "grant", "Add slots to a budget for a while and open it again",
			"Adds slots to a budget until the grant expires; then the old limit holds again. What was spent stays counted.",
			"  holdfast ha budget grant zone/z1 --extra 5 --for 4h --reason 'planned power test'\n  holdfast ha budget grant cluster/z1/p1/c1 --extra 1 --for 30m --reason 'h-9 is dead for certain'\n  holdfast ha budget grant host/h-17 --extra 1 --for 1h --reason 'once more' -o json", (*v1.Client).GrantBudget))
	return c
}

func newBudgetChangeCmd(e *env, use, short, long, example string, change func(*v1.Client, context.Context, string, v1.BudgetRequest) (v1.Budget, error)) *cobra.Command {
	var out outputFlags
	var r v1.BudgetRequest
	c := &cobra.Command{Use: use + " SCOPE", Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1), ValidArgsFunction: e.completeScopes}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if _, _, err := splitScope(args[0]); err != nil {
			return err
		}
		o, err := out.options(e)
		if err != nil {
			return err
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		b, err := change(api, cmd.Context(), args[0], r)
		if err != nil {
			return fmt.Errorf("ha budget %s %s: %w", use, args[0], err)
		}
		return e.show(o, b, func(t *text) {
			t.printf("%s: %s", b.Scope, budgetText(&b))
			if g := grantsText(b); g != "" {
				t.printf(", %s", g)
			}
			t.printf("\n")
		})
	}
	out.registerFormat(c)
	c.Flags().StringVar(&r.Reason, "reason", "", "why, for the record; needed")
	if use == "grant" {
		c.Flags().IntVar(&r.Extra, "extra", 1, "how many slots more")
		c.Flags().StringVar(&r.For, "for", "", "how long, such as 4h; needed")
	}
	e.tryable(c)
	return c
}
