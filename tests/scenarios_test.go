// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every acceptance scenario of power.md §11 names its tests in docs/power.md, and they exist.
func TestEachPowerScenarioHasItsTest(t *testing.T) {
	doc, err := os.ReadFile("../docs/power.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)` (Test[A-Za-z0-9]+)")
	sources := map[string]string{}
	for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
		folder, name := m[1], m[2]
		if sources[folder] == "" {
			files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no tests in %s: %v", folder, err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				sources[folder] += string(b)
			}
		}
		if !strings.Contains(sources[folder], "func "+name+"(t *testing.T)") {
			t.Errorf("docs/power.md names %s of %s, which does not exist", name, folder)
		}
	}
	_, table, _ := strings.Cut(string(doc), "## Acceptance scenarios")
	for n := 1; n <= 27; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, n)).FindString(table)
		if !named.MatchString(row) {
			t.Errorf("scenario %d names no test: %q", n, row)
		}
	}
}
