// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"context"
	"strings"
	"testing"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// TestNeverActs: a manual level reads Unknown, rejects every command without asking the
// owner for it, and names what a human can do (power.md §8.7).
func TestNeverActs(t *testing.T) {
	d, target := Driver{}, power.Target{Host: "h-17", Device: "human"}
	if err := d.Check(target); err != nil {
		t.Fatal(err)
	}
	r, err := power.ReadOnce(t.Context(), d, target)
	if r != (corepower.Reading{}) || power.KindOf(err) != corepower.Unsupported || !strings.Contains(err.Error(), "holdfast host confirm-off h-17") {
		t.Errorf("read: %+v, %v", r, err)
	}
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := c.Identity(t.Context()); id != (corepower.Identity{}) || power.KindOf(err) != corepower.Unsupported {
		t.Errorf("identity: %+v, %v", id, err)
	}
	for _, v := range []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Cycle, corepower.Reset, corepower.SoftOff, corepower.Identify, "explode"} {
		out, err := c.Do(t.Context(), power.Command{Verb: v, Before: func() error { t.Errorf("%s: asked as if it were sent", v); return nil }})
		if out != corepower.Rejected || power.KindOf(err) != corepower.Unsupported || power.MayHaveRun(err) {
			t.Errorf("%s: %s, %v", v, out, err)
		}
	}
	if err := c.Close(t.Context()); err != nil || c.Close(t.Context()) != nil {
		t.Errorf("close twice: %v", err)
	}
}

// TestRefuses: parameters and ended contexts.
func TestRefuses(t *testing.T) {
	err := Driver{}.Check(power.Target{Params: map[string]string{"x": "1"}})
	if power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Driver{}).Open(gone, power.Target{}); power.KindOf(err) != corepower.Cancelled {
		t.Errorf("got %v", err)
	}
	if d := (Driver{}).Describe(); d.Kind != (Driver{}).Kind() || len(d.Capabilities.Verbs) != 0 || d.Capabilities.MaxAssurance != corepower.A5 {
		t.Errorf("descriptor %+v", d)
	}
}
