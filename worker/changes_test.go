// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// The record of what was told gives back the owners that it was made of, whoever reads it.
func TestToldKeepsOwners(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		owners := rapid.SliceOfN(rapid.SampledFrom([]string{"", "w1", "w2", "w3"}), 1, 100).Draw(t, "owners")
		got, err := told{Slots: slotsOf(owners)}.owners(len(owners))
		if err != nil || !slices.Equal(got, owners) {
			t.Fatalf("%v, %v\nwant %v", got, err, owners)
		}
	})
	if _, err := (told{Slots: map[string]string{"w1": "?"}}).owners(8); err == nil || !strings.Contains(err.Error(), "w1") {
		t.Errorf("a record that cannot be read: %v", err)
	}
}

// What nobody owned was not handed off, and what nobody owns now is not yet.
func TestSlotMoves(t *testing.T) {
	got := slotMoves([]string{"w1", "w1", "w2", "", "w1"}, []string{"w1", "w2", "w3", "w1", ""})
	if d := cmp.Diff(map[[2]string][]int{{"w1", "w2"}: {1}, {"w2", "w3"}: {2}}, got); d != "" {
		t.Error(d)
	}
}

func TestMemberChanges(t *testing.T) {
	got := memberChanges(map[string]string{"a": "1", "b": "1", "c": "1"}, map[string]string{"a": "1", "b": "2", "d": "1"})
	if n := len(memberChanges(nil, nil)); n > 0 {
		t.Errorf("%d changes of nothing", n)
	}
	if want := []memberChange{{"b", "1", "2"}, {"c", "1", ""}, {"d", "", "1"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Each worker that comes or goes is one event, and the slots that pass to others with it are
// one, whichever worker owned slot 0 meanwhile (ha.md §9).
func TestWorkersComeAndGoAsEvents(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.put(t, leases.SettingKey("global", "worker.rebalance.quiet"), v1.SettingRecord{V: 1, Value: "0s"})
	r.put(t, leases.SettingKey("global", "worker.rebalance.rate"), v1.SettingRecord{V: 1, Value: "0"})
	are := func(want ...string) func() bool {
		return func() bool {
			var got []string
			for _, e := range r.events(t, 0) {
				if kind, text, _ := strings.Cut(e, "  "); strings.HasPrefix(kind, "worker.") {
					got = append(got, text)
				} else if strings.HasPrefix(kind, "slots.") {
					got = append(got, kind)
				}
			}
			slices.Sort(got)
			if len(got) > len(want) {
				t.Fatalf("told %q, want no more than %q", got, want)
			}
			return slices.Equal(got, want)
		}
	}
	a, stopA := r.worker(t, "w1")
	eventually(t, "w1 is told of", are("worker w1 joined"))
	eventually(t, "it is on record with its slots", func() bool {
		x, _ := read[told](t, r, leases.ToldKey())
		return x.Slots["w1"] != ""
	})
	_, stopB := r.worker(t, "w2")
	eventually(t, "w2 and its slots are told of", are("slots.handed-off", "worker w1 joined", "worker w2 joined"))
	if n := a.view.readyWorkers(); n != 2 {
		t.Errorf("%d workers are ready, want 2", n)
	}
	stopA() // it owned slot 0, or not: who owns it next goes on
	eventually(t, "that w1 left, and who has its slots", are("slots.handed-off", "slots.handed-off", "worker w1 joined", "worker w1 left: it stopped in order", "worker w2 joined"))
	stopB()
}

// A fleet in which nobody may take slots says so.
func TestNoReadyWorkerIsAWarning(t *testing.T) {
	r := newRig(t)
	w, _ := r.worker(t, "w1")
	warned := func() bool {
		return slices.ContainsFunc(w.health.list(), func(x api.Warning) bool { return x.Code == "NoReadyWorker" })
	}
	eventually(t, "it is ready", func() bool { return w.view.readyWorkers() == 1 })
	r.put(t, leases.DrainKey("w1"), v1.Drain{V: 1, Worker: "w1"})
	eventually(t, "it is drained, and nobody is left", warned)
	if _, err := r.client.Commit(t.Context(), leases.Unowned(), leases.Delete(leases.DrainKey("w1"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is ready again", func() bool { return !warned() })
}
