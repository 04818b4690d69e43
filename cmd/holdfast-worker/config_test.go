// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence: explicit beats environment beats file.
func TestPrecedence(t *testing.T) {
	path := file(t, "id: w1\nzone: a\nweight: 3\netcd: [http://127.0.0.1:1, http://127.0.0.1:2]\nleaseTTL: 7s\n")
	env := map[string]string{"HOLDFAST_WORKER_ZONE": "b", "HOLDFAST_WORKER_LEASE_TTL": "8s"}
	c, err := load([]string{"--config", path, "--lease-ttl", "9s"}, func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	o := c.options
	if o.ID != "w1" || o.Zone != "b" || o.Weight != 3 || len(o.Etcd) != 2 || o.LeaseTTL != 9*time.Second {
		t.Errorf("got %+v", o)
	}
}

// TestBadInput: one clear line that names field, value and what is allowed, and status 2.
func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--config", file(t, "id: w1\netcdd: x\n")}, `key "etcdd" is not known, allowed are id,`},
		{[]string{"--config", file(t, "id: {a: b}\n")}, `key "id"`},
		{[]string{"--config", filepath.Join(t.TempDir(), "none")}, "no such file"},
		{[]string{"--lease-ttl", "soon"}, `--lease-ttl: "soon", allowed are whole seconds`},
		{[]string{"--weight", "many"}, `--weight: "many", allowed are 1 to 100`},
		{[]string{"--log-level", "loud"}, `"loud", allowed are debug`},
		{[]string{"--nonsense"}, "nonsense"},
		{[]string{"word"}, `argument "word"`},
		{[]string{"--insecure-loopback=maybe"}, `"maybe", allowed are true and false`},
		{[]string{"--id", "w1"}, "etcd: empty"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1"}, "holdfast pki issue worker w1"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--tls-ca", "/ca", "--tls-cert", "/c", "--tls-key", "/k"}, `etcd: "http://127.0.0.1:1", allowed is https://`},
		{[]string{"--id", "w1", "--etcd", "https://127.0.0.1:1", "--tls-ca", "/ca"}, "tlsCert: empty, all of tlsCA, tlsCert, tlsKey are needed"},
		{[]string{"--id", "w1", "--etcd", "https://127.0.0.1:1", "--tls-ca", "/no/ca", "--tls-cert", "/c", "--tls-key", "/k"}, "tlsCA /no/ca: no such file"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--insecure-loopback", "--tls-ca", "/ca"}, "not allowed together with certificates"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--insecure-loopback", "--listen-api", ":7080"}, `listenAPI: ":7080": insecureLoopback allows loopback addresses only`},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--insecure-loopback", "--listen-agents", "0.0.0.0:7443"}, "listenAgents:"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--insecure-loopback", "--advertise-api", "w1.example:7080"}, "advertiseAPI:"},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1,http://10.0.0.1:2379", "--insecure-loopback"}, `etcd: "http://10.0.0.1:2379"`},
		{[]string{"--id", "w 1", "--etcd", "http://127.0.0.1:1"}, `"w 1"`},
		{[]string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--lease-ttl", "100ms"}, "leaseTTL: 100ms, allowed are"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, func(string) string { return "" }, &out, &errs)
		if code != 2 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: status %d, %q; want 2 and …%s…", c.args, code, errs.String(), c.want)
		}
	}
}

// TestPortInUse: a port that is taken is named with its field.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"--id", "w1", "--etcd", "http://127.0.0.1:1", "--insecure-loopback", "--listen-api", l.Addr().String()}, func(string) string { return "" }, &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "listenAPI") || !strings.Contains(errs.String(), "in use") {
		t.Errorf("status %d, %q", code, errs.String())
	}
}

// TestHelpAndVersion end with 0 and say something.
func TestHelpAndVersion(t *testing.T) {
	for _, arg := range []string{"--help", "--version"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), []string{arg}, func(string) string { return "" }, &out, &errs); code != 0 || !strings.Contains(out.String(), "holdfast-worker") {
			t.Errorf("%s: status %d, %q", arg, code, out.String())
		}
	}
}
