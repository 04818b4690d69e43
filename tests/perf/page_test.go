// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"slices"
	"testing"
)

// TestMergedRowsKeepTheirPlace: a run of one part replaces its rows, also those that share a
// name, and leaves all others as they are.
func TestMergedRowsKeepTheirPlace(t *testing.T) {
	old := []row{{Part: "ring", What: "r"}, {Part: "restart", What: "same"}, {Part: "restart", What: "same"}, {Part: "scale", What: "s"}}
	got := merged(old, []row{{Part: "restart", What: "same", Value: 1}, {Part: "restart", What: "same", Value: 2}, {Part: "restart", What: "new", Value: 3}, {Part: "fence", What: "f", Value: 4}})
	var values []float64
	var names []string
	for _, x := range got {
		values, names = append(values, x.Value), append(names, x.What)
	}
	if !slices.Equal(values, []float64{0, 1, 2, 3, 0, 4}) || !slices.Equal(names, []string{"r", "same", "same", "new", "s", "f"}) {
		t.Errorf("%v %v", names, values)
	}
}
