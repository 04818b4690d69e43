// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const slack = 250 * time.Millisecond

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "child")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// pids reads the process numbers that a child wrote down.
func pids(t *testing.T, path string) (out []int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// alive: there, and not just waiting to be reaped by init.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func gone(t *testing.T, what string, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for alive(pid) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("%s (%d) is still alive", what, pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
	}
}

func files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestHostileChildren: whatever a child does, Run ends within 250 ms of its deadline and
// leaves no process, goroutine or file behind (power.md §8).
func TestHostileChildren(t *testing.T) {
	defer goleak.VerifyNone(t)
	const deadline = 300 * time.Millisecond
	for _, c := range []struct {
		name, text string
		want       corepower.Kind
	}{
		{"never ends", `echo $$ >"$1"; sleep 600`, corepower.Timeout},
		{"ignores SIGTERM", `trap '' TERM; echo $$ >"$1"; while :; do sleep 1; done`, corepower.Timeout},
		{"ends well when told to", `trap 'exit 0' TERM; echo $$ >"$1"; sleep 600 & wait`, corepower.Timeout},
		{"prints endless output", `echo $$ >"$1"; exec cat /dev/zero`, corepower.ProtocolViolation},
		{"prints endless errors", `echo $$ >"$1"; exec cat /dev/zero >&2`, corepower.ProtocolViolation},
		{"spins and prints slowly", `echo $$ >"$1"; while sleep 0.01; do echo x; done`, corepower.Timeout},
		{"grandchild keeps the pipes", `sleep 600 & echo $! >"$1"; echo done`, corepower.NoError},
		{"grandchild keeps the pipes in its own session", `setsid sleep 600 & sleep 0.1; echo $! >"$1"; echo done`, corepower.NoError},
		{"daemon in its own session without pipes", `setsid sleep 600 </dev/null >/dev/null 2>&1 & sleep 0.1; echo $! >"$1"; echo done`, corepower.NoError},
		{"daemon, and never ends", `setsid sleep 600 & echo $! >"$1"; trap '' TERM; while :; do sleep 1; done`, corepower.Timeout},
		{"somebody out of reach keeps the pipes", `env -i setsid sleep 2 & echo done`, corepower.NoError},
		{"closes its pipes and never ends", `echo $$ >"$1"; exec sleep 600 </dev/null >/dev/null 2>&1`, corepower.Timeout},
		{"stops itself", `echo $$ >"$1"; kill -STOP $$; echo done`, corepower.Timeout},
		{"dies of a signal", `echo $$ >"$1"; kill -SEGV $$`, corepower.RemoteError},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, open, wrote := NewRunner(1), files(t), filepath.Join(t.TempDir(), "pids")
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			start := time.Now()
			res, e := r.Run(ctx, Command{Op: "test", Path: script(t, c.text), Args: []string{wrote}, Change: true, Stdin: make([]byte, 1<<20)})
			if took := time.Since(start); took > deadline+slack {
				t.Errorf("took %v", took)
			}
			if kindOf(e) != c.want {
				t.Errorf("got %v, want kind %q", e, c.want)
			}
			if e != nil && !e.MayHaveRun {
				t.Errorf("a child that was started may have run: %v", e)
			}
			if e == nil && string(res.Stdout) != "done\n" {
				t.Errorf("stdout %q: what was written before the end is kept", res.Stdout)
			}
			if _, err := os.Stat(wrote); err != nil {
				return // there is no number to look for
			}
			for _, pid := range pids(t, wrote) {
				gone(t, c.name, pid)
			}
			if n := files(t); n > open {
				t.Errorf("%d open files, %d before", n, open)
			}
			if _, e := r.Run(t.Context(), Command{Op: "test", Path: "/bin/true"}); e != nil {
				t.Errorf("the place in the pool is free again: %v", e)
			}
		})
	}
}

// TestAnswer: output, exit code and standard input go through unchanged.
func TestAnswer(t *testing.T) {
	defer goleak.VerifyNone(t)
	res, e := NewRunner(1).Run(t.Context(), Command{Op: "test", Path: script(t, "cat; echo bad >&2; exit 2"), Stdin: []byte("a=1\n")})
	if e != nil || string(res.Stdout) != "a=1\n" || string(res.Stderr) != "bad\n" || res.Exit != 2 {
		t.Errorf("got %+v, %v", res, e)
	}
	res, e = NewRunner(1).Run(t.Context(), Command{Op: "test", Path: script(t, "exit 0"), Stdin: make([]byte, 1<<20)})
	if e != nil || res.Exit != 0 {
		t.Errorf("a child that does not read its input: %+v, %v", res, e)
	}
	res, e = NewRunner(1).Run(t.Context(), Command{Op: "test", Path: script(t, "head -c 262144 /dev/zero")})
	if e != nil || len(res.Stdout) != maxStdout {
		t.Errorf("output of exactly the limit is an answer: %d bytes, %v", len(res.Stdout), e)
	}
}

// TestClean: a child gets the fixed environment and no open file of ours, and sits in a
// session of its own.
func TestClean(t *testing.T) {
	t.Setenv("HOLDFAST_TEST_TOKEN", "hunter2")
	t.Setenv("LD_PRELOAD", "")
	fd, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0) // as if inherited: not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	res, e := NewRunner(1).Run(t.Context(), Command{Op: "test", Path: "/bin/ls", Args: []string{"/proc/self/fd"}})
	if e != nil || string(res.Stdout) != "0\n1\n2\n3\n" { // 3 is its own
		t.Errorf("open files of a child: %q, %v", res.Stdout, e)
	}
	res, e = NewRunner(1).Run(t.Context(), Command{Op: "test", Env: []string{"A=b"},
		Path: script(t, `/usr/bin/env | cut -d= -f1 | sort | tr '\n' ' '; pwd; cut -d' ' -f6 /proc/$$/stat; echo $$`)})
	if e != nil {
		t.Fatal(e)
	}
	out := strings.Split(string(res.Stdout), "\n")
	if want := "A HOLDFAST_PROC HOME LANG LC_ALL PATH PWD /"; out[0] != want { // PWD is the shell's
		t.Errorf("environment and directory %q, want %q", out[0], want)
	}
	if len(out) < 3 || out[1] != out[2] {
		t.Errorf("session and process %q: a session of its own", out[1:])
	}
}

// TestNothingStarted: a refused, late, cancelled or impossible command starts no child.
func TestNothingStarted(t *testing.T) {
	defer goleak.VerifyNone(t)
	lost := errors.New("the lease is lost")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	past, cancel2 := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel2()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		ctx  context.Context
		cmd  func(*Command)
		want corepower.Kind
	}{
		{"refused", t.Context(), func(c *Command) { c.Before = func() error { return lost } }, corepower.Cancelled},
		{"late", t.Context(), func(c *Command) { c.NotAfter = time.Now().Add(-time.Millisecond) }, corepower.DeadlinePassed},
		{"cancelled", ended, func(*Command) {}, corepower.Cancelled},
		{"past its deadline", past, func(*Command) {}, corepower.DeadlinePassed},
		{"relative", t.Context(), func(c *Command) { c.Path = "true" }, corepower.BadConfig},
		{"not clean", t.Context(), func(c *Command) { c.Path = "/bin/../bin/true" }, corepower.BadConfig},
		{"absent", t.Context(), func(c *Command) { c.Path = "/no/such/program" }, corepower.ToolMissing},
		{"not executable", t.Context(), func(c *Command) { c.Path = plain }, corepower.ToolMissing},
		{"missing interpreter", t.Context(), func(c *Command) {
			c.Path = script(t, "")
			_ = os.WriteFile(c.Path, []byte("#!/no/such/interpreter\n"), 0o700)
		}, corepower.ToolMissing},
	} {
		t.Run(c.name, func(t *testing.T) {
			ran, open := filepath.Join(t.TempDir(), "ran"), files(t)
			cmd := Command{Op: "test", Path: script(t, `: >"$1"`), Args: []string{ran}, Change: true}
			c.cmd(&cmd)
			_, e := NewRunner(1).Run(c.ctx, cmd)
			if kindOf(e) != c.want || e.MayHaveRun {
				t.Errorf("got %v, want kind %q and that nothing ran", e, c.want)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("the child ran")
			}
			if n := files(t); n > open {
				t.Errorf("%d open files, %d before", n, open)
			}
		})
	}
}

// TestPool: at most n children at once; whoever waits for a place ends with its context
// and started nothing.
func TestPool(t *testing.T) {
	defer goleak.VerifyNone(t)
	r, hold := NewRunner(2), filepath.Join(t.TempDir(), "hold")
	path := script(t, `while [ -e "$1" ]; do sleep 0.02; done`)
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var started atomic.Int32
	for range 2 {
		wg.Go(func() {
			if _, e := r.Run(t.Context(), Command{Op: "test", Path: path, Args: []string{hold}, Before: func() error { started.Add(1); return nil }}); e != nil {
				t.Errorf("run: %v", e)
			}
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for started.Load() < 2 {
		<-tick.C
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, e := r.Run(ctx, Command{Op: "test", Path: "/bin/true", Before: func() error { t.Error("a third child started"); return nil }})
	if kindOf(e) != corepower.DeadlinePassed {
		t.Errorf("waiting for a place: %v", e)
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if _, e := r.Run(t.Context(), Command{Op: "test", Path: "/bin/true"}); e != nil {
		t.Errorf("places are free again: %v", e)
	}
}

// TestNoZombie: every child is reaped before Run returns.
func TestNoZombie(t *testing.T) {
	wrote := filepath.Join(t.TempDir(), "pids")
	for range 20 {
		if _, e := NewRunner(1).Run(t.Context(), Command{Op: "test", Path: script(t, `echo $$ >>"$1"`), Args: []string{wrote}}); e != nil {
			t.Fatal(e)
		}
	}
	for _, pid := range pids(t, wrote) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			t.Errorf("process %d was not reaped", pid)
		}
	}
}

// TestExecutable: what cannot be run is ToolMissing before it is needed.
func TestExecutable(t *testing.T) {
	if e := Executable("test", "/bin/true"); e != nil {
		t.Error(e)
	}
	for _, p := range []string{"/no/such/program", "/etc", "/etc/passwd"} {
		if e := Executable("test", p); kindOf(e) != corepower.ToolMissing {
			t.Errorf("%s: %v", p, e)
		}
	}
}

func kindOf(e *power.Error) corepower.Kind {
	if e == nil {
		return corepower.NoError
	}
	return e.Kind
}
