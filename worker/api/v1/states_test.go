// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestHostStatesAreTheMachines proves that the API's list of states, which needs nothing
// but the standard library, is the machine's own.
func TestHostStatesAreTheMachines(t *testing.T) {
	var want []string
	for _, s := range ha.States {
		want = append(want, string(s))
	}
	if d := cmp.Diff(want, v1.HostStates); d != "" {
		t.Error(d)
	}
}
