// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/cmd/holdfast/print"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newPlanCmd is `holdfast plan`: what other workers would mean.
func newPlanCmd(e *env) *cobra.Command {
	var out outputFlags
	var without, add []string
	c := &cobra.Command{
		Use: "plan", Short: "Show what would move if workers came or went", Args: cobra.NoArgs,
		Long: "Asks where slots and the hosts in them would be without some workers, or with more of them. Nothing is changed; -o wide lists each slot.\n" +
			"Without flags it shows what is to move now. A worker that is added is a new one, or one that is drained.",
		Example: `  holdfast plan --without worker-1
  holdfast plan --add worker-4:z1 --add worker-5:z2:2
  holdfast plan --without worker-1 --add worker-4:z1 -o json

  # agents instead of slots
  holdfast plan lb --algorithm roundrobin`,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := out.options(e)
		if err != nil {
			return err
		}
		var joiners []v1.Joiner
		for _, s := range add {
			j, err := v1.ParseJoiner(s)
			if err != nil {
				return err
			}
			joiners = append(joiners, j)
		}
		api, err := e.client()
		if err != nil {
			return err
		}
		plan, err := api.PlanFleet(cmd.Context(), without, joiners)
		if err != nil {
			return err
		}
		var what []string
		if len(without) > 0 {
			what = append(what, "without "+strings.Join(without, ", "))
		}
		if len(add) > 0 {
			what = append(what, "with "+strings.Join(add, ", "))
		}
		if len(what) == 0 {
			what = []string{"as it is"}
		}
		return e.showFleetPlan(o, strings.Join(what, ", "), plan)
	}
	out.registerFormat(c)
	c.Flags().StringSliceVar(&without, "without", nil, "as if this worker owned nothing; may be given several times")
	c.Flags().StringSliceVar(&add, "add", nil, "as if this worker took part: WORKER, WORKER:ZONE or WORKER:ZONE:WEIGHT; may be given several times")
	e.completeFlag(c, "without", e.completeWorkers)
	c.AddCommand(newPlanLBCmd(e))
	return c
}

var planMembersTable = print.Table[v1.FleetMember]{
	Kind: "worker", Plural: "workers",
	Name: func(m v1.FleetMember) string { return m.ID },
	Columns: []print.Column[v1.FleetMember]{
		{Name: "WORKER", Value: func(m v1.FleetMember) any { return m.ID }},
		{Name: "ZONE", Value: func(m v1.FleetMember) any { return m.Zone }},
		{Name: "WEIGHT", Value: func(m v1.FleetMember) any {
			if m.Frozen {
				return fmt.Sprintf("%d (restarting)", m.Weight)
			}
			return m.Weight
		}},
		{Name: "SLOTS", Value: func(m v1.FleetMember) any { return change(m.SlotsBefore, m.SlotsAfter) }},
		{Name: "HOSTS", Value: func(m v1.FleetMember) any { return change(m.HostsBefore, m.HostsAfter) }},
	},
}

func change(before, after int) string {
	if before == after {
		return fmt.Sprint(after)
	}
	return fmt.Sprintf("%d → %d", before, after)
}

var planMovesTable = print.Table[v1.SlotMove]{
	Kind: "slot", Plural: "slots",
	Name: func(m v1.SlotMove) string { return fmt.Sprintf("%04d", m.Slot) },
	Columns: []print.Column[v1.SlotMove]{
		{Name: "SLOT", Value: func(m v1.SlotMove) any { return fmt.Sprintf("%04d", m.Slot) }},
		{Name: "FROM", Value: func(m v1.SlotMove) any { return m.From }},
		{Name: "TO", Value: func(m v1.SlotMove) any { return m.To }},
		{Name: "HOSTS", Value: func(m v1.SlotMove) any { return m.Hosts }},
	},
}

// showFleetPlan prints a plan on stdout in the chosen format.
func (e *env) showFleetPlan(o print.Options, what string, p v1.FleetPlan) error {
	return print.Value(e.Stdout, o, p, func(w io.Writer) error { return e.printFleetPlan(w, o, what, p) })
}

// printFleetPlan writes a plan as running text with tables.
func (e *env) printFleetPlan(w io.Writer, o print.Options, what string, p v1.FleetPlan) error {
	if !o.Format.Tabular() { // the answer is data, the plan still is for a person
		o = print.Options{Colour: o.Colour, Now: o.Now}
	}
	t := &text{w: w, now: e.Now()}
	t.printf("Plan: %s\n\n", what)
	if t.err != nil {
		return t.err
	}
	if err := planMembersTable.List(w, w, o, slices.Clone(p.Members)); err != nil {
		return err
	}
	t.printf("\n%d slots with %d hosts move", p.Moves, p.HostsMoved)
	if p.Moves > 0 {
		t.printf(", the least possible is %d", p.Least)
	}
	t.printf(".\n")
	if p.Orphans > 0 {
		t.printf("%d slots that nobody owns are taken.\n", p.Orphans)
	}
	if p.Peak > 0 {
		t.printf("The fullest worker then owns %d hosts; its share is %.1f, the heaviest slot has %d.\n", p.Peak, p.Mean, p.Heaviest)
	}
	t.section("Careful:", p.Warnings)
	if t.err != nil || !o.Format.Wide() || len(p.Targets) == 0 {
		return t.err
	}
	t.printf("\n")
	return planMovesTable.List(w, w, o, slices.Clone(p.Targets))
}
