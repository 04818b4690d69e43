// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/systemd"
	"github.com/holdfast-ha/holdfast/agent/systemd/systemdtest"
)

// asAgent makes the test binary the agent.
const asAgent = "RUN_AS_HOLDFAST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		main()
	}
	os.Exit(m.Run())
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func env(pairs map[string]string) func(string) string {
	return func(key string) string { return pairs[key] }
}

// file < env < flag (architecture.md §1, Config).
func TestLaterSourcesWin(t *testing.T) {
	name := file(t, "host: file\nstateDir: /file\nworkers: [file:1]\nhypervisor: none\npools: [{id: p1, path: /mnt/p1}, {id: p2, path: /mnt/p2, mountpoint: false}]\n")
	c, err := load([]string{"--host=flag", "--workers", "flag:1,flag:2"}, env(map[string]string{
		"HOLDFAST_AGENT_CONFIG": name, "HOLDFAST_AGENT_HOST": "env", "HOLDFAST_AGENT_STATE_DIR": "/env", "HOLDFAST_AGENT_WORKERS": "env:1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := []any{"flag", "/env", []string{"flag:1", "flag:2"}, "none", "info", []poolConfig{{ID: "p1", Path: "/mnt/p1"}, {ID: "p2", Path: "/mnt/p2", Mountpoint: &no}}}
	if diff := cmp.Diff(want, []any{c.Host, c.StateDir, c.Workers, c.Hypervisor, c.LogLevel, c.Pools}); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// Bad input gets one clear line naming field, value and what is allowed, and exit code 2;
// what is no configuration's fault gets 1.
func TestBadInput(t *testing.T) {
	bare := "host: h1\nworkers: ['127.0.0.1:1']\nhypervisor: none\nstateDir: " + t.TempDir() + "\n"
	good := bare + "insecureLoopback: true\n"
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "agent.properties"), []byte("hosts\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		file string
		want string
		code int
	}{
		{args: []string{"--hosts", "x"}, want: "-hosts", code: 2},
		{args: []string{"start"}, want: `argument "start"`, code: 2},
		{args: []string{"--config", "/no/such.yaml"}, want: "file /no/such.yaml: no such file or directory", code: 2},
		{file: good + "pool: []\n", want: `unknown field "pool"`, code: 2},
		{file: good + "host: h2\n", want: `key "host" already`, code: 2},
		{file: good + "pools: [{id: p1, path: /mnt, mountpiont: true}]\n", want: `unknown field "mountpiont"`, code: 2},
		{file: good + "workers2: [\n", want: "line 6: did not find expected node content", code: 2},
		{file: good + "pools: [{id: p1, path: mnt}]\n", want: `pool p1: path "mnt" is not absolute`, code: 2},
		{file: good + "pools: [{id: p1, type: ceph, path: /mnt}]\n", want: `pool p1: type "ceph", allowed are local and nfs`, code: 2},
		{file: good + "pools: [{id: p1, path: /a}, {id: p1, type: local, path: /b}]\n", want: `id "p1" is given twice`, code: 2},
		{file: good + "logLevel: loud\n", want: `logLevel "loud" is not one of`, code: 2},
		{file: bare, want: "holdfast pki issue host h1", code: 2},
		{file: bare + "tls: {cert: /x}\n", want: "tls.ca: empty, all of tls.ca, tls.cert, tls.key are needed", code: 2},
		{file: bare + "tls: {ca: /no/ca, cert: /x, key: /y}\n", want: "tls.ca /no/ca: no such file", code: 2},
		{file: good + "tls: {cert: /x}\n", want: "insecureLoopback: true, not allowed together with tls", code: 2},
		{file: bare, args: []string{"--insecure-loopback=maybe"}, want: `"maybe", allowed are true and false`, code: 2},
		{file: bare, args: []string{"--insecure-loopback", "--workers", "10.0.0.1:1"}, want: "without TLS only loopback", code: 2},
		{file: good, args: []string{"--hypervisor", "xen"}, want: `hypervisor "xen": this agent was built with: `, code: 2},
		{file: good + "listenMetrics: '9101'\n", want: `listenMetrics: "9101": want host:port`, code: 2},
		{file: good, args: []string{"--listen-metrics", "0.0.0.0:9101"}, want: `listenMetrics: "0.0.0.0:9101": without TLS only loopback`, code: 2},
		{file: good, args: []string{"--host", "a/b"}, want: `host "a/b"`, code: 2},
		{file: good, args: []string{"--workers", "10.0.0.1:1"}, want: "without TLS only loopback", code: 2},
		{file: good, args: []string{"--state-dir", damaged}, want: "agent.properties:1:", code: 1},
	} {
		args := c.args
		if c.file != "" {
			args = append([]string{"--config", file(t, c.file)}, args...)
		}
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, env(nil), &stdout, &stderr)
		line := stderr.String()
		if code != c.code || !strings.HasPrefix(line, "Error: ") || !strings.Contains(line, c.want) || strings.Count(line, "\n") != 1 {
			t.Errorf("%v: exit %d, %q, want %d and one line with %q", args, code, line, c.code, c.want)
		}
	}
}

// It says plainly which hypervisors it was built with.
func TestVersionAndHelp(t *testing.T) {
	for arg, want := range map[string]string{
		"--version": "built with hypervisors: " + builtWith() + "\n",
		"--help":    "--state-dir",
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{arg}, env(nil), &stdout, &stderr); code != 0 || !strings.Contains(stdout.String(), want) || stderr.Len() != 0 {
			t.Errorf("%s: exit %d, %q, %q, want %q", arg, code, stdout.String(), stderr.String(), want)
		}
	}
}

// Only pools that other hosts have are stamped; shared ones are mount points, local ones
// directories, unless the file says otherwise.
func TestPools(t *testing.T) {
	no, yes := false, true
	for want, p := range map[dirs.Dir]poolConfig{
		{ID: "a", Type: hypervisor.NFS, Path: "/a", Mount: true}:   {ID: "a", Path: "/a"},
		{ID: "b", Type: hypervisor.NFS, Path: "/b"}:                {ID: "b", Path: "/b", Mountpoint: &no},
		{ID: "c", Type: hypervisor.Local, Path: "/c"}:              {ID: "c", Type: "local", Path: "/c"},
		{ID: "d", Type: hypervisor.Local, Path: "/d", Mount: true}: {ID: "d", Type: "local", Path: "/d", Mountpoint: &yes},
	} {
		if diff := cmp.Diff(want, p.dir()); diff != "" {
			t.Error(diff)
		}
	}
	c := config{Host: "h1", Hypervisor: "none", Pools: []poolConfig{{ID: "a", Path: "/a"}, {ID: "c", Type: "local", Path: "/c"}}}
	o, err := c.options()
	if err != nil || len(o.Pools) != 1 || o.Pools[0].ID() != "a" {
		t.Errorf("stamped pools are %v, %v, want the shared one", o.Pools, err)
	}
}

// Under systemd it says when it is ready, that it runs, to its end, and that it stops.
func TestSupervised(t *testing.T) {
	l := systemdtest.Listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = supervised(ctx, systemd.From(l.Env(30*time.Millisecond), slog.New(slog.DiscardHandler)), func(context.Context) error {
			<-end
			return nil
		})
	}()
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := l.Next(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	cancel()
	l.Until("STOPPING=1", "WATCHDOG=1")
	if got := l.Next(); got != "WATCHDOG=1" {
		t.Errorf("told %q while it stops", got)
	}
	close(end)
	<-done
}

// A plain build says clearly that it has no libvirt; the other one has both.
func TestBuiltWith(t *testing.T) {
	want := "libvirt, none"
	if hypervisors["libvirt"] == nil {
		want = "none (libvirt comes with the libvirt build)"
	}
	if got := builtWith(); got != want {
		t.Errorf("built with %q, want %q", got, want)
	}
}

// The file that is shipped beside the unit is one that the agent takes.
func TestShippedConfiguration(t *testing.T) {
	c, err := load([]string{"--config", "../../deploy/systemd/agent.yaml"}, env(nil))
	if err != nil || len(c.Pools) != 2 || c.Hypervisor != "libvirt" || c.StateDir != "/var/lib/holdfast-agent" {
		t.Errorf("shipped configuration is %+v, %v", c, err)
	}
}

// SIGTERM is an orderly stop.
func TestSIGTERMStops(t *testing.T) {
	worker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close()
	pool := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	agent := exec.CommandContext(ctx, os.Args[0], "--config", file(t, "host: h1\nhypervisor: none\ninsecureLoopback: true\npools: [{id: p1, path: "+pool+", mountpoint: false}]\n"),
		"--workers", worker.Addr().String(), "--state-dir", t.TempDir())
	agent.Env = append(os.Environ(), asAgent+"=1")
	var out bytes.Buffer
	agent.Stdout, agent.Stderr = &out, &out
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	if err := worker.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := worker.Accept() // it runs and dials
	if err == nil {
		defer conn.Close()
	}
	if signalled := agent.Process.Signal(syscall.SIGTERM); err != nil || signalled != nil {
		t.Errorf("agent did not dial: %v, %v", err, signalled)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, out.String())
	}
}
