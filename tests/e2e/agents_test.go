// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// agents are all, in order of their hosts.
func (f *fleet) agents(t *testing.T) []v1.Agent {
	t.Helper()
	var all []v1.Agent
	until(t, 20*time.Second, func() string {
		var err error
		if all, err = f.client.Agents(context.Background(), ""); err != nil {
			return err.Error()
		}
		return ""
	})
	return all
}

// awaitLinks waits until the links are as wanted.
func (f *fleet) awaitLinks(t *testing.T, what string, wrong func(all []v1.Agent) string) {
	t.Helper()
	until(t, time.Minute, func() string {
		if why := wrong(f.agents(t)); why != "" {
			return what + ": " + why
		}
		return ""
	})
}

// inPlace: every link is at the first worker of its list.
func inPlace(all []v1.Agent) string {
	for _, a := range all {
		if a.Moves != "" {
			return fmt.Sprintf("%s is linked to %s and is to move to %s", a.Host, a.Carrier, a.Moves)
		}
	}
	return ""
}

// kept is what an agent has in its properties file, by key; the workers of its list by id.
func (f *fleet) kept(t *testing.T, host string) (hosts, check string) {
	t.Helper()
	name := filepath.Join(f.dir, "hosts", host, "agent", "agent.properties")
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error(), ""
	}
	for l := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(l), "=")
		switch key {
		case "hosts":
			hosts = value
		case "host.lb.check.interval":
			check = value
		}
	}
	for _, w := range f.workers(t) {
		hosts = strings.ReplaceAll(hosts, w.Agents, w.ID)
	}
	return hosts, check
}

// awaitKept waits until every agent has persisted the list that the workers say it has.
func (f *fleet) awaitKept(t *testing.T, algorithm string) {
	t.Helper()
	f.awaitLinks(t, "properties", func(all []v1.Agent) string {
		for _, a := range all {
			want := strings.Join(a.Workers, ",") + "@" + algorithm
			if hosts, _ := f.kept(t, a.Host); hosts != want || a.Algorithm != algorithm {
				return fmt.Sprintf("%s keeps %q, want %q", a.Host, hosts, want)
			}
		}
		return ""
	})
}

// undisturbed: no host had any trouble that was not made by the test, and none was ever asked
// about.
func (f *fleet) undisturbed(t *testing.T) {
	t.Helper()
	for _, h := range f.hosts(t) {
		f.mu.Lock()
		broken := f.victims[h.Spec.ID]
		f.mu.Unlock()
		if broken {
			continue
		}
		for _, e := range f.events(t, h.Spec.ID) {
			if strings.HasPrefix(e.Type, "ha.") && !slices.Contains([]string{"ha.initializing", "ha.available"}, e.Type) {
				t.Errorf("%s: %s %s", h.Spec.ID, e.Type, e.Message)
			}
		}
		if h.Status.State != "AVAILABLE" {
			t.Errorf("%s is %s (%s)", h.Spec.ID, h.Status.State, h.Status.Reason)
		}
	}
}

// watchPings looks at every host until stop, which says which of them was not heard for
// longer than a ping interval and what a busy machine may cost.
func (f *fleet) watchPings(t *testing.T, interval time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	worst := map[string]time.Duration{}
	go func() {
		defer close(done)
		tick := time.NewTicker(interval / 5)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for id := range worst {
				h, err := f.client.Host(ctx, id)
				if err == nil && !h.Status.LastPing.IsZero() {
					worst[id] = max(worst[id], time.Since(h.Status.LastPing))
				}
			}
		}
	}()
	for _, a := range f.agents(t) {
		worst[a.Host] = 0
	}
	return func() {
		cancel()
		<-done
		for id, d := range worst {
			if d > 2*interval { // one more ping was due and did not come
				t.Errorf("%s was not heard for %v, pings are due every %v", id, d, interval)
			}
		}
	}
}

// Each case in which lists are propagated: a list or an algorithm that changes, a membership
// that changes, an agent that comes back, a host that is added (agents.md "List and
// algorithms"). All algorithms are switched live while hosts copy volumes, and everything
// works where the worker that holds a link does not own the host.
func TestListsArePropagated(t *testing.T) {
	t.Parallel()
	f := start(t, "--preset", "fast", "--hosts", "6", "--workers", "3")
	f.awaitAllAvailable(t, time.Minute)
	f.must(t, "settings", "set", "agent.lb.check.interval", checkInterval.String())
	f.must(t, "settings", "set", "agent.lb.membership.grace", "1s")
	f.must(t, "settings", "set", "worker.rebalance.rate", "0")
	f.awaitKept(t, "ring")
	f.awaitLinks(t, "ring", atOwner)
	if _, check := f.kept(t, "h001"); check != "2" {
		t.Errorf("host.lb.check.interval=%s, want 2", check)
	}
	f.switchedUnderLoad(t)
	f.carriedByAnother(t)

	f.must(t, "settings", "set", "agent.workers", "w3,w2")
	f.must(t, "settings", "set", "agent.lb.algorithm", "static")
	f.awaitLinks(t, "configured workers", func(all []v1.Agent) string {
		for _, a := range all {
			if strings.Join(a.Workers, ",") != "w3,w2" || a.Carrier != "w3" {
				return fmt.Sprintf("%s has the list %v and is linked to %s", a.Host, a.Workers, a.Carrier)
			}
		}
		return ""
	})
	f.awaitKept(t, "static")
	f.must(t, "settings", "unset", "agent.workers")

	// Membership: a worker that is gone longer than the grace is on no list, and comes back.
	f.must(t, "settings", "set", "agent.lb.algorithm", "roundrobin")
	f.awaitLinks(t, "roundrobin", even)
	f.must(t, "dev", "kill-worker", "w3")
	f.awaitLinks(t, "without w3", func(all []v1.Agent) string {
		for _, a := range all {
			if slices.Contains(a.Workers, "w3") || a.Moves != "" {
				return fmt.Sprintf("%s has the list %v and is linked to %s", a.Host, a.Workers, a.Carrier)
			}
		}
		return ""
	})
	f.awaitKept(t, "roundrobin")
	f.must(t, "dev", "start-worker", "w3")
	f.awaitLinks(t, "with w3 again", even)
	f.awaitKept(t, "roundrobin")
	f.awaitAllAvailable(t, time.Minute)
	f.undisturbed(t)
}

// kill −9 of a worker: every host is linked again within 2 ping intervals, and none is
// suspected, with every algorithm.
func TestKilledWorkerIsNoEvent(t *testing.T) {
	for _, algorithm := range []string{"ring", "roundrobin"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			f := start(t, "--preset", "fast", "--hosts", "9", "--workers", "3")
			f.awaitAllAvailable(t, time.Minute)
			f.must(t, "settings", "set", "agent.lb.check.interval", "2s")
			f.must(t, "settings", "set", "agent.lb.algorithm", algorithm)
			f.awaitKept(t, algorithm)
			f.awaitLinks(t, algorithm, inPlace)
			// The worker with most links, which are its agents' and those that it relays.
			n := map[string]int{}
			for _, a := range f.agents(t) {
				n[a.Carrier]++
			}
			victim := slices.MaxFunc([]string{"w1", "w2", "w3"}, func(a, b string) int { return cmp.Compare(n[a], n[b]) })
			killed := time.Now()
			f.must(t, "dev", "kill-worker", victim)
			// By the pings of a second in the preset: two intervals, and what a busy machine takes.
			until(t, 20*time.Second, func() string {
				for _, h := range f.hosts(t) {
					s := f.host(t, h.Spec.ID).Status
					if s.Linked != v1.LinkedYes || !s.LastPing.After(killed) || s.Owner == victim {
						return fmt.Sprintf("%s is linked: %s, last ping %v after the kill, owner %s", h.Spec.ID, s.Linked, s.LastPing.Sub(killed), s.Owner)
					}
				}
				return ""
			})
			t.Logf("%s: all linked and heard again %v after the kill", algorithm, time.Since(killed).Round(10*time.Millisecond))
			holds(t, 6*time.Second, func() string {
				for _, h := range f.hosts(t) {
					if h.Status.State != "AVAILABLE" {
						return fmt.Sprintf("%s is %s (%s)", h.Spec.ID, h.Status.State, h.Status.Reason)
					}
				}
				return ""
			})
			f.undisturbed(t)
		})
	}
}

// A drain moves claims and links first; no ping is missed. Moves, too, miss none.
func TestDrainMissesNoPing(t *testing.T) {
	t.Parallel()
	f := start(t, "--preset", "fast", "--hosts", "6", "--workers", "3")
	f.awaitAllAvailable(t, time.Minute)
	f.must(t, "settings", "set", "worker.rebalance.rate", "0")
	f.must(t, "settings", "set", "agent.lb.algorithm", "roundrobin")
	f.awaitKept(t, "roundrobin")
	stop := f.watchPings(t, time.Second)
	f.must(t, "agent", "rebalance")
	f.awaitLinks(t, "rebalanced", inPlace)
	f.must(t, "worker", "drain", "w1", "--yes", "--reason", "test", "--wait", "--timeout", "1m")
	f.awaitLinks(t, "drained", func(all []v1.Agent) string {
		for _, a := range all {
			if a.Carrier == "w1" || a.Owner == "w1" || slices.Contains(a.Workers, "w1") {
				return fmt.Sprintf("%s: owner %s, linked to %s, list %v", a.Host, a.Owner, a.Carrier, a.Workers)
			}
		}
		return ""
	})
	f.must(t, "dev", "stop-worker", "w1")
	holds(t, 3*time.Second, func() string { return "" })
	stop()
	f.undisturbed(t)
}
