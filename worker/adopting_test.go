// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
)

// TestUrgentHostsDoNotWait: when more hosts are taken over than may begin at once, those about
// which something is under way are not behind the others.
func TestUrgentHostsDoNotWait(t *testing.T) {
	t.Parallel()
	v := newView(slog.New(slog.DiscardHandler), func(string, string) {})
	feed(t, v, map[string]any{
		leases.HostHAKey("calm"):    ha.Record{Host: "calm", State: ha.Available},
		leases.HostHAKey("over"):    ha.Record{Host: "over", State: ha.Fenced, Incident: &ha.Incident{ID: "i", Ended: time.Now()}},
		leases.HostHAKey("suspect"): ha.Record{Host: "suspect", State: ha.Suspect, Incident: &ha.Incident{ID: "i"}},
		leases.HostHAKey("off"):     ha.Record{Host: "off", State: ha.Available, Off: &ha.OffFound{}},
		leases.HostHAKey("back"):    ha.Record{Host: "back", State: ha.Fenced, Gate: &ha.Gate{Generation: "g"}},
	})
	a := newAdopting()
	a.pace.SetLimit(0) // the others' turn never comes
	for a.pace.Allow() {
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for host, urgent := range map[string]bool{"calm": false, "over": false, "suspect": true, "off": true, "back": true, "unknown": false} {
		ctx := t.Context()
		if !urgent {
			ctx = ended
		}
		if _, entered := a.enter(ctx, v.underWay(host)); entered != urgent {
			t.Errorf("%s entered: %t", host, entered)
		}
	}
}

// TestWhoGivesUpKeepsNoTurn: a worker that loses its lease while it takes thousands of hosts over
// begins anew at once, not after all those turns that nobody took.
func TestWhoGivesUpKeepsNoTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAdopting()
		lease, lose := context.WithCancel(t.Context())
		for range 5 * adoptRate * runtime.GOMAXPROCS(0) {
			go func() {
				if leave, ok := a.enter(lease, false); ok {
					<-lease.Done()
					leave()
				}
			}()
		}
		synctest.Wait()
		lose()
		synctest.Wait()
		began := time.Now()
		leave, ok := a.enter(t.Context(), false)
		if !ok {
			t.Fatal("no turn")
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the next one waited for %v", took)
		}
		leave()
	})
}
