// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// TestIncidentIsTold: a host is switched off by somebody, proven off and fenced; then its
// incident is shown, explained and exported whole, tells no secret, and is replayed with
// the same verdicts.
func TestIncidentIsTold(t *testing.T) {
	const password = "pw-8ad1"
	s := newService(t, password, nil)
	for name, v := range map[string]string{"ha.policy": "fence", "agent.ping.interval": "1s", "ha.off.confirm.delay": "1s", "worker.warmup": "1"} {
		s.put(t, leases.SettingKey("global", name), v1.SettingRecord{V: 1, Value: v})
	}
	s.host(t, "h2", true)
	s.host(t, "h3", true)
	s.serve()
	beat(t, s.w, "h2", "h3")
	s.tested()
	s.until("it is protected", func(_ power.Machine, _ deviceRecord, r ha.Record) bool { return r.State == ha.Available })
	if keys, err := s.client.Keys(t.Context(), leases.StepsPrefix); err != nil || len(keys) != 0 {
		t.Fatalf("steps without an incident: %v, %v", keys, err)
	}
	b := (*backend)(s.w)
	if x, err := b.ExplainHost(t.Context(), "h1"); err != nil || len(x.WhyNot) == 0 || len(x.Evidence) == 0 || len(x.Next) == 0 {
		t.Errorf("explain host: %+v, %v", x, err)
	}
	s.chassis.Force(false)
	s.until("it is FENCED", func(_ power.Machine, _ deviceRecord, r ha.Record) bool { return r.State == ha.Fenced })
	for _, m := range []*leases.Mirror{s.w.mirror, s.w.eventsMirror} { // what is answered from them is what until has read
		if err := s.w.catchUp(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.Incidents(t.Context(), "h1")
	if err != nil || len(all) != 1 {
		t.Fatalf("incidents: %+v, %v", all, err)
	}
	id := all[0].ID
	if i, err := b.Incident(t.Context(), id); err != nil || i.Outcome != "fenced" || i.Proof == nil || i.Proof.Assurance != "A3" || i.Steps == 0 {
		t.Errorf("incident: %+v, %v", i, err)
	}
	x, err := b.ExplainIncident(t.Context(), id)
	if err != nil || x.State != "ended" || len(x.Why) < 2 || !strings.Contains(strings.Join(x.Evidence, "\n"), "proof A3") || !strings.Contains(strings.Join(x.Next, "\n"), "still FENCED") || len(x.Guards) == 0 {
		t.Errorf("explain incident: %+v, %v", x, err)
	}
	e, err := b.ExportIncident(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Steps) == 0 || len(e.Steps) > replay.MaxSteps || len(e.Rounds) == 0 || !e.Rounds[len(e.Rounds)-1].Allowed || len(e.Rounds[0].Snapshot) == 0 || len(e.Missing) > 0 || e.Partition != cluster {
		t.Errorf("export: %d steps, rounds %+v, missing %v", len(e.Steps), e.Rounds, e.Missing)
	}
	if !slices.ContainsFunc(e.Packets, func(p v1.IncidentPacket) bool { return p.Do == "send" && p.Verb == "off" && p.Answer != "" }) {
		t.Errorf("packets: %+v", e.Packets)
	}
	if n := len(slices.DeleteFunc(slices.Clone(e.Packets), func(p v1.IncidentPacket) bool { return p.Answer != "reads OFF" })); n < 3 {
		t.Errorf("%d readings of OFF in %+v", n, e.Packets)
	}
	if !slices.ContainsFunc(e.Events, func(x v1.Event) bool { return x.Type == "ha.fenced" }) {
		t.Errorf("events: %+v", e.Events)
	}
	file, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(file), password) {
		t.Error("the export tells the password of the BMC")
	}
	rep := replayed(t, file)
	if rep.Differ+rep.Missing > 0 || rep.Judged != len(e.Steps) {
		t.Errorf("replay: %d judged, %d differ, %d missing of %d", rep.Judged, rep.Differ, rep.Missing, len(e.Steps))
	}
	for _, l := range rep.Lines {
		if len(l.Differs)+len(l.Also) > 0 || l.Missing != "" {
			t.Errorf("line %d %s: %v, %v, %s", l.N, l.Event, l.Differs, l.Also, l.Missing)
		}
	}
}

func replayed(t *testing.T, file []byte) replay.Report {
	t.Helper()
	f, err := replay.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return replay.Run(f)
}

// TestSecretsAreNotExported: what people and devices write into reasons and errors.
func TestSecretsAreNotExported(t *testing.T) {
	secrets := []string{"S3cr3t-aa", "S3cr3t-bb", "S3cr3t-cc", "S3cr3t-dd", "S3cr3t-ee", "S3cr3t-ff", "S3cr3t-gg"}
	x := v1.IncidentExport{Format: v1.IncidentFormat, Version: 1, Incident: v1.Incident{ID: "i", Host: "h", Cause: "3 pings missed", Ledger: []v1.Entry{
		{Text: "operator: password=" + secrets[0] + ", then again"},
		{Text: `redfish at https://root:` + secrets[1] + `@10.0.0.1/redfish`},
		{Text: "Authorization: Bearer " + secrets[2]},
		{Text: "token hft.abc." + secrets[3]},
		{Text: "holdfast:enc:aesgcm:v1:k1:" + secrets[4]},
		{Text: "-----BEGIN PRIVATE KEY-----\n" + secrets[5] + "\n-----END PRIVATE KEY-----"},
	}}, Steps: []json.RawMessage{json.RawMessage(`{"v":1,"event":{"community":"` + secrets[6] + `"},"change":{"n":12345678901234567}}`)}}
	clean, err := withoutSecrets(x)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(clean)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets {
		if strings.Contains(string(b), s) {
			t.Errorf("%s is in %s", s, b)
		}
	}
	for _, kept := range []string{"3 pings missed", "then again", "10.0.0.1/redfish", "12345678901234567", notShown} {
		if !strings.Contains(string(b), kept) {
			t.Errorf("%s is gone from %s", kept, b)
		}
	}
}

// TestStepsAreForgotten: of a host the newest incidents can be replayed, of the fleet a
// bounded number, none that is too old; open ones stay.
func TestStepsAreForgotten(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	var keys []leases.KV
	add := func(host string, opened time.Time, rev int64) string {
		id := fmt.Sprintf("%s.%s.i%d", host, opened.Format("20060102T150405"), rev)
		for n := range 2 {
			keys = append(keys, leases.KV{Key: leases.StepKey(host, id, n), ModRevision: rev})
		}
		return id
	}
	var flapping []string
	for k := range maxReplaysOfHost + 3 {
		flapping = append(flapping, add("a.example", now.Add(time.Duration(k)*time.Minute), int64(1e6+k)))
	}
	old, held := add("b", now.Add(-91*24*time.Hour), 2e6), add("c", now.Add(-91*24*time.Hour), 2e6+1)
	for k := range maxReplays {
		add(fmt.Sprintf("d%04d", k), now, int64(k+1))
	}
	var gone []string
	for _, op := range surplusSteps(keys, now, func(host, id string) bool { return host == "c" && id == held }) {
		host, id, n, ok := leases.SplitStepKey(op.Key())
		if !ok || hostOf(id) != host || len(op.Value()) > 0 {
			t.Fatalf("%s", op.Key())
		}
		if n == 0 {
			gone = append(gone, id)
		}
	}
	for _, id := range append(flapping[:3:3], old) {
		if !slices.Contains(gone, id) {
			t.Errorf("%s is kept", id)
		}
	}
	if slices.Contains(gone, held) || slices.Contains(gone, flapping[3]) {
		t.Errorf("gone: %v", gone[:min(20, len(gone))])
	}
	if left := len(flapping) + 2 + maxReplays - len(gone); left > maxReplays {
		t.Errorf("%d incidents are left", left)
	}
}
