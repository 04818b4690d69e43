// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// statesPage is a page of states: a diagram of all changes of state, and the table, row by row, as
// it is decided.
type statesPage struct {
	title, table string
	states       []string
	rows         []statesRow
	ignored      []statesRow
}

type statesRow struct {
	from                []string
	on, when, to, event string // to, event: empty, none
}

func haStates() statesPage {
	p := statesPage{title: "HA states of a host", table: "coordinator/ha", states: texts(ha.States)}
	for _, r := range ha.Rows {
		p.rows = append(p.rows, statesRow{texts(r.From), string(r.On), r.When, string(r.To), r.Event})
	}
	for _, g := range ha.Ignored {
		p.ignored = append(p.ignored, statesRow{from: texts(g.From), on: string(g.On), when: g.Why})
	}
	return p
}

func commandStates() statesPage {
	p := statesPage{title: "States of a command", table: "coordinator/command", states: texts(command.States)}
	for _, r := range command.Rows {
		p.rows = append(p.rows, statesRow{texts(r.From), string(r.On), r.When, string(r.To), r.Event})
	}
	for _, g := range command.Ignored {
		p.ignored = append(p.ignored, statesRow{from: texts(g.From), on: string(g.On), when: g.Why})
	}
	return p
}

func texts[T ~string](all []T) (out []string) {
	for _, x := range all {
		out = append(out, string(x))
	}
	return out
}

func (p statesPage) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nMade from the table in `%s`; every transition is one row of it. The first row whose condition holds is taken.\n\n", p.title, p.table)
	fmt.Fprintf(&b, "```mermaid\nstateDiagram-v2\n    [*] --> %s\n", p.states[0])
	for _, from := range p.states {
		for _, to := range p.states {
			if why := p.edge(from, to); len(why) > 0 {
				fmt.Fprintf(&b, "    %s --> %s: %s\n", from, to, strings.Join(why, ", "))
			}
		}
	}
	b.WriteString("```\n\n## Rows\n\n| from | on | when | to | event |\n|---|---|---|---|---|\n")
	for _, r := range p.rows {
		to := r.to
		if to == "" {
			to = "the same"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", p.names(r.from), r.on, r.when, to, r.event)
	}
	b.WriteString("\n## Events that change nothing\n\n| in | on | because |\n|---|---|---|\n")
	for _, g := range p.ignored {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", p.names(g.from), g.on, g.when)
	}
	return b.String()
}

// edge are the kinds of events that lead from one state to another.
func (p statesPage) edge(from, to string) (kinds []string) {
	for _, r := range p.rows {
		if r.to == to && slices.Contains(r.from, from) && !slices.Contains(kinds, r.on) {
			kinds = append(kinds, r.on)
		}
	}
	return kinds
}

func (p statesPage) names(some []string) string {
	if len(some) == len(p.states) {
		return "any"
	}
	if len(some) <= len(p.states)/2 {
		return strings.Join(some, ", ")
	}
	others := slices.DeleteFunc(slices.Clone(p.states), func(s string) bool { return slices.Contains(some, s) })
	return "any but " + strings.Join(others, ", ")
}

// Each row of a table is on its page, and each change of state is an edge of the diagram.
func TestPagesOfStatesShowEveryRow(t *testing.T) {
	for _, p := range []statesPage{haStates(), commandStates()} {
		text := p.markdown()
		for _, r := range p.rows {
			if !strings.Contains(text, "| "+r.when+" |") {
				t.Errorf("%s: row %q is missing", p.table, r.when)
			}
			for _, from := range r.from {
				if r.to != "" && !strings.Contains(text, "    "+from+" --> "+r.to+":") {
					t.Errorf("%s: edge %s --> %s is missing", p.table, from, r.to)
				}
			}
		}
	}
}
