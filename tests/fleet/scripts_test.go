// SPDX-License-Identifier: Apache-2.0

// Package fleet tells what the engine does in situations that operators know by name, on
// a simulated fleet, and searches at random for situations that nobody has named yet.
package fleet

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/holdfast-ha/holdfast/sim/fleet"
)

// TestScripts plays every file of testdata: its topology, its script, its story. With
// -rewrite the stories are written anew; read what changed as you would read an incident.
func TestScripts(t *testing.T) {
	for _, path := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			var top fleet.Topology
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				switch d.Cmd {
				case "topology":
					var err error
					if top, err = fleet.ParseTopology([]byte(d.Input)); err != nil {
						d.Fatalf(t, "%v", err)
					}
					return fmt.Sprintf("%d hosts, %d workers\n", len(top.Hosts), len(top.Workers))
				case "script":
					r, err := play(top, d.Input)
					if err != nil {
						d.Fatalf(t, "%v", err)
					}
					for _, b := range r.Broken {
						t.Error(b)
					}
					var out strings.Builder
					if err := r.Write(&out); err != nil {
						t.Fatal(err)
					}
					return out.String()
				}
				d.Fatalf(t, "command %q, allowed are topology, script", d.Cmd)
				return ""
			})
		})
	}
}

func scripts(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(all) == 0 {
		t.Fatalf("scripts in testdata: %d, %v", len(all), err)
	}
	return all
}

func play(top fleet.Topology, script string) (fleet.Result, error) {
	s, err := fleet.ParseScript(script)
	if err != nil {
		return fleet.Result{}, err
	}
	f := fleet.New(top)
	if err := f.Play(s); err != nil {
		return fleet.Result{}, err
	}
	return f.Result(), nil
}
