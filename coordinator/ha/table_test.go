// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"testing"
)

// "Step is total": every pair of state and kind is decided by a row without a condition
// or has a listed reason to be ignored.
func TestEveryPairIsARowOrAListedIgnore(t *testing.T) {
	for _, s := range States {
		for _, k := range Kinds {
			sure := slices.ContainsFunc(index[s][k], func(r *Row) bool { return r.cond == nil })
			ignored := slices.ContainsFunc(Ignored, func(g Ignore) bool { return g.On == k && slices.Contains(g.From, s) })
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

// Every row is taken by some script, or by the abandoned confirmations.
func TestEveryRowIsExercised(t *testing.T) {
	visited := map[*Row]bool{}
	for _, path := range scripts(t) {
		runScript(t, path, visited)
	}
	abandonAll(t, visited)
	for k := range Rows {
		if r := &Rows[k]; !visited[r] {
			t.Errorf("no script takes: %s on %s, %s → %s", names(r.From), r.On, r.When, r.To)
		}
	}
}
