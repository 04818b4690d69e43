// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/worker"
)

// ruleFile is a file of Prometheus rules.
type ruleFile struct {
	Groups []struct {
		Name  string     `json:"name"`
		Rules []ruleSpec `json:"rules"`
	} `json:"groups"`
}

type ruleSpec struct {
	Alert       string            `json:"alert,omitempty"`
	Record      string            `json:"record,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func rules(t *testing.T, name string) (out []ruleSpec) {
	t.Helper()
	var f ruleFile
	readYAML(t, &f, "deploy", "mixin", name)
	for _, g := range f.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

type dashboard struct {
	UID, Title, Refresh, Timezone string
	Tags                          []string
	Templating                    struct{ List []struct{ Name, Type string } }
	Annotations                   struct{ List []struct{ Expr string } }
	Panels                        []struct {
		Type, Title string
		Datasource  struct{ UID string }
		FieldConfig struct{ Defaults struct{ Unit string } }
		Targets     []struct {
			Expr       string
			Datasource struct{ UID string }
		}
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(repo("deploy", "mixin", "dashboards", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]dashboard{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out[filepath.Base(f)] = d
	}
	return out
}

var (
	metricName = regexp.MustCompile(`\b(holdfast_[a-z0-9_]+)(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
)

// Every metric named in a rule or panel exists, and so does every label it is asked for.
func TestMixinMetricsExist(t *testing.T) {
	known := map[string][]string{}
	for _, f := range append(worker.MetricFamilies(), agent.MetricFamilies()...) {
		known[f.Name] = f.Labels
		if f.Type == "histogram" {
			for _, s := range []string{"_bucket", "_sum", "_count"} {
				known[f.Name+s] = append(slices.Clone(f.Labels), "le")
			}
		}
	}
	recorded := map[string]bool{}
	for _, r := range rules(t, "rules.yaml") {
		recorded[r.Record] = true
	}
	check := func(where, expr string) {
		for r := range recorded {
			expr = strings.ReplaceAll(expr, r, "recorded")
		}
		for _, m := range metricName.FindAllStringSubmatch(expr, -1) {
			labels, ok := known[m[1]]
			if !ok {
				t.Errorf("%s: no metric %s: %s", where, m[1], expr)
				continue
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(append([]string{"job", "instance", "le"}, labels...), l[1]) {
					t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				}
			}
		}
	}
	for _, r := range append(rules(t, "alerts.yaml"), rules(t, "rules.yaml")...) {
		check(r.Alert+r.Record, r.Expr)
	}
	for name, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				check(name+": "+p.Title, q.Expr)
			}
		}
		for _, a := range d.Annotations.List {
			check(name, a.Expr)
		}
	}
}

// Each alert has its runbook page, severity and texts, and each page its alert; each
// guard that can hold an action has a page.
func TestRunbooks(t *testing.T) {
	const base = "https://github.com/holdfast-ha/holdfast/blob/main/"
	index := readFile(t, "docs", "runbooks", "README.md")
	want := map[string]bool{"README": true, "hold-other": true}
	for _, r := range rules(t, "alerts.yaml") {
		want[r.Alert] = true
		if !regexp.MustCompile(`^Holdfast([A-Z][A-Za-z]+)$`).MatchString(r.Alert) {
			t.Errorf("alert %q is not CamelCase with prefix", r.Alert)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
		if d, err := time.ParseDuration(r.For); err != nil || d <= 30*time.Second {
			t.Errorf("%s: for %q must be longer than two scrapes of 15s", r.Alert, r.For)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or description", r.Alert)
		}
		page, ok := strings.CutPrefix(r.Annotations["runbook_url"], base)
		if !ok || page != "docs/runbooks/"+r.Alert+".md" {
			t.Errorf("%s: runbook_url %q", r.Alert, r.Annotations["runbook_url"])
			continue
		}
		text := readFile(t, page)
		for _, part := range []string{"## What it means", "## Look", "## Do", strings.TrimSpace(r.Expr)} {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q", page, part)
			}
		}
	}
	for _, g := range guard.Guards {
		want["hold-"+strings.ReplaceAll(g.Name, " ", "-")] = true
	}
	pages, err := filepath.Glob(repo("docs", "runbooks", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		name := strings.TrimSuffix(filepath.Base(p), ".md")
		if !want[name] {
			t.Errorf("docs/runbooks/%s.md belongs to no alert and no guard", name)
		}
		delete(want, name)
		if name != "README" && !strings.Contains(index, "("+name+".md)") {
			t.Errorf("docs/runbooks/README.md does not link %s.md", name)
		}
	}
	for name := range want {
		t.Errorf("docs/runbooks/%s.md is missing", name)
	}
}

// Dashboards follow the conventions of libraries.md §6.
func TestDashboards(t *testing.T) {
	all := dashboards(t)
	if len(all) != 4 {
		t.Errorf("%d dashboards, want 4", len(all))
	}
	uids := map[string]bool{}
	for name, d := range all {
		if d.UID == "" || uids[d.UID] || d.Refresh != "30s" || d.Timezone != "" || !slices.Contains(d.Tags, "holdfast-mixin") {
			t.Errorf("%s: uid %q, refresh %q, timezone %q, tags %v", name, d.UID, d.Refresh, d.Timezone, d.Tags)
		}
		uids[d.UID] = true
		var vars []string
		for _, v := range d.Templating.List {
			vars = append(vars, v.Name)
		}
		if !slices.Contains(vars, "datasource") || !slices.Contains(vars, "job") {
			t.Errorf("%s: variables are %v", name, vars)
		}
		for _, p := range d.Panels {
			if p.Type == "row" {
				continue
			}
			if p.Datasource.UID != "${datasource}" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
				t.Errorf("%s: %s: datasource %q, unit %q, %d queries", name, p.Title, p.Datasource.UID, p.FieldConfig.Defaults.Unit, len(p.Targets))
			}
		}
	}
}

// Each alert fires when it should and not in the case next to it, says Prometheus' own
// tool; each has a case in which it fires.
func TestRulesWithPromtool(t *testing.T) {
	cases := readFile(t, "deploy", "mixin", "tests.yaml") + readFile(t, "deploy", "mixin", "tests-day.yaml")
	for _, r := range rules(t, "alerts.yaml") {
		if !strings.Contains(cases, `ALERTS{alertname="`+r.Alert+`", alertstate="firing"`) {
			t.Errorf("no case in which %s fires", r.Alert)
		}
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml", "rules.yaml"}, {"test", "rules", "tests.yaml", "tests-day.yaml"}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...) // Debian's prometheus; `make tools`
		cmd.Dir = repo("deploy", "mixin")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	for name, d := range dashboards(t) { // as rules, queries of panels are checked too
		f := ruleFile{}
		f.Groups = append(f.Groups, struct {
			Name  string     `json:"name"`
			Rules []ruleSpec `json:"rules"`
		}{Name: "g"})
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				f.Groups[0].Rules = append(f.Groups[0].Rules, ruleSpec{Record: "a:b:c" + strings.Repeat("d", len(f.Groups[0].Rules)), Expr: q.Expr})
			}
		}
		text, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", file).CombinedOutput(); err != nil {
			t.Errorf("queries of %s: %v\n%s", name, err, out)
		}
	}
}
