// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/metal"
	"github.com/holdfast-ha/holdfast/worker/power"
)

var full = flag.Bool("full", false, "measure at full size and write docs/power-performance.md")

const (
	simEnv   = "HOLDFAST_SWEEP_SIM" // how many BMCs this process is to be
	passEnv  = "HOLDFAST_SWEEP_PASSWORD"
	password = "sixteen-letters!"
	user     = "admin"
)

var users = []bmc.User{
	{Name: user, Password: password, Privilege: bmc.Administrator},
	{Name: "viewer", Password: password, Privilege: bmc.UserLevel},
}

func TestMain(m *testing.M) {
	if n := os.Getenv(simEnv); n != "" {
		if err := beFleet(n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := os.Setenv(passEnv, password); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// newFleet listens on a port that was free a moment ago.
func newFleet(hosts int) (*metal.Fleet, []metal.Item, error) {
	for try := 0; ; try++ {
		c, err := net.ListenPacket("udp4", "0.0.0.0:0")
		if err != nil {
			return nil, nil, err
		}
		port := min(c.LocalAddr().(*net.UDPAddr).Port, 65000)
		_ = c.Close()
		f, err := metal.New(metal.Config{Hosts: hosts, Network: netip.MustParsePrefix("127.20.0.0/15"), Port: uint16(port), Users: users, Seed: 1})
		if err != nil {
			return nil, nil, err
		}
		if err = f.Listen(); err == nil {
			return f, f.Inventory(), nil
		}
		if try == 10 {
			return nil, nil, err
		}
	}
}

// beFleet is this binary as a process of simulated BMCs. It prints the inventory, takes
// rules for faults on standard input, and ends with it.
func beFleet(n string) error {
	hosts, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	f, items, err := newFleet(hosts)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	enc := json.NewEncoder(os.Stdout)
	if err := enc.Encode(items); err != nil {
		cancel()
		return err
	}
	for dec := json.NewDecoder(os.Stdin); ; {
		var rules []metal.Rule
		if dec.Decode(&rules) != nil {
			cancel()
			return <-done
		}
		answer := "ok"
		if err := f.Apply(rules); err != nil {
			answer = err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			cancel()
			return err
		}
	}
}

// child is a fleet in a process of its own.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
	items []metal.Item
	stop  func() error
}

func startFleet(t testing.TB, hosts int) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe)}
	c.cmd.Env = append(os.Environ(), fmt.Sprint(simEnv, "=", hosts))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.stop = sync.OnceValue(func() error { _ = c.in.Close(); return c.cmd.Wait() })
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Errorf("simulator: %v", err)
		}
	})
	c.out = json.NewDecoder(bufio.NewReader(out))
	if err := c.out.Decode(&c.items); err != nil {
		t.Fatalf("simulator: %v", err)
	}
	return c
}

// set gives the fleet other faults: a preset.
func (c *child) set(t *testing.T, preset string) {
	t.Helper()
	rules, ok := metal.PresetRules(preset)
	if !ok {
		t.Fatalf("no preset %q", preset)
	}
	if len(rules) == 0 {
		rules = []metal.Rule{{BMC: &bmc.Faults{}}}
	}
	c.apply(t, rules)
}

func (c *child) apply(t *testing.T, rules []metal.Rule) {
	t.Helper()
	var answer string
	if err := json.NewEncoder(c.in).Encode(rules); err != nil {
		t.Fatal(err)
	}
	if err := c.out.Decode(&answer); err != nil || answer != "ok" {
		t.Fatalf("set faults: %s, %v", answer, err)
	}
}

// targetOf is a device of the inventory as the worker would have it, enrolled.
func targetOf(t testing.TB, i metal.Item) power.Target {
	t.Helper()
	secret, err := power.NewSecret(user, "env:"+passEnv, "")
	if err != nil {
		t.Fatal(err)
	}
	target := power.Target{Host: i.ID, Device: "bmc", Address: fmt.Sprint(i.Address, ":", i.Port), Secret: secret}
	target.Pinned.SystemUUID = i.UUID
	return target
}

// cpu is the processor time this process has used.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return spent(&r)
}

func spent(r *syscall.Rusage) time.Duration {
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// peak is the most memory a process has had, in MiB.
func peak(t testing.TB, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
