// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// healthyWorld is a healthy host, with instances, as it is after a minute.
func healthyWorld(b testing.TB) *world {
	w := newWorld(testPolicy("default"))
	w.quietLogs = true
	w.instances = nil
	for i := range 20 {
		w.instances = append(w.instances, fmt.Sprintf("i-%02d", i))
	}
	w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
	w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
	w.feed(Event{Kind: EvEligible, Verdict: Pass})
	w.advance(time.Minute)
	if w.rec.State != Available {
		b.Fatalf("%s: %s", w.rec.State, w.rec.Reason)
	}
	return w
}

// quiet are the events of a healthy host: nothing follows from them.
func quiet(w *world) map[string]Event {
	return map[string]Event{
		"ping":     {Kind: EvHealth, At: w.now, Verdict: Pass, Boot: w.boot(), Life: w.now, Instances: w.instances},
		"policy":   {Kind: EvPolicy, At: w.now},
		"eligible": {Kind: EvEligible, At: w.now, Verdict: Pass},
		"tick":     {Kind: EvTick, At: w.now},
		"seen":     {Kind: EvSeen, At: w.now, Boot: w.boot()},
	}
}

// TestQuietStepIsCheap: what ten thousand hosts do every few seconds allocates next to
// nothing, and changes nothing (issue: ≤ 2 allocations on the quiet path).
func TestQuietStepIsCheap(t *testing.T) {
	w := healthyWorld(t)
	for name, ev := range quiet(w) {
		var effects []Effect
		allocs := testing.AllocsPerRun(100, func() { _, effects = Step(w.rec, ev, w.p) })
		if allocs > 2 || len(effects) > 0 {
			t.Errorf("%s: %v allocations, effects %v", name, allocs, effects)
		}
	}
}

// BenchmarkStep is one event each: of a healthy host, of one that is suspected, and the
// answer of all guards (issue: ≤ 10 µs).
func BenchmarkStep(b *testing.B) {
	w := healthyWorld(b)
	run := func(name string, r Record, ev Event) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Step(r, ev, w.p)
			}
		})
	}
	for _, name := range []string{"ping", "policy", "tick"} {
		run("quiet/"+name, w.rec, quiet(w)[name])
	}
	if err := w.breakHow("crash"); err != nil {
		b.Fatal(err)
	}
	var before Record
	var armed, held Event
	w.check = func(r Record, ev Event, s *step) {
		if ev.Kind == EvPlace && before.Host == "" {
			before, armed = r, ev
		}
		if ev.Kind == EvHealth && ev.Verdict == Fail && r.State == Available {
			run("suspect", r, ev)
		}
	}
	w.advance(time.Minute)
	if before.Host == "" {
		b.Fatal("no place was taken")
	}
	run("guards/allow", before, armed)
	snap := *armed.Snapshot
	snap.Armed.Disarmed, snap.Self.WarmupRoundsLeft = []string{"zone/z"}, 2
	snap.Area.Levels[0].Unhealthy = 9
	held = armed
	held.Snapshot = &snap
	run("guards/hold", before, held)
	b.Run("guards/alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			guard.Evaluate(*armed.Snapshot)
		}
	})
}
