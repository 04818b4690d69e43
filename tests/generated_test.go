// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/metric"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker"
	"github.com/holdfast-ha/holdfast/worker/api"
)

var rewrite = flag.Bool("rewrite", false, "write the generated pages in docs/ anew")

// TestGenerated: tables are truth; pages made of them say the same (architecture.md
// §4.4).
func TestGenerated(t *testing.T) {
	for name, text := range map[string]string{
		"states.md":         haStates().markdown(),
		"command-states.md": commandStates().markdown(),
		"settings.md":       settings.Markdown(),
		"keys.md":           leases.SchemaMarkdown(),
		"api.md":            api.RoutesMarkdown(),
		"openapi.json":      string(api.OpenAPI()),
		"metrics.md":        metric.Markdown(worker.MetricFamilies(), agent.MetricFamilies()),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("..", "docs", name)
			if *rewrite {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			have, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v; `make docs` writes it", err)
			}
			if d := cmp.Diff(text, string(have)); d != "" {
				t.Errorf("docs/%s differs from its table; `make docs` rewrites it (-table +page):\n%s", name, d)
			}
		})
	}
}
