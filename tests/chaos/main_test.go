// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/probe"
	"github.com/holdfast-ha/holdfast/sim/world"
)

// Without any of these flags the tests are the short smoke version.
var (
	long      = flag.Bool("long", false, "the long form: schedules, or pauses, for as long as -for says")
	mode      = flag.String("mode", "faults", "what the long form does: faults, pauses or fencing")
	firstSeed = flag.Uint64("seed", 0, "seed of the first schedule; given alone it is the only one (0: by the clock)")
	seeds     = flag.Int("seeds", 0, "number of schedules, on consecutive seeds (0: as many as fit)")
	duration  = flag.Duration("for", 30*time.Minute, "how long the long form begins new schedules")
	story     = flag.Bool("story", false, "tell all events, also when nothing is wrong")
	pauses    = flag.Int("pauses", 1000, "pauses of workers in mode pauses, at most as long as -for")
)

// TestMain is also what the children of the fleet run: etcd members, agents and guests
// are this very binary, started again.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "child" {
		os.Exit(child(os.Args[2], []byte(os.Getenv(world.ChildEnv))))
	}
	flag.Parse()
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

func child(role string, text []byte) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	run, ok := map[string]func(context.Context, []byte) error{"member": runMember, "agent": runAgent, "guest": runGuest}[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "child: %q, allowed are member, agent, guest\n", role)
		return 2
	}
	if err := run(ctx, text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runAgent(ctx context.Context, text []byte) error {
	var c world.Agent
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("read agent's part: %w", err)
	}
	pool, err := probe.NewDir(c.Pool, c.PoolDir, false)
	if err != nil {
		return err
	}
	hv, err := c.Hypervisor(ctx)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Options{
		Host: c.Host, Workers: c.Workers, StateDir: c.StateDir, Version: "chaos", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Dial:       func(ctx context.Context, addr string) (net.Conn, error) { return world.Dial(ctx, c.Cable, addr) },
		Hypervisor: hv,
		Pools:      []probe.Pool{c.Fault.Pool(pool)},

		InsecureLoopback: true,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

func runGuest(ctx context.Context, text []byte) error {
	var g world.Guest
	if err := json.Unmarshal(text, &g); err != nil {
		return fmt.Errorf("read guest's part: %w", err)
	}
	return g.Run(ctx)
}

var binaryDir string // removed by TestMain

// workerBinary builds cmd/holdfast-worker, once.
var workerBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-chaos-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	bin := filepath.Join(dir, "holdfast-worker")
	build := exec.Command("go", "build", "-o", bin, "github.com/holdfast-ha/holdfast/cmd/holdfast-worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build holdfast-worker: %w\n%s", err, out)
	}
	return bin, nil
})

// descendants of a process, parents before children. A worker may be one process, or a
// parent that starts and restarts the one that works.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (comm) state ppid …; comm may hold anything, its end is the last ")".
		rest := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		self, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, err := strconv.Atoi(rest[1])
		if err == nil && rest[0] != "Z" {
			children[parent] = append(children[parent], self)
		}
	}
	out := []int{}
	for next := children[pid]; len(next) > 0; next = next[1:] {
		out = append(out, next[0])
		next = append(next, children[next[0]]...)
	}
	return out
}
