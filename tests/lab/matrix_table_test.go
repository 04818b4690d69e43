// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

var page = flag.String("page", "", "write the table of TestInterrupted into this file, between its marks")

// Marks of the table in the page.
const (
	tableBegins = "<!-- written by make lab-test -page: begin -->\n"
	tableEnds   = "<!-- written by make lab-test -page: end -->\n"
)

// notYet is what stands for a cell without a result: one that is none, or has not run.
func notYet(name, kind string) string {
	for _, what := range interruptions {
		if what.name == name && (what.kinds == nil || slices.Contains(what.kinds, kind)) {
			return "not run"
		}
	}
	return "–"
}

// writeTable writes what came of each cell between the marks of a page.
func writeTable(file string, results map[string]map[string]string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(text), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return fmt.Errorf("%s has not the marks %q and %q", file, tableBegins, tableEnds)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| interruption | %s |\n|---%s|\n", strings.Join(kinds, " | "), strings.Repeat("|---", len(kinds)))
	for _, what := range interruptions {
		if what.what == "" {
			continue // one more row of the same name
		}
		fmt.Fprintf(&b, "| %s: %s |", what.name, what.what)
		for _, kind := range kinds {
			fmt.Fprintf(&b, " %s |", cmp.Or(results[what.name][kind], notYet(what.name, kind)))
		}
		b.WriteString("\n")
	}
	return os.WriteFile(file, []byte(before+tableBegins+b.String()+tableEnds+after), 0o644)
}
