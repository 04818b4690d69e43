// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

var begin = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var policy = ha.Policy{Mode: "recover", PingInterval: 5 * time.Second, HealthFailures: 3, CheckInitial: 10 * time.Second, CheckMax: 250 * time.Second,
	CheckTimeout: 30 * time.Second, ActivityAttempts: 5, DegradedAfter: 3, RecoveryAttempts: 2, QuietPeriod: 3 * time.Minute}

// available is a host that is well.
func available() ha.Record {
	r := ha.New("h1", begin)
	r.State, r.Partition, r.Eligible, r.Protected, r.PowerTold = ha.Available, ha.PartitionActive, ha.Pass, true, true
	r.Boot, r.Health = ha.Boot{ID: "b1", Seen: begin}, ha.Pass
	return r
}

// story records what events do to a host, as an owner does.
func story(t testing.TB, r ha.Record, p ha.Policy, events ...ha.Event) (raw []json.RawMessage, end ha.Record) {
	t.Helper()
	var rec Recorder
	for n, ev := range events {
		next, effects := ha.Step(r, ev, p)
		b, err := rec.Record("i1", n, r, ev, p, next, effects)
		if err != nil {
			t.Fatal(err)
		}
		raw, r = append(raw, b), next
	}
	return raw, r
}

// missed are n missed pings or ticks a second apart, from the one that makes it SUSPECT on.
func missed(n int) (out []ha.Event) {
	for k := range n {
		at := begin.Add(time.Duration(k+1) * 10 * time.Second)
		ev := ha.Event{Kind: ha.EvTick, At: at}
		if k == 0 {
			ev = ha.Event{Kind: ha.EvHealth, Verdict: ha.Fail, Reason: "3 pings missed", At: at}
		}
		out = append(out, ev)
	}
	return out
}

func file(t testing.TB, raw []json.RawMessage, edit func(m map[string]any)) []byte {
	t.Helper()
	m := map[string]any{"format": Format, "version": FileVersion, "software": "v1.2", "incident": map[string]any{"id": "i1", "host": "h1"}, "steps": raw}
	if edit != nil {
		edit(m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func run(t testing.TB, data []byte) Report {
	t.Helper()
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return Run(f)
}

func TestSameVerdicts(t *testing.T) {
	raw, end := story(t, available(), policy, missed(40)...)
	if end.State == ha.Available || end.Incident == nil {
		t.Fatalf("the story went nowhere: %s", end.State)
	}
	rep := run(t, file(t, raw, nil))
	if rep.Judged != 40 || rep.Differ != 0 || rep.Missing != 0 || rep.Lines[0].Then.State != ha.Suspect {
		t.Errorf("%+v", rep)
	}
	for _, l := range rep.Lines {
		if len(l.Also) > 0 || l.WhyNow != "" {
			t.Errorf("line %d: also %v, why %q", l.N, l.Also, l.WhyNow)
		}
	}
	var bases int
	for _, b := range raw {
		if strings.Contains(string(b), `"base":`) {
			bases++
		}
	}
	if bases != 3 { // one for each segment begun
		t.Errorf("%d bases", bases)
	}
}

// A verdict that is another is shown on its line, and the lines after it are judged on
// what was on record.
func TestOtherVerdictIsShown(t *testing.T) {
	raw, _ := story(t, available(), policy, missed(5)...)
	var s map[string]any
	if err := json.Unmarshal(raw[1], &s); err != nil {
		t.Fatal(err)
	}
	s["change"].(map[string]any)["state"] = "FENCED"
	var err error
	if raw[1], err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	// The next line knows its base.
	rep := run(t, file(t, raw[:2], nil))
	if rep.Differ != 1 || len(rep.Lines[0].Differs) != 0 || len(rep.Lines[1].Differs) == 0 || !strings.HasPrefix(rep.Lines[1].Differs[0], "state: FENCED then, CHECKING now") {
		t.Errorf("%+v", rep.Lines)
	}
}

// Words are no verdict.
func TestOtherWordsAreNoOtherVerdict(t *testing.T) {
	raw, _ := story(t, available(), policy, missed(1)...)
	raw[0] = json.RawMessage(strings.Replace(string(raw[0]), `"reason":"3 pings missed","`, `"reason":"three pings were missed","`, 2))
	rep := run(t, file(t, raw, nil))
	if rep.Differ != 0 || rep.Judged != 1 {
		t.Errorf("%+v", rep)
	}
}

// A new owner goes on where the last one stopped, without reading what that one recorded.
func TestOwnersChange(t *testing.T) {
	r := available()
	var raw []json.RawMessage
	var rec Recorder
	for n, ev := range missed(12) {
		switch n {
		case 3:
			rec = Recorder{}
		case 7:
			rec.Break() // what was decided was not written, or changed without a write
		}
		next, effects := ha.Step(r, ev, policy)
		b, err := rec.Record("i1", n, r, ev, policy, next, effects)
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(string(b), `"base":`); has != (n == 0 || n == 3 || n == 7) {
			t.Errorf("step %d: base %v", n, has)
		}
		raw, r = append(raw, b), next
	}
	if rep := run(t, file(t, raw, nil)); rep.Judged != 12 || rep.Differ+rep.Missing != 0 {
		t.Errorf("%+v", rep)
	}
	// Without its beginning it is judged from the next base on.
	if rep := run(t, file(t, raw[1:], nil)); rep.Judged != 9 || rep.Differ != 0 || rep.Missing != 3 {
		t.Errorf("judged %d, differ %d, missing %d", rep.Judged, rep.Differ, rep.Missing)
	}
}

func TestGapsAreNamed(t *testing.T) {
	raw, _ := story(t, available(), policy, missed(40)...)
	cut := append(append([]json.RawMessage{}, raw[:10]...), raw[20:]...) // 20 to 31 have no base
	rep := run(t, file(t, cut, nil))
	if rep.Missing != 13 || rep.Judged != 18 || rep.Differ != 0 { // the gap, and 12 lines
		t.Errorf("missing %d, judged %d, differ %d", rep.Missing, rep.Judged, rep.Differ)
	}
}

// A step that is too large is not kept, and the next one has a base.
func TestLargeStep(t *testing.T) {
	r := available()
	var rec Recorder
	big := ha.Event{Kind: ha.EvHealth, Verdict: ha.Fail, Reason: strings.Repeat("x", MaxStepBytes), At: begin.Add(time.Second)}
	var raw []json.RawMessage
	for n, ev := range []ha.Event{big, {Kind: ha.EvTick, At: begin.Add(time.Minute)}} {
		next, effects := ha.Step(r, ev, policy)
		next.Reason, next.HealthWhy = "", ""
		if next.Incident != nil {
			i := *next.Incident
			i.Cause, i.Ledger, next.Incident = "", nil, &i
		}
		b, err := rec.Record("i1", n, r, ev, policy, next, effects)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > MaxStepBytes {
			t.Errorf("step %d has %d bytes", n, len(b))
		}
		raw, r = append(raw, b), next
	}
	rep := run(t, file(t, raw, nil))
	if rep.Missing != 1 || !strings.Contains(rep.Lines[0].Missing, "not kept") || rep.Judged != 1 {
		t.Errorf("%+v", rep)
	}
}

// What is dropped leaves the beginning and the newest segments, whatever the length.
func TestDropped(t *testing.T) {
	kept := map[int]bool{}
	for n := range 1000 {
		kept[n] = true
		from, to := Dropped(n)
		for k := from; k < to; k++ {
			if !kept[k] {
				t.Fatalf("step %d drops %d, which is not there", n, k)
			}
			delete(kept, k)
		}
		if len(kept) > MaxSteps {
			t.Fatalf("%d steps after %d", len(kept), n)
		}
	}
	for n := range HeadSteps {
		if !kept[n] {
			t.Errorf("step %d of the beginning is gone", n)
		}
	}
	if !kept[999] || !kept[999-2*SegmentSteps] {
		t.Error("the newest are gone")
	}
}

func TestForeignFiles(t *testing.T) {
	raw, _ := story(t, available(), policy, missed(3)...)
	good := file(t, raw, nil)
	edit := func(fn func(m map[string]any)) []byte { return file(t, raw, fn) }
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":       {nil, "the file is empty"},
		"text":        {[]byte("hello"), "no exported incident"},
		"list":        {[]byte("[1]"), "no exported incident"},
		"cut off":     {good[:len(good)/2], "ends in the middle"},
		"two":         {append(append([]byte{}, good...), good...), "something follows"},
		"foreign":     {[]byte(`{"kind":"Pod"}`), `format: "", allowed is "holdfast-incident"`},
		"newer":       {edit(func(m map[string]any) { m["version"] = 7 }), "version: 7, this holdfast reads up to 1: use the one that wrote the file (v1.2)"},
		"no version":  {edit(func(m map[string]any) { delete(m, "version") }), "version: 0, allowed is 1"},
		"no incident": {edit(func(m map[string]any) { delete(m, "incident") }), "incident: id and host are missing"},
		"no steps":    {edit(func(m map[string]any) { m["steps"] = []any{} }), "steps: there are none"},
		"steps twice": {edit(func(m map[string]any) { m["steps"] = append(raw[:2:2], raw[0]) }), "steps[2]: n: 0 after 1, allowed are rising numbers"},
		"newer step":  {edit(func(m map[string]any) { m["steps"] = []any{map[string]any{"v": 2, "n": 0}} }), "steps[0]: v: 2, this holdfast reads 1"},
		"no time":     {edit(func(m map[string]any) { m["steps"] = []any{map[string]any{"v": 1, "n": 0}} }), "steps[0]: event.at: missing"},
		"bad type":    {edit(func(m map[string]any) { m["steps"] = 7 }), "field steps"},
		"bad step":    {edit(func(m map[string]any) { m["steps"] = []any{7} }), "steps[0]:"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// A record that no step has made is said to be one, and ends nothing.
func TestBrokenRecord(t *testing.T) {
	raw, _ := story(t, available(), policy, missed(1)...)
	s := strings.Replace(string(raw[0]), `"state":"AVAILABLE"`, `"state":"RECOVERING"`, 1)
	rep := run(t, file(t, []json.RawMessage{json.RawMessage(s)}, nil))
	if len(rep.Lines) != 1 || rep.Missing+rep.Differ != 1 {
		t.Errorf("%+v", rep)
	}
}

// FuzzReplay: whatever a file holds, it is refused or replayed, and both end.
func FuzzReplay(f *testing.F) {
	raw, _ := story(f, available(), policy, missed(6)...)
	f.Add(file(f, raw, nil))
	f.Add(file(f, raw[:1], func(m map[string]any) { m["version"] = 2 }))
	f.Add([]byte(`{"format":"holdfast-incident","version":1,"incident":{"id":"i","host":"h"},"steps":[{"v":1,"n":0,"policy":{},"base":{"host":"h","state":"FENCING","incident":{"id":"i","action":{"id":"t","progress":{"wake":"2026-11-21T12:00:00Z"}}}},"event":{"kind":"tick","at":"2026-11-21T12:00:01Z"},"change":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := Parse(data)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		rep := Run(x)
		if len(rep.Lines) != len(x.Steps) || rep.Judged > len(rep.Lines) || rep.Differ > rep.Judged {
			t.Errorf("%d steps, %+v", len(x.Steps), rep)
		}
	})
}
