// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// checkInterval is agent.lb.check.interval of the fleet whose algorithms are switched.
const checkInterval = 2 * time.Second

// copyRate is that of the copies that are to take a while.
const copyRate = 256 << 10

// copying is a copy of a volume, from its host's shared pool to its own.
type copying struct {
	host, id string
	steps    []string // of the journal, as they were seen last
}

// copies begins one on each of the hosts, for about as long, and waits until all are at work.
func (f *fleet) copies(t *testing.T, lasts time.Duration, hosts ...string) []*copying {
	t.Helper()
	size := int64(lasts.Seconds() * copyRate)
	var doc strings.Builder
	for _, host := range hosts {
		shared := f.host(t, host).Spec.Pools[0]
		var members []string
		for _, h := range f.hosts(t) {
			if slices.Contains(h.Spec.Pools, shared) {
				members = append(members, h.Spec.ID)
			}
		}
		name := "v-" + host + "-" + lasts.String()
		file := filepath.Join(f.dir, "pools", shared, name+".raw")
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&doc, "kind: pool\nid: %s\ntype: nfs\nrole: primary\nhosts: [%s]\n---\n", shared, strings.Join(members, ", "))
		fmt.Fprintf(&doc, "kind: pool\nid: local-%s\ntype: local\nrole: primary\nhosts: [%s]\n---\n", host, host)
		fmt.Fprintf(&doc, "kind: volume\nid: %s\npool: %s\npath: %s.raw\nformat: raw\nsize: %d\n---\n", name, shared, name, size)
	}
	file := filepath.Join(f.home, "copies.yaml")
	if err := os.WriteFile(file, []byte(doc.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f.must(t, "apply", "-f", file)
	var all []*copying
	for _, host := range hosts {
		name := "v-" + host + "-" + lasts.String()
		q := v1.CommandRequest{Kind: "copy", Volume: name, Pool: "local-" + host, As: "n" + name[1:], Host: host, Rate: copyRate, Key: name}
		var c v1.Command
		until(t, time.Minute, func() string { // the same key again is the same command
			var err error
			if c, err = f.client.NewCommand(context.Background(), q); err != nil {
				return err.Error()
			}
			return ""
		})
		all = append(all, &copying{host: host, id: c.ID})
	}
	for _, c := range all {
		until(t, time.Minute, func() string {
			if now := f.look(t, c); now.Progress == nil || now.Progress.Done == 0 {
				return fmt.Sprintf("the copy on %s is %s: %s", c.host, now.State, now.Reason)
			}
			return ""
		})
	}
	return all
}

// look is a copy as it is.
func (f *fleet) look(t *testing.T, c *copying) (now v1.Command) {
	t.Helper()
	until(t, 20*time.Second, func() string {
		var err error
		if now, err = f.client.Command(context.Background(), c.id); err != nil {
			return err.Error()
		}
		return ""
	})
	if len(now.Steps) > 0 {
		c.steps = c.steps[:0]
		for _, s := range now.Steps {
			c.steps = append(c.steps, s.State)
		}
	}
	return now
}

// atWork reports whether all copies still go on.
func (f *fleet) atWork(t *testing.T, all []*copying) bool {
	t.Helper()
	return !slices.ContainsFunc(all, func(c *copying) bool { return f.look(t, c).Outcome != nil })
}

// copied waits for the ends of copies: each was done in one attempt, and nothing was ever
// doubted.
func (f *fleet) copied(t *testing.T, all []*copying) {
	t.Helper()
	for _, c := range all {
		var end v1.Command
		until(t, 5*time.Minute, func() string {
			if end = f.look(t, c); !end.Ended {
				return fmt.Sprintf("the copy on %s is %s: %s", c.host, end.State, end.Reason)
			}
			return ""
		})
		if end.State != "COMPLETED" || !end.Outcome.Done || end.Outcome.By != "agent" {
			t.Errorf("the copy on %s is %s: %s, %+v", c.host, end.State, end.Reason, end.Outcome)
		}
		attempts := 0
		for _, s := range c.steps {
			switch s {
			case "STARTED":
				attempts++
			case "PROCESSING", "COMPLETED":
			default:
				t.Errorf("the journal of %s says %s", c.host, s)
			}
		}
		if attempts != 1 {
			t.Errorf("the journal of %s says %v, want one attempt", c.host, c.steps)
		}
		for _, e := range f.events(t, c.host) {
			if slices.Contains([]string{"command.interrupted", "command.reconciled", "command.needs-operator", "command.failed"}, e.Type) {
				t.Errorf("%s: %s %s", c.host, e.Type, e.Message)
			}
		}
	}
}

// atOwner: every link is at the worker that owns the host.
func atOwner(all []v1.Agent) string {
	for _, a := range all {
		if a.Carrier != a.Owner || a.Owner == "" {
			return fmt.Sprintf("%s is linked to %s, its owner is %s", a.Host, a.Carrier, a.Owner)
		}
	}
	return inPlace(all)
}

// even: the links are spread over the three workers, max − min ≤ 1.
func even(all []v1.Agent) string {
	n := map[string]int{"w1": 0, "w2": 0, "w3": 0}
	for _, a := range all {
		n[a.Carrier]++
	}
	if len(n) != 3 || max(n["w1"], n["w2"], n["w3"])-min(n["w1"], n["w2"], n["w3"]) > 1 {
		return fmt.Sprintf("links are spread %v", n)
	}
	return inPlace(all)
}

// switchedUnderLoad switches to each algorithm and back to ring while every host copies a
// volume: links go where the algorithm says, and no copy is disturbed. Copies that are over
// before all that was done prove too little: longer ones are begun.
func (f *fleet) switchedUnderLoad(t *testing.T) {
	var hosts []string
	for _, h := range f.hosts(t) {
		hosts = append(hosts, h.Spec.ID)
	}
	for lasts := 16 * time.Second; ; lasts *= 2 {
		running := f.copies(t, lasts, hosts...)
		f.switched(t)
		during := f.atWork(t, running)
		f.copied(t, running)
		if during {
			return
		}
		if lasts > 3*time.Minute {
			t.Fatalf("copies of %v were over before all algorithms were switched", lasts)
		}
		t.Logf("copies of %v were over before all algorithms were switched: longer ones", lasts)
	}
}

func (f *fleet) switched(t *testing.T) {
	for _, to := range []struct {
		algorithm string
		where     func([]v1.Agent) string
	}{
		{"static", func(all []v1.Agent) string {
			for _, a := range all {
				if strings.Join(a.Workers, ",") != "w1,w2,w3" || a.Carrier != "w1" {
					return fmt.Sprintf("%s has the list %v and is linked to %s", a.Host, a.Workers, a.Carrier)
				}
			}
			return ""
		}},
		{"roundrobin", even},
		{"shuffle", inPlace},
		{"ring", atOwner},
	} {
		if to.algorithm == "roundrobin" { // all are at w1
			if out := f.must(t, "plan", "lb", "--algorithm", "roundrobin"); !strings.Contains(out, "4 of 6 agents would move.") {
				t.Errorf("plan lb says\n%s", out)
			}
		}
		began := time.Now()
		f.must(t, "settings", "set", "agent.lb.algorithm", to.algorithm)
		f.awaitKept(t, to.algorithm)
		f.awaitLinks(t, to.algorithm, to.where)
		t.Logf("%s: all links are where they belong after %v; agents look every %v", to.algorithm, time.Since(began).Round(10*time.Millisecond), checkInterval)
	}
}

// carriedByAnother: where the worker that holds the links of a cluster owns none of its hosts,
// a host that dies is noticed, looked at by its neighbours, fenced and taken back, commands are
// taken and told, and the carrier can be drained under them.
func (f *fleet) carriedByAnother(t *testing.T) {
	carriedBy := func(carrier string) {
		t.Helper()
		f.awaitLinks(t, "all links at "+carrier, func(all []v1.Agent) string {
			for _, a := range all {
				if a.Carrier != carrier {
					return fmt.Sprintf("%s is linked to %s", a.Host, a.Carrier)
				}
			}
			return ""
		})
	}
	var others []string // workers that do not own h001
	before := f.host(t, "h001").Status
	for len(others) == 0 || before.Owner == others[0] { // a worker that a busy machine lets wait too long loses what it owns
		others = slices.DeleteFunc([]string{"w1", "w2", "w3"}, func(w string) bool { return w == before.Owner })
		f.must(t, "settings", "set", "agent.workers", strings.Join(others, ","))
		f.must(t, "settings", "set", "agent.lb.algorithm", "static")
		carriedBy(others[0])
		before = f.host(t, "h001").Status
	}
	f.breaks(t, "h001", "crash")
	f.await(t, recoveryLimit, "h001", "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != before.Boot })
	if d := cmp.Diff([]string{"off", "on"}, verbs(f.truth(t, "h001"))); d != "" {
		t.Errorf("power commands: %s", d)
	}
	if len(ofType(f.events(t, "h001"), "ha.safe-to-restart")) == 0 {
		t.Error("its instances were never released")
	}
	carriedBy(others[0])

	running := f.copies(t, 8*time.Second, "h002", "h003")
	f.must(t, "worker", "drain", others[0], "--yes", "--reason", "test", "--wait", "--timeout", "1m")
	carriedBy(others[1])
	f.copied(t, running)
	f.must(t, "worker", "undrain", others[0], "--reason", "test")
}
