// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"strings"
)

// Markdown is the page of states: a diagram of all changes of state, and the table, row
// by row, as it is decided. docs/states.md is this text.
func Markdown() string {
	var b strings.Builder
	b.WriteString("# HA states of a host\n\nMade from the table in `coordinator/ha`; every transition is one row of it. The first row whose condition holds is taken.\n\n")
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> NONE\n")
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
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", statesWord(r.From), r.On, r.When, to, r.Event)
	}
	b.WriteString("\n## Events that change nothing\n\n| in | on | because |\n|---|---|---|\n")
	for _, g := range Ignored {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", statesWord(g.From), g.On, g.Why)
	}
	return b.String()
}

// edges are the kinds of events that lead from one state to another.
func edges(from, to State) []string {
	var out []string
	seen := map[Kind]bool{}
	for _, kind := range append([]Kind{evFacts}, Kinds...) {
		for _, r := range index[from][kind] {
			if r.To == to && !seen[kind] {
				seen[kind] = true
				out = append(out, string(kind))
			}
		}
	}
	return out
}

func statesWord(states []State) string {
	switch {
	case len(states) == len(States):
		return "any"
	case len(states) > len(States)/2:
		var not []string
		for _, s := range States {
			if !contains(states, s) {
				not = append(not, string(s))
			}
		}
		return "any but " + strings.Join(not, ", ")
	}
	return names(states)
}

func contains(states []State, s State) bool {
	for _, x := range states {
		if x == s {
			return true
		}
	}
	return false
}
