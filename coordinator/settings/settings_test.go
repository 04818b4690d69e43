// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Every setting of ha.md §4 is in the catalogue with the default of its table.
func TestCatalogue(t *testing.T) {
	for name, want := range map[string]string{
		"agent.ping.interval": "5s", "ha.health.failures": "3", "ha.health.timeout": "5s",
		"ha.activity.interval.initial": "10s", "ha.activity.interval.max": "250s", "ha.stamp.interval": "2s",
		"ha.activity.window": "6s", "ha.activity.timeout": "30s", "ha.activity.attempts": "5", "ha.activity.checkers": "3",
		"ha.degraded.after": "3", "ha.recovery.attempts": "2", "ha.recovery.wait": "600s",
		"ha.fence.level.timeout": "60s", "ha.fence.timeout": "300s", "ha.off.confirm.delay": "30s", "ha.confirm.silence": "60s",
		"ha.repair.command": "", "ha.repair.attempts": "1", "ha.kvm.local": "false", "ha.quiet.period": "180s",
		"ha.policy": "recover", "ha.proof.min": "A3", "worker.activity.concurrency": "50", "worker.recovery.concurrency": "5",
		"worker.power.rate": "20/1s", "budget.cluster": "3/1h", "budget.pod": "6/1h", "budget.zone": "20/1h", "budget.host": "3/24h",
		"guard.unhealthy.share": "34%", "guard.storm.cooldown": "10m", "worker.warmup": "3",
	} {
		if d, ok := Lookup(name); !ok || d.Default != want {
			t.Errorf("%s: default %q, want %q", name, d.Default, want)
		}
	}
	for _, d := range All {
		if d.Doc == "" || !strings.HasSuffix(d.Doc, ".") || d.Effect != Live && d.Effect != NextAction || d.Allowed() == "" {
			t.Errorf("%s: doc %q, effect %q, allowed %q", d.Name, d.Doc, d.Effect, d.Allowed())
		}
		for _, s := range d.Scopes {
			if !slices.Contains(Scopes, s) {
				t.Errorf("%s: scope %q", d.Name, s)
			}
		}
		for p := range d.Presets {
			if p != PresetSeed && p != PresetFast {
				t.Errorf("%s: preset %q", d.Name, p)
			}
		}
	}
}

func TestIndexRefusesABrokenCatalogue(t *testing.T) {
	for name, defs := range map[string][]Def{
		"twice":               {{Name: "a", Type: Int, Default: "1"}, {Name: "a", Type: Int, Default: "1"}},
		"default not allowed": {{Name: "a", Type: Int, Default: "1", Min: "2", Max: "3"}},
		"preset not allowed":  {{Name: "a", Type: Int, Default: "2", Min: "2", Max: "3", Presets: fast("9")}},
		"not in stored form":  {{Name: "a", Type: Bool, Default: "yes"}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			index(defs)
		}()
	}
}

// An error names setting, value and what is allowed.
func TestParse(t *testing.T) {
	for _, c := range []struct{ name, value, want, err string }{
		{"agent.ping.interval", " 10s ", "10s", ""},
		{"agent.ping.interval", "1m", "1m", ""},
		{"agent.ping.interval", "61s", "", `setting agent.ping.interval: value "61s": allowed are durations such as 500ms or 10m from 1s to 60s`},
		{"agent.ping.interval", "10", "", `setting agent.ping.interval: value "10": allowed are durations such as 500ms or 10m from 1s to 60s`},
		{"agent.ping.interval", "-5s", "", "allowed are"},
		{"power.settle.window", "5s", "", "from 6s to 10m"},
		{"power.settle.reads", "2", "", "whole numbers from 3 to 100"},
		{"ha.health.failures", "007", "7", ""},
		{"ha.health.failures", "3.5", "", `value "3.5"`},
		{"guard.unhealthy.share", "50", "50%", ""},
		{"guard.unhealthy.share", "50 %", "50%", ""},
		{"guard.unhealthy.share", "0%", "", "percentages from 1% to 100%"},
		{"ha.policy", "Fence", "fence", ""},
		{"ha.policy", "shoot", "", `setting ha.policy: value "shoot": allowed are observe, recover, fence`},
		{"ha.kvm.local", "on", "true", ""},
		{"ha.kvm.local", "2", "", "allowed are true, false"},
		{"ha.proof.min", "a5", "A5", ""},
		{"ha.proof.min", "A2", "", "allowed are A3, A4, A5"},
		{"budget.cluster", "5/30m", "5/30m", ""},
		{"budget.cluster", "5/h", "5/1h", ""},
		{"budget.cluster", "0/1h", "0/1h", ""},
		{"budget.cluster", "5", "", "rates such as 3/1h from 0/1m to 1000/168h"},
		{"budget.cluster", "5/1s", "", `value "5/1s"`},
		{"budget.cluster", "-1/1h", "", `value "-1/1h"`},
		{"worker.power.rate", "30/s", "30/1s", ""},
		{"page.exec", "/usr/local/bin/page", "/usr/local/bin/page", ""},
		{"page.exec", "", "", ""},
		{"page.exec", "page", "", "an absolute path of a program, or nothing"},
		{"page.exec", "/bin/x\ny", "", "absolute path"},
		{"agent.workers", "m1,m2", "m1,m2", ""},
		{"agent.workers", strings.Repeat("m", maxText+1), "", "text without control characters"},
		{"preset", "slow", "", "allowed are default, seed, fast"},
	} {
		d, _ := Lookup(c.name)
		got, err := d.Parse(c.value)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %q: %q, %v; want %q, %q", c.name, c.value, got, err, c.want, c.err)
		}
	}
}

// global → zone → pod → cluster → host; the narrowest wins, and at one scope an explicit
// value wins over the preset. A preset sets its whole column, and nothing else.
func TestResolve(t *testing.T) {
	e := Resolve([]Layer{
		{"global", map[string]string{"ha.policy": "fence", "agent.ping.interval": "20s", "ha.health.timeout": "9s", "budget.host": "1/24h"}},
		{"zone/z1", map[string]string{"preset": "fast", "ha.activity.window": "3s"}},
		{"pod/z1/p1", nil},
		{"cluster/z1/p1/c1", map[string]string{"preset": "default", "ha.stamp.interval": "1s"}},
		{"host/h1", map[string]string{"agent.ping.interval": "2s"}},
	})
	zone := Resolve([]Layer{
		{"global", map[string]string{"agent.ping.interval": "20s", "ha.armed": "false"}},
		{"zone/z1", map[string]string{"preset": "fast", "ha.activity.window": "3s"}},
	})
	for _, c := range []struct {
		e                  Effective
		name, text, origin string
	}{
		{e, "agent.ping.interval", "2s", "host/h1"},
		{e, "ha.policy", "fence", "global"}, // no preset touches it
		{e, "budget.host", "1/24h", "global"},
		{e, "ha.stamp.interval", "1s", "cluster/z1/p1/c1"},
		{e, "ha.activity.window", "6s", "preset default at cluster/z1/p1/c1"}, // the whole column, back to default
		{e, "ha.health.timeout", "5s", "preset default at cluster/z1/p1/c1"},
		{e, "preset", "default", "cluster/z1/p1/c1"},
		{e, "ha.recovery.wait", "600s", "default"},
		{zone, "agent.ping.interval", "1s", "preset fast at zone/z1"},
		{zone, "ha.activity.window", "3s", "zone/z1"},
		{zone, "ha.armed", "false", "global"},
		{Effective{}, "ha.activity.window", "6s", "default"},
		{Effective{}, "no.such", "", ""},
	} {
		if text, origin := c.e.Value(c.name); text != c.text || origin != c.origin {
			t.Errorf("%s: %q from %q, want %q from %q", c.name, text, origin, c.text, c.origin)
		}
	}
	if p := append(e.Problems(), zone.Problems()...); len(p) != 0 {
		t.Errorf("problems %q", p)
	}
}

func TestGetters(t *testing.T) {
	var e Effective
	n, w := e.Rate("budget.host")
	if e.Duration("ha.activity.interval.max") != 250*time.Second || e.Int("guard.unhealthy.share") != 34 || !e.Bool("ha.armed") || e.Bool("ha.kvm.local") ||
		n != 3 || w != 24*time.Hour || e.Assurance("ha.proof.min") != 3 || e.String("agent.lb.algorithm") != "ring" {
		t.Error("a getter does not answer with the default")
	}
	n, w = e.Rate("ha.policy")
	if e.Duration("ha.policy") != 0 || e.Int("no.such") != 0 || n != 0 || w != 0 || e.Assurance("ha.policy") != 0 {
		t.Error("a getter of another type answers something")
	}
}

// The figures of preset fast (ha.md §4), and that no preset breaks a rule.
func TestPresets(t *testing.T) {
	f := Resolve([]Layer{{"global", map[string]string{"preset": "fast"}}})
	for name, want := range map[string]string{
		"agent.ping.interval": "1s", "ha.health.failures": "3", "ha.health.timeout": "1s", "ha.stamp.interval": "500ms", "ha.activity.window": "2s",
		"ha.activity.first.at.once": "true", "ha.activity.memory": "true", "ha.off.confirm.delay": "5s", "ha.confirm.silence": "10s", "ha.suspect.read.interval": "2s",
		"power.settle.reads": "3", "power.settle.window": "6s", "ha.policy": "recover",
	} {
		if got := f.String(name); got != want {
			t.Errorf("fast: %s is %s, want %s", name, got, want)
		}
	}
	if got := Resolve([]Layer{{"global", map[string]string{"preset": "seed"}}}).String("agent.ping.interval"); got != "60s" {
		t.Errorf("seed: ping every %s", got)
	}
	for _, p := range []string{PresetDefault, PresetSeed, PresetFast} {
		if got := Resolve([]Layer{{"host/h1", map[string]string{"preset": p}}}).Problems(); len(got) != 0 {
			t.Errorf("preset %s: %q", p, got)
		}
	}
}

// ha.activity.window ≥ 2 × ha.stamp.interval + 1 s, however the two come together.
func TestCrossRule(t *testing.T) {
	layers := []Layer{
		{"global", map[string]string{"preset": "fast"}},
		{"host/h1", map[string]string{"ha.stamp.interval": "5s"}},
	}
	e := Resolve(layers)
	if got := e.Duration("ha.activity.window"); got != 11*time.Second {
		t.Errorf("window %s beside a stamp every 5s", got)
	}
	if got := e.Duration("ha.activity.timeout"); got != 13*time.Second {
		t.Errorf("timeout %s beside a window of 11s", got)
	}
	if _, origin := e.Value("ha.activity.window"); origin != "preset fast at global, raised: at least 2 × ha.stamp.interval + 1s" {
		t.Errorf("origin %q", origin)
	}
	want := `setting ha.activity.window: value "2s" (preset fast at global): allowed is at least 2 × ha.stamp.interval + 1s, here 11s`
	if err := Validate("host/h1", "ha.stamp.interval", "5s", layers); err == nil || err.Error() != want {
		t.Errorf("Validate: %v,\nwant %s", err, want)
	}
	// What was wrong before does not forbid a change that has nothing to do with it.
	layers[1].Values["ha.policy"] = "fence"
	if err := Validate("host/h1", "ha.policy", "fence", layers); err != nil {
		t.Errorf("an unrelated change: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct{ scope, name, text, err string }{
		{"host/h1", "worker.warmup", "1", `setting worker.warmup: scope "host/h1": allowed are global`},
		{"cluster/z1/p1/c1", "budget.pod", "1/1h", "allowed are global, zone, pod"},
		{"global/x", "ha.policy", "fence", "scope"},
		{"zone/", "ha.policy", "fence", "scope"},
		{"global", "ha.polcy", "fence", `setting "ha.polcy": there is no such setting`},
		{"global", "ha.policy", "fences", `value "fences"`},
		{"pod/z1/p1", "budget.pod", "1/1h", ""},
	} {
		err := Validate(c.scope, c.name, c.text, []Layer{{c.scope, map[string]string{c.name: c.text}}})
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s=%s at %s: %v, want %q", c.name, c.text, c.scope, err, c.err)
		}
	}
}

// What was written past us is left out: the next wider value counts.
func TestBadValuesAreLeftOut(t *testing.T) {
	e := Resolve([]Layer{
		{"global", map[string]string{"ha.policy": "observe"}},
		{"zone/z1", map[string]string{"ha.policy": "all of it", "worker.warmup": "0", "no.such": "1", "preset": "warp"}},
	})
	if got := e.String("ha.policy"); got != "observe" {
		t.Errorf("policy %s", got)
	}
	if got := e.Int("worker.warmup"); got != 3 {
		t.Errorf("warm-up %d", got)
	}
	if p := e.Problems(); len(p) != 4 {
		t.Errorf("problems %q", p)
	}
}

// Whatever is stored, what comes out keeps every bound and every rule.
func TestResolveIsTotal(t *testing.T) {
	texts := rapid.SampledFrom([]string{"", "0", "1", "3", "-1", "1s", "5s", "45s", "10m", "1h", "9999h", "3/1h", "99%", "true", "fast", "seed", "default", "fence", "A5", "/x", "\x00", "ring"})
	names := []string{"no.such"}
	for _, d := range All {
		names = append(names, d.Name)
	}
	rapid.Check(t, func(t *rapid.T) {
		var layers []Layer
		for _, scope := range []string{"global", "zone/z", "pod/z/p", "cluster/z/p/c", "host/h", "", "moon"} {
			layers = append(layers, Layer{scope, rapid.MapOfN(rapid.SampledFrom(names), texts, 0, 12).Draw(t, scope)})
		}
		e := Resolve(layers)
		for _, d := range All {
			text, origin := e.Value(d.Name)
			if _, err := d.Parse(text); err != nil && !strings.Contains(origin, "raised") {
				t.Fatalf("%v, from %s", err, origin)
			}
			if origin == "" {
				t.Fatalf("%s comes from nowhere", d.Name)
			}
		}
		for _, r := range crossRules {
			if e.Duration(r.name) < r.least(e) {
				t.Fatalf("%s is %s, %s", r.name, e.String(r.name), r.words)
			}
		}
	})
}

func TestMarkdown(t *testing.T) {
	page := Markdown()
	for _, d := range All {
		if !strings.Contains(page, fmt.Sprintf("| `%s` |", d.Name)) {
			t.Errorf("the page does not mention %s", d.Name)
		}
	}
	for _, line := range strings.Split(page, "\n") {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") != 9 {
			t.Errorf("broken row: %s", line)
		}
	}
}

// A figure of a device class counts where nobody set the value explicitly: over defaults
// and presets, under every explicit value (power.md §9.6).
func TestFiguresGiveWayToExplicitValues(t *testing.T) {
	const name = "power.sync.interval"
	for _, c := range []struct {
		layers []Layer
		want   time.Duration
		origin string
	}{
		{nil, 2 * time.Minute, "class fragile at zone/z1"},
		{[]Layer{{"global", map[string]string{Preset: PresetFast}}}, 2 * time.Minute, "class fragile at zone/z1"},
		{[]Layer{{"global", map[string]string{name: "30s"}}}, 30 * time.Second, "global"},
	} {
		e := Resolve(c.layers).WithFigure(name, "120s", "class fragile at zone/z1")
		if _, origin := e.Value(name); e.Duration(name) != c.want || origin != c.origin {
			t.Errorf("%v: %v from %s, want %v from %s", c.layers, e.Duration(name), origin, c.want, c.origin)
		}
	}
	if text, origin := Resolve(nil).WithFigure(name, "1ms", "class").Value(name); origin != OriginDefault {
		t.Errorf("a figure out of bounds was taken: %s from %s", text, origin)
	}
	if text, _ := Resolve(nil).WithFigure("no.such", "1", "class").Value("no.such"); text != "" {
		t.Errorf("a setting was invented: %s", text)
	}
}

// Scopes of a host go from the widest to its own; a path deeper than a cluster adds none.
func TestScopesOf(t *testing.T) {
	for _, c := range []struct {
		path, host string
		want       []string
	}{
		{"", "", []string{"global"}},
		{"", "h1", []string{"global", "host/h1"}},
		{"z/p/c", "", []string{"global", "zone/z", "pod/z/p", "cluster/z/p/c"}},
		{"z/p/c/d", "h1", []string{"global", "zone/z", "pod/z/p", "cluster/z/p/c", "host/h1"}},
	} {
		if got := ScopesOf(c.path, c.host); !slices.Equal(got, c.want) {
			t.Errorf("%q, %q: %v, want %v", c.path, c.host, got, c.want)
		}
	}
}
