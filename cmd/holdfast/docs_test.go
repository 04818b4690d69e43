// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/sim/fleet"
	"github.com/holdfast-ha/holdfast/worker"
)

var rewrite = flag.Bool("rewrite", false, "write the generated parts of docs/ha.md anew")

// situations are those whose `explain` docs/ha.md shows, each played by the simulator, in
// which the code of production decides.
var situations = []struct{ name, topology, script, host string }{
	{"dead-host", "clusters: [{path: z1/p1/c1, hosts: 4, racks: [r1, r2, r3, r4]}]", "10s crash h3\n41s end", "h3"},
	{"storm", "clusters: [{path: z1/p1/c1, hosts: 12, racks: [r1, r2, r3]}]", "10s lose rack r1\n4m end", "h1"},
	{"power-unreachable", "clusters: [{path: z1/p1/c1, hosts: 4, racks: [r1, r2, r3, r4]}]", "5s bmc h3 dead\n3m crash h3\n6m end", "h3"},
	{"budget-used-up", "clusters: [{path: z1/p1/c1, hosts: 10, racks: [r1, r2, r3, r4, r5, r6, r7, r8, r9, r10]}]", "10s crash h1\n3m crash h2\n6m crash h3\n9m crash h4\n12m end", "h4"},
	{"back-by-itself", "clusters: [{path: z1/p1/c1, hosts: 4, racks: [r1, r2, r3, r4], like: {boot: 10s}}]", "10s panic h3\n32200ms end", "h3"},
	{"maintenance", "clusters: [{path: z1/p1/c1, hosts: 4, racks: [r1, r2, r3, r4]}]", "10s maintenance h3 on\n20s crash h3\n2m end", "h3"},
}

// TestGeneratedExplanations: docs/ha.md shows what `explain` says today.
func TestGeneratedExplanations(t *testing.T) {
	const path = "../../docs/ha.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, s := range situations {
		begin, end := "<!-- begin "+s.name+": written by `make docs` -->\n", "<!-- end "+s.name+" -->"
		head, rest, ok := strings.Cut(page, begin)
		was, tail, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("docs/ha.md lacks %s … %s", begin, end)
		}
		is := explained(t, s.topology, s.script, s.host)
		if was != is && !*rewrite {
			t.Errorf("docs/ha.md, %s, is not what explain says; `make docs` rewrites it (-page +today):\n%s", s.name, cmp.Diff(was, is))
		}
		page = head + begin + is + end + tail
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func explained(t *testing.T, topology, lines, host string) string {
	t.Helper()
	top, err := fleet.ParseTopology([]byte(topology))
	if err != nil {
		t.Fatal(err)
	}
	script, err := fleet.ParseScript(lines)
	if err != nil {
		t.Fatal(err)
	}
	f := fleet.New(top)
	if err := f.Play(script); err != nil {
		t.Fatal(err)
	}
	rec, x, ok := f.Explain(host)
	if !ok {
		t.Fatalf("no host %s", host)
	}
	e := &env{Getenv: func(string) string { return "" }, IsTTY: func(any) bool { return false }}
	var out strings.Builder
	e.explanation(&text{w: &out, now: f.Now()}, worker.ExplanationOf(rec, x))
	return fmt.Sprintf("\n```\n# %s\n%s\n```\n\n```\n$ holdfast explain host %s\n%s```\n\n", topology, lines, host, out.String())
}
