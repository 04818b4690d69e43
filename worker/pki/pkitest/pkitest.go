// SPDX-License-Identifier: Apache-2.0

// Package pkitest makes certificates for tests: good ones, and each kind of bad one.
package pkitest

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

// Lab is one authority and what it has issued.
type Lab struct{ Dir string }

// New makes an authority of its own.
func New(t testing.TB) *Lab { t.Helper(); return NewAt(t, time.Now()) }

// NewAt makes one whose time begins then.
func NewAt(t testing.TB, at time.Time) *Lab {
	t.Helper()
	l := &Lab{t.TempDir()}
	if _, err := pki.Init(pki.Options{Dir: l.Dir, Now: at}); err != nil {
		t.Fatal(err)
	}
	return l
}

// Issue issues a certificate, over the present one of that name if there is one.
func (l *Lab) Issue(t testing.TB, kind trust.Role, name string, change ...func(*pki.Options)) trust.Files {
	t.Helper()
	o := pki.Options{Dir: l.Dir, Now: time.Now(), Force: true}
	for _, c := range change {
		c(&o)
	}
	p, err := pki.Issue(pki.Kind(kind), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Files{CA: filepath.Join(l.Dir, "ca.crt"), Cert: p.Cert, Key: p.Key}
}

// Etcd is the kind of an etcd member.
const Etcd = trust.Role(pki.Etcd)

// Expired makes a certificate that ended yesterday.
func Expired(o *pki.Options) { o.Now, o.For = time.Now().Add(-48*time.Hour), 24*time.Hour }

// NotYet makes a certificate that begins tomorrow.
func NotYet(o *pki.Options) { o.Now = time.Now().Add(24 * time.Hour) }

// With is files whose certificate and key are its own and whose authorities are those of
// another lab: what a participant of one fleet has who strayed into another.
func (l *Lab) With(other trust.Files) trust.Files {
	other.CA = filepath.Join(l.Dir, "ca.crt")
	return other
}

// Bundle is a file with the authorities of both labs.
func (l *Lab) Bundle(t testing.TB, other *Lab) string {
	t.Helper()
	var all []byte
	for _, x := range []*Lab{l, other} {
		b, err := os.ReadFile(filepath.Join(x.Dir, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	file := filepath.Join(t.TempDir(), "both.crt")
	if err := os.WriteFile(file, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Elsewhere is a worker's certificate for ID.example alone: not for where tests listen.
func (l *Lab) Elsewhere(t testing.TB, id string, change ...func(*pki.Options)) trust.Files {
	t.Helper()
	f := l.Issue(t, trust.Worker, id, change...)
	ca, err := tls.LoadX509KeyPair(filepath.Join(l.Dir, "ca.crt"), filepath.Join(l.Dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	c := own.Leaf
	c.DNSNames, c.IPAddresses = []string{id + ".example"}, nil
	der, err := x509.CreateCertificate(rand.Reader, c, ca.Leaf, c.PublicKey, ca.PrivateKey)
	if err == nil {
		err = os.WriteFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Copy puts the files over those at to, as a renewal does.
func Copy(t testing.TB, from, to trust.Files) {
	t.Helper()
	for _, f := range [][2]string{{from.CA, to.CA}, {from.Key, to.Key}, {from.Cert, to.Cert}} {
		if f[0] == f[1] {
			continue
		}
		b, err := os.ReadFile(f[0])
		if err == nil {
			err = os.WriteFile(f[1]+".new", b, 0o600)
		}
		if err == nil {
			err = os.Rename(f[1]+".new", f[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Open opens files as a participant does that has them; anybody's.
func Open(t testing.TB, f trust.Files) *trust.Source {
	t.Helper()
	s, err := trust.Open(trust.Config{Files: f, Fields: trust.Files{CA: "ca", Cert: "cert", Key: "key"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
