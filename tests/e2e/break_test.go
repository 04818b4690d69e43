// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// table is one run of the table of breaks at one preset.
type table struct {
	*fleet
	limit time.Duration // for anything that recovers in the end
	watch time.Duration // longer than a recovery would take to begin
	// lost bounds how many agents are lost within a minute: more of them at one worker, and
	// its guard `self` says that it may be blind, which is right and not what is tested.
	lost chan struct{}
}

// row is one row of the table, played on a host of its own.
type row struct {
	how  string
	play func(t *testing.T, x *table, host string)
}

// TestBreakTable is the table of the issue "One host dies and comes back". Rows of one
// lane are played one after the other in one cluster, lanes side by side.
func TestBreakTable(t *testing.T) {
	lanes := [][]row{
		{{"bmc-lies", bmcLies}},
		{{"crash", recovers("crash")}, {"agent-killed", degrades("agent-killed")}},
		{{"hang", recovers("hang")}, {"link-lost", degrades("link-lost")}},
		{{"power-off", powerOff}, {"reboot", reboot}},
		{{"mains-lost", mainsLost}, {"bmc-dead", bmcDead}},
		{{"storage-lost", storageLost}, {"storage-lost --cluster", storageLostCluster}},
	}
	for _, preset := range presets {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			x := &table{limit: 2 * time.Minute, watch: 25 * time.Second, lost: make(chan struct{}, 2)}
			if preset == "default" {
				x.limit, x.watch = 8*time.Minute, 90*time.Second
			}
			x.fleet = start(t, "--preset", preset, "--hosts", "21", "--workers", "2")
			x.awaitAllAvailable(t, x.limit)
			clusters := x.clusters(t)
			if len(clusters) != len(lanes) {
				t.Fatalf("%d clusters, want %d", len(clusters), len(lanes))
			}
			t.Run("lanes", func(t *testing.T) { // returns when all lanes have
				for i, lane := range lanes {
					t.Run(fmt.Sprint(i+1), func(t *testing.T) {
						t.Parallel()
						for k, r := range lane {
							t.Run(r.how, func(t *testing.T) { r.play(t, x, clusters[i][k]) })
						}
					})
				}
			})
		})
	}
}

func (x *table) clusters(t *testing.T) [][]string {
	t.Helper()
	all, err := x.client.Hosts(t.Context(), v1.HostQuery{Sort: "id"})
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	last := ""
	for _, h := range all {
		if h.Spec.Partition != last {
			out = append(out, nil)
			last = h.Spec.Partition
		}
		out[len(out)-1] = append(out[len(out)-1], h.Spec.ID)
	}
	return out
}

// losesAgent waits for a place; the place is given back when the agent is linked again
// or a minute after, when its loss counts no more.
func (x *table) losesAgent(t *testing.T) (back func()) {
	x.lost <- struct{}{}
	back = sync.OnceFunc(func() { <-x.lost })
	t.Cleanup(back)
	return back
}

// recovers: "idle → RECOVERING (off, settled off, on) → INITIALIZING → AVAILABLE with a
// new boot id".
func recovers(how string) func(*testing.T, *table, string) {
	return func(t *testing.T, x *table, host string) {
		defer x.losesAgent(t)()
		old := x.host(t, host).Status
		x.breaks(t, host, how)
		x.awaitState(t, x.limit, host, "RECOVERING")
		x.explained(t, host)
		x.await(t, x.limit, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != old.Boot })
		if d := cmp.Diff([]string{"off", "on"}, verbs(x.truth(t, host))); d != "" {
			t.Errorf("power commands: %s", d)
		}
		released := x.released(t, host, old.Boot)
		if d := cmp.Diff(old.Instances, released); d != "" || len(released) == 0 {
			t.Errorf("released instances: %s", d)
		}
		x.inOrder(t, host, "ha.suspect", "ha.checking", "ha.recovering", "ha.safe-to-restart", "ha.initializing", "ha.available")
	}
}

// degrades: "active → DEGRADED; never any power command; … back → AVAILABLE".
func degrades(how string) func(*testing.T, *table, string) {
	return func(t *testing.T, x *table, host string) {
		back := x.losesAgent(t)
		boot := x.host(t, host).Status.Boot
		x.breaks(t, host, how)
		x.awaitState(t, x.limit, host, "DEGRADED")
		x.explained(t, host)
		x.must(t, "dev", "repair", host)
		h := x.awaitState(t, x.limit, host, "AVAILABLE")
		back()
		if h.Status.Boot != boot {
			t.Errorf("boot %s became %s: nothing of it was to be restarted", boot, h.Status.Boot)
		}
		x.untouched(t, host)
	}
}

// "its own report and pings say alive → DEGRADED with that reason; no power command".
func storageLost(t *testing.T, x *table, host string) {
	x.breaks(t, host, "storage-lost")
	h := x.awaitState(t, x.limit, host, "DEGRADED")
	if !strings.Contains(h.Status.Reason, "pool") {
		t.Errorf("DEGRADED because %q, want the reason of its own report: the pool", h.Status.Reason)
	}
	x.explained(t, host)
	x.must(t, "dev", "repair", host)
	x.awaitState(t, x.limit, host, "AVAILABLE")
	x.untouched(t, host)
}

// "SUSPECT or DEGRADED, never an idle verdict, no power command at all; partition stays
// ACTIVE; repair → all AVAILABLE".
func storageLostCluster(t *testing.T, x *table, host string) {
	path := x.host(t, host).Spec.Partition
	all, err := x.client.Hosts(t.Context(), v1.HostQuery{Partition: path})
	if err != nil {
		t.Fatal(err)
	}
	x.breaks(t, host, "storage-lost", "--cluster")
	for _, h := range all {
		x.awaitState(t, x.limit, h.Spec.ID, "SUSPECT", "CHECKING", "DEGRADED")
	}
	holds(t, x.watch, func() string {
		p, err := x.client.Partition(context.Background(), path)
		if err == nil && p.State != "ACTIVE" {
			return fmt.Sprintf("partition is %s (%s), want ACTIVE", p.State, p.Reason)
		}
		for _, h := range all {
			if s := x.host(t, h.Spec.ID).Status; !slices.Contains([]string{"SUSPECT", "CHECKING", "DEGRADED"}, s.State) {
				return fmt.Sprintf("%s is %s (%s)", h.Spec.ID, s.State, s.Reason)
			}
		}
		return ""
	})
	x.explained(t, host)
	x.must(t, "dev", "repair", host)
	for _, h := range all {
		x.awaitState(t, x.limit, h.Spec.ID, "AVAILABLE")
		x.untouched(t, h.Spec.ID)
		incidents, err := x.client.Incidents(t.Context(), h.Spec.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range incidents {
			for _, e := range i.Ledger {
				if e.What == "check" && strings.Contains(e.Text, ": idle") {
					t.Errorf("%s: an idle verdict while nobody could see the pool: %s", h.Spec.ID, e.Text)
				}
			}
		}
	}
}

// "new boot id: event rebooted, old boot's instances listed, AVAILABLE; no power command".
func reboot(t *testing.T, x *table, host string) {
	defer x.losesAgent(t)()
	old := x.host(t, host).Status
	x.breaks(t, host, "reboot")
	x.await(t, x.limit, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != old.Boot })
	var told []v1.Event
	until(t, x.limit, func() string { // any worker answers, and the log reaches each in its time
		if told = ofType(x.events(t, host), "ha.rebooted"); len(told) == 0 {
			return "no event says that it rebooted"
		}
		return ""
	})
	if len(told) != 1 {
		t.Fatalf("%d events ha.rebooted, want one: %+v", len(told), told)
	}
	if d := cmp.Diff(old.Instances, told[0].Instances); d != "" || len(old.Instances) == 0 {
		t.Errorf("instances of the old boot: %s", d)
	}
	if got := verbs(x.truth(t, host)); len(got) != 0 {
		t.Errorf("power commands %v, want none", got)
	}
}

// "event external, confirmed → FENCED with A3, no budget spent; power on → AVAILABLE".
func powerOff(t *testing.T, x *table, host string) {
	defer x.losesAgent(t)()
	old := x.host(t, host).Status
	budget := x.budget(t, host)
	x.breaks(t, host, "power-off")
	h := x.awaitState(t, x.limit, host, "FENCED")
	if p := h.Status.Proof; p == nil || p.Assurance != "A3" || p.Boot != old.Boot {
		t.Errorf("proof %+v, want A3 of boot %s", p, old.Boot)
	}
	x.explained(t, host)
	if len(ofType(x.events(t, host), "power.external-off")) == 0 {
		t.Error("no event says that somebody else switched it off")
	}
	if got := x.budget(t, host); got != budget {
		t.Errorf("budget used %d, before %d: a host that was off already costs nothing", got, budget)
	}
	if d := cmp.Diff(old.Instances, x.released(t, host, old.Boot)); d != "" || len(old.Instances) == 0 {
		t.Errorf("released instances: %s", d)
	}
	x.must(t, "power", "on", host, "--yes", "--reason", "test")
	x.await(t, x.limit, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != old.Boot })
	if d := cmp.Diff([]string{"off", "on"}, verbs(x.truth(t, host))); d != "" {
		t.Errorf("power commands: %s", d)
	}
}

// "SUSPECT, held power unreadable; holdfast host confirm-off → FENCED (A5); repair →
// AVAILABLE".
func mainsLost(t *testing.T, x *table, host string) {
	defer x.losesAgent(t)()
	old := x.host(t, host).Status
	x.breaks(t, host, "mains-lost")
	x.await(t, x.limit, host, "SUSPECT, held: power cannot be read", func(s v1.HostStatus) bool {
		return s.State == "SUSPECT" && slices.ContainsFunc(s.Holds, func(h v1.Hold) bool { return strings.Contains(h.By+" "+h.Reason, "power") })
	})
	x.explained(t, host)
	if len(ofType(x.events(t, host), "ha.safe-to-restart")) != 0 {
		t.Error("instances were released without any proof")
	}
	until(t, x.limit, func() string { // refused until the host was silent for long enough
		_, stderr, code := x.run(t, "host", "confirm-off", host, "--yes", "--reason", "seen unplugged")
		if code != 0 {
			return stderr
		}
		return ""
	})
	h := x.awaitState(t, x.limit, host, "FENCED")
	if p := h.Status.Proof; p == nil || p.Assurance != "A5" {
		t.Errorf("proof %+v, want A5", p)
	}
	if d := cmp.Diff(old.Instances, x.released(t, host, old.Boot)); d != "" || len(old.Instances) == 0 {
		t.Errorf("released instances: %s", d)
	}
	x.must(t, "dev", "repair", host)
	x.await(t, x.limit, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != old.Boot })
	if got := verbs(x.truth(t, host)); len(got) != 0 {
		t.Errorf("power commands %v reached a BMC without mains", got)
	}
}

// "UNSUPPORTED with a warning, partition stays ACTIVE; repair → AVAILABLE".
func bmcDead(t *testing.T, x *table, host string) {
	path := x.host(t, host).Spec.Partition
	x.breaks(t, host, "bmc-dead")
	x.awaitState(t, x.limit, host, "UNSUPPORTED")
	x.explained(t, host)
	warned := slices.ContainsFunc(x.events(t, host), func(e v1.Event) bool { return e.Severity == "warning" && e.Type == "ha.unprotected" })
	if !warned {
		t.Error("no warning says that the host is not protected any more")
	}
	if p, err := x.client.Partition(t.Context(), path); err != nil || p.State != "ACTIVE" {
		t.Errorf("partition is %s, %v, want ACTIVE", p.State, err)
	}
	x.must(t, "dev", "repair", host)
	x.awaitState(t, x.limit, host, "AVAILABLE")
	x.untouched(t, host)
}

// "recovery fails, fencing fails → FAILED, paged; instances never released".
func bmcLies(t *testing.T, x *table, host string) {
	back := x.losesAgent(t)
	minute := time.AfterFunc(time.Minute, back)
	defer minute.Stop()
	old := x.host(t, host).Status.Boot
	x.breaks(t, host, "bmc-lies")
	x.awaitState(t, 4*x.limit, host, "FAILED")
	x.explained(t, host)
	events := x.events(t, host)
	if !slices.ContainsFunc(events, func(e v1.Event) bool { return e.Severity == "page" }) {
		t.Error("nobody was paged")
	}
	if got := ofType(events, "ha.safe-to-restart"); len(got) != 0 {
		t.Errorf("instances were released on the word of a liar: %+v", got)
	}
	if got := verbs(x.truth(t, host)); !slices.Contains(got, "off") {
		t.Errorf("power commands %v, want tries to switch it off", got)
	}
	x.must(t, "dev", "repair", host)
	x.await(t, x.limit, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != old })
}

// untouched: no power command, nothing released, no action considered.
func (x *table) untouched(t *testing.T, host string) {
	t.Helper()
	if got := verbs(x.truth(t, host)); len(got) != 0 {
		t.Errorf("power commands %v to %s, want none at all", got, host)
	}
	for _, typ := range []string{"ha.safe-to-restart", "ha.recovering", "ha.fencing"} {
		if got := ofType(x.events(t, host), typ); len(got) != 0 {
			t.Errorf("event %s of %s: %+v", typ, host, got)
		}
	}
}

// released are the instances that may be restarted because boot is over.
func (x *table) released(t *testing.T, host, boot string) (all []string) {
	t.Helper()
	for _, e := range ofType(x.events(t, host), "ha.safe-to-restart") {
		if e.Data["boot"] == boot {
			all = append(all, e.Instances...)
		}
	}
	return all
}

// inOrder: the log has these types in this order, others in between.
func (x *table) inOrder(t *testing.T, host string, types ...string) {
	t.Helper()
	var got []string
	for _, e := range x.events(t, host) {
		got = append(got, e.Type)
		if len(types) > 0 && e.Type == types[0] {
			types = types[1:]
		}
	}
	if len(types) > 0 {
		t.Errorf("no %s at its place in %v", types[0], got)
	}
}

// budget is how many power-downs of the host's cluster are spent.
func (x *table) budget(t *testing.T, host string) int {
	t.Helper()
	p, err := x.client.Partition(t.Context(), x.host(t, host).Spec.Partition)
	if err != nil {
		t.Fatal(err)
	}
	if p.Budget == nil {
		return 0
	}
	return p.Budget.Used
}

// explained: `holdfast explain host` says what it is, why, and what comes next.
func (x *table) explained(t *testing.T, host string) {
	t.Helper()
	out := x.must(t, "explain", "host", host)
	for _, want := range []string{"host " + host + " is ", "Why:", "What comes next:"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain host %s has no %q:\n%s", host, want, out)
		}
	}
	all, err := x.client.Incidents(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		x.replayed(t, i.ID)
	}
}

// replayed: an incident is explained, reported and exported, and its decisions are the same
// when they are made again from the file.
func (x *table) replayed(t *testing.T, incident string) {
	t.Helper()
	if out := x.must(t, "explain", "incident", incident); !strings.Contains(out, "incident "+incident+" of host ") {
		t.Errorf("explain incident %s: %s", incident, out)
	}
	if out := x.must(t, "incident", "report", incident); !strings.Contains(out, "## How long") {
		t.Errorf("incident report %s: %s", incident, out)
	}
	file := filepath.Join(t.TempDir(), "incident.json")
	if err := os.WriteFile(file, []byte(x.must(t, "incident", "export", incident)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := x.run(t, "replay", file)
	if code != 0 || !strings.Contains(out, " 0 differ; 0 could not be judged") {
		t.Errorf("replay of %s: exit %d\n%s\n%s", incident, code, out, stderr)
	}
}
