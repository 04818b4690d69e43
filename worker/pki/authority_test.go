// SPDX-License-Identifier: Apache-2.0

package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

func request(t testing.TB, key any, name string) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A fleet's own authority stands for hosts and for nobody else, whatever it signs; what a
// request says of its sender counts for nothing.
func TestFleetAuthorityStandsForHostsOnly(t *testing.T) {
	now := time.Now()
	caDER, keyDER, err := pki.NewFleetAuthority("fleet 1", now, pki.FleetLife)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := pki.RequestKey(request(t, ecKey(t), "worker/w1"))
	if err != nil {
		t.Fatal(err)
	}
	host, err := pki.SignHost(caDER, keyDER, "h-1", key, now)
	if err != nil {
		t.Fatal(err)
	}
	lab := pkitest.New(t)
	src := pkitest.Open(t, lab.Issue(t, trust.Worker, "w1"))
	all := []trust.Role{trust.Worker, trust.Host, trust.Operator}
	if _, err := src.Client([]*x509.Certificate{host}, all...); err == nil {
		t.Error("admitted before the authority is known")
	}
	src.Know(trust.NewKnown([]*x509.Certificate{ca}, nil))
	if id, err := src.Client([]*x509.Certificate{host}, all...); err != nil || id != (trust.Identity{Role: trust.Host, ID: "h-1"}) {
		t.Errorf("%v, %v", id, err)
	}
	if life := host.NotAfter.Sub(now).Round(time.Minute); life != 24*time.Hour {
		t.Errorf("good for %v", life)
	}
	// Somebody who has stolen the key signs what he likes.
	signer, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"holdfast://operator/ann", "holdfast://worker/w1"} {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		forged := *host
		forged.URIs, forged.Subject.CommonName = []*url.URL{u}, u.Path[1:]
		forged.DNSNames, forged.ExtKeyUsage = []string{"localhost"}, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		der, err := x509.CreateCertificate(rand.Reader, &forged, ca, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := src.Client([]*x509.Certificate{c}, all...); err == nil {
			t.Errorf("%s was admitted as %s", uri, id)
		}
	}
	src.Know(trust.NewKnown([]*x509.Certificate{ca}, map[string]string{trust.Serial(host): "stolen"}))
	if _, err := src.Client([]*x509.Certificate{host}, all...); err == nil || !strings.Contains(err.Error(), "is revoked: stolen") {
		t.Errorf("revoked: %v", err)
	}
	if _, err := pki.SignHost(caDER, keyDER, "h-1", key, now.Add(pki.FleetLife+time.Hour)); err == nil {
		t.Error("an authority that has ended signs")
	}
}

// Requests are refused in words: too long, no request, a key that is costly to check.
func TestBadRequests(t *testing.T) {
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	broken := request(t, ecKey(t), "h-1")
	broken[len(broken)-1] ^= 1
	for want, csr := range map[string][]byte{
		"9000 bytes, allowed are": make([]byte, 9000), "not a certificate request": []byte("x"),
		"key of type *rsa.PublicKey": request(t, big, "h-1"), "its signature is not": broken,
	} {
		if _, _, err := pki.RequestKey(csr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzRequestKey: whatever a host sends as its request, a key comes out or an error.
func FuzzRequestKey(f *testing.F) {
	f.Add(request(f, ecKey(f), "h-1"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		key, sum, err := pki.RequestKey(csr)
		if (err == nil) != (key != nil && len(sum) == 64) {
			t.Errorf("%v, %q, %v", key, sum, err)
		}
	})
}
