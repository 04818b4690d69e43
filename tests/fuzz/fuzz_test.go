// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"cmp"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var span = flag.Duration("for", 0, "how long to run each target")

const (
	root    = "../.."
	keep    = 40       // inputs of a target that are kept in its testdata
	largest = 16 << 10 // bytes of such an input
)

// parsers are the packages that read bytes from the network, from a child process, or
// from a store that others write to.
var parsers = []string{
	"agent", "agent/trust", "coordinator/replay", "sim/bmc", "sim/pdu", "sim/redfish", "worker/api", "worker/link", "worker/pki", "worker/power/execdriver",
	"worker/power/fenceagent", "worker/power/ipmi", "worker/power/redfish", "worker/power/virsh", "worker/provider/execprovider", "worker/sealed",
}

// target is one fuzz target.
type target struct{ dir, name string } // dir from the root, with slashes

// targets finds all of them in the source.
func targets(t *testing.T) (all []target) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
				all = append(all, target{filepath.ToSlash(dir), f.Name.Name})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b target) int { return cmp.Or(cmp.Compare(a.dir, b.dir), cmp.Compare(a.name, b.name)) })
	return all
}

// TestParsers: every parser of foreign bytes has a fuzz target.
func TestParsers(t *testing.T) {
	all := targets(t)
	for _, p := range parsers {
		if !slices.ContainsFunc(all, func(x target) bool { return x.dir == p }) {
			t.Errorf("%s has no fuzz target", p)
		}
	}
}

// timeIsOver reports whether go test failed for its own -fuzztime alone, which ended while it
// made an interesting input smaller: an input that fails, or hangs, is written to a file.
func timeIsOver(out string) bool {
	return strings.Contains(out, "context deadline exceeded") && !strings.Contains(out, "Failing input written")
}

// TestTimeIsOver: what go test prints at the end of its time is told from a failure.
func TestTimeIsOver(t *testing.T) {
	for out, want := range map[string]bool{
		"--- FAIL: FuzzX (301.14s)\n    context deadline exceeded\nFAIL\n":                                                                                                true,
		"--- FAIL: FuzzX (1.2s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:9: context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n": false,
		"--- FAIL: FuzzX (0.1s)\n    build failed\n":                                                                                                                      false,
	} {
		if got := timeIsOver(out); got != want {
			t.Errorf("%q: %v", out, got)
		}
	}
}

// TestFuzz runs each target for the time given and copies what it found interesting into
// its testdata, where every `go test` runs it again.
func TestFuzz(t *testing.T) {
	if *span == 0 {
		t.Log("needs a time: make fuzz FOR=5m")
		return
	}
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	module, err := exec.Command("go", "list", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range targets(t) {
		t.Run(x.dir+"/"+x.name, func(t *testing.T) {
			began := time.Now()
			cmd := exec.Command("go", "test", "./"+x.dir, "-run", "^$", "-fuzz", "^"+x.name+"$", "-fuzztime", span.String(), "-parallel", "1")
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err != nil && !timeIsOver(string(out)) {
				t.Errorf("%v\n%s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			for _, l := range slices.Backward(lines) {
				if strings.Contains(l, "execs:") {
					t.Logf("%s: %s", time.Since(began).Round(time.Second), l)
					break
				}
			}
			found := filepath.Join(strings.TrimSpace(string(cache)), "fuzz", strings.TrimSpace(string(module)), filepath.FromSlash(x.dir), x.name)
			n, err := keepCorpus(found, filepath.Join(root, filepath.FromSlash(x.dir), "testdata", "fuzz", x.name))
			if err != nil {
				t.Error(err)
			}
			t.Logf("%d inputs are new in testdata", n)
		})
	}
}

// keepCorpus copies inputs until there are enough: the shortest, since they say the same
// with less.
func keepCorpus(from, to string) (n int, err error) {
	found, err := os.ReadDir(from)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	have, err := os.ReadDir(to)
	if err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	type input struct {
		name string
		text []byte
	}
	var inputs []input
	for _, f := range found {
		text, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return 0, err
		}
		if len(text) <= largest && !slices.ContainsFunc(have, func(h fs.DirEntry) bool { return h.Name() == f.Name() }) {
			inputs = append(inputs, input{f.Name(), text})
		}
	}
	slices.SortFunc(inputs, func(a, b input) int { return cmp.Compare(len(a.text), len(b.text)) })
	inputs = inputs[:max(0, min(len(inputs), keep-len(have)))]
	for _, in := range inputs {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return n, err
		}
		if err := os.WriteFile(filepath.Join(to, in.name), in.text, 0o644); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
