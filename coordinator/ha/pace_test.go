// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"testing"
	"time"
)

// Settings that have become faster are no silence of an agent that was not told yet: it is
// waited for, and looked at, at its own pace (ha.md §4, "live without restart").
func TestPaced(t *testing.T) {
	p := testPolicy("fast")
	for name, c := range map[string]struct {
		told                  Pace
		ping, window, timeout time.Duration
		kept                  Pace
	}{
		"never told":        {Pace{}, time.Second, 2 * time.Second, 30 * time.Second, Pace{}},
		"as the settings":   {Pace{time.Second, 500 * time.Millisecond}, time.Second, 2 * time.Second, 30 * time.Second, Pace{}},
		"faster":            {Pace{500 * time.Millisecond, 200 * time.Millisecond}, time.Second, 2 * time.Second, 30 * time.Second, Pace{}},
		"slower":            {Pace{time.Minute, 2 * time.Second}, time.Minute, 5 * time.Second, 33 * time.Second, Pace{time.Minute, 2 * time.Second}},
		"slower stamps":     {Pace{time.Second, 10 * time.Second}, time.Second, 21 * time.Second, 49 * time.Second, Pace{Stamp: 10 * time.Second}},
		"slower pings only": {Pace{5 * time.Second, 0}, 5 * time.Second, 2 * time.Second, 30 * time.Second, Pace{Ping: 5 * time.Second}},
	} {
		got := p.Paced(c.told)
		if got.PingInterval != c.ping || got.CheckWindow != c.window || got.CheckTimeout != c.timeout || got.Told != c.kept {
			t.Errorf("%s: pings every %s, window %s, timeout %s, kept %v", name, got.PingInterval, got.CheckWindow, got.CheckTimeout, got.Told)
		}
		if again := got.Paced(c.told); again.CheckTimeout != got.CheckTimeout {
			t.Errorf("%s: applied twice the timeout is %s", name, again.CheckTimeout)
		}
	}
}

// A window must suit two of those who look, or the only one.
func TestReadBy(t *testing.T) {
	p := testPolicy("fast")
	for _, c := range []struct {
		stamps []time.Duration
		window time.Duration
	}{
		{nil, 2 * time.Second},
		{[]time.Duration{500 * time.Millisecond}, 2 * time.Second},
		{[]time.Duration{2 * time.Second}, 5 * time.Second},
		{[]time.Duration{time.Minute, 2 * time.Second, 500 * time.Millisecond}, 5 * time.Second},
		{[]time.Duration{time.Minute, 2 * time.Second}, 121 * time.Second},
	} {
		got := p.ReadBy(c.stamps)
		if got.CheckWindow != c.window || got.CheckTimeout-got.CheckWindow != p.CheckTimeout-p.CheckWindow {
			t.Errorf("neighbours that stamp every %v: window %s, timeout %s, want a window of %s", c.stamps, got.CheckWindow, got.CheckTimeout, c.window)
		}
	}
}

// What the agent of a suspect goes by is in the incident: the next owner, who has told it
// nothing, goes by it, too.
func TestPaceIsOnRecord(t *testing.T) {
	p := testPolicy("").Paced(Pace{Stamp: 10 * time.Second})
	r := Record{V: Version, Host: "h1", State: Available, Partition: PartitionActive, Eligible: Pass, Boot: Boot{ID: "b1", Seen: epoch}}
	r, _ = Step(r, Event{Kind: EvHealth, At: epoch, Verdict: Fail, Reason: "no ping for 15s"}, p)
	if r.State != Suspect || r.Incident.Pace != p.Told {
		t.Fatalf("%s, its incident keeps %v, want %v", r.State, r.Incident.Pace, p.Told)
	}
	faster := testPolicy("").Paced(Pace{Stamp: 20 * time.Second})
	if r, _ = Step(r, Event{Kind: EvPolicy, At: epoch.Add(time.Second)}, faster); r.Incident.Pace != faster.Told {
		t.Errorf("after another change its incident keeps %v, want %v", r.Incident.Pace, faster.Told)
	}
	if r, _ = Step(r, Event{Kind: EvPolicy, At: epoch.Add(2 * time.Second)}, testPolicy("")); r.Incident.Pace != (Pace{}) {
		t.Errorf("it was told, and its incident keeps %v", r.Incident.Pace)
	}
}
