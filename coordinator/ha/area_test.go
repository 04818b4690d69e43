// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// ha.md §6 and §9: a storm begins, pages once when it is seen whole, ends, and is the
// same one when it begins again within the cooldown.
func TestAreaTellsOneStory(t *testing.T) {
	limits := AreaLimits{Settle: 15 * time.Second, Cooldown: 10 * time.Minute}
	look := func(under string, hit ...string) *guard.Look {
		return &guard.Look{Area: "rack/z1/7", Hosts: 10, Hit: hit, Why: "3 hosts under it fell within 1m30s", Under: under}
	}
	r := AreaRecord{Area: "rack/z1/7"}
	for _, s := range []struct {
		at     time.Duration
		look   *guard.Look
		events []string
		open   bool
		paged  bool
		listed int
		well   int // of the members, that left the storm
	}{
		{0, nil, nil, false, false, 0, 0},
		{time.Second, look("", "h1", "h2", "h3"), []string{"area.storm-begun warning"}, true, false, 3, 0},
		{5 * time.Second, look("", "h1", "h2", "h3", "h4"), nil, true, false, 4, 0},
		{16 * time.Second, look("", "h1", "h2", "h3", "h4"), []string{"area.storm page"}, true, true, 4, 0},
		{2 * time.Minute, look("", "h1", "h2", "h4", "h5"), nil, true, true, 5, 1},
		{3 * time.Minute, nil, []string{"area.storm-ended info"}, false, true, 5, 5},
		{4 * time.Minute, nil, nil, false, true, 5, 5},
		{5 * time.Minute, look("", "h1", "h2", "h4"), []string{"area.storm-begun warning"}, true, true, 5, 2},
		{30 * time.Minute, look("", "h1", "h2", "h4"), nil, true, true, 5, 2},
		{31 * time.Minute, nil, []string{"area.storm-ended info"}, false, true, 5, 5},
		{42 * time.Minute, look("zone/z1", "h1", "h2", "h3"), []string{"area.storm-begun warning"}, true, false, 3, 0},
		{43 * time.Minute, look("zone/z1", "h1", "h2", "h3"), nil, true, false, 3, 0}, // its page is the zone's
		{44 * time.Minute, look("", "h1", "h2", "h3"), nil, true, false, 3, 0},        // not at once: it may follow what explained it
		{44*time.Minute + 16*time.Second, look("", "h1", "h2", "h3"), []string{"area.storm page"}, true, true, 3, 0},
		{45 * time.Minute, look("", "h1", "h2", "h3"), nil, true, true, 3, 0},
	} {
		before, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		next, effects := StepArea(r, s.look, epoch.Add(s.at), limits)
		if after, _ := json.Marshal(r); string(after) != string(before) {
			t.Fatalf("at %s: the argument was changed", s.at)
		}
		var events []string
		for _, e := range effects {
			if e.Kind != Announce || e.Reason == "" {
				t.Errorf("at %s: %+v", s.at, e)
			}
			events = append(events, e.Type+" "+string(e.Severity))
		}
		if d := cmp.Diff(s.events, events); d != "" {
			t.Errorf("at %s: events (-want +got):\n%s", s.at, d)
		}
		well := 0
		for _, m := range next.Members {
			if !m.Left.IsZero() {
				well++
			}
		}
		if next.Open != s.open || next.Paged.IsZero() == s.paged || len(next.Members) != s.listed || well != s.well {
			t.Errorf("at %s: %+v", s.at, next)
		}
		if next.Open && next.Ended != (time.Time{}) || next.Over() == s.open && !next.Ended.IsZero() {
			t.Errorf("at %s: open and ended: %+v", s.at, next)
		}
		again, effects := StepArea(next, s.look, epoch.Add(s.at), limits)
		if d := cmp.Diff(next, again); d != "" || len(effects) > 0 {
			t.Errorf("at %s: the same look again changes something: %s, %d events", s.at, d, len(effects))
		}
		r = next
	}
}

// A record that tells of a time to come was written by a clock that was wrong.
func TestAreaOfAnotherClock(t *testing.T) {
	limits := AreaLimits{Settle: 15 * time.Second, Cooldown: 10 * time.Minute}
	r := AreaRecord{V: Version, Area: "rack/z1/7", Began: epoch, Ended: epoch.Add(5 * time.Hour)}
	if !r.Due(epoch) {
		t.Error("nobody looks at it")
	}
	next, effects := StepArea(r, nil, epoch, limits)
	if len(effects) > 0 || !next.Ended.Equal(epoch) || next.Due(epoch) {
		t.Errorf("%+v, %d events", next, len(effects))
	}
	r = AreaRecord{V: Version, Area: "rack/z1/7", Open: true, Began: epoch, PageAt: epoch.Add(5 * time.Hour)}
	next, _ = StepArea(r, &guard.Look{Hosts: 3, Hit: []string{"h1"}, Why: "x"}, epoch, limits)
	if !next.PageAt.Equal(epoch.Add(limits.Settle)) {
		t.Errorf("pages at %s", next.PageAt)
	}
}

// The cooldown is counted by who waits for its end, not by whose clock wrote it.
func TestAreaEndedByTheReadersClock(t *testing.T) {
	over := func(at time.Duration) AreaRecord {
		return AreaRecord{Began: epoch.Add(-time.Hour), Ended: epoch.Add(at)}
	}
	open := AreaRecord{Open: true, Began: epoch.Add(-time.Hour)}
	for _, c := range []struct {
		name   string
		r, had AreaRecord
		known  bool
		ago    time.Duration
		want   time.Duration
	}{
		{"found ended", over(-5 * time.Minute), AreaRecord{}, false, 0, 5 * time.Minute},
		{"found ended by a clock that is fast", over(time.Hour), AreaRecord{}, false, 0, 0},
		{"seen to end by a clock that is fast", over(time.Hour), open, true, 0, 0},
		{"seen to end by a clock that is slow", over(-time.Hour), open, true, 0, 0},
		{"known to be over for a while", over(time.Hour), over(time.Hour), true, 7 * time.Minute, 7 * time.Minute},
		{"corrected by its owner", over(-time.Minute), over(time.Hour), true, 7 * time.Minute, time.Minute},
		{"under way", open, AreaRecord{}, false, 0, 0},
	} {
		if got := c.r.EndedAgo(c.had, c.known, c.ago, epoch); got != c.want {
			t.Errorf("%s: %s ago, want %s", c.name, got, c.want)
		}
	}
}

// Members' own pages are part of the storm's; that a proof was revoked wakes in any case.
func TestPagesAreFolded(t *testing.T) {
	for _, c := range []struct {
		kind string
		from Severity
		area string
		want Severity
	}{
		{"ha.failed", Page, "rack/z1/7", Warning},
		{"ha.failed", Page, "", Page},
		{"ha.suspect", Warning, "rack/z1/7", Warning},
		{"ha.proof-revoked", Page, "rack/z1/7", Page},
	} {
		e := Effect{Kind: Announce, Type: c.kind, Severity: c.from, Reason: "x"}.Fold(c.area)
		if e.Severity != c.want || (e.Reason != "x") != (c.want != c.from) {
			t.Errorf("%s in %q: %s %q, want %s", c.kind, c.area, e.Severity, e.Reason, c.want)
		}
	}
}

// What is on record of a host tells the guards of others all they need (ha.md §6).
func TestFactOfAHost(t *testing.T) {
	w := newWorld(testPolicy("default"))
	w.quietLogs = true
	fact := func() guard.HostFact { return w.rec.Fact("z/p/c", nil, []string{"p1"}) }
	w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
	w.feed(Event{Kind: EvHello, Boot: w.boot()})
	w.feed(Event{Kind: EvEligible, Verdict: Pass})
	w.advance(time.Minute)
	if f := fact(); !f.Live || f.Unhealthy || !f.Suspect.IsZero() || f.Out || f.Lost != nil {
		t.Errorf("healthy: %+v", f)
	}
	lost := w.now
	w.feed(Event{Kind: EvHealth, Verdict: Fail, Reason: "pool p1 is unreadable", Boot: w.boot(), Life: w.now, Lost: []string{"p1"}})
	w.now = w.now.Add(3 * time.Second)
	w.feed(Event{Kind: EvHealth, Verdict: Fail, Reason: "pool p1 is unreadable", Boot: w.boot(), Life: w.now, Lost: []string{"p1", "p2"}})
	if f := fact(); !f.Live || !f.Unhealthy || !f.Suspect.Equal(lost) || !f.Lost["p1"].Equal(lost) || !f.Lost["p2"].Equal(w.now) {
		t.Errorf("its own report: %+v", f)
	}
	w.feed(Event{Kind: EvHealth, Verdict: Pass, Boot: w.boot(), Life: w.now})
	if f := fact(); f.Lost != nil {
		t.Errorf("its report is in order again: %+v", f)
	}
	w.feed(Event{Kind: EvHealth, Verdict: Pass, Boot: w.boot(), Life: w.now})
	w.feed(Event{Kind: EvHealth, Verdict: Fail, Reason: "no ping for 15s"})
	if f := fact(); f.Live || !f.Unhealthy || !f.Suspect.Equal(w.now) {
		t.Errorf("silent: %+v", f)
	}
	w.feed(Event{Kind: EvAdmin, Admin: &Admin{Maintenance: true}})
	if f := fact(); !f.Out || f.Unhealthy {
		t.Errorf("in maintenance: %+v", f)
	}
}
