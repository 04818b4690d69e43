// SPDX-License-Identifier: Apache-2.0

// Package metrictest proves of a table of metrics what must be so of each.
package metrictest

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/holdfast-ha/holdfast/agent/metric"
)

// Check proves that names and help texts follow Prometheus' conventions (libraries.md §6),
// and that the table is what the registry has, neither more nor less, under this prefix.
func Check(t *testing.T, table *metric.Table, prefix string) {
	t.Helper()
	lint(t, table.Families())
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		table.Registry().Describe(ch)
	}()
	described := map[string]bool{}
	for d := range ch {
		if name := strings.Split(d.String(), `"`)[1]; strings.HasPrefix(name, prefix) {
			described[name] = true
		}
	}
	for _, f := range table.Families() {
		if !described[f.Name] {
			t.Errorf("%s is in the table and not in the registry", f.Name)
		}
		delete(described, f.Name)
	}
	for name := range described {
		t.Errorf("%s is in the registry and not in the table", name)
	}
}

func lint(t *testing.T, all []metric.Family) {
	t.Helper()
	var text strings.Builder
	for _, f := range all {
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

// Scrape is what a table answers to a scrape.
func Scrape(t *testing.T, table *metric.Table) string {
	t.Helper()
	rec := httptest.NewRecorder()
	table.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if rec.Code != 200 {
		t.Fatalf("a scrape is answered with %d: %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

// Shows fails the test unless each of these lines is in an answer to a scrape.
func Shows(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}
