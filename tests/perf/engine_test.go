// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// figure is a target of a Go benchmark.
type figure struct {
	pkg, bench, unit string // unit as the benchmark prints it
	what, target     string
	limit            float64
	least            bool // the target is a floor, not a ceiling
}

// figures are the engine's own costs (issue: the HA engine, "Targets"), by benchmarks of the
// packages that have them.
var figures = []figure{
	{"coordinator/ha", "BenchmarkStep/guards/allow", "ns/op", "one decision with all guards", "≤ 10 µs", 10_000, false},
	{"coordinator/ha", "BenchmarkStep/quiet/ping", "ns/op", "one ping of a healthy host, decided", "≤ 10 µs", 10_000, false},
	{"coordinator/ha", "BenchmarkStep/quiet/ping", "allocs/op", "the same: allocations", "≤ 2", 2, false},
	{"worker", "BenchmarkBeat", "cpu-ns/beat", "heartbeat of one of 10,000 hosts on one worker, CPU beyond its frames", "≤ 20 µs", 20_000, false},
	{"sim/fleet", "BenchmarkHostHours", "host-hours/min", "simulated host-hours a minute on one core, all guards, a host dying every hour", "≥ 10⁶", 1e6, true},
}

// engine runs them, each package's in a process of its own.
func (b *bench) engine() {
	got := map[string]map[string]float64{}
	for _, f := range figures {
		if got[f.pkg] == nil {
			got[f.pkg] = b.goBench(f.pkg)
		}
		v, ok := got[f.pkg][f.bench+" "+f.unit]
		if !ok {
			b.t.Errorf("%s: %s has told no %s; told: %v", f.pkg, f.bench, f.unit, got[f.pkg])
			continue
		}
		r := row{What: f.what, Target: f.target, Value: v, Limit: f.limit}
		switch {
		case f.least:
			r.Value, r.Limit = f.limit, v // lower is better
			r.Measured = fmt.Sprintf("%.2g", v)
		case strings.Contains(f.unit, "ns"):
			r.Measured = fmt.Sprintf("%.1f µs", v/1000)
		default:
			r.Measured = fmt.Sprint(v)
		}
		b.report.add(r)
	}
}

var benchLine = regexp.MustCompile(`^(Benchmark\S+?)(-\d+)?\s+\d+\s+(.*)$`)

// goBench runs the benchmarks of a package that figures name, and returns what
// they say by name and unit.
func (b *bench) goBench(pkg string) map[string]float64 {
	b.t.Helper()
	var names []string
	for _, f := range figures {
		if name, _, _ := strings.Cut(f.bench, "/"); f.pkg == pkg && !strings.Contains(strings.Join(names, " "), name) {
			names = append(names, name)
		}
	}
	args := []string{"test", "-run", "^$", "-bench", "^(" + strings.Join(names, "|") + ")$", "-benchmem", "-benchtime", b.n.Bench}
	if !*full {
		args = append(args, "-short")
	}
	args = append(args, "github.com/holdfast-ha/holdfast/"+pkg)
	text, err := exec.CommandContext(b.t.Context(), "go", args...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		m := benchLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		for words := strings.Fields(m[3]); len(words) > 1; words = words[2:] {
			if v, err := strconv.ParseFloat(words[0], 64); err == nil {
				out[m[1]+" "+words[1]] = v
			}
		}
	}
	return out
}
