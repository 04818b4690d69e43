// SPDX-License-Identifier: Apache-2.0

// Package tests keeps the rules of the house: who may import whom, and that generated
// pages are what their tables say.
package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-ha/holdfast/"

// pkg is what `go list -json` says of one package of ours.
type pkg struct {
	ImportPath, Dir, Doc string
	GoFiles              []string
	Imports              []string
	TestImports          []string
	XTestImports         []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags=libvirt_dlopen", "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func under(path string, roots ...string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, r+"/") {
			return true
		}
	}
	return false
}

// rule forbids imports; bad says whether package p may not import path (both without
// our module prefix for our own).
type rule struct {
	reason string
	bad    func(p pkg, path string, ours bool) bool
}

var rules = []rule{
	{"decisions must be replayable: coordinator imports the standard library only, and nothing of it that touches the world", func(p pkg, path string, ours bool) bool {
		if !under(p.name(), "coordinator") || ours {
			return false
		}
		return strings.Contains(strings.SplitN(path, "/", 2)[0], ".") || slices.Contains([]string{"context", "net", "net/http", "os", "os/exec", "math/rand", "math/rand/v2", "crypto/rand", "syscall"}, path)
	}},
	{"machines stay small: of the coordinator packages only ha imports others, and only power, guard and budget; replay, which makes their decisions again, imports ha, power and guard", func(p pkg, path string, ours bool) bool {
		if !under(p.name(), "coordinator") || !ours {
			return false
		}
		if p.name() == "coordinator/replay" {
			return !slices.Contains([]string{"coordinator/ha", "coordinator/power", "coordinator/guard"}, path)
		}
		return p.name() != "coordinator/ha" || !slices.Contains([]string{"coordinator/power", "coordinator/guard", "coordinator/budget"}, path)
	}},
	{"one place knows fencing: etcd only in leases, holdfast dev and tests", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "go.etcd.io/") && !under(p.name(), "leases", "tests", "cmd/holdfast")
	}},
	{"a storage layer with no opinions: leases imports none of our packages", func(p pkg, path string, ours bool) bool {
		return under(p.name(), "leases") && ours && !under(path, "leases")
	}},
	{"agents hold no etcd credentials: nothing of agent imports leases", func(p pkg, path string, ours bool) bool {
		return under(p.name(), "agent") && ours && under(path, "leases")
	}},
	{"production has no pretend parts: sim is imported by cmd/holdfast and tests only", func(p pkg, path string, ours bool) bool {
		return ours && under(path, "sim") && !under(p.name(), "sim", "cmd/holdfast", "tests")
	}},
	{"trust boundary: worker and agent meet in agent/agentpb and agent/trust, and in how a process shows itself, only", func(p pkg, path string, ours bool) bool {
		return ours && (under(p.name(), "worker") && under(path, "agent") && !under(path, "agent/agentpb", "agent/trust", "agent/systemd", "agent/metric") || under(p.name(), "agent") && under(path, "worker"))
	}},
	{"swap gRPC in one folder: only worker/link and agent use it", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "google.golang.org/grpc") && !under(p.name(), "worker/link", "agent", "leases")
	}},
	{"swap go-ipmi in one folder: only worker/power/ipmi uses it", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "github.com/bougou/go-ipmi") && !under(p.name(), "worker/power/ipmi")
	}},
	{"swap gofish in one folder: only worker/power/redfish uses it", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "github.com/stmcginnis/gofish") && !under(p.name(), "worker/power/redfish")
	}},
	{"swap libvirt in one folder: only agent/hypervisor/libvirt uses it, in builds with the tag libvirt_dlopen", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "libvirt.org/go/") && !under(p.name(), "agent/hypervisor/libvirt")
	}},
	{"cobra is for operators: only cmd/holdfast uses it", func(p pkg, path string, _ bool) bool {
		return strings.HasPrefix(path, "github.com/spf13/") && p.name() != "cmd/holdfast"
	}},
	{"wiring is in one file: a power driver or provider never imports a sibling", func(p pkg, path string, ours bool) bool {
		for _, family := range []string{"worker/power/", "worker/provider/"} {
			if ours && strings.HasPrefix(p.name(), family) && strings.HasPrefix(path, family) && path != p.name() && !strings.HasSuffix(path, "test") {
				return true
			}
		}
		return false
	}},
	{"how a process shows itself knows neither worker nor agent: agent/systemd and agent/metric import none of our packages but their own", func(p pkg, path string, ours bool) bool {
		return under(p.name(), "agent/systemd", "agent/metric") && ours && !under(path, "agent/systemd", "agent/metric")
	}},
	{"nothing imports mains or tests", func(p pkg, path string, ours bool) bool {
		return ours && under(path, "cmd", "tests") && !under(p.name(), "cmd", "tests")
	}},
}

// TestImportRules proves the rules of architecture.md §3.
func TestImportRules(t *testing.T) {
	for _, p := range packages(t) {
		if under(p.name(), "tests") {
			continue
		}
		for _, path := range p.Imports {
			short, ours := strings.CutPrefix(path, module)
			for _, r := range rules {
				if r.bad(p, short, ours) {
					t.Errorf("%s imports %s\n\t%s", p.name(), short, r.reason)
				}
			}
		}
	}
}

// TestImportRulesCatch shows that each rule can fail.
func TestImportRulesCatch(t *testing.T) {
	ours := func(s string) string { return module + s }
	for _, c := range [][2]string{
		{"coordinator/ha", "net"}, {"coordinator/power", ours("coordinator/guard")}, {"worker", "go.etcd.io/etcd/client/v3"},
		{"leases", ours("coordinator/ring")}, {"agent", ours("leases")}, {"worker", ours("sim/bmc")}, {"worker", ours("agent/probe")},
		{"worker", "google.golang.org/grpc"}, {"worker/power", "github.com/bougou/go-ipmi/pkg/client"}, {"worker", "github.com/stmcginnis/gofish"}, {"worker", "github.com/spf13/cobra"}, {"agent", "libvirt.org/go/libvirt"},
		{"agent/metric", ours("agent/trust")}, {"worker/power/redfish", ours("worker/power/ipmi")}, {"worker", ours("tests/e2e")},
	} {
		short, own := strings.CutPrefix(c[1], module)
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.bad(pkg{ImportPath: module + c[0]}, short, own) }) {
			t.Errorf("%s may import %s", c[0], short)
		}
	}
}

// TestCoordinatorCallsNoClock: time enters the core as an argument.
func TestCoordinatorCallsNoClock(t *testing.T) {
	forbidden := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	for _, p := range packages(t) {
		if !under(p.name(), "coordinator") {
			continue
		}
		for _, f := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if id, ok := n.X.(*ast.Ident); ok && id.Name == "time" && slices.Contains(forbidden, n.Sel.Name) {
						t.Errorf("%s: time.%s: decisions must be replayable", fset.Position(n.Pos()), n.Sel.Name)
					}
				case *ast.GoStmt:
					t.Errorf("%s: a goroutine: decisions must be replayable", fset.Position(n.Pos()))
				}
				return true
			})
		}
	}
}

// TestEngineKnowsNoHypervisor: "the engine must not know KVM; a second provider proves it"
// (ha.md §1). No name and no text of the engine tells of one.
func TestEngineKnowsNoHypervisor(t *testing.T) {
	engine := []string{"coordinator/ha", "coordinator/guard", "coordinator/budget", "coordinator/power", "coordinator/ring", "coordinator/lists"}
	looked := 0
	for _, p := range packages(t) {
		if !slices.Contains(engine, p.name()) {
			continue
		}
		for _, f := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			looked++
			ast.Inspect(file, func(n ast.Node) bool {
				text := ""
				switch n := n.(type) {
				case *ast.Ident:
					text = n.Name
				case *ast.BasicLit:
					text = n.Value
				}
				for _, word := range []string{"kvm", "qemu", "libvirt", "hypervisor"} {
					if strings.Contains(strings.ToLower(text), word) {
						t.Errorf("%s: %s: the engine knows of %s", fset.Position(n.Pos()), text, word)
					}
				}
				return true
			})
		}
	}
	if looked == 0 {
		t.Error("the engine was not found")
	}
}

// TestPackageDocs: every package says what it is for.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

// TestStaticBinaries: worker and CLI need no C, and etcd's server is linked into the
// CLI only.
func TestStaticBinaries(t *testing.T) {
	for _, b := range []string{"holdfast-worker", "holdfast-agent"} {
		dir := filepath.Join("..", "cmd", b)
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/"+b)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v", b, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			if strings.HasPrefix(dep, "go.etcd.io/etcd/server") || dep == "runtime/cgo" || b == "holdfast-agent" && strings.HasPrefix(dep, "go.etcd.io/") {
				t.Errorf("%s links %s", b, dep)
			}
		}
	}
}

// TestNoSleep: tests wait for conditions, code waits for contexts.
func TestNoSleep(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "arch_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "time.Sleep(") {
			err = fmt.Errorf("%s calls time.Sleep", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
