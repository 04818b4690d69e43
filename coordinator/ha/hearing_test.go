// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// A host is missed after so many pings; who has just taken it over, or stood still itself,
// listens first (ha.md §3, "adopted").
func TestHearing(t *testing.T) {
	p := testPolicy("")
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	for name, c := range map[string]struct {
		h    Hearing
		miss time.Time
	}{
		"never heard":           {Hearing{Adopted: at(0)}, at(27)},
		"heard":                 {Hearing{Adopted: at(0), Last: at(10)}, at(25)},
		"told again":            {Hearing{Last: at(10), Missing: true, Told: at(25)}, at(30)},
		"deaf before":           {Hearing{Last: at(10), Deaf: at(24)}, at(30)},
		"deaf long before that": {Hearing{Last: at(10), Deaf: at(2)}, at(25)},
	} {
		if got := c.h.MissAt(p); !got.Equal(c.miss) {
			t.Errorf("%s: missed at %s, want %s", name, got.Sub(epoch), c.miss.Sub(epoch))
		}
	}
	h := Hearing{Last: at(10)}
	for name, c := range map[string]struct {
		now, woke time.Time
		stood     bool
		missed    bool
	}{
		"in time":                        {at(25), time.Time{}, false, true},
		"the timer is late":              {at(28), time.Time{}, false, false},
		"stood still a moment ago":       {at(25), at(24), true, false},
		"stood still long ago":           {at(25), at(12), true, true},
		"stood still, and was told once": {at(25), time.Time{}, true, true},
	} {
		if _, missed := h.Overdue(c.now, c.woke, c.stood, p); missed != c.missed {
			t.Errorf("%s: missed %v", name, missed)
		}
	}
	if (Hearing{}).Alive() || !h.Alive() || (Hearing{Last: at(1), Missing: true}).Alive() {
		t.Error("alive: one that was heard and is not missed")
	}
}

// A clock that was set makes no sign of life out of an old ping: what a record is told is
// never later than the ping was by either clock.
func TestHeardBy(t *testing.T) {
	last := epoch
	for _, age := range []time.Duration{0, time.Second, time.Hour} {
		if got := HeardBy(last, last.Add(age)); !got.Equal(last) {
			t.Errorf("after %s: heard at %s", age, got)
		}
	}
	if !HeardBy(time.Time{}, epoch).IsZero() {
		t.Error("one that was never heard was heard")
	}
}

// A change of power is ours when something was sent since the present state was read.
func TestPowerOurs(t *testing.T) {
	r := Record{Power: power.Off, PowerSince: epoch}
	for name, c := range map[string]struct {
		sent time.Time
		ours bool
	}{
		"nothing was ever sent":     {time.Time{}, false},
		"sent before it read so":    {epoch.Add(-time.Second), false},
		"sent since it has read so": {epoch.Add(time.Second), true},
	} {
		if r.LastAction = c.sent; r.PowerOurs() != c.ours {
			t.Errorf("%s: ours %v", name, r.PowerOurs())
		}
	}
}
