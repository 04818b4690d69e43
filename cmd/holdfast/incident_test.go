// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// exportedIncidents are incidents with recorded decisions: i-3 as it was decided, i-4 with
// another verdict on record, i-5 full of texts that would be markup.
func exportedIncidents(t testing.TB) map[string]v1.IncidentExport {
	t.Helper()
	at := func(s int) time.Time { return apitest.Start.Add(time.Duration(s) * time.Second) }
	p := ha.Policy{Mode: "recover", PingInterval: 5 * time.Second, HealthFailures: 3, CheckInitial: 10 * time.Second, CheckMax: 250 * time.Second, CheckTimeout: 30 * time.Second, ActivityAttempts: 5, DegradedAfter: 3}
	r := ha.New("h-3", at(0))
	r.State, r.Partition, r.Eligible, r.PowerTold, r.Boot, r.Health = ha.Available, ha.PartitionActive, ha.Pass, true, ha.Boot{ID: "b-3"}, ha.Pass
	var steps, other []json.RawMessage
	var rec replay.Recorder
	for n, ev := range []ha.Event{
		{Kind: ha.EvHealth, Verdict: ha.Fail, Reason: "3 pings missed", At: at(60)},
		{Kind: ha.EvTick, At: at(70)},
		{Kind: ha.EvActivity, At: at(76), Check: &ha.Check{ID: "h-3.20261121T120110.c2", Asked: at(70), Done: at(76), Verdict: ha.Active, Reason: "its disks move", Votes: []ha.Vote{{Reader: "h-1", Verdict: ha.Active, Reason: "disk of vm-1 moved"}}}},
	} {
		next, effects := ha.Step(r, ev, p)
		raw, err := rec.Record("i-3", n, r, ev, p, next, effects)
		if err != nil {
			t.Fatal(err)
		}
		steps, r = append(steps, raw), next
		if n == 2 {
			raw = json.RawMessage(strings.Replace(string(raw), `"state":"SUSPECT"`, `"state":"RECOVERING"`, 1))
		}
		other = append(other, raw)
	}
	x := v1.IncidentExport{
		Format: v1.IncidentFormat, Version: v1.IncidentVersion, Exported: at(300), Software: "1.2", Partition: "z1/p1/c2", Instances: []string{"vm-1"},
		Incident: v1.Incident{ID: "i-3", Host: "h-3", Opened: at(60), Fell: at(60), Ended: at(190), Cause: "3 pings missed", Outcome: "fenced", Boot: "b-3", Steps: 3,
			Proof:  &v1.Proof{Boot: "b-3", Assurance: "A3", How: "settled-off", At: at(120), Instances: []string{"vm-1"}, Local: []string{"vm-2"}},
			Ledger: []v1.Entry{{At: at(60), What: "seen", Text: "3 pings missed"}, {At: at(76), What: "check", Text: "active: its disks move"}}},
		Checks:    []v1.IncidentCheck{{ID: "c2", Asked: at(70), Done: at(76), Verdict: "idle", Reason: "2 of 2 see no life", Votes: []v1.Vote{{Reader: "h-10", Verdict: "idle", Reason: "stamp stands still"}, {Reader: "h-1", Verdict: "idle", Reason: "no answer"}}}},
		Rounds:    []v1.GuardRound{{At: at(80), Purpose: "recover", Answers: []v1.GuardAnswer{{Guard: "claim", Verdict: "allow", Reason: "ours"}, {Guard: "budget", Verdict: "hold", Reason: "used up", Value: "3", Limit: "3", Clears: "a reset"}}}, {At: at(100), Purpose: "recover", Allowed: true, Answers: []v1.GuardAnswer{{Guard: "claim", Verdict: "allow", Reason: "ours"}}}},
		Packets:   []v1.IncidentPacket{{At: at(101), Txn: "t1", Seq: 1, Device: "bmc", Do: "identity", Answered: at(101), Answer: "the identity is the pinned one"}, {At: at(102), Txn: "t1", Seq: 2, Device: "bmc", Do: "send", Verb: "off", Answered: at(102), Answer: "accepted"}, {At: at(104), Txn: "t1", Seq: 3, Device: "bmc", Do: "read", Answered: at(104), Answer: "reads OFF"}},
		Operators: []v1.Audit{{At: at(95), Who: "ann@10.0.0.9", What: "budget.reset", Message: "budget cluster/z1/p1/c2 reset", Reason: "PDU replaced"}},
		Steps:     steps,
	}
	differing, hostile := x, x
	differing.Incident.ID, differing.Steps = "i-4", other
	const bad = "<script>alert(1)</script> | [x](http://evil) `a` \x1b[31m\n# *head*"
	hostile.Incident = v1.Incident{ID: "i-5", Host: bad, Opened: at(60), Cause: bad, State: bad, Ledger: []v1.Entry{{At: at(60), What: bad, Text: bad}}}
	hostile.Checks = []v1.IncidentCheck{{Asked: at(70), Verdict: bad, Reason: bad}}
	hostile.Operators = []v1.Audit{{Who: bad, Message: bad, Reason: bad}}
	hostile.Missing = []string{"- " + bad}
	hostile.Steps = nil
	return map[string]v1.IncidentExport{"i-3": x, "i-4": differing, "i-5": hostile}
}

// TestReportIsNoMarkup: whatever devices and people have written is shown, not obeyed.
func TestReportIsNoMarkup(t *testing.T) {
	d := reportOf(exportedIncidents(t)["i-5"])
	var md, page bytes.Buffer
	if err := writeMarkdown(&md, d); err != nil {
		t.Fatal(err)
	}
	if err := writeHTML(&page, d); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text      string
		forbidden []string
		wanted    string
	}{
		"markdown": {md.String(), []string{"<script", "[x](", "\n# *", "\x1b", "http://", " `a`", "\n- - "}, `&lt;script&gt;alert(1)&lt;/script&gt; \| \[x\](http&#58;//evil)`},
		"html":     {page.String(), []string{"<script", "\x1b", "<h1><"}, "&lt;script&gt;alert(1)&lt;/script&gt;"},
	} {
		for _, f := range c.forbidden {
			if strings.Contains(c.text, f) {
				t.Errorf("%s has %q:\n%s", name, f, c.text)
			}
		}
		if !strings.Contains(c.text, c.wanted) {
			t.Errorf("%s lacks %q:\n%s", name, c.wanted, c.text)
		}
	}
	for line := range strings.Lines(md.String()) { // a table keeps its columns
		if strings.HasPrefix(line, "| 2026") && strings.Count(strings.ReplaceAll(line, `\|`, ""), "|") > 5 {
			t.Errorf("a cell has become several: %s", line)
		}
	}
}
