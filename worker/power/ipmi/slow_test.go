// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// TestScenario08AnswersAfterOneAndSixSeconds: with the figures of a fleet a BMC that
// answers after 1.5 s is read; one that takes 6 s is given up after 5 s: Timeout where it
// had answered before, Unreachable where it never did (power.md §§7 and 11, 8).
func TestScenario08AnswersAfterOneAndSixSeconds(t *testing.T) {
	t.Parallel()
	given := func(t *testing.T, began time.Time) {
		t.Helper()
		if took := time.Since(began); took < 4750*time.Millisecond || took > 5250*time.Millisecond {
			t.Errorf("given up after %v, want 5s ± 250ms", took)
		}
	}
	t.Run("1.5 s", func(t *testing.T) {
		t.Parallel()
		b := newSim(t, nil)
		b.faults(t, bmc.Faults{Delay: 1500 * time.Millisecond})
		if r, err := power.ReadOnce(t.Context(), New(nil), b.target(t, nil)); err != nil || r.State != corepower.On {
			t.Errorf("read: %+v, %v", r, err)
		}
	})
	t.Run("6 s in a session", func(t *testing.T) {
		t.Parallel()
		b := newSim(t, nil)
		conn, err := New(nil).Open(t.Context(), b.target(t, nil))
		if err != nil {
			t.Fatal(err)
		}
		b.faults(t, bmc.Faults{Delay: 6 * time.Second})
		began := time.Now()
		r, err := conn.Status(t.Context())
		given(t, began)
		wantKind(t, err, corepower.Timeout)
		if r != (corepower.Reading{}) {
			t.Errorf("an error implies the zero reading, got %+v", r)
		}
		b.faults(t, bmc.Faults{})
		_ = conn.Close(t.Context()) // the session may be gone already
	})
	t.Run("6 s from the start", func(t *testing.T) {
		t.Parallel()
		b := newSim(t, nil)
		b.faults(t, bmc.Faults{Delay: 6 * time.Second})
		began := time.Now()
		_, err := power.ReadOnce(t.Context(), New(nil), b.target(t, nil))
		given(t, began)
		wantKind(t, err, corepower.Unreachable)
	})
}
