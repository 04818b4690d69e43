// SPDX-License-Identifier: Apache-2.0

package budget

import (
	"slices"
	"time"
)

// Counter is the value of a budget's key.
type Counter struct {
	V         int         `json:"v"`
	Times     []time.Time `json:"times,omitempty"` // slots spent, oldest first
	Latched   bool        `json:"latched,omitempty"`
	LatchedAt time.Time   `json:"latchedAt,omitzero"`
	Grants    []Grant     `json:"grants,omitempty"`
	LastReset *Human      `json:"lastReset,omitempty"`
}

// Human is who unlatched, when and why.
type Human struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Grant adds slots to the limit until it expires.
type Grant struct {
	Human
	Extra int       `json:"extra"`
	Until time.Time `json:"until"`
}

// Facts is a counter as the guard sees it.
type Facts struct {
	Used    int
	Limit   int // with the grants that are in force
	Window  time.Duration
	Latched bool
	NextIn  time.Duration // until enough slots left the window for one to be free; 0: one is, or none ever will
}

// Used counts the slots spent within the window before at.
func (c Counter) Used(at time.Time, window time.Duration) int {
	n := 0
	for _, t := range c.Times {
		if t.After(at.Add(-window)) {
			n++
		}
	}
	return n
}

// Limit is the limit with the grants in force at that time.
func (c Counter) Limit(at time.Time, limit int) int {
	for _, g := range c.Grants {
		if at.Before(g.Until) {
			limit += g.Extra
		}
	}
	return limit
}

// Facts gathers what the guard needs.
func (c Counter) Facts(at time.Time, limit int, window time.Duration) Facts {
	f := Facts{Used: c.Used(at, window), Limit: c.Limit(at, limit), Window: window, Latched: c.Latched}
	// A lowered limit may leave more used than allowed: several must leave the window.
	if over := f.Used - f.Limit; over >= 0 && f.Limit > 0 {
		in := slices.DeleteFunc(sorted(c.Times), func(t time.Time) bool { return !t.After(at.Add(-window)) })
		f.NextIn = in[over].Add(window).Sub(at)
	}
	return f
}

// Free reports whether a slot may be spent.
func (f Facts) Free() bool { return !f.Latched && f.Used < f.Limit }

// Remaining is how many slots may still be spent now: none of a latched budget.
func (f Facts) Remaining() int {
	if f.Latched {
		return 0
	}
	return max(0, f.Limit-f.Used)
}

// Ask spends a slot if one is free, and latches if none is. It is for one incident once.
func (c Counter) Ask(at time.Time, limit int, window time.Duration) (Counter, bool) {
	if !c.Facts(at, limit, window).Free() {
		return c.Latch(at), false
	}
	return c.Spend(at, window), true
}

// Spend records a slot and forgets those that left the window. It does not ask: an
// operator's power-down is counted, never held (power.md §9.5).
func (c Counter) Spend(at time.Time, window time.Duration) Counter {
	c.V = 1
	c.Times = slices.DeleteFunc(sorted(c.Times), func(t time.Time) bool { return !t.After(at.Add(-window)) })
	c.Times = sorted(append(c.Times, at))
	c.Grants = inForce(c.Grants, at)
	return c
}

// Latch stops the scope until a human resets or grants. Latching twice keeps the first time.
func (c Counter) Latch(at time.Time) Counter {
	c.V = 1
	if !c.Latched {
		c.Latched, c.LatchedAt = true, at
	}
	return c
}

// Reset forgets what was spent and granted and opens the scope again, on a human's word.
func (c Counter) Reset(h Human) Counter { return Counter{V: 1, LastReset: &h} }

// Grant adds a grant and opens the scope again, on a human's word. When the grant expires
// the old limit holds again; the next incident that finds no slot latches anew.
func (c Counter) Grant(g Grant) Counter {
	c.V = 1
	c.Latched, c.LatchedAt = false, time.Time{}
	c.Grants = append(inForce(c.Grants, g.At), g)
	return c
}

func inForce(gs []Grant, at time.Time) []Grant {
	return slices.DeleteFunc(slices.Clone(gs), func(g Grant) bool { return !at.Before(g.Until) })
}

func sorted(ts []time.Time) []time.Time {
	ts = slices.Clone(ts)
	slices.SortFunc(ts, time.Time.Compare)
	return ts
}
