// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown is the page of states: a diagram of all changes of state, and the table, row
// by row, as it is decided. docs/command-states.md is this text.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# States of a command\n\nMade from the table in `coordinator/command`; every transition is one row of it. The first row whose condition holds is taken.\n\n")
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> PENDING\n")
	for _, from := range States {
		for _, to := range States {
			if why := edges(from, to); len(why) > 0 {
				fmt.Fprintf(&b, "    %s --> %s: %s\n", from, to, strings.Join(why, ", "))
			}
		}
	}
	b.WriteString("```\n\n## Rows\n\n| from | on | when | to | event |\n|---|---|---|---|---|\n")
	for _, r := range Rows {
		to := string(r.To)
		if to == "" {
			to = "the same"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", names(r.From), r.On, r.When, to, r.Event)
	}
	b.WriteString("\n## Events that change nothing\n\n| in | on | because |\n|---|---|---|\n")
	for _, g := range Ignored {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", names(g.From), g.On, g.Why)
	}
	return b.String()
}

// edges are the kinds of events that lead from one state to another.
func edges(from, to State) []string {
	var out []string
	for _, kind := range EventKinds {
		for _, r := range index[from][kind] {
			if r.To == to && to != from && !slices.Contains(out, string(kind)) {
				out = append(out, string(kind))
			}
		}
	}
	return out
}

func names(states []State) string {
	if len(states) == len(States) {
		return "any"
	}
	out := make([]string, len(states))
	for i, s := range states {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}
