// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// holdfast is the binary under test.
var holdfast string

func TestMain(m *testing.M) {
	// Fleets wait for timers most of the time: more of them fit than there are processors.
	err := flag.Set("test.parallel", "6")
	if err == nil {
		holdfast, err = proc.Build("holdfast")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	proc.Main(m, nil)
}

const (
	startTime = time.Minute
	endTime   = 20 * time.Second
	pollEvery = 50 * time.Millisecond
)

// fleet is a running `holdfast dev`.
type fleet struct {
	t      *testing.T
	home   string // HOME, XDG_CONFIG_HOME and TMPDIR of everything
	cmd    *exec.Cmd
	out    *lines
	err    *lines
	done   chan struct{}
	exit   error
	client *v1.Client
	dir    string // data dir

	mu      sync.Mutex
	victims map[string]bool // hosts that power commands may reach
	broke   time.Time       // when the last of them was broken
}

// start starts a fleet and waits until it says that it is ready. It is ended, and its
// truth checked, at the end of the test.
func start(t *testing.T, args ...string) *fleet {
	t.Helper()
	f := launch(t, newHome(t), args...)
	f.awaitReady()
	t.Cleanup(func() {
		if t.Failed() {
			f.dump()
		}
		f.checkBystanders()
		f.end(syscall.SIGINT)
	})
	return f
}

// newHome is a directory with a short name: unix sockets and data lie below.
func newHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func environ(home string) []string {
	return append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "HOLDFAST_") }),
		"HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, "config"), "TMPDIR="+home, "USER=e2e")
}

func launch(t *testing.T, home string, args ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, home: home, out: newLines(), err: newLines(), done: make(chan struct{}), victims: map[string]bool{}}
	f.cmd = exec.Command(holdfast, append([]string{"dev"}, args...)...)
	f.cmd.Env = environ(home)
	f.cmd.Stdout, f.cmd.Stderr = f.out, f.err
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.done)
		f.exit = f.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill() // no-op once it has ended
		<-f.done
	})
	return f
}

func (f *fleet) awaitReady() {
	f.t.Helper()
	until(f.t, startTime, func() string {
		select {
		case <-f.done:
			f.t.Fatalf("holdfast dev ended: %v\n%s%s", f.exit, f.out, f.err)
		default:
		}
		if !strings.Contains(f.out.String(), "\n  data  ") {
			return "holdfast dev is not ready:\n" + f.out.String() + f.err.String()
		}
		return ""
	})
	var endpoints []string
	for l := range strings.Lines(f.out.String()) {
		switch w := strings.Fields(l); {
		case len(w) == 2 && w[0] == "API":
			endpoints = append(endpoints, w[1])
		case len(w) == 2 && w[0] == "data":
			f.dir = w[1]
		}
	}
	var err error
	f.client, err = v1.NewClient(v1.Options{Endpoints: endpoints, Actor: "e2e", Timeout: 5 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
}

// end sends a signal and expects an orderly end.
func (f *fleet) end(sig syscall.Signal) {
	f.t.Helper()
	_ = f.cmd.Process.Signal(sig)
	select {
	case <-f.done:
		if f.exit != nil {
			f.t.Errorf("holdfast dev ended with %v\n%s", f.exit, f.err)
		}
	case <-time.After(endTime):
		f.t.Errorf("holdfast dev does not end after %v", endTime)
	}
}

// dump shows what is worth knowing after a failure.
func (f *fleet) dump() {
	f.t.Logf("holdfast dev said:\n%s", f.err)
	for v := range f.victims {
		out, _, _ := f.run(f.t, "explain", "host", v)
		f.t.Log(out)
	}
	logs, _ := filepath.Glob(filepath.Join(f.dir, "w*.log"))
	for _, name := range logs {
		text, _ := os.ReadFile(name)
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		f.t.Logf("%s:\n%s", name, strings.Join(all[max(0, len(all)-40):], "\n"))
	}
}

// run runs the command line.
func (f *fleet) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return run(t, f.home, args...)
}

func run(t *testing.T, home string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runFor(t, time.Minute, home, args...)
}

func runFor(t *testing.T, limit time.Duration, home string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, holdfast, args...)
	cmd.Env = environ(home)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	var exit *exec.ExitError
	if e := cmd.Run(); e != nil && !errors.As(e, &exit) {
		t.Fatalf("holdfast %v: %v", args, e)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// must runs the command line and expects success.
func (f *fleet) must(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := f.run(t, args...)
	if code != 0 {
		t.Fatalf("holdfast %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}

// breaks breaks a host, to which power commands may be sent from now on.
func (f *fleet) breaks(t *testing.T, host string, args ...string) {
	t.Helper()
	f.mu.Lock()
	f.victims[host], f.broke = true, time.Now()
	f.mu.Unlock()
	f.must(t, append([]string{"dev", "break", host, "--how"}, args...)...)
}

// entry is one command that a BMC got.
type entry = bmc.Entry

// truth is what the BMCs were told about hosts; none: all of them. The lamp, which power
// tests switch for a second, is not meant.
func (f *fleet) truth(t *testing.T, hosts ...string) []entry {
	t.Helper()
	var all []entry
	if err := json.Unmarshal([]byte(f.must(t, "dev", "truth")), &all); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e entry) bool {
		return e.Verb == bmc.VerbIdentify || len(hosts) > 0 && !slices.Contains(hosts, e.BMC)
	})
}

func verbs(entries []entry) (out []string) {
	for _, e := range entries {
		out = append(out, string(e.Verb))
	}
	return out
}

// checkBystanders: "no power command was ever sent to any other host".
func (f *fleet) checkBystanders() {
	select {
	case <-f.done:
		return
	default:
	}
	for _, e := range f.truth(f.t) {
		if !f.victims[e.BMC] {
			f.t.Errorf("power command %s was sent to %s, which was never broken: %+v", e.Verb, e.BMC, e)
		}
	}
}

func (f *fleet) host(t *testing.T, name string) v1.Host {
	t.Helper()
	var h v1.Host
	until(t, 20*time.Second, func() string {
		var err error
		if h, err = f.client.Host(context.Background(), name); err != nil {
			return fmt.Sprintf("get host %s: %v", name, err)
		}
		return ""
	})
	return h
}

// await waits until the host is as wanted.
func (f *fleet) await(t *testing.T, limit time.Duration, name, what string, ok func(v1.HostStatus) bool) v1.Host {
	t.Helper()
	var h v1.Host
	until(t, limit, func() string {
		if h = f.host(t, name); ok(h.Status) {
			return ""
		}
		return fmt.Sprintf("%s is %s (%s), holds %+v, want %s", name, h.Status.State, h.Status.Reason, h.Status.Holds, what)
	})
	return h
}

// awaitState waits for one of the states.
func (f *fleet) awaitState(t *testing.T, limit time.Duration, name string, states ...string) v1.Host {
	t.Helper()
	return f.await(t, limit, name, strings.Join(states, " or "), func(s v1.HostStatus) bool { return slices.Contains(states, s.State) })
}

// awaitAllAvailable waits for all hosts of the fleet, and until neighbours have seen each of
// them alive: before that a silence would prove nothing.
func (f *fleet) awaitAllAvailable(t *testing.T, limit time.Duration) []string {
	t.Helper()
	var names []string
	until(t, limit, func() string {
		all, err := f.client.Hosts(context.Background(), v1.HostQuery{})
		if err != nil {
			return err.Error()
		}
		names = names[:0]
		for _, h := range all {
			if h.Status.State != "AVAILABLE" {
				return fmt.Sprintf("%s is %s (%s)", h.Spec.ID, h.Status.State, h.Status.Reason)
			}
			if len(h.Status.Witnessed) == 0 {
				return h.Spec.ID + " was not seen alive by its neighbours yet"
			}
			names = append(names, h.Spec.ID)
		}
		if len(names) == 0 {
			return "no hosts"
		}
		return ""
	})
	return names
}

// events are all of a host, oldest first.
func (f *fleet) events(t *testing.T, host string) []v1.Event {
	t.Helper()
	var all []v1.Event
	until(t, 20*time.Second, func() string {
		var err error
		if all, err = f.client.Events(context.Background(), v1.EventQuery{Host: host}); err != nil {
			return err.Error()
		}
		return ""
	})
	return all
}

func ofType(events []v1.Event, typ string) []v1.Event {
	return slices.DeleteFunc(slices.Clone(events), func(e v1.Event) bool { return e.Type != typ })
}

// owner is the worker that owns the host.
func (f *fleet) owner(t *testing.T, name string) string { return f.host(t, name).Status.Owner }

// until waits for a condition, which says what it still misses.
func until(t *testing.T, limit time.Duration, missing func() string) {
	t.Helper()
	proc.Until(t, limit, pollEvery, missing)
}

// holds watches that a condition stays true for a while.
func holds(t *testing.T, d time.Duration, broken func() string) {
	t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if why := broken(); why != "" {
			t.Fatal(why)
		}
	}
}

// lines collects output of a process.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newLines() *lines { return &lines{} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
