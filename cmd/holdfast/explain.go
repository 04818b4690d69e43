// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newExplainCmd is `holdfast explain`: why a thing is as it is.
func newExplainCmd(e *env) *cobra.Command {
	return group("explain", "Say why a host, partition or incident is as it is, and what comes next",
		"Answers in words: the state and its reason, why nothing more is done and what that rests on, which guards hold and what would clear each, what comes next and when, what an operator may do.\nAll guards are asked, also those that allow.",
		`  holdfast explain host h-17
  holdfast explain partition z1/p1/c1
  holdfast explain incident 0198c1d2-7f6a-7c11-9a53-1f2e3d4c5b6a
  holdfast explain host h-17 -o json`,
		explainOne(e, "host", []string{"hosts", "h"}, e.completeHosts, (*v1.Client).ExplainHost),
		explainOne(e, "partition", []string{"partitions", "p"}, e.completePartitions, (*v1.Client).ExplainPartition),
		explainOne(e, "incident", []string{"incidents", "i"}, e.completeIncidents, (*v1.Client).ExplainIncident))
}

func explainOne(e *env, kind string, aliases []string, complete completer, ask func(*v1.Client, context.Context, string) (v1.Explanation, error)) *cobra.Command {
	c := describeOne(e, kind, aliases, complete, func(cmd *cobra.Command, api *v1.Client, name string) (any, func(*text), error) {
		x, err := ask(api, cmd.Context(), name)
		return x, func(t *text) { e.explanation(t, x) }, err
	})
	c.Short = "Explain one " + kind
	c.Long = "Says why the " + kind + " is as it is and what would change that. With -o json it prints the object of the API."
	c.Example = strings.ReplaceAll(c.Example, "describe", "explain")
	return c
}

func (e *env) explanation(t *text, x v1.Explanation) {
	t.printf("%s is %s", x.Subject, e.state(x.State))
	if !x.Since.IsZero() {
		t.printf(" since %s", t.at(x.Since))
	}
	t.printf("\n")
	t.section("Why:", x.Why)
	t.section("Why not more:", x.WhyNot)
	t.section("What that rests on:", x.Evidence)
	t.section("What holds it:", holdLines(x.Holds))
	t.section("What comes next:", x.Next)
	t.section("What would change this:", x.WouldChange)
	t.section("What you may do:", x.OperatorMay)
	t.section("Guards, all of them:", e.guardLines(x.Guards))
	t.section("Story so far:", entryLines(x.Story))
}
