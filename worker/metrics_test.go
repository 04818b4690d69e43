// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/metric/metrictest"
	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// bare is a worker that was made and not started.
func bare(t *testing.T) *Worker {
	t.Helper()
	w, err := New(Options{ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Names and texts are in order, and the table behind docs/metrics.md is what there is.
func TestMetricsTable(t *testing.T) { metrictest.Check(t, bare(t).metrics.Table, "holdfast_") }

// Alerts see what is: states, power, holds (an incident counts once for each that holds,
// and not when it is over), partitions and disarming, of what this worker owns.
func TestMetricsShown(t *testing.T) {
	w := bare(t)
	show := func(host string, r ha.Record) {
		o := &owner{w: w, host: host, home: "z1/p1/c1", in: newMailbox()}
		o.commands = newCommander(o)
		w.owners[host] = o
		w.shown.put(host, &published{record: &r})
	}
	open := &ha.Incident{Holds: []ha.Hold{{By: "budget"}, {By: "budget"}, {By: "power"}}}
	over := &ha.Incident{Ended: time.Now(), Holds: []ha.Hold{{By: "budget"}}}
	show("h1", ha.Record{State: ha.Suspect, Incident: open})
	show("h2", ha.Record{State: ha.Available, Incident: over})
	w.shown.put("h3", &published{record: &ha.Record{State: ha.Failed}}) // given away
	w.partStates["z1/p1/c1"] = ha.PartitionRecord{State: ha.PartitionInactive}
	w.slotN = 1024
	w.view.parts["z1/p1/c1"] = versioned[v1.PartitionSpec]{}
	for _, scope := range []string{"cluster/z1/p1/c1", "zone/z1"} { // the pod's is another worker's
		w.claims[w.slotOfArea(scope)] = leases.Claim{}
	}
	w.view.budgets["cluster/z1/p1/c1"] = versioned[budget.Counter]{Val: budget.Counter{Times: []time.Time{time.Now()}}}
	w.view.budgets["zone/z1"] = versioned[budget.Counter]{Val: budget.Counter{Latched: true}}
	w.metrics.held([]ha.Hold{{By: "power"}}, []ha.Hold{{By: "power"}, {By: "share"}, {By: "share"}})
	if !w.pools.recovery.acquire(t.Context()) {
		t.Error("no place in an empty pool")
	}
	for id, r := range map[string]command.Record{
		"c1": {Kind: command.Migrate, State: command.NeedsOperator}, "c2": {Kind: command.Migrate, State: command.NeedsOperator},
		"c3": {Kind: command.Migrate, State: command.Completed, Released: true, Acked: true},
	} {
		w.owners["h1"].commands.known[id] = knownOf(r)
	}
	interrupted := command.Record{Kind: command.Copy, State: command.Reconciling}
	found := command.Record{Kind: command.Copy, State: command.Reconciled, Since: time.Unix(62, 0), Verdict: command.IsFailed, Evidence: &command.Evidence{At: time.Unix(61, 0)}, Outcome: &command.Outcome{}}
	w.metrics.commandStep(interrupted, found, time.Unix(60, 0))
	text := metrictest.Scrape(t, w.metrics.Table)
	metrictest.Shows(t, text,
		`holdfast_resources{partition="z1/p1/c1",state="SUSPECT"} 1`, `holdfast_resources{partition="z1/p1/c1",state="AVAILABLE"} 1`,
		`holdfast_holds{by="budget",partition="z1/p1/c1"} 1`, `holdfast_holds{by="power",partition="z1/p1/c1"} 1`,
		`holdfast_incidents_open{partition="z1/p1/c1"} 1`, `holdfast_power_states{partition="z1/p1/c1",state="UNKNOWN"} 2`,
		`holdfast_partition_state{partition="z1/p1/c1",state="INACTIVE"} 1`, `holdfast_partition_state{partition="z1/p1/c1",state="ACTIVE"} 0`,
		`holdfast_commands{kind="migrate",state="NEEDS_OPERATOR"} 2`, `holdfast_command_transitions_total{kind="copy",state="RECONCILED"} 1`,
		`holdfast_reconcile_attempts_total{kind="copy",verdict="failed"} 1`, `holdfast_reconcile_duration_seconds_sum{kind="copy"} 2`,
		`holdfast_fence_budget_remaining{level="cluster",partition="z1/p1/c1"} 2`, `holdfast_fence_budget_remaining{level="zone",partition="z1"} 0`,
		`holdfast_fences_refused_total{reason="share"} 1`, `holdfast_fences_refused_total{reason="power"} 0`,
		`holdfast_agents_connected{partition="z1/p1/c1"} 0`, `holdfast_limiter_wait_seconds_count{limiter="recovery"} 1`,
		`holdfast_armed{partition="z1/p1/c1"} 1`, `holdfast_lease_valid_seconds 0`, `holdfast_pages_total{hook="failed"} 0`,
	)
	if strings.Contains(text, `level="pod"`) {
		t.Error("a budget of another owner is shown")
	}
	if strings.Contains(text, `state="FAILED"`) {
		t.Error("a host of another owner is counted")
	}
}

// Ten thousand hosts make as many series as their partitions do, not as they do.
func TestMetricsSeries(t *testing.T) {
	w := bare(t)
	const hosts, perPartition = 10_000, 40
	w.slotN = 1024
	for slot := range w.slotN {
		w.claims[slot] = leases.Claim{}
	}
	for i := range hosts {
		path := fmt.Sprintf("z1/p%d/c%d", i/1000, i/perPartition)
		host := fmt.Sprintf("h%05d", i)
		o := &owner{w: w, host: host, home: path, in: newMailbox()}
		o.commands = newCommander(o)
		o.commands.known["c"] = knownSteps{open: true, kind: command.Kinds[i%3], state: command.States[i%len(command.States)]}
		w.owners[host] = o
		w.shown.put(host, &published{record: &ha.Record{State: ha.States[i%len(ha.States)], Incident: &ha.Incident{Holds: []ha.Hold{{By: "power"}, {By: "budget"}}}}})
		w.partStates[path] = ha.PartitionRecord{State: ha.PartitionActive}
		w.view.parts[path] = versioned[v1.PartitionSpec]{}
	}
	text := metrictest.Scrape(t, w.metrics.Table)
	series := 0
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "holdfast_") {
			series++
		}
		if strings.Contains(l, "h00001") {
			t.Fatalf("a host in a label: %s", l)
		}
	}
	w.view.settings["global"] = map[string]versioned[v1.SettingRecord]{"metrics.hosts": {Val: v1.SettingRecord{Value: "true"}}}
	w.view.version++
	if n := strings.Count(metrictest.Scrape(t, w.metrics.Table), "\nholdfast_host_info{"); n != hosts {
		t.Errorf("%d hosts have a series of their own when asked for", n)
	}
	// A partition has at most 12 HA states, 3 power states, 5 of its own and some holds; on top
	// come the pods' and zones' budgets and what no partition multiplies.
	if limit := hosts/perPartition*24 + 400; series > limit || series < hosts/perPartition*10 {
		t.Errorf("%d series for %d hosts in %d partitions, allowed are %d", series, hosts, hosts/perPartition, limit)
	}
	t.Logf("%d hosts in %d partitions: %d series, %d kB", hosts, hosts/perPartition, series, len(text)/1024)
}
