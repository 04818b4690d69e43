// SPDX-License-Identifier: Apache-2.0

package execprovider

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/proc"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/providertest"
)

const deadline = 30 * time.Second

// contractProgram answers as the file "truth" beside it says.
const contractProgram = `#!/bin/sh
read -r question
case "$1 $(cat "${0%/*}/truth")" in
*" mute") exec sleep 600 ;;
*" garbled") echo "certainly" ;;
*" blind") echo '{"version":1,"verdict":"unknown","reason":"the network is away"}' ;;
"eligible "*) echo '{"version":1,"verdict":"pass"}' ;;
"health healthy") echo '{"version":1,"verdict":"pass","boot":"b-1","instances":["i-1"]}' ;;
"health "*) echo '{"version":1,"verdict":"fail","reason":"the service does not answer"}' ;;
"activity dead") echo '{"version":1,"verdict":"idle","reason":"it writes no more","signals":{"agent":"dead","network":"dead"},"votes":[{"reader":"n-2","verdict":"idle","reason":"silent"}]}' ;;
"activity torn") echo '{"version":1,"verdict":"idle","reason":"most say so","votes":[{"reader":"n-2","verdict":"idle","reason":"silent"},{"reader":"n-3","verdict":"active","reason":"it answered"}]}' ;;
"activity "*) echo '{"version":1,"verdict":"active","reason":"it writes","signals":{"agent":"dead","disks":"alive"}}' ;;
*) exit 2 ;;
esac
`

func program(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	// Written elsewhere and renamed: a child forked meanwhile would hold it open for writing.
	for name, mode := range map[string]os.FileMode{path + ".tmp": 0o755, filepath.Join(dir, "truth"): 0o644} {
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func owner() uint32 { return uint32(os.Getuid()) }

func facts(path string) provider.Facts {
	return provider.Facts{Host: "db-1", Partition: "z1/p1", Labels: map[string]string{"rack": "7"}, Program: path, PowerTested: true}
}

func TestContract(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.World {
		path := program(t, contractProgram)
		return providertest.World{
			Provider: New(owner()), Facts: facts(path),
			Set: func(truth providertest.Truth) {
				if err := os.WriteFile(filepath.Join(filepath.Dir(path), "truth"), []byte(truth), 0o644); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestAnswers: what is not an answer by the letter is unknown, never fail and never idle.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		action action
		exit   int
		out    string
		want   ha.Verdict
		why    string
	}{
		{health, 0, `{"version":1,"verdict":"pass","boot":"b"}`, ha.Pass, "says pass"},
		{health, 0, `{"version":1,"verdict":"fail","reason":"no answer"}`, ha.Fail, "no answer"},
		{health, 0, `{"version":1,"verdict":"unknown","reason":"away"}`, ha.Unknown, "away"},
		{health, 1, `{"version":1,"verdict":"fail","reason":"no answer"}`, ha.Unknown, "exit code 1"},
		{health, 0, ``, ha.Unknown, "not an answer"},
		{health, 0, `fail`, ha.Unknown, "not an answer"},
		{health, 0, `{"verdict":"fail","reason":"no answer"}`, ha.Unknown, "version 0, allowed is 1"},
		{health, 0, `{"version":2,"verdict":"fail","reason":"no answer"}`, ha.Unknown, "version 2"},
		{health, 0, `{"version":1,"verdict":"fail"}`, ha.Unknown, "without a reason"},
		{health, 0, `{"version":1,"reason":"no answer"}`, ha.Unknown, "allowed are pass, fail and unknown"},
		{health, 0, `{"version":1,"verdict":"idle","reason":"x"}`, ha.Unknown, "allowed are pass, fail and unknown"},
		{health, 0, `{"version":1,"verdict":"pass"}`, ha.Unknown, "a pass without boot"},
		{health, 0, `{"version":1,"verdict":"fail","reason":"x","boot":"b"}`, ha.Unknown, "without a pass"},
		{health, 0, `{"version":1,"verdict":"pass","boot":"a\nb"}`, ha.Unknown, "control characters"},
		{health, 0, `{"version":1,"verdict":"pass","boot":"b","instances":[""]}`, ha.Unknown, "without a name"},
		{health, 0, `{"version":1,"verdict":"pass","boot":"b","signals":{}}`, ha.Unknown, "belong to activity"},
		{health, 0, `{"version":1,"verdict":"fail","reason":"x","Verdict":"pass"}`, ha.Unknown, `"Verdict" is unknown`},
		{health, 0, `{"version":1,"verdict":"pass","verdict":"fail","reason":"x"}`, ha.Unknown, "twice"},
		{health, 0, `{"version":1,"verdict":"fail","reason":"x"}{}`, ha.Unknown, "more follows"},
		{health, 0, `{"version":1,"verdict":"pass","boot":"b","mood":"good"}`, ha.Unknown, `"mood" is unknown`},
		{eligible, 0, `{"version":1,"verdict":"pass"}`, ha.Pass, ""},
		{eligible, 0, `{"version":1,"verdict":"pass","boot":"b"}`, ha.Unknown, "belong to health"},
		{activity, 0, `{"version":1,"verdict":"idle","reason":"silent","signals":{"agent":"dead","disks":"dead","network":"unknown"}}`, ha.Idle, "silent"},
		{activity, 0, `{"version":1,"verdict":"idle","reason":"silent","signals":{"agent":"dead","network":"alive"}}`, ha.Unknown, "signals.network is alive"},
		{activity, 0, `{"version":1,"verdict":"idle","reason":"silent","signals":{"agent":"gone"}}`, ha.Unknown, "allowed are alive, dead and unknown"},
		{activity, 0, `{"version":1,"verdict":"idle","reason":"x","votes":[{"reader":"n","verdict":"active","reason":"y"}]}`, ha.Unknown, "voted active"},
		{activity, 0, `{"version":1,"verdict":"idle","reason":"x","votes":[{"reader":"","verdict":"idle","reason":"y"}]}`, ha.Unknown, "without a reader"},
		{activity, 0, `{"version":1,"verdict":"fail","reason":"x"}`, ha.Unknown, "allowed are active, idle and unknown"},
		{activity, 139, ``, ha.Unknown, "exit code 139"},
	} {
		got, v, err := c.action.parse(proc.Result{Exit: c.exit, Stdout: []byte(c.out)})
		why := got.Reason
		if err != nil {
			why = err.Error()
		}
		if v != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s %d %s: %q because %q, want %q because …%s…", c.action.name, c.exit, c.out, v, why, c.want, c.why)
		}
	}
}

// TestQuestion: the program is told what it needs, on standard input only, and what it
// answers of boots, instances and gates arrives.
func TestQuestion(t *testing.T) {
	path := program(t, `#!/bin/sh
read -r question
echo "$question" >"${0%/*}/$1"
echo "$#" >"${0%/*}/$1.args"
case $1 in
health) echo '{"version":1,"verdict":"pass","boot":"b-7","instances":["i-1","i-2"],"gate":"g-3"}' ;;
activity) echo '{"version":1,"verdict":"idle","reason":"silent","signals":{"agent":"dead","network":"dead","onlyManagement":true}}' ;;
*) echo '{"version":1,"verdict":"pass"}' ;;
esac
`)
	p, f := New(owner()), facts(path)
	f.Gate, f.MustNotRun = "g-3", []string{"i-9"}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	s := p.Look(ctx, f)
	if s.Health.Verdict != ha.Pass || s.Boot != "b-7" || strings.Join(s.Instances, " ") != "i-1 i-2" || s.Gate != "g-3" || s.Eligible.Verdict != ha.Pass {
		t.Errorf("sight %+v", s)
	}
	c := p.Activity(ctx, provider.Question{ID: "c-1", Subject: f, Window: 6 * time.Second, Readers: []provider.Reader{{Host: "db-2"}}})
	if c.Verdict != ha.Idle || c.Signals != (guard.SignalFacts{Agent: guard.FamilyDead, Network: guard.FamilyDead, OnlyManagement: true}) {
		t.Errorf("check %+v", c)
	}
	for name, want := range map[string]string{
		"health":   `"gate":"g-3","mustNotRun":["i-9"]`,
		"eligible": `"host":"db-1","partition":"z1/p1","labels":{"rack":"7"}`,
		"activity": `"id":"c-1","windowSeconds":6,"neighbours":["db-2"]`,
	} {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), name))
		if err != nil {
			t.Fatal(err)
		}
		var q question
		if err := json.Unmarshal(text, &q); err != nil || q.Version != 1 || q.Action != name || q.Deadline.IsZero() || !strings.Contains(string(text), want) {
			t.Errorf("%s was asked %s, want %s in it (%v)", name, text, want, err)
		}
		if args, _ := os.ReadFile(filepath.Join(filepath.Dir(path), name+".args")); strings.TrimSpace(string(args)) != "1" {
			t.Errorf("%s got %s arguments, want its action only", name, args)
		}
	}
}

// TestEligibilityIsKept: it is asked at first and then once a minute, and what cannot be
// judged keeps its last answer.
func TestEligibilityIsKept(t *testing.T) {
	path := program(t, `#!/bin/sh
case $1 in
health) echo '{"version":1,"verdict":"pass","boot":"b"}' ;;
*) echo x >>"${0%/*}/asked"; [ -e "${0%/*}/away" ] && exit 1; echo '{"version":1,"verdict":"pass"}' ;;
esac
`)
	p, f := New(owner()), facts(path)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	asked := func() int {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "asked"))
		if err != nil {
			t.Fatal(err)
		}
		return len(text) / 2
	}
	f.Sight = p.Look(ctx, f)
	if f.Sight = p.Look(ctx, f); asked() != 1 {
		t.Errorf("asked %d times within a minute", asked())
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "away"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f.Sight.EligAt = f.Sight.EligAt.Add(-eligibleFor)
	f.Sight = p.Look(ctx, f)
	if v, why := p.Eligible(f); v != ha.Pass || asked() != 2 {
		t.Errorf("%q because %q after %d times, want the last answer", v, why, asked())
	}
}

// TestCheck: a program that anybody could have written is not run.
func TestCheck(t *testing.T) {
	good := program(t, "#!/bin/sh\nexit 0\n")
	open := program(t, "#!/bin/sh\nexit 0\n")
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	p := New(owner())
	for path, why := range map[string]string{
		"": "setting ha.exec.program is empty", "bin/x": "clean absolute path", good + "-gone": "no such file", open: "writable by others", filepath.Dir(good): "not an executable file",
	} {
		f := facts(path)
		if err := p.Check(f); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %s", path, err, why)
		}
		f.Sight = p.Look(t.Context(), f)
		if v, said := p.Eligible(f); v != ha.Fail || !strings.Contains(said, why) {
			t.Errorf("%q: eligible %q because %q", path, v, said)
		}
		if v, _ := p.Health(f, nil); v != ha.Unknown {
			t.Errorf("%q: health %q", path, v)
		}
		if c := p.Activity(t.Context(), provider.Question{Subject: f}); c.Verdict != ha.Unknown {
			t.Errorf("%q: activity %q", path, c.Verdict)
		}
	}
	if err := p.Check(facts(good)); err != nil {
		t.Error(err)
	}
	if owner() != 0 {
		if err := New().Check(facts(good)); err == nil || !strings.Contains(err.Error(), "does not belong to root") {
			t.Errorf("a program of somebody else: %v", err)
		}
	}
}

// FuzzAnswer: no output panics the reader, and idle and fail are read from one form only.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{"version":1,"verdict":"idle","reason":"x"}`, `{"version":1,"verdict":"fail","reason":"x"}`, `{"version":1,"verdict":"pass","boot":"b"}`, `[[[[[[`, `{"verd\u0069ct":"idle"}`} {
		f.Add(0, []byte(s))
		f.Add(1, []byte(s))
	}
	f.Fuzz(func(t *testing.T, exit int, out []byte) {
		for _, a := range []action{eligible, health, activity} {
			got, v, err := a.parse(proc.Result{Exit: exit, Stdout: out})
			if v != ha.Unknown && (exit != 0 || err != nil || v != a.yes && v != a.no || got.Version != Version || got.Reason == "") {
				t.Errorf("%s: %q (%v) from exit %d and %q", a.name, v, err, exit, out)
			}
		}
	})
}
