// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

var (
	alerts = flag.Bool("alerts", false, "run a real Prometheus against a breaking fleet")
	root   = flag.Bool("root", false, "install the packages of dist/ on a clean Debian root")
)

// repo is a file or directory of this repository.
func repo(elem ...string) string { return filepath.Join(append([]string{"..", ".."}, elem...)...) }

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(repo(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readYAML(t *testing.T, into any, elem ...string) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(readFile(t, elem...)), into); err != nil {
		t.Fatalf("%s: %v", filepath.Join(elem...), err)
	}
}

// built is where bin put the programs, if a test asked for them.
var built string

var bin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hf-deploy-")
	if err != nil {
		return "", err
	}
	built = dir
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "github.com/holdfast-ha/holdfast/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

// program is one of the three, built once.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := bin()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// until polls look until it returns nothing; what it returned last is the failure.
func until(t *testing.T, limit time.Duration, look func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left := look()
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", limit, left)
		}
		<-tick.C
	}
}
