// SPDX-License-Identifier: Apache-2.0

package budget

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// "No more than 3 power downs within 1 hour, then stop and notify."
func TestThreeInAnHourThenStop(t *testing.T) {
	var c Counter
	for i := range 3 {
		var ok bool
		if c, ok = c.Ask(t0.Add(time.Duration(i)*10*time.Minute), 3, time.Hour); !ok {
			t.Fatalf("slot %d of 3 was refused", i+1)
		}
	}
	at := t0.Add(48 * time.Minute)
	if got, want := c.Facts(at, 3, time.Hour), (Facts{Used: 3, Limit: 3, Window: time.Hour, NextIn: 12 * time.Minute}); got != want {
		t.Errorf("facts %+v, want %+v", got, want)
	}
	if left := c.Facts(at, 5, time.Hour).Remaining(); left != 2 {
		t.Errorf("%d of 5 remain after 3", left)
	}
	c, ok := c.Ask(at, 3, time.Hour)
	if left := c.Facts(at, 5, time.Hour).Remaining(); left != 0 {
		t.Errorf("%d remain of a latched budget", left)
	}
	if ok || !c.Latched || !c.LatchedAt.Equal(at) {
		t.Fatalf("a fourth slot: granted %v, latched %v", ok, c.Latched)
	}
	// Timeouts do not unlatch (power.md §9.5).
	if c, ok := c.Ask(at.Add(48*time.Hour), 3, time.Hour); ok || !c.LatchedAt.Equal(at) {
		t.Errorf("two days later: granted %v, latched since %v", ok, c.LatchedAt)
	}
}

func TestOnlyAHumanUnlatches(t *testing.T) {
	at := t0.Add(time.Minute)
	full := Counter{V: 1, Times: []time.Time{t0}, Latched: true, LatchedAt: t0}
	h := Human{By: "ann", Reason: "rack 7 is being moved", At: at}

	if c, ok := full.Reset(h).Ask(at, 1, time.Hour); !ok || c.LastReset == nil || c.LastReset.By != "ann" {
		t.Errorf("after a reset: granted %v, %+v", ok, c)
	}

	c := full.Grant(Grant{Human: h, Extra: 1, Until: at.Add(time.Hour)})
	if got := c.Limit(at, 1); got != 2 {
		t.Errorf("limit %d with a grant of one more", got)
	}
	c, ok := c.Ask(at, 1, time.Hour)
	if !ok {
		t.Fatal("a granted slot was refused")
	}
	c, ok = c.Ask(at.Add(time.Minute), 1, time.Hour)
	if ok || !c.Latched {
		t.Errorf("beyond the grant: granted %v, latched %v", ok, c.Latched)
	}
	if got := c.Limit(at.Add(time.Hour), 1); got != 1 {
		t.Errorf("limit %d after the grant expired", got)
	}
}

func TestFacts(t *testing.T) {
	at := func(m ...int) []time.Time {
		var out []time.Time
		for _, x := range m {
			out = append(out, t0.Add(time.Duration(x)*time.Minute))
		}
		return out
	}
	now := t0.Add(60 * time.Minute)
	for _, c := range []struct {
		name   string
		times  []time.Time
		limit  int
		used   int
		nextIn time.Duration
	}{
		{"nothing spent", nil, 3, 0, 0},
		{"just left the window", at(0), 1, 0, 0},
		{"a slot is free", at(10, 20), 3, 2, 0},
		{"full", at(10, 20, 30), 3, 3, 10 * time.Minute},
		{"the limit was lowered: two must leave", at(10, 20, 30), 2, 3, 20 * time.Minute},
		{"limit 0: none ever", at(10), 0, 1, 0},
		{"a clock moved: a slot in the future counts", at(70), 1, 1, 70 * time.Minute},
		{"out of order", at(30, 10, 20), 3, 3, 10 * time.Minute},
	} {
		f := Counter{Times: c.times}.Facts(now, c.limit, time.Hour)
		if f.Used != c.used || f.NextIn != c.nextIn {
			t.Errorf("%s: used %d, next in %s; want %d, %s", c.name, f.Used, f.NextIn, c.used, c.nextIn)
		}
	}
}

// Any order of asking: never more than the limit within any window, and the old value is
// left as it was.
func TestNeverMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, window := rapid.IntRange(0, 4).Draw(t, "limit"), time.Hour
		var c Counter
		var spent []time.Time
		now := t0
		for range rapid.IntRange(1, 40).Draw(t, "asks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "minutes")) * time.Minute)
			before, _ := json.Marshal(c)
			next, ok := c.Ask(now, limit, window)
			if after, _ := json.Marshal(c); !cmp.Equal(before, after) {
				t.Fatalf("Ask changed the old counter: %s, was %s", after, before)
			}
			if ok {
				spent = append(spent, now)
			} else if !next.Latched {
				t.Fatal("asking and finding none did not latch")
			}
			if next.Latched && rapid.Bool().Draw(t, "grant nothing") {
				next = next.Grant(Grant{Human: Human{At: now}, Until: now})
			}
			c = next
			n := 0
			for _, s := range spent {
				if s.After(now.Add(-window)) {
					n++
				}
			}
			if n > limit {
				t.Fatalf("%d slots within an hour, the limit is %d", n, limit)
			}
			if len(c.Times) > limit {
				t.Fatalf("the counter keeps %d times", len(c.Times))
			}
		}
	})
}
