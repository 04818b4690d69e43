// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

func only(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	all, err := pki.Read(file)
	if err != nil || len(all) != 1 {
		t.Fatalf("%s: %d certificates, %v", file, len(all), err)
	}
	return all[0]
}

// A certificate has one identity, its id as common name, only the usages of its role, and
// the names that it serves at.
func TestIssuedCertificates(t *testing.T) {
	lab := pkitest.New(t)
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, c := range []struct {
		role  trust.Role
		name  string
		usage []x509.ExtKeyUsage
		dns   []string
	}{
		{trust.Worker, "w1", both, []string{"w1", "localhost", "w1.example"}},
		{trust.Host, "h-17", both[:1], nil},
		{trust.Operator, "ann@example.com", both[:1], nil},
		{pkitest.Etcd, "e1", both, []string{"e1", "localhost", "w1.example"}},
	} {
		f := lab.Issue(t, c.role, c.name, func(o *pki.Options) {
			if c.dns != nil {
				o.DNS, o.IP = []string{"w1.example", "w1.example"}, []string{"10.0.0.1"}
			}
		})
		got := only(t, f.Cert)
		if d := cmp.Diff(c.usage, got.ExtKeyUsage); d != "" || got.Subject.CommonName != c.name || got.IsCA {
			t.Errorf("%s: CN %q, CA %t, usages (-want +got):\n%s", c.name, got.Subject.CommonName, got.IsCA, d)
		}
		if d := cmp.Diff(c.dns, got.DNSNames); d != "" {
			t.Errorf("%s: names (-want +got):\n%s", c.name, d)
		}
		id, err := trust.Of(got)
		if c.role == pkitest.Etcd {
			if err == nil {
				t.Errorf("etcd's certificate is that of %s", id)
			}
			continue
		}
		if err != nil || id != (trust.Identity{Role: c.role, ID: c.name}) {
			t.Errorf("%s: identity %s, %v", c.name, id, err)
		}
	}
}

// Keys are for their owner alone; nothing is overwritten unless --force says so.
func TestFilesAndForce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "pki")
	o := pki.Options{Dir: dir, Now: time.Now()}
	if _, err := pki.Issue(pki.Kind(trust.Worker), "w1", o); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "holdfast pki init") {
		t.Errorf("issue without an authority: %v", err)
	}
	ca, err := pki.Init(o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pki.Issue(pki.Kind(trust.Worker), "w1", o)
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]os.FileMode{ca.Key: 0o600, p.Key: 0o600, ca.Cert: 0o644, p.Cert: 0o644} {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: %v, want mode %#o", f, info.Mode(), want)
		}
	}
	before := pki.Fingerprint(only(t, p.Cert))
	for _, again := range []func() error{
		func() error { _, err := pki.Init(o); return err },
		func() error { _, err := pki.Issue(pki.Kind(trust.Worker), "w1", o); return err },
	} {
		if err := again(); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("over a file: %v", err)
		}
	}
	if pki.Fingerprint(only(t, p.Cert)) != before {
		t.Error("the certificate was changed")
	}
	o.Force = true
	if _, err := pki.Issue(pki.Kind(trust.Worker), "w1", o); err != nil || pki.Fingerprint(only(t, p.Cert)) == before {
		t.Errorf("with force: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Bad input is named with its field, its value and what is allowed; nothing is written.
func TestBadOptions(t *testing.T) {
	lab := pkitest.New(t)
	for _, c := range []struct {
		kind, name string
		change     func(*pki.Options)
		want       string
	}{
		{"manager", "x", nil, `kind "manager": allowed are worker, host, operator and etcd`},
		{"worker", "w 1", nil, `name of the worker: worker "w 1": want 1 to 63`},
		{"host", "../x", nil, `name of the host`},
		{"host", "ann@example", nil, `name of the host`},
		{"operator", "", nil, `name of the operator`},
		{"worker", "w1", func(o *pki.Options) { o.Dir = "" }, "dir: empty"},
		{"worker", "w1", func(o *pki.Options) { o.For = time.Second }, "for: 1s, allowed are 1m0s and more"},
		{"worker", "w1", func(o *pki.Options) { o.For = 2 * pki.CALife }, "ends after the authority does, allowed is up to"},
		{"worker", "w1", func(o *pki.Options) { o.DNS = []string{"a b"} }, `dns: "a b", allowed is a host name`},
		{"worker", "w1", func(o *pki.Options) { o.IP = []string{"10.0.0"} }, `ip: "10.0.0", allowed is an IP address`},
		{"host", "h1", func(o *pki.Options) { o.DNS = []string{"h1.example"} }, "a certificate of a host is for no server"},
	} {
		o := pki.Options{Dir: lab.Dir, Now: time.Now()}
		if c.change != nil {
			c.change(&o)
		}
		var bad pki.OptionError
		if _, err := pki.Issue(pki.Kind(c.kind), c.name, o); !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("issue %s %q: %v, want %q", c.kind, c.name, err, c.want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(lab.Dir, "*")); len(files) != 2 {
		t.Errorf("files: %v", files)
	}
}

// A key that is not the authority's signs nothing.
func TestForeignKeyOfAuthority(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	b, err := os.ReadFile(filepath.Join(other.Dir, "ca.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(lab.Dir, "ca.key"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(pki.Etcd, "e1", pki.Options{Dir: lab.Dir, Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("issue: %v", err)
	}
}
