// SPDX-License-Identifier: Apache-2.0

// Package proc is for tests whose fleets are real processes: it builds the programs once, starts
// the test's own binary again in another role (an etcd member, an agent), and looks after what
// was started.
package proc

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/world"
)

const selfExe = "/proc/self/exe"

// Role is what a child of a test's binary does until ctx ends, by SIGTERM. It is told its part as
// JSON.
type Role func(ctx context.Context, part []byte) error

// As is the role of those whose part is a T.
func As[T any](run func(context.Context, T) error) Role {
	return func(ctx context.Context, text []byte) error {
		var part T
		if err := json.Unmarshal(text, &part); err != nil {
			return fmt.Errorf("read part: %w", err)
		}
		return run(ctx, part)
	}
}

// Main is TestMain: it runs the tests, or, in a process started by Start or by a world.World, the
// role. It does not return.
func Main(m *testing.M, roles map[string]Role) {
	if len(os.Args) == 4 && os.Args[1] == "child" {
		os.Exit(play(roles, os.Args[2], []byte(os.Getenv(world.ChildEnv))))
	}
	flag.Parse()
	code := m.Run()
	if err := binaries.remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func play(roles map[string]Role, name string, part []byte) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	run, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "child: %q, allowed are %s\n", name, strings.Join(slices.Sorted(maps.Keys(roles)), ", "))
		return 2
	}
	if err := run(ctx, part); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// Start starts this binary again, in a role that Main was given. The child ends with the spawner.
func Start(s *world.Spawner, role, name string, part any, log string) (*world.Proc, error) {
	text, err := json.Marshal(part)
	if err != nil {
		return nil, fmt.Errorf("start %s %s: %w", role, name, err)
	}
	return s.Start(world.Child{Exec: selfExe, Args: []string{"child", role, name}, Env: []string{world.ChildEnv + "=" + string(text)}, Log: log})
}

// builds are the programs that were built, all in one directory.
type builds struct {
	mu   sync.Mutex
	dir  string
	done map[string]error
}

var binaries builds

// Build builds a command of this module without C, once in a process, and returns the path of the
// binary. Main removes it.
func Build(name string) (string, error) {
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "holdfast-bin-")
		if err != nil {
			return "", err
		}
		binaries.dir, binaries.done = dir, map[string]error{}
	}
	bin := filepath.Join(binaries.dir, name)
	err, done := binaries.done[name]
	if !done {
		build := exec.Command("go", "build", "-o", bin, "github.com/holdfast-ha/holdfast/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, failed := build.CombinedOutput(); failed != nil {
			err = fmt.Errorf("build %s: %w\n%s", name, failed, out)
		}
		binaries.done[name] = err
	}
	return bin, err
}

func (b *builds) remove() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// Background runs a part of the test until stop, or the test's end, and waits for it then. An
// error other than that of its context fails the test.
func Background(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Until waits for a condition, which says what it still misses, and returns how long that took.
// After limit the test ends.
func Until(t testing.TB, limit, every time.Duration, missing func() string) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.After(limit); ; {
		why := missing()
		if why == "" {
			return time.Since(began)
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("after %v: %s", limit, why)
		}
	}
}

// Running reports whether a process has been started and has not ended.
func Running(p *world.Proc) bool {
	if p == nil {
		return false
	}
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Stat returns the fields of /proc/PID/stat from the state on.
func Stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// pid (comm) state ppid …; comm may hold anything, its end is the last ")".
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:])), nil
}

// Descendants of a process, parents before children, without those that have ended and are not
// buried yet. A worker is a parent that starts, and restarts, the one that works.
func Descendants(pid int) []int {
	children := map[int][]int{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		self, _ := strconv.Atoi(filepath.Base(dir))
		f, err := Stat(self)
		if err != nil {
			continue // it has ended
		}
		if parent, err := strconv.Atoi(f[1]); err == nil && f[0] != "Z" {
			children[parent] = append(children[parent], self)
		}
	}
	var out []int
	for next := children[pid]; len(next) > 0; next = next[1:] {
		out = append(out, next[0])
		next = append(next, children[next[0]]...)
	}
	return out
}
