// SPDX-License-Identifier: Apache-2.0

package command

import (
	"slices"
	"strings"
	"testing"
)

// "Step is total": every pair of state and kind is decided by a row without a condition
// or has a listed reason to be ignored.
func TestEveryPairIsARowOrAListedIgnore(t *testing.T) {
	for _, s := range States {
		for _, k := range EventKinds {
			sure := slices.ContainsFunc(index[s][k], func(r *Row) bool { return r.cond == nil })
			ignored := IgnoredBecause(s, k) != "unknown kind of event"
			if !sure && !ignored {
				t.Errorf("%s on %s: neither an unconditional row nor a listed ignore", s, k)
			}
			if sure && ignored {
				t.Errorf("%s on %s: ignored, but a row without a condition is always taken", s, k)
			}
		}
	}
	for _, r := range Rows {
		if len(r.From) == 0 || r.On == "" || r.When == "" {
			t.Errorf("row %+v: from, on and when are needed", r)
		}
		if r.Event != "" && severity[r.Event] == "" {
			t.Errorf("row %s: event %q has no severity", r.When, r.Event)
		}
	}
}

// No row is hidden by an earlier one without a condition.
func TestNoRowIsUnreachable(t *testing.T) {
	for s, kinds := range index {
		for k, rows := range kinds {
			for i, r := range rows[:len(rows)-1] {
				if r.cond == nil {
					t.Errorf("%s on %s: row %q hides %q", s, k, r.When, rows[i+1].When)
				}
			}
		}
	}
}

// docs/command-states.md is made from the rows: each is in it, and each change of state
// is an edge of the diagram.
func TestMarkdownShowsEveryRow(t *testing.T) {
	text := Markdown()
	for _, r := range Rows {
		if !strings.Contains(text, "| "+r.When+" |") {
			t.Errorf("row %q is missing", r.When)
		}
		for _, from := range r.From {
			if r.To != "" && r.To != from && !strings.Contains(text, "    "+string(from)+" --> "+string(r.To)+":") {
				t.Errorf("edge %s --> %s is missing", from, r.To)
			}
		}
	}
}
