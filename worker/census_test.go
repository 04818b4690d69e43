// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// neighbourhood is a worker that sees n hosts of one rack, all healthy and heard at a
// moment, of which h0 fell silent.
func neighbourhood(t *testing.T, n int, heard time.Time) *Worker {
	t.Helper()
	w, err := New(Options{ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	records := map[string]any{}
	for i := range n {
		id := fmt.Sprintf("h%d", i)
		rec := ha.Record{Host: id, State: ha.Available, Health: ha.Pass}
		if i == 0 {
			rec = ha.Record{Host: id, State: ha.Suspect, Health: ha.Fail, Incident: &ha.Incident{ID: "i", Opened: heard, Fell: heard}}
		}
		records[leases.HostSpecKey(id)] = v1.HostSpec{V: 1, ID: id, Partition: cluster, Labels: map[string]string{"rack": "7"}}
		records[leases.HostHAKey(id)] = rec
		w.shown.put(id, &published{lastPing: heard})
	}
	feed(t, w.view, records)
	return w
}

// TestRoundWaitsForSiblings: before the first host of a rack is acted on, its siblings are
// heard, or the round is over: hosts that fall together fall one by one (pitfalls D.2).
func TestRoundWaitsForSiblings(t *testing.T) {
	t.Parallel()
	since := time.Now().Add(-100 * time.Millisecond)
	const round = 2 * time.Second
	took := func(w *Worker) time.Duration {
		began := time.Now()
		w.round(t.Context(), "h0", since, nil, round, time.Second)
		return time.Since(began)
	}
	w := neighbourhood(t, 5, since.Add(time.Millisecond)) // all heard since
	if d := took(w); d > round/2 {
		t.Errorf("all siblings were heard, and it took %s", d)
	}
	w = neighbourhood(t, 2, since) // a storm needs three
	if d := took(w); d > round/2 {
		t.Errorf("one sibling makes no storm, and it took %s", d)
	}
	w = neighbourhood(t, 5, since)
	if !w.view.census.survey(guard.Question{At: time.Now(), Host: "h0", Since: since, Round: round, Heard: w.heard("h0", nil)}).Undecided() {
		t.Fatal("nobody was heard since, and it is decided")
	}
	if asked := w.silent("h0", since); len(asked) != 4 || slices.Contains(asked, "h0") {
		t.Errorf("asked %v", asked)
	}
	var pings sync.WaitGroup
	pings.Go(func() {
		for i := range 3 {
			w.shown.put(fmt.Sprintf("h%d", i+1), &published{lastPing: time.Now()})
		}
	})
	defer pings.Wait()
	if d := took(w); d > round {
		t.Errorf("three of four were heard, and it took %s", d)
	}
	w = neighbourhood(t, 5, since)
	if took(w); time.Since(since) < round {
		t.Error("nobody was heard, and the round was not waited for")
	}
}

// TestSiblingsOfOthers: hosts that another worker looks after show on record when the
// round is over, not before.
func TestSiblingsOfOthers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := neighbourhood(t, 5, now)
	w.shown.all.Clear()
	q := guard.Question{At: now.Add(time.Second), Host: "h0", Since: now, Round: 3 * time.Second, MaxAge: time.Second, Heard: w.heard("h0", nil)}
	if f := w.view.census.survey(q); !f.Undecided() || !f.Known {
		t.Errorf("within the round: %+v", f)
	}
	q.At = now.Add(3 * time.Second)
	if f := w.view.census.survey(q); f.Undecided() {
		t.Errorf("after the round: %+v", f)
	}
	feed(t, w.view, map[string]any{leases.SettingKey("global", "guard.cause.labels"): v1.SettingRecord{V: 1, Value: "chassis"}})
	if f := w.view.census.survey(q); len(f.Causes) != 0 || len(f.Levels) != 3 {
		t.Errorf("racks are no failure domains any more: %+v", f)
	}
}

// TestCountedAtOnce: while a first copy is read nobody is counted and guards know nothing;
// then all are, as they are by then.
func TestCountedAtOnce(t *testing.T) {
	t.Parallel()
	heard := time.Now()
	v := newView(slog.New(slog.DiscardHandler), func(string, string) {})
	v.hold()
	spec := func(partition string) v1.HostSpec { return v1.HostSpec{V: 1, ID: "h0", Partition: partition} }
	feed(t, v, map[string]any{leases.HostSpecKey("h0"): spec(cluster), leases.HostHAKey("h0"): ha.Record{Host: "h0", State: ha.Available, Health: ha.Pass}})
	q := guard.Question{At: heard, Host: "h0"}
	if v.census.survey(q).Known {
		t.Error("something is known of a host that is not counted yet")
	}
	feed(t, v, map[string]any{leases.HostSpecKey("h0"): spec("z9/p9/c9")})
	v.countAll()
	if f := v.census.survey(q); !f.Known || len(v.census.members("cluster/"+cluster)) != 0 || len(v.census.members("cluster/z9/p9/c9")) != 1 {
		t.Errorf("counted as %+v", f)
	}
	feed(t, v, map[string]any{leases.HostSpecKey("h0"): nil})
	if v.census.survey(q).Known {
		t.Error("who is gone after all were counted is still known")
	}
}
