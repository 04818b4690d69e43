// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	recoveryLimit = 3 * time.Minute // with a take-over in the middle
	pauseTime     = 8 * time.Second // longer than the lease (3 s) and its margin
)

// step is a moment of a recovery.
type step struct {
	name string
	wait func(t *testing.T, f *fleet, host string)
}

// steps of a recovery, in their order.
var steps = []step{
	{"suspected", awaitEvent("ha.suspect")},
	{"checking", awaitEvent("ha.checking")},
	{"armed", awaitEvent("ha.recovering")},
	{"off sent", awaitVerb("off")},
	{"proven off", awaitEvent("ha.safe-to-restart")},
	{"on sent", awaitVerb("on")},
	{"initializing", awaitEvent("ha.initializing")},
}

func awaitEvent(typ string) func(*testing.T, *fleet, string) {
	return func(t *testing.T, f *fleet, host string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), recoveryLimit)
		defer cancel()
		began := f.broke.Add(-time.Millisecond)
		err := f.client.WatchEvents(ctx, v1.EventQuery{Host: host, Since: began}, func(e v1.Event) error {
			if e.Type == typ {
				cancel()
			}
			return nil
		})
		if ctx.Err() != context.Canceled {
			t.Fatalf("no event %s: %v", typ, err)
		}
	}
}

func awaitVerb(verb string) func(*testing.T, *fleet, string) {
	return func(t *testing.T, f *fleet, host string) {
		t.Helper()
		until(t, recoveryLimit, func() string {
			if slices.Contains(verbs(f.truth(t, host)), verb) {
				return ""
			}
			return "no " + verb + " was sent"
		})
	}
}

// TestOwnerKilled: "SIGKILL of the owning worker at each step of a recovery: the host
// still ends AVAILABLE; the truth log shows no opposite verb after the new owner's".
func TestOwnerKilled(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			interrupt(t, s, func(f *fleet, owner string) { f.must(t, "dev", "kill-worker", owner) })
		})
	}
}

// TestOwnerPaused: "SIGSTOP for longer than its lease, at each step of a recovery: …; the
// paused worker sends nothing after waking".
func TestOwnerPaused(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var paused string
			var wakes time.Time
			f, host := interrupt(t, s, func(f *fleet, owner string) {
				paused, wakes = owner, time.Now().Add(pauseTime)
				f.must(t, "dev", "pause-worker", owner, "--for", pauseTime.String())
			})
			until(t, recoveryLimit, func() string { // what it may do wrong, it does when it wakes
				if time.Now().After(wakes.Add(3 * time.Second)) {
					return ""
				}
				return "it sleeps"
			})
			for _, e := range f.truth(t, host) {
				if e.User == paused && e.At.After(wakes.Add(-time.Second)) {
					t.Errorf("paused worker %s sent %s after it woke: %+v", paused, e.Verb, e)
				}
			}
		})
	}
}

// interrupt crashes a host, does something to its owner at a step of the recovery, and
// checks how it ends.
func interrupt(t *testing.T, s step, disturb func(f *fleet, owner string)) (*fleet, string) {
	t.Helper()
	f := start(t, "--preset", "fast", "--hosts", "3", "--workers", "2")
	host := f.awaitAllAvailable(t, time.Minute)[0]
	// The one that was disturbed shall not be given anything again: what it sends after that
	// can only be stray.
	f.must(t, "settings", "set", "worker.rebalance.quiet", "10m")
	before := f.host(t, host).Status
	f.breaks(t, host, "crash")
	s.wait(t, f, host)
	disturb(f, before.Owner)
	f.await(t, recoveryLimit, host, "AVAILABLE with a new boot", func(h v1.HostStatus) bool {
		return h.State == "AVAILABLE" && h.Boot != before.Boot
	})
	if now := f.owner(t, host); now == before.Owner {
		t.Errorf("%s is still owned by %s", host, now)
	}

	told := f.truth(t, host)
	taken := slices.IndexFunc(told, func(e entry) bool { return e.User != before.Owner })
	for i, e := range told {
		switch e.Verb {
		case "off", "on":
		default:
			t.Errorf("automation sent %s: %+v", e.Verb, e)
		}
		if taken >= 0 && i > taken && e.User == before.Owner {
			t.Errorf("old owner %s sent %s after the new owner's %s: %+v", before.Owner, e.Verb, told[taken].Verb, told)
		}
	}
	if got := verbs(told); len(got) == 0 || got[len(got)-1] != "on" || !slices.Contains(got, "off") {
		t.Errorf("power commands %v, want off at least once, and on at the end", got)
	}
	if len(ofType(f.events(t, host), "ha.safe-to-restart")) == 0 {
		t.Error("its instances were never released")
	}
	return f, host
}
