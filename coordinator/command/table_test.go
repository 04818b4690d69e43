// SPDX-License-Identifier: Apache-2.0

package command

import (
	"slices"
	"testing"
)

// "Step is total": every pair of state and kind is decided by a row without a condition
// or has a listed reason to be ignored.
func TestEveryPairIsARowOrAListedIgnore(t *testing.T) {
	for _, s := range States {
		for _, k := range EventKinds {
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
