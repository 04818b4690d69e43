// SPDX-License-Identifier: Apache-2.0

//go:build e2e_upgrade

package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// There is no release yet to come from: the old worker is built from an older commit, the first at the
// earliest that exchanges frames with agents as today's do.
var upgradeFrom = flag.String("upgrade.from", "c48183e", "commit whose worker is upgraded")

// child is a program that the test ends itself.
type child struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

func (l *trusted) launch(binary, config string) *child {
	l.t.Helper()
	c := &child{cmd: exec.Command(binary, "--config", config)}
	c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = environ(l.home), &c.log, &c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.stop(l.t, syscall.SIGTERM)
		}
		if l.t.Failed() {
			l.t.Logf("%s %s:\n%s", binary, config, c.log.String())
		}
	})
	return c
}

func (c *child) stop(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	if err := c.cmd.Wait(); err != nil && sig == syscall.SIGTERM {
		t.Errorf("%v: %v", c.cmd, err)
	}
}

// buildOld builds a program of the older commit below dir.
func buildOld(t *testing.T, dir, program string) string {
	t.Helper()
	sh := fmt.Sprintf("mkdir -p %[1]s && git archive %[2]s | tar -x -C %[1]s && cd %[1]s && go build -o %[1]s/%[3]s ./cmd/%[3]s", dir, *upgradeFrom, program)
	build := exec.Command("sh", "-c", sh)
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s of %s: %v\n%s", program, *upgradeFrom, err, out)
	}
	return filepath.Join(dir, program)
}

// TestUpgradeOldWithAnIncidentOpen: workers of an older commit decide on a dead host; each is
// replaced by one of today before the incident ends. Its decisions are not made again: today's
// code may decide otherwise.
func TestUpgradeOldWithAnIncidentOpen(t *testing.T) {
	f := start(t, "--preset", "fast", "--hosts", "6", "--workers", "3")
	old := buildOld(t, filepath.Join(f.home, "old"), "holdfast")
	f.awaitAllAvailable(t, time.Minute)
	f.must(t, "settings", "set", "worker.rebalance.rate", "0")
	for _, w := range f.workers(t) {
		f.replace(t, w.ID, old)
	}
	f.upgradeUnderIncident(t, "")
}

// TestUpgrade: a fleet of workers of an older commit is upgraded worker by worker, each
// restarted with the new binary. No slot moves, every agent is linked, nobody is suspected.
// Its hosts have no power devices: for an open incident see above.
func TestUpgrade(t *testing.T) {
	l := &trusted{t: t, home: newHome(t), api: map[string]string{}}
	old := buildOld(t, l.path("old"), "holdfast-worker")
	l.must("pki", "init", "--dir", l.path("pki"))
	l.must("secret", "keygen", l.path("ring"))
	l.issue("etcd", "etcd-1")
	etcd := etcdtest.StartTLS(t, etcdtest.TLS{CA: l.path("pki/ca.crt"), Cert: l.path("pki/etcd-etcd-1.crt"), Key: l.path("pki/etcd-etcd-1.key"), AllowedCNs: []string{"w1", "w2", "w3"}})
	write := func(name, text string) string {
		if err := os.WriteFile(l.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return l.path(name)
	}
	workers := []string{"w1", "w2", "w3"}
	running := map[string]*child{}
	var doors, apis []string
	for _, w := range workers {
		l.issue("worker", w)
		l.api[w] = freeAddress(t)
		doors, apis = append(doors, freeAddress(t)), append(apis, "https://"+l.api[w])
		write(w+".yaml", fmt.Sprintf("id: %s\netcd: [%s]\nlistenAPI: %s\nlistenAgents: %s\ntlsCA: %s\ntlsCert: %s\ntlsKey: %s\nkeyRing: %s\n",
			w, etcd.Endpoints()[0], l.api[w], doors[len(doors)-1], l.path("pki/ca.crt"), l.path("pki/worker-"+w+".crt"), l.path("pki/worker-"+w+".key"), l.path("ring")))
		running[w] = l.launch(old, l.path(w+".yaml"))
	}
	l.issue("operator", "ann")
	l.must("context", "set", "lab", "--endpoint", strings.Join(apis, ","), "--cacert", l.path("pki/ca.crt"), "--cert", l.path("pki/operator-ann.crt"), "--key", l.path("pki/operator-ann.key"))
	get := func(into string, args ...string) string {
		t.Helper()
		var out string
		until(t, time.Minute, func() string {
			text, stderr, code := run(t, l.home, append(args, "-o", "jsonpath="+into)...)
			if out = strings.TrimSpace(text); code != 0 {
				return stderr
			}
			return ""
		})
		return out
	}
	slots := func() string {
		return get("{range .items[*]}{.id}={.slots} {end}", "get", "workers")
	}
	owned := func() {
		t.Helper()
		until(t, time.Minute, func() string {
			text := slots()
			n := 0
			for _, f := range strings.Fields(text) {
				var of int
				if _, err := fmt.Sscanf(f[strings.Index(f, "=")+1:], "%d", &of); err != nil {
					return text
				}
				n += of
			}
			if n != 1024 || strings.Count(text, "=") != 3 {
				return "slots: " + text
			}
			return ""
		})
	}
	owned()
	l.must("settings", "set", "worker.rebalance.rate", "0")
	until(t, 2*time.Minute, func() string { // who started first has given the others their share
		if text := slots(); strings.Count(text, "=341")+strings.Count(text, "=342") != 3 {
			return text
		}
		return ""
	})
	write("fleet.yaml", "kind: partition\npath: z1\n---\nkind: host\nid: h-1\npartition: z1/p1/c1\n---\nkind: host\nid: h-2\npartition: z1/p1/c1\n")
	l.must("apply", "-f", l.path("fleet.yaml"))
	agents := map[string]*child{}
	for _, h := range []string{"h-1", "h-2"} {
		l.issue("host", h)
		agents[h] = l.launch(l.program("holdfast-agent"), write(h+".yaml", fmt.Sprintf("host: %s\nhypervisor: none\nworkers: ['%s']\nstateDir: %s\ntls: {ca: %s, cert: %s, key: %s}\n",
			h, strings.Join(doors, "', '"), l.path("agent-"+h), l.path("pki/ca.crt"), l.path("pki/host-"+h+".crt"), l.path("pki/host-"+h+".key"))))
	}
	linked := func() {
		t.Helper()
		for h := range agents {
			until(t, startTime, func() string {
				if x := l.hostOf(h); x.Status.Linked != v1.LinkedYes {
					return fmt.Sprintf("%s is %s, linked %q", h, x.Status.State, x.Status.Linked)
				}
				return ""
			})
		}
	}
	linked()
	before := slots()
	for _, w := range workers {
		running[w].stop(t, syscall.SIGTERM)
		running[w] = l.launch(l.program("holdfast-worker"), l.path(w+".yaml"))
		owned()
		linked()
		if now := slots(); now != before {
			t.Errorf("after the upgrade of %s: slots %s, before %s", w, now, before)
		}
	}
	if out := l.out("events", "-o", "json"); strings.Contains(out, "ha.suspect") {
		t.Errorf("somebody was suspected:\n%s", out)
	}
	// What only the new version knows works at once.
	l.must("webhook", "add", "k", "--exec", "/bin/true")
	l.must("support", "-o", l.path("fleet.tar.gz"))
}

func (l *trusted) out(args ...string) string {
	l.t.Helper()
	out, stderr, code := run(l.t, l.home, args...)
	if code != 0 {
		l.t.Errorf("holdfast %s: %s", strings.Join(args, " "), stderr)
	}
	return out
}
