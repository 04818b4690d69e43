// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// fed is a view that was told of records; nil deletes.
func fed(t *testing.T, records map[string]any) *view {
	t.Helper()
	v := newView(slog.New(slog.DiscardHandler), func(string, string) {})
	feed(t, v, records)
	return v
}

func feed(t *testing.T, v *view, records map[string]any) {
	t.Helper()
	for key, val := range records {
		b, err := json.Marshal(val)
		if err != nil {
			t.Fatal(err)
		}
		v.apply(leases.Change{Key: key, Deleted: val == nil, KV: leases.KV{Key: key, Value: b, ModRevision: 1}})
	}
}

// TestRingInput: every live worker is a member; who is drained or on its way out has no
// weight, who restarts in place is frozen (leases.md §§2.3, 2.7).
func TestRingInput(t *testing.T) {
	v := fed(t, map[string]any{
		leases.WorkerKey("ready"):   v1.Worker{ID: "ready", Zone: "z1", Weight: 2, State: "ready"},
		leases.WorkerKey("leaving"): v1.Worker{ID: "leaving", Weight: 2, State: "draining"},
		leases.WorkerKey("new"):     v1.Worker{ID: "new", Weight: 2, State: "of a later version"},
		leases.WorkerKey("restart"): v1.Worker{ID: "restart", Weight: 2, State: "restarting"},
		leases.WorkerKey("drained"): v1.Worker{ID: "drained", Weight: 2, State: "ready"},
		leases.WorkerKey("both"):    v1.Worker{ID: "both", Weight: 2, State: "restarting"},
		leases.DrainKey("drained"):  v1.Drain{Worker: "drained"},
		leases.DrainKey("both"):     v1.Drain{Worker: "both"},
		leases.DrainKey("gone"):     v1.Drain{Worker: "gone"},
		leases.SlotKey(3):           slotValue{Worker: "ready"},
		leases.SlotKey(4):           slotValue{Worker: "gone"},
	})
	in := v.ringInput(8)
	want := []ring.Member{
		{ID: "both", Frozen: true}, {ID: "drained"}, {ID: "leaving"}, {ID: "new"},
		{ID: "ready", Zone: "z1", Weight: 2}, {ID: "restart", Weight: 2, Frozen: true},
	}
	if d := gocmp.Diff(want, in.Members); d != "" {
		t.Errorf("members (-want +got):\n%s", d)
	}
	if d := gocmp.Diff(map[int]string{3: "ready", 4: "gone"}, in.Owner); d != "" || in.Slots != 8 {
		t.Errorf("owners of %d (-want +got):\n%s", in.Slots, d)
	}
	feed(t, v, map[string]any{leases.DrainKey("drained"): nil})
	if m := v.ringInput(8).Members[1]; m.Weight != 2 {
		t.Errorf("undrained: %+v", m)
	}
}

// TestSlotZones: a slot is at home in a zone only while all its partitions are; hosts
// without a partition, and those that left, do not count.
func TestSlotZones(t *testing.T) {
	const slots = 4 // so that partitions share slots
	rapid.Check(t, func(rt *rapid.T) {
		v := newView(slog.New(slog.DiscardHandler), func(string, string) {})
		paths := map[string]string{} // by host
		for range rapid.IntRange(0, 12).Draw(rt, "changes") {
			host := "h" + strconv.Itoa(rapid.IntRange(0, 4).Draw(rt, "host"))
			path := rapid.SampledFrom([]string{"", "gone", "z1/p1/c1", "z1/p1/c2", "z2/p1/c1", "z2/p2", "z3"}).Draw(rt, "path")
			if path == "gone" {
				delete(paths, host)
				feed(t, v, map[string]any{leases.HostSpecKey(host): nil})
			} else {
				paths[host] = path
				feed(t, v, map[string]any{leases.HostSpecKey(host): v1.HostSpec{ID: host, Partition: path}})
			}
		}
		zones, hosts := map[int]map[string]bool{}, map[int]int{}
		for host, path := range paths {
			n := ring.SlotOf(cmp.Or(path, host), slots)
			hosts[n]++
			if path != "" {
				add(zones, n, settings.Prefixes(path)[0])
			}
		}
		in := v.ringInput(slots)
		for n := range slots {
			want := ""
			if len(zones[n]) == 1 {
				for z := range zones[n] {
					want = z
				}
			}
			if in.SlotZone[n] != want {
				rt.Fatalf("slot %d of %v is at home in %q", n, zones[n], in.SlotZone[n])
			}
		}
		if d := gocmp.Diff(hosts, in.Load); d != "" {
			rt.Fatalf("hosts by slot (-want +got):\n%s", d)
		}
	})
}

// TestShownWorkers: what an operator has drained is shown before what the worker says of
// itself, and a drain whose worker is not running is not forgotten.
func TestShownWorkers(t *testing.T) {
	joined, asked := time.Unix(1000, 0).UTC(), time.Unix(2000, 0).UTC()
	rec := func(id, state string) v1.Worker { return v1.Worker{ID: id, State: state, Since: joined} }
	drain := func(id string) v1.Drain { return v1.Drain{Worker: id, At: asked} }
	v := fed(t, map[string]any{
		leases.WorkerKey("w-1"): rec("w-1", "ready"), leases.WorkerKey("w-2"): rec("w-2", "ready"), leases.WorkerKey("w-3"): rec("w-3", "ready"),
		leases.WorkerKey("w-4"): rec("w-4", "restarting"), leases.WorkerKey("w-5"): rec("w-5", "draining"),
		leases.DrainKey("w-2"): drain("w-2"), leases.DrainKey("w-3"): drain("w-3"), leases.DrainKey("w-4"): drain("w-4"), leases.DrainKey("w-6"): drain("w-6"),
		leases.SlotKey(ring.SlotOf("z1/p1/c1", 64)): slotValue{Worker: "w-2"},
		leases.HostSpecKey("h1"):                    v1.HostSpec{ID: "h1", Partition: "z1/p1/c1"},
		leases.HostSpecKey("h2"):                    v1.HostSpec{ID: "h2", Partition: "z1/p1/c1"},
	})
	var got []string
	for _, w := range v.fleet(64) {
		got = append(got, fmt.Sprintf("%s %s since %d, drain %t, %d slots %d hosts", w.ID, w.State, w.Since.Unix(), w.Drain != nil, w.Slots, w.Hosts))
	}
	want := []string{
		"w-1 ready since 1000, drain false, 0 slots 0 hosts",
		"w-2 draining since 2000, drain true, 1 slots 2 hosts",
		"w-3 drained since 2000, drain true, 0 slots 0 hosts",
		"w-4 restarting since 1000, drain true, 0 slots 0 hosts",
		"w-5 draining since 1000, drain false, 0 slots 0 hosts",
		"w-6 absent since 2000, drain true, 0 slots 0 hosts",
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func settled(members ...ring.Member) ring.Input {
	in := ring.Input{Slots: 120, Members: members, Owner: map[int]string{}}
	for _, t := range ring.Plan(in) {
		in.Owner[t.Slot] = t.To
	}
	return in
}

// TestPlanFleet: what a plan says is what the ring would do, counted in slots and hosts.
func TestPlanFleet(t *testing.T) {
	in := settled(ring.Member{ID: "w-1", Weight: 1}, ring.Member{ID: "w-2", Weight: 1}, ring.Member{ID: "w-3", Weight: 2})
	hosts := map[int]int{}
	for n := range in.Slots {
		hosts[n] = 1 + n%2
	}
	const all = 180
	for name, c := range map[string]struct {
		without       []string
		add           []v1.Joiner
		moves         int
		slots         []int // after
		mean          float64
		warned, fails bool
	}{
		"as it is":            {slots: []int{30, 30, 60}, mean: all / 2},
		"one leaves":          {without: []string{"w-1"}, moves: 30, slots: []int{0, 40, 80}, mean: all * 2 / 3.},
		"one joins":           {add: []v1.Joiner{{ID: "w-4"}}, moves: 24, slots: []int{24, 24, 48, 24}, mean: all * 2 / 5.},
		"a heavy one joins":   {add: []v1.Joiner{{ID: "w-4", Weight: 4}}, moves: 60, slots: []int{15, 15, 30, 60}, mean: all / 2},
		"one for another":     {without: []string{"w-2"}, add: []v1.Joiner{{ID: "w-4"}}, moves: 30, slots: []int{30, 0, 60, 30}, mean: all / 2},
		"all leave":           {without: []string{"w-1", "w-2", "w-3"}, slots: []int{30, 30, 60}, warned: true},
		"a member joins":      {add: []v1.Joiner{{ID: "w-1"}}, fails: true},
		"a stranger leaves":   {without: []string{"w-9"}, fails: true},
		"twice the same join": {add: []v1.Joiner{{ID: "w-4"}, {ID: "w-4"}}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			changed, err := changeMembers(in, c.without, c.add)
			var p *v1.Problem
			if c.fails != errors.As(err, &p) {
				t.Fatalf("error %v", err)
			}
			if c.fails {
				return
			}
			got := planFleet(changed, hosts)
			var slots []int
			peak, sum := 0, 0
			for _, m := range got.Members {
				slots = append(slots, m.SlotsAfter)
				peak = max(peak, m.HostsAfter)
				sum += m.HostsAfter
			}
			if d := gocmp.Diff(c.slots, slots); d != "" {
				t.Errorf("slots after (-want +got):\n%s", d)
			}
			moved := 0
			for _, m := range got.Targets {
				moved += m.Hosts
			}
			if got.Moves != c.moves || got.Least != c.moves || len(got.Targets) != c.moves || got.HostsMoved != moved {
				t.Errorf("%d moves with %d hosts in %d targets, least %d, want %d", got.Moves, got.HostsMoved, len(got.Targets), got.Least, c.moves)
			}
			if got.Peak != peak || sum != all || got.Mean != c.mean || got.Heaviest != 2 || c.warned != (len(got.Warnings) > 0) {
				t.Errorf("peak %d of %d, mean %v want %v, heaviest %d, warnings %q", got.Peak, sum, got.Mean, c.mean, got.Heaviest, got.Warnings)
			}
		})
	}
}

// watching is a worker that only mirrors: it answers operators and owns nothing.
func (r *rig) watching(t *testing.T, id string) *backend {
	t.Helper()
	w, err := New(Options{ID: id, Etcd: r.etcd.Endpoints(), ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.client, w.slotN = r.etcd.Client(t), 64
	w.mirror = w.client.NewMirror(mirrorPrefixes...)
	w.eventsMirror = w.client.NewMirror(leases.EventsPrefix, leases.EventsCutKey())
	for _, p := range mirrorPrefixes {
		w.mirror.Subscribe(p, w.view.apply)
	}
	background(t, w.mirror.Run)
	background(t, w.eventsMirror.Run)
	eventually(t, "synced", func() bool {
		select {
		case <-w.mirror.Synced():
			return true
		default:
			return false
		}
	})
	return (*backend)(w)
}

// register makes a worker live until the session ends.
func (r *rig) register(t *testing.T, id, boot string) *leases.Session {
	t.Helper()
	s, err := r.client.OpenSession(t.Context(), leases.SessionConfig{Worker: id, Boot: boot, TTL: time.Minute, Record: v1.Worker{ID: id, Boot: boot, Weight: 3, State: stateReady}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *backend) weight(id string) int {
	for _, m := range b.view.ringInput(b.slotN).Members {
		if m.ID == id {
			return m.Weight
		}
	}
	return -1
}

// TestDrainOutlivesTheWorker: a drain is a record of its own with who, when and why, told
// in the log; every worker's view obeys it, and a restart of the worker does not end it.
func TestDrainOutlivesTheWorker(t *testing.T) {
	r := newRig(t)
	b := r.watching(t, "w-2")
	r.register(t, "w-2", "boot-1")
	end := background(t, r.register(t, "w-1", "boot-1").Run)
	eventually(t, "both are members", func() bool { return b.weight("w-1") == 3 && b.weight("w-2") == 3 })

	x, err := b.DrainWorker(t.Context(), "ann@10.0.0.9", "w-1", true, v1.DrainRequest{Reason: "new kernel"})
	if err != nil || x.State != stateDrained || x.Answers != v1.AnswersUnknown || x.Links != nil {
		t.Fatalf("%+v, %v", x, err)
	}
	d, rev := read[v1.Drain](t, r, leases.DrainKey("w-1"))
	if want := (v1.Drain{V: 1, Worker: "w-1", By: "ann@10.0.0.9", At: d.At, Reason: "new kernel"}); d != want || d.At.IsZero() {
		t.Errorf("on record: %+v", d)
	}
	kvs, _, err := r.client.List(t.Context(), leases.EventsPrefix)
	if err != nil || len(kvs) != 1 || kvs[0].ModRevision != rev {
		t.Errorf("%d events, %v", len(kvs), err)
	}
	eventually(t, "no weight", func() bool { return b.weight("w-1") == 0 && b.weight("w-2") == 3 })
	if _, err := b.DrainWorker(t.Context(), "bob", "w-1", true, v1.DrainRequest{Reason: "again"}); err != nil {
		t.Error(err)
	}
	if _, again := read[v1.Drain](t, r, leases.DrainKey("w-1")); again != rev {
		t.Error("draining what is drained wrote")
	}

	end()
	eventually(t, "shown as absent", func() bool { x, err := b.Worker(t.Context(), "w-1"); return err == nil && x.State == stateAbsent })
	r.register(t, "w-1", "boot-2")
	eventually(t, "back, without weight", func() bool { return b.weight("w-1") == 0 })
	if p, err := b.PlanDrain(t.Context(), "w-1", false, v1.DrainRequest{}); err != nil || p.Orphans != 64 || p.Add[0].Weight != 3 {
		t.Errorf("plan of the undrain: %+v, %v", p, err)
	}
	if x, err = b.DrainWorker(t.Context(), "ann", "w-1", false, v1.DrainRequest{}); err != nil || x.State != stateReady || x.Drain != nil {
		t.Errorf("%+v, %v", x, err)
	}
	eventually(t, "weight again", func() bool { return b.weight("w-1") == 3 })
}

// TestLastReadyWorkerIsNotDrained: neither alone, nor by two operators who each count on
// the worker that the other drains.
func TestLastReadyWorkerIsNotDrained(t *testing.T) {
	r := newRig(t)
	b1, b2 := r.watching(t, "w-1"), r.watching(t, "w-2")
	r.register(t, "w-1", "boot-1")
	r.register(t, "w-2", "boot-1")
	for _, b := range []*backend{b1, b2} {
		eventually(t, "both are members", func() bool { return b.weight("w-1") == 3 && b.weight("w-2") == 3 })
	}
	errs := make(chan error, 2)
	for b, id := range map[*backend]string{b1: "w-1", b2: "w-2"} {
		go func() {
			_, err := b.DrainWorker(t.Context(), "ann", id, true, v1.DrainRequest{})
			errs <- err
		}()
	}
	failed := 0
	for range 2 {
		var p *v1.Problem
		if err := <-errs; errors.As(err, &p) && (p.Code == v1.CodeConflict || p.Code == v1.CodeRefused) {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 1 {
		t.Fatalf("%d of two drains failed, want 1", failed)
	}
	left := "w-1"
	if _, rev := read[v1.Drain](t, r, leases.DrainKey("w-1")); rev > 0 {
		left = "w-2"
	}
	eventually(t, "known to both", func() bool { return b1.weight("w-1")+b1.weight("w-2") == 3 })
	var p *v1.Problem
	if _, err := b1.PlanDrain(t.Context(), left, true, v1.DrainRequest{}); !errors.As(err, &p) || p.Code != v1.CodeRefused || p.Hint == "" {
		t.Errorf("plan for the last: %v", err)
	}
	if _, err := b1.DrainWorker(t.Context(), "ann", left, true, v1.DrainRequest{Force: true}); err != nil {
		t.Errorf("forced: %v", err)
	}
	if _, err := b1.DrainWorker(t.Context(), "ann", "w-9", true, v1.DrainRequest{}); !errors.As(err, &p) || p.Code != v1.CodeNotFound {
		t.Errorf("a stranger: %v", err)
	}
}

// TestStormsEndByThisClock: how long ago a storm ended is counted by the worker that waits
// for the cooldown; the clock of the one that wrote it may be an hour fast.
func TestStormsEndByThisClock(t *testing.T) {
	const area = "rack/z1/7"
	write := func(v *view, rev int64, r ha.AreaRecord) {
		t.Helper()
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		v.apply(leases.Change{Key: leases.AreaKey(area), KV: leases.KV{Key: leases.AreaKey(area), Value: text, ModRevision: rev}})
	}
	ended := func(v *view) time.Duration {
		t.Helper()
		a, ok := v.storm(area)
		if !ok || a.Open {
			t.Fatalf("%+v, on record %v", a, ok)
		}
		return time.Since(a.Ended)
	}
	over := ha.AreaRecord{Area: area, Ended: time.Now().Add(time.Hour)}
	saw := newView(slog.New(slog.DiscardHandler), func(string, string) {})
	write(saw, 1, ha.AreaRecord{Area: area, Open: true})
	write(saw, 2, over)
	found := newView(slog.New(slog.DiscardHandler), func(string, string) {})
	write(found, 2, over)
	for name, v := range map[string]*view{"seen to end": saw, "found ended": found} {
		if ago := ended(v); ago < 0 || ago > 10*time.Minute {
			t.Errorf("%s: %s ago, want just now", name, ago)
		}
		first, _ := v.storm(area)
		over.Why = "told better"
		write(v, 3, over)
		if again, _ := v.storm(area); !again.Ended.Equal(first.Ended) {
			t.Errorf("%s: the same end is at %s and then at %s", name, first.Ended, again.Ended)
		}
	}
}
