// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
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

// Metric names and help texts follow Prometheus' conventions (libraries.md §6).
func TestMetricsLint(t *testing.T) {
	var text strings.Builder
	for _, f := range MetricFamilies() {
		var labels []string
		for _, l := range f.Labels {
			labels = append(labels, l+`="x"`)
		}
		set := func(more ...string) string {
			return "{" + strings.Join(append(labels[:len(labels):len(labels)], more...), ",") + "}"
		}
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", f.Name, f.Help, f.Name, f.Type)
		if f.Type == "histogram" {
			fmt.Fprintf(&text, "%s_bucket%s 1\n%s_sum%s 1\n%s_count%s 1\n", f.Name, set(`le="+Inf"`), f.Name, set(), f.Name, set())
			continue
		}
		fmt.Fprintf(&text, "%s%s 1\n", f.Name, set())
	}
	problems, err := promlint.New(strings.NewReader(text.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The table behind docs/metrics.md is what the registry has, neither more nor less.
func TestMetricsTable(t *testing.T) {
	w := bare(t)
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		w.metrics.reg.Describe(ch)
	}()
	described := map[string]bool{}
	for d := range ch {
		if name := strings.Split(d.String(), `"`)[1]; strings.HasPrefix(name, "holdfast_") {
			described[name] = true
		}
	}
	for _, f := range w.metrics.families {
		if !described[f.Name] {
			t.Errorf("%s is in the table and not in the registry", f.Name)
		}
		delete(described, f.Name)
	}
	for name := range described {
		t.Errorf("%s is in the registry and not in the table", name)
	}
}

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
	for id, r := range map[string]command.Record{
		"c1": {Kind: command.Migrate, State: command.NeedsOperator}, "c2": {Kind: command.Migrate, State: command.NeedsOperator},
		"c3": {Kind: command.Migrate, State: command.Completed, Released: true, Acked: true},
	} {
		w.owners["h1"].commands.known[id] = knownOf(r)
	}
	interrupted := command.Record{Kind: command.Copy, State: command.Reconciling}
	found := command.Record{Kind: command.Copy, State: command.Reconciled, Since: time.Unix(62, 0), Verdict: command.IsFailed, Evidence: &command.Evidence{At: time.Unix(61, 0)}, Outcome: &command.Outcome{}}
	w.metrics.commandStep(interrupted, found, time.Unix(60, 0))
	rec := httptest.NewRecorder()
	w.metrics.handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, want := range []string{
		`holdfast_resources{partition="z1/p1/c1",state="SUSPECT"} 1`, `holdfast_resources{partition="z1/p1/c1",state="AVAILABLE"} 1`,
		`holdfast_holds{by="budget",partition="z1/p1/c1"} 1`, `holdfast_holds{by="power",partition="z1/p1/c1"} 1`,
		`holdfast_incidents_open{partition="z1/p1/c1"} 1`, `holdfast_power_states{partition="z1/p1/c1",state="UNKNOWN"} 2`,
		`holdfast_partition_state{partition="z1/p1/c1",state="INACTIVE"} 1`, `holdfast_partition_state{partition="z1/p1/c1",state="ACTIVE"} 0`,
		`holdfast_commands{kind="migrate",state="NEEDS_OPERATOR"} 2`, `holdfast_command_transitions_total{kind="copy",state="RECONCILED"} 1`,
		`holdfast_reconcile_attempts_total{kind="copy",verdict="failed"} 1`, `holdfast_reconcile_duration_seconds_sum{kind="copy"} 2`,
		`holdfast_armed{partition="z1/p1/c1"} 1`, `holdfast_lease_valid_seconds 0`, `holdfast_pages_total{hook="failed"} 0`,
	} {
		if !strings.Contains(rec.Body.String(), "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(rec.Body.String(), `state="FAILED"`) {
		t.Error("a host of another owner is counted")
	}
}

// Ten thousand hosts make as many series as their partitions do, not as they do.
func TestMetricsSeries(t *testing.T) {
	w := bare(t)
	const hosts, perPartition = 10_000, 40
	for i := range hosts {
		path := fmt.Sprintf("z1/p%d/c%d", i/1000, i/perPartition)
		host := fmt.Sprintf("h%05d", i)
		o := &owner{w: w, host: host, home: path, in: newMailbox()}
		o.commands = newCommander(o)
		o.commands.known["c"] = knownSteps{open: true, kind: command.Kinds[i%3], state: command.States[i%len(command.States)]}
		w.owners[host] = o
		w.shown.put(host, &published{record: &ha.Record{State: ha.States[i%len(ha.States)], Incident: &ha.Incident{Holds: []ha.Hold{{By: "power"}, {By: "budget"}}}}})
		w.partStates[path] = ha.PartitionRecord{State: ha.PartitionActive}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rec := httptest.NewRecorder()
	w.metrics.handler().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", "/metrics", nil))
	series := 0
	for l := range strings.Lines(rec.Body.String()) {
		if strings.HasPrefix(l, "holdfast_") {
			series++
		}
		if strings.Contains(l, "h00001") {
			t.Fatalf("a host in a label: %s", l)
		}
	}
	// A partition has at most 12 HA states, 3 power states, 3 of its own and some holds.
	if limit := hosts / perPartition * 24; series > limit || series < hosts/perPartition*10 {
		t.Errorf("%d series for %d hosts in %d partitions, allowed are %d", series, hosts, hosts/perPartition, limit)
	}
	t.Logf("%d hosts in %d partitions: %d series, %d kB", hosts, hosts/perPartition, series, rec.Body.Len()/1024)
}
