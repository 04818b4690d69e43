// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

// trusted is a lab where every connection is mutual TLS: the walk-through of docs/pki.md
// with the programs that operators run.
type trusted struct {
	t     *testing.T
	home  string
	api   map[string]string // of workers
	doors []string          // of workers, for agents
}

func (l *trusted) path(elem ...string) string {
	return filepath.Join(append([]string{l.home}, elem...)...)
}

// must runs the CLI and expects success.
func (l *trusted) must(args ...string) string {
	l.t.Helper()
	out, stderr, code := run(l.t, l.home, args...)
	if code != 0 {
		l.t.Fatalf("holdfast %s: exit %d\n%s", strings.Join(args, " "), code, stderr)
	}
	return out
}

func (l *trusted) program(name string) string {
	l.t.Helper()
	bin, err := proc.Build(name)
	if err != nil {
		l.t.Fatal(err)
	}
	return bin
}

func (l *trusted) issue(kind, name string, more ...string) {
	l.t.Helper()
	l.must(append([]string{"pki", "issue", kind, name, "--dir", l.path("pki")}, more...)...)
}

// start runs one of the programs with a configuration file until the end of the test.
func (l *trusted) start(program, name, config string) {
	l.t.Helper()
	file := l.path(name + ".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(l.program(program), "--config", file)
	cmd.Env = environ(l.home)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			l.t.Errorf("%s: %v", name, err)
		}
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("%s ended with %v", name, err)
		}
		if l.t.Failed() {
			l.t.Logf("%s:\n%s", name, log.String())
		}
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startTrusted(t *testing.T) *trusted {
	l := &trusted{t: t, home: newHome(t), api: map[string]string{}}
	l.must("pki", "init", "--dir", l.path("pki"))
	l.must("secret", "keygen", l.path("ring"))
	l.issue("etcd", "etcd-1")
	etcd := etcdtest.StartTLS(t, etcdtest.TLS{CA: l.path("pki/ca.crt"), Cert: l.path("pki/etcd-etcd-1.crt"), Key: l.path("pki/etcd-etcd-1.key"), AllowedCNs: []string{"w1", "w2"}})
	var doors, apis []string
	for _, w := range []string{"w1", "w2"} {
		l.issue("worker", w)
		l.api[w] = freeAddress(t)
		doors, apis = append(doors, freeAddress(t)), append(apis, "https://"+l.api[w])
		l.start("holdfast-worker", w, fmt.Sprintf("id: %s\netcd: [%s]\nlistenAPI: %s\nlistenAgents: %s\ntlsCA: %s\ntlsCert: %s\ntlsKey: %s\nkeyRing: %s\n",
			w, etcd.Endpoints()[0], l.api[w], doors[len(doors)-1], l.path("pki/ca.crt"), l.path("pki/worker-"+w+".crt"), l.path("pki/worker-"+w+".key"), l.path("ring")))
	}
	l.doors = doors
	l.issue("operator", "ann")
	l.must("context", "set", "lab", "--endpoint", strings.Join(apis, ","), "--cacert", l.path("pki/ca.crt"), "--cert", l.path("pki/operator-ann.crt"), "--key", l.path("pki/operator-ann.key"))
	until(t, startTime, func() string {
		out, stderr, code := run(t, l.home, "get", "workers", "-o", "name")
		if code == 0 && strings.Count(out, "\n") == 2 {
			return ""
		}
		return "workers: " + out + stderr
	})
	fleet := l.path("fleet.yaml")
	if err := os.WriteFile(fleet, []byte("kind: partition\npath: z1\n---\nkind: host\nid: h-1\npartition: z1/p1/c1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("apply", "-f", fleet)
	l.issue("host", "h-1")
	l.start("holdfast-agent", "h-1", fmt.Sprintf("host: h-1\nhypervisor: none\nworkers: ['%s']\nstateDir: %s\ntls: {ca: %s, cert: %s, key: %s}\n",
		strings.Join(doors, "', '"), l.path("agent"), l.path("pki/ca.crt"), l.path("pki/host-h-1.crt"), l.path("pki/host-h-1.key")))
	until(t, startTime, func() string {
		if h := l.host(); h.Status.Linked != v1.LinkedYes {
			return fmt.Sprintf("h-1 is %s, linked %q", h.Status.State, h.Status.Linked)
		}
		return ""
	})
	return l
}

func (l *trusted) host() (h v1.Host) { l.t.Helper(); return l.hostOf("h-1") }

func (l *trusted) hostOf(id string) (h v1.Host) {
	l.t.Helper()
	if err := json.Unmarshal([]byte(l.must("get", "host", id, "-o", "json")), &h); err != nil {
		l.t.Fatal(err)
	}
	return h
}

// serial is the certificate that an address shows now.
func serial(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return pki.Fingerprint(conn.(*tls.Conn).ConnectionState().PeerCertificates[0])
}

// Mutual TLS between agent, workers, etcd and CLI, as the operators' programs do it: a
// fleet works, the record names people by their certificates, the wrong ones are told
// apart, and a renewal is taken without a restart and without losing a link.
func TestTrustOnTheWire(t *testing.T) {
	t.Parallel()
	l := startTrusted(t)
	for _, w := range []string{"w1", "w2"} { // one of them owns the host, the other forwards
		for _, on := range []string{"on", "off"} {
			l.must("--endpoint", "https://"+l.api[w], "--context", "lab", "host", "maintenance", on, "h-1", "--reason", "test")
		}
	}
	if events := l.must("events", "--last", "50", "-o", "json"); !strings.Contains(events, "operator/ann@127.0.0.1") {
		t.Errorf("the record does not name operator/ann:\n%s", events)
	}

	l.must("pki", "init", "--dir", l.path("foreign"))
	l.must("pki", "issue", "operator", "ann", "--dir", l.path("foreign"))
	api := "https://" + l.api["w1"]
	shows := func(cert string) []string {
		return []string{"--endpoint", api, "--cacert", l.path("pki/ca.crt"), "--cert", l.path("pki", cert+".crt"), "--key", l.path("pki", cert+".key"), "get", "hosts"}
	}
	believes := shows("operator-ann")
	believes[3] = l.path("foreign/ca.crt")
	both := l.path("both.crt")
	var bundle []byte
	for _, dir := range []string{"pki", "foreign"} {
		b, err := os.ReadFile(l.path(dir, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, b...)
	}
	if err := os.WriteFile(both, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"operator", shows("operator-ann"), 0, ""},
		{"host", shows("host-h-1"), 2, "certificate is that of host/h-1, want one of the role operator"},
		{"foreign authority", believes, 2, "which is not among the authorities in cacert"},
		{"foreign operator", []string{"--endpoint", api, "--cacert", both, "--cert", l.path("foreign/operator-ann.crt"), "--key", l.path("foreign/operator-ann.key"), "get", "hosts"}, 8, "not admitted: certificate operator/ann is signed by"},
		{"none", []string{"--endpoint", api, "get", "hosts"}, 2, "no certificate: workers want to know who asks"},
		{"plaintext", []string{"--endpoint", "http://" + l.api["w1"], "get", "hosts"}, 1, "HTTP request to an HTTPS server"},
	} {
		if _, stderr, code := run(t, l.home, c.args...); code != c.code || !strings.Contains(stderr, c.want) || strings.Count(stderr, "Error: ") > 1 {
			t.Errorf("%s: exit %d, %q, want %d with %q", c.name, code, stderr, c.code, c.want)
		}
	}

	before := l.host()
	look := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	old := serial(t, l.api["w1"], look)
	for _, c := range [][]string{{"worker", "w1"}, {"worker", "w2"}, {"host", "h-1"}, {"operator", "ann"}} {
		l.issue(c[0], c[1], "--force")
	}
	until(t, 20*time.Second, func() string {
		if serial(t, l.api["w1"], look) == old {
			return "the old certificate is still shown"
		}
		return ""
	})
	until(t, startTime, func() string { // pings go on over the link that was up
		h := l.host()
		if h.Status.Linked != v1.LinkedYes || h.Status.State != before.Status.State {
			t.Fatalf("h-1 is %s, linked %q", h.Status.State, h.Status.Linked)
		}
		if !h.Status.LastPing.After(before.Status.LastPing) {
			return "no ping since the renewal"
		}
		return ""
	})
}
