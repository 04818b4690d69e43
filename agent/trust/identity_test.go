// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
)

// An identity is exactly role and id; whatever else a URI can hold is refused.
func TestParseURI(t *testing.T) {
	for s, want := range map[string]Identity{
		"holdfast://worker/w1":              {Worker, "w1"},
		"holdfast://host/h-17.rack_2":       {Host, "h-17.rack_2"},
		"holdfast://operator/ann@example.y": {Operator, "ann@example.y"},
	} {
		if got, err := ParseURI(s); err != nil || got != want || got.URI() != s {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "holdfast://", "holdfast://worker", "holdfast://worker/", "holdfast://root/w1", "holdfast://Worker/w1", "https://worker/w1", "holdfast:worker/w1",
		"holdfast://worker/w1/x", "holdfast://worker/w1?x=1", "holdfast://worker/w1#x", "holdfast://worker/w%31", "holdfast://worker:1/w1", "holdfast://u@worker/w1",
		"holdfast://host/..", "holdfast://host/-x", "holdfast://host/ann@example", "holdfast://host/" + strings.Repeat("x", 64), "holdfast://host/ä", "holdfast://host/h1\n",
	} {
		if got, err := ParseURI(s); err == nil {
			t.Errorf("%q is read as %v", s, got)
		}
	}
}

// A certificate names one identity, and its common name is the id or absent.
func TestOf(t *testing.T) {
	cert := func(cn string, uris ...string) *x509.Certificate {
		c := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
		return c
	}
	for _, c := range []*x509.Certificate{
		cert("w1", "holdfast://worker/w1"), cert("", "holdfast://worker/w1"), cert("w1", "spiffe://x/y", "holdfast://worker/w1"),
	} {
		if id, err := Of(c); err != nil || id != (Identity{Worker, "w1"}) {
			t.Errorf("%v %q: %v, %v", c.URIs, c.Subject.CommonName, id, err)
		}
	}
	for want, c := range map[string]*x509.Certificate{
		"names no identity":         cert("w1"),
		`certificate "w1" names no`: cert("w1", "spiffe://x/worker/w1"),
		"names 2 identities":        cert("w1", "holdfast://worker/w1", "holdfast://host/w1"),
		`has common name "w2"`:      cert("w2", "holdfast://worker/w1"),
		`role "root"`:               cert("w1", "holdfast://root/w1"),
		`want 1 to 63`:              cert("w1", "holdfast://worker/w1", "holdfast://worker/w1/x"),
	} {
		if id, err := Of(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, %v, want %q", c.URIs, id, err, want)
		}
	}
}

// FuzzIdentity: what is read is written back as it was, and is safe in a log line, a key
// of etcd and a file name.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{"holdfast://worker/w1", "holdfast://host/h-17", "holdfast://operator/a@b", "holdfast://worker/w1?x#y", "HOLDFAST://worker/w1", "holdfast://host/%2e%2e", "holdfast:///w1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if i, err := ParseURI(s); err == nil {
			if i.URI() != s || i.Check() != nil || strings.ContainsAny(i.ID, "/\\%\n \x00") || strings.HasPrefix(i.ID, ".") || len(i.ID) > 63 {
				t.Errorf("%q is read as %q", s, i)
			}
		} else if strings.Contains(err.Error(), "\n") || len(err.Error()) > 1000 {
			t.Errorf("error of %q: %q", s, err)
		}
		// And by the way of a certificate.
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		if i, err := Of(&x509.Certificate{URIs: []*url.URL{u}}); err == nil && i.Check() != nil {
			t.Errorf("certificate with %q is that of %q", s, i)
		}
	})
}

// Loopback is certain or it is not.
func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.8.0.2": true, "::1": true, "localhost": true, "::ffff:127.0.0.1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.example": false, "127.0.0.1.example": false,
	} {
		if Loopback(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
}
