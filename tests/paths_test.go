// SPDX-License-Identifier: Apache-2.0

package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every file and folder that the pages for newcomers name in backquotes is there; of those in worker
// and cmd/holdfast the rest of the path will do.
func TestPagesNameWhatIsThere(t *testing.T) {
	top := regexp.MustCompile(`^(agent|cmd|coordinator|deploy|docs|leases|sim|tests|worker)/[\w./*-]+$|^[\w/*]+\.(go|md|ya?ml|proto)$`)
	symbol := regexp.MustCompile(`\.[A-Z]\w*$`) // coordinator/command.Judge: the package
	named := 0
	for _, page := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join("..", page))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
			if !top.MatchString(m[1]) {
				continue
			}
			named++
			found := false
			for _, below := range []string{"", "worker", "cmd/holdfast"} {
				files, err := filepath.Glob(filepath.Join("..", below, symbol.ReplaceAllString(m[1], "")))
				found = found || err == nil && len(files) > 0
			}
			if !found {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
	if named < 40 {
		t.Errorf("%d paths found in the pages: they name more", named)
	}
}
