// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// left are the processes and abstract sockets of the fleet that still exist.
func left(f *fleet) (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		text, err := os.ReadFile(p)
		if err == nil && bytes.Contains(text, []byte("\x00TMPDIR="+f.home+"\x00")) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			if len(cmd) > 0 { // a zombie has none
				found = append(found, strings.ReplaceAll(string(cmd), "\x00", " "))
			}
		}
	}
	return found
}

func (f *fleet) awaitNothingLeft(t *testing.T) {
	t.Helper()
	until(t, endTime, func() string {
		if got := left(f); len(got) > 0 {
			return "left behind: " + strings.Join(got, "; ")
		}
		return ""
	})
}

// config is the tool's configuration file.
func config(t *testing.T, home string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(home, "config", "holdfast", "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// "writes a context `dev` so that the CLI needs no flags, restores the earlier current
// context at its end, and leaves no process or socket behind, also after Ctrl-C".
func TestDevEndsCleanly(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	if _, stderr, code := run(t, home, "context", "set", "prod", "--endpoint", "http://127.0.0.1:9"); code != 0 {
		t.Fatal(stderr)
	}
	before := config(t, home)
	f := launch(t, home, "--hosts", "3", "--workers", "1", "--preset", "fast")
	f.awaitReady()
	if out := f.must(t, "get", "hosts", "-o", "name"); !strings.Contains(out, "h001") {
		t.Errorf("get hosts without flags: %q", out)
	}
	if len(left(f)) != 1+2+2*3 {
		t.Errorf("processes: %v, want dev, a worker and its parent, three agents and three guests", left(f))
	}
	f.must(t, "dev", "break", "h002", "--how", "hang") // a stopped process must not stay behind either
	f.must(t, "dev", "pause-worker", "w1", "--for", "5m")
	f.end(syscall.SIGINT)
	f.awaitNothingLeft(t)
	if got := config(t, home); got != before {
		t.Errorf("configuration is\n%swant as before\n%s", got, before)
	}
	if dirs, _ := filepath.Glob(filepath.Join(home, "holdfast-dev-*")); len(dirs) != 0 {
		t.Errorf("temporary data is left: %v", dirs)
	}
}

// "… also after its own SIGKILL; the CLI ignores a dev context whose process is gone".
func TestDevKilled(t *testing.T) {
	t.Parallel()
	f := launch(t, newHome(t), "--hosts", "3", "--workers", "2", "--preset", "fast")
	f.awaitReady()
	f.must(t, "dev", "break", "h001", "--how", "hang")
	if err := f.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.done
	f.awaitNothingLeft(t)
	if _, stderr, code := f.run(t, "get", "hosts"); code == 0 || strings.Contains(stderr, "refused") {
		t.Errorf("get hosts: exit %d, %s; want it to know that the fleet is gone", code, stderr)
	}
	if _, stderr, code := f.run(t, "dev", "repair", "h001"); code != 3 || !strings.Contains(stderr, "no dev fleet runs") {
		t.Errorf("dev repair: exit %d, %s", code, stderr)
	}
	// The next fleet takes the context over and clears away what the killed one left.
	again := launch(t, f.home, "--hosts", "1", "--workers", "1", "--preset", "fast")
	again.awaitReady()
	again.end(syscall.SIGTERM)
	if dirs, _ := filepath.Glob(filepath.Join(f.home, "holdfast-dev-*")); len(dirs) != 0 {
		t.Errorf("temporary data is left: %v", dirs)
	}
}

// Data that is kept survives: hosts are known, booted anew, nothing is powered.
func TestDevKeepsData(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	args := []string{"--hosts", "3", "--workers", "1", "--preset", "fast", "--data-dir", filepath.Join(home, "data")}
	f := launch(t, home, args...)
	f.awaitReady()
	f.awaitAllAvailable(t, time.Minute)
	boot := f.host(t, "h001").Status.Boot
	f.end(syscall.SIGINT)

	f = launch(t, home, args...)
	f.awaitReady()
	f.awaitAllAvailable(t, time.Minute)
	h := f.host(t, "h001")
	if h.Status.Boot == boot || len(ofType(f.events(t, "h001"), "ha.rebooted")) == 0 {
		t.Errorf("boot %s after %s, want a new one and an event that says so", h.Status.Boot, boot)
	}
	if got := f.truth(t); len(got) != 0 {
		t.Errorf("power commands: %+v", got)
	}
	f.end(syscall.SIGINT)
	if _, err := os.Stat(filepath.Join(home, "data", "etcd")); err != nil {
		t.Errorf("data is gone: %v", err)
	}
}

// "Bad input gets one clear line naming field, value and what is allowed, and the right
// exit code; nothing is lost."
func TestDevBadInput(t *testing.T) {
	t.Parallel()
	f := start(t, "--hosts", "3", "--workers", "1", "--preset", "fast")
	file := filepath.Join(f.home, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := newHome(t)
	for _, c := range []struct {
		home string
		args []string
		code int
		want []string
	}{
		{f.home, []string{"dev", "break", "h9", "--how", "crash"}, 3, []string{`"h9"`, "h001 to h003"}},
		{f.home, []string{"dev", "break", "h001", "--how", "melt"}, 2, []string{`how: "melt"`, "crash, hang"}},
		{f.home, []string{"dev", "break", "h001"}, 2, []string{`how: ""`, "crash, hang"}},
		{f.home, []string{"dev", "break", "h001", "--how", "crash", "--cluster"}, 2, []string{`cluster: "crash"`, "storage-lost"}},
		{f.home, []string{"dev", "repair", "nobody"}, 3, []string{`"nobody"`, "h001 to h003"}},
		{f.home, []string{"dev", "kill-worker", "w7"}, 3, []string{`worker: "w7"`, "w1 to w1"}},
		{f.home, []string{"dev", "start-worker", "w1"}, 4, []string{"w1", "runs already"}},
		{f.home, []string{"dev", "pause-worker", "w1", "--for", "soon"}, 2, []string{"--for", `"soon"`}},
		{f.home, []string{"dev", "pause-worker", "w1", "--for", "-1s"}, 2, []string{"for: -1s", "more than 0s"}},
		{f.home, []string{"dev"}, 4, []string{`context "dev"`, "another holdfast dev"}},
		{f.home, []string{"dev", "melt"}, 2, []string{`"melt"`}},
		{elsewhere, []string{"dev", "--hosts", "0"}, 2, []string{"hosts: 0", "1 to 200"}},
		{elsewhere, []string{"dev", "--workers", "99"}, 2, []string{"workers: 99", "1 to 20"}},
		{elsewhere, []string{"dev", "--preset", "slow"}, 2, []string{`preset: "slow"`, "default, fast"}},
		{elsewhere, []string{"dev", "--data-dir", file}, 2, []string{"data-dir", file, "directory"}},
		{elsewhere, []string{"dev", "--data-dir", f.dir}, 2, []string{"data-dir", f.dir, "in use by another holdfast dev"}},
		{elsewhere, []string{"dev", "--data-dir", "/proc/holdfast"}, 2, []string{"data-dir", "/proc/holdfast"}},
		{elsewhere, []string{"child", "worker", "w1"}, 2, []string{"started by holdfast dev only"}},
	} {
		_, stderr, code := run(t, c.home, c.args...)
		for _, w := range c.want {
			if !strings.Contains(stderr, w) {
				t.Errorf("holdfast %v: %q does not name %q", c.args, stderr, w)
			}
		}
		if code != c.code || strings.Count(stderr, "Error:") != 1 || !strings.HasPrefix(stderr, "Error:") {
			t.Errorf("holdfast %v: exit %d, %q, want %d and one line", c.args, code, stderr, c.code)
		}
	}
	f.awaitAllAvailable(t, time.Minute) // nothing of all this did anything
	if got := f.truth(t); len(got) != 0 {
		t.Errorf("power commands: %+v", got)
	}
}

// A small disk for the data dir is told before anything starts.
func TestDevFullDisk(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	small := filepath.Join(home, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := exec.Command("unshare", "--mount", "--map-root-user", "sh", "-c",
		`mount -t tmpfs -o size=1m none "$1" && exec "$0" dev --data-dir "$1"`, holdfast, small)
	mount.Env = environ(home)
	out, err := mount.CombinedOutput()
	if bytes.Contains(out, []byte("unshare")) || bytes.Contains(out, []byte("mount:")) {
		t.Logf("no small file system can be made here, the check of free space is not shown: %s", out)
		return
	}
	if mount.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "MiB are free there") {
		t.Errorf("dev on a full disk: %v\n%s", err, out)
	}
}

// `holdfast demo` tells the whole story, ends with 0 in under two minutes, and leaves
// nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	began := time.Now()
	out, stderr, code := runFor(t, 2*time.Minute, home, "demo")
	if code != 0 {
		t.Fatalf("demo: exit %d after %v\n%s%s", code, time.Since(began), out, stderr)
	}
	rest := out
	for _, want := range []string{
		"crash h003", "AVAILABLE → SUSPECT", "idle", "all guards allow", "budget", "off to bmc", "OFF is proven (A3)",
		"on to bmc", "rebooted", "INITIALIZING → AVAILABLE", "No power command reached any other host",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("the story has no %q at its place:\n%s", want, out)
		}
		rest = after
	}
	if !strings.Contains(out, "ha.safe-to-restart: ") { // of the same moment as the proof
		t.Errorf("the story does not tell that instances may be restarted:\n%s", out)
	}
	if got := left(&fleet{home: home}); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if _, err := os.Stat(filepath.Join(home, "config")); err == nil {
		t.Error("the demo touched the configuration")
	}
}
