// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/sim/fleet"
)

var (
	mutate     = flag.Bool("mutate", false, "remove each guard in turn and show what fails then")
	mutateWith = flag.Int("mutate-seeds", 300, "how many random seeds are played for each removed guard")
)

// backstops are guards behind which another rule stands in the simulation, so that
// nothing fails without them; each is proven by its own test.
var backstops = map[string]string{
	"duplicate": "guard.TestEachGuardHolds; ha asks for no place while an action runs",
}

// TestMutation removes each guard in turn: some script must tell another story, or some
// seed break a rule. What fails for which guard is logged, as docs/simulate.md shows it
// (guard, scripts that differ, those that switch more off, seeds). Without -mutate only the
// guards are looked at that no script of testdata names as holding.
func TestMutation(t *testing.T) {
	files := stories(t)
	for _, g := range guard.Guards {
		held := 0
		for _, f := range files {
			if strings.Contains(f.story, "held by "+g.Name+":") || strings.Contains(f.story, "; "+g.Name+": ") {
				held++
			}
		}
		if _, backstop := backstops[g.Name]; held == 0 && !backstop && !*mutate {
			t.Errorf("guard %s holds in no script of testdata", g.Name)
		}
	}
	if !*mutate {
		return
	}
	all := guard.Guards
	defer func() { guard.Guards = all }()
	for i, g := range all {
		guard.Guards = slices.Delete(slices.Clone(all), i, i+1)
		var differ, packets []string
		for _, f := range files {
			r, err := play(f.top, f.script)
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			var out strings.Builder
			if err := r.Write(&out); err != nil {
				t.Fatal(err)
			}
			if out.String() == f.story {
				continue
			}
			differ = append(differ, f.name)
			if strings.Count(out.String(), "packet: off") > strings.Count(f.story, "packet: off") {
				packets = append(packets, f.name)
			}
		}
		var seeds []uint64
		for seed := uint64(1); seed <= uint64(*mutateWith) && len(seeds) < 3; seed++ {
			if newScenario(seed).play() != "" {
				seeds = append(seeds, seed)
			}
		}
		t.Logf("| %s | %d: %s | %d %s | %v |", g.Name, len(differ), strings.Join(first(differ, 3), ", "), len(packets), strings.Join(first(packets, 3), ", "), seeds)
		if _, backstop := backstops[g.Name]; len(differ) == 0 && len(seeds) == 0 && !backstop {
			t.Errorf("without guard %s nothing fails", g.Name)
		}
	}
}

func first(all []string, n int) []string { return all[:min(n, len(all))] }

// told is one file of testdata.
type told struct {
	name, script, story string
	top                 fleet.Topology
}

func stories(t *testing.T) (out []told) {
	t.Helper()
	for _, path := range scripts(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\ntopology\n")
		top, rest, _ := strings.Cut(rest, "\n----\n")
		_, rest, _ = strings.Cut(rest, "\nscript\n")
		script, story, ok := strings.Cut(rest, "\n----\n")
		if !ok {
			t.Fatalf("%s is no topology and script", path)
		}
		x := told{name: strings.TrimSuffix(filepath.Base(path), ".txt"), script: script}
		if x.top, err = fleet.ParseTopology([]byte(top)); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		x.story = strings.TrimSuffix(strings.TrimPrefix(story, "----\n"), "----\n----\n")
		out = append(out, x)
	}
	return out
}
