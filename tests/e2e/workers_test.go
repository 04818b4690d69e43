// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestWorkersComeAndGo: workers are lost, paused, drained and restarted, each in turn,
// under a running incident. The incident ends as it should, and nobody else notices.
func TestWorkersComeAndGo(t *testing.T) {
	for how, disturb := range map[string]func(*testing.T, *fleet, string){
		"kill": func(t *testing.T, f *fleet, w string) {
			f.must(t, "dev", "kill-worker", w)
			f.awaitOwned(t)
			f.must(t, "dev", "start-worker", w)
		},
		"kill with parent": func(t *testing.T, f *fleet, w string) {
			f.must(t, "dev", "kill-worker", w, "--parent")
			f.awaitOwned(t)
			f.must(t, "dev", "start-worker", w)
		},
		"pause": func(t *testing.T, f *fleet, w string) {
			f.must(t, "dev", "pause-worker", w, "--for", "5m")
			until(t, time.Minute, func() string { // until its lease is over
				if f.slots(t)[w] > 0 {
					return w + " still owns slots"
				}
				return ""
			})
			f.awaitOwned(t)
			f.must(t, "dev", "start-worker", w) // wakes it
		},
		"drain": func(t *testing.T, f *fleet, w string) {
			f.must(t, "worker", "drain", w, "--yes", "--reason", "test", "--wait", "--timeout", "1m")
			for _, h := range f.hosts(t) {
				if h.Status.Owner == w {
					t.Errorf("%s is still owned by %s, which is drained", h.Spec.ID, w)
				}
			}
			f.must(t, "worker", "undrain", w, "--reason", "test")
		},
		"restart in place": func(t *testing.T, f *fleet, w string) {
			before := f.slots(t)
			f.must(t, "dev", "restart-worker", w)
			f.awaitReborn(t, w, before)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := start(t, "--preset", "fast", "--hosts", "6", "--workers", "3")
			f.awaitAllAvailable(t, time.Minute)
			f.must(t, "settings", "set", "worker.rebalance.rate", "0")
			victim := f.hosts(t)[0]
			boot := victim.Status.Boot
			f.breaks(t, victim.Spec.ID, "crash")
			awaitEvent("ha.suspect")(t, f, victim.Spec.ID)
			for _, w := range []string{"w1", "w2", "w3"} {
				disturb(t, f, w)
				f.awaitOwned(t)
			}
			f.await(t, recoveryLimit, victim.Spec.ID, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != boot })
			f.awaitAllAvailable(t, time.Minute)
			f.checkOthers(t, victim.Spec.ID)
			got := verbs(f.truth(t, victim.Spec.ID))
			if i := slices.Index(got, "on"); i < 1 || slices.Contains(got[i:], "off") || slices.Contains(got[:i], "on") {
				t.Errorf("power commands %v, want off at least once, then on", got)
			}
		})
	}
}

// checkOthers: no other host had a part in the victim's incident.
func (f *fleet) checkOthers(t *testing.T, victim string) {
	t.Helper()
	for _, h := range f.hosts(t) {
		if h.Spec.ID == victim {
			continue
		}
		for _, e := range f.events(t, h.Spec.ID) {
			// A worker that stands still may carry its link: that its owner knows nothing of it
			// meanwhile is said, and no suspicion.
			unknown := strings.HasPrefix(e.Type, "ha.hold-") && strings.Contains(e.Message, "carrier")
			if strings.HasPrefix(e.Type, "ha.") && !unknown && !slices.Contains([]string{"ha.initializing", "ha.available"}, e.Type) {
				t.Errorf("%s had a part in it: %s %s", h.Spec.ID, e.Type, e.Message)
			}
		}
	}
}

func (f *fleet) hosts(t *testing.T) []v1.Host {
	t.Helper()
	var all []v1.Host
	until(t, 20*time.Second, func() string {
		var err error
		if all, err = f.client.Hosts(context.Background(), v1.HostQuery{Sort: "id"}); err != nil {
			return err.Error()
		}
		return ""
	})
	return all
}

func (f *fleet) workers(t *testing.T) []v1.Worker {
	t.Helper()
	var all []v1.Worker
	until(t, 20*time.Second, func() string {
		var err error
		if all, err = f.client.Workers(context.Background()); err != nil {
			return err.Error()
		}
		return ""
	})
	return all
}

// slots counts the slots of each worker.
func (f *fleet) slots(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{}
	for _, w := range f.workers(t) {
		n[w.ID] = w.Slots
	}
	return n
}

// awaitOwned waits until every slot has a ready or draining owner.
func (f *fleet) awaitOwned(t *testing.T) {
	t.Helper()
	until(t, time.Minute, func() string {
		n := 0
		for _, w := range f.workers(t) {
			if w.State != "restarting" {
				n += w.Slots
			}
		}
		if n != 1024 {
			return fmt.Sprintf("%d slots of 1024 have a live owner", n)
		}
		return ""
	})
}

// awaitReborn waits for a worker's new process, which must own just what the old one did,
// all of it taken back and nothing from anybody else.
func (f *fleet) awaitReborn(t *testing.T, id string, before map[string]int) {
	t.Helper()
	until(t, time.Minute, func() string {
		for _, w := range f.workers(t) {
			if w.ID != id || w.State != "ready" {
				continue
			}
			switch back, other := taken(t, w); {
			case back == before[id] && other == 0:
				return ""
			default:
				return fmt.Sprintf("%s took back %d slots of %d, and %d others", id, back, before[id], other)
			}
		}
		return id + " is not there"
	})
	if now := f.slots(t); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("slots moved in a restart: %v became %v", before, now)
	}
}

// taken reads a worker's counters of slots that it took.
func taken(t *testing.T, w v1.Worker) (back, other int) {
	t.Helper()
	resp, err := http.Get("http://" + w.API + "/metrics")
	if err != nil {
		return 0, 0 // between two processes
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		var n int
		switch {
		case !strings.HasPrefix(line, "holdfast_slots_taken_total{"):
		case strings.Contains(line, `how="back"`):
			_, _ = fmt.Sscanf(line[strings.IndexByte(line, ' '):], "%d", &back)
		default:
			_, _ = fmt.Sscanf(line[strings.IndexByte(line, ' '):], "%d", &n)
			other += n
		}
	}
	return back, other
}
