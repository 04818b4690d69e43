// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/api"
	"github.com/holdfast-ha/holdfast/worker/api/apitest"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// secured serves a fleet behind a worker's certificate.
func secured(t *testing.T, f *apitest.Fleet, files trust.Files, forward http.RoundTripper) *httptest.Server {
	t.Helper()
	src := pkitest.Open(t, files)
	s := httptest.NewUnstartedServer(api.NewHandler(f, api.HandlerOptions{Trust: src, Forward: forward}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Listener = tls.NewListener(s.Listener, src.Desk("h2", "http/1.1"))
	s.Start()
	s.URL = "https" + strings.TrimPrefix(s.URL, "http")
	t.Cleanup(s.Close)
	return s
}

// with asks as the holder of a certificate; none asks without one.
func with(t *testing.T, files trust.Files, peer trust.Peer) *http.Transport {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if !files.None() {
		src := pkitest.Open(t, files)
		tr = &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return src.Dial(ctx, (&net.Dialer{}).DialContext, network, address, peer)
		}}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func send(t *testing.T, rt http.RoundTripper, method, url, body string, header ...string) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

var aWorker = trust.Peer{Role: trust.Worker, Name: "127.0.0.1"}

// The API answers operators and other workers; everybody else is told in words why not,
// and probes hear whether it is ready and nothing more.
func TestWhoMayAsk(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	s := secured(t, apitest.NewFleet(), lab.Issue(t, trust.Worker, "w1"), nil)
	for _, c := range []struct {
		name  string
		files trust.Files
		want  string // empty: let in
	}{
		{"operator", lab.Issue(t, trust.Operator, "ann"), ""},
		{"worker", lab.Issue(t, trust.Worker, "w2"), ""},
		{"expired", lab.Issue(t, trust.Operator, "bob", pkitest.Expired), "certificate operator/bob has expired at"},
		{"not yet valid", lab.Issue(t, trust.Operator, "eve", pkitest.NotYet), "certificate operator/eve is not valid before"},
		{"foreign authority", lab.With(other.Issue(t, trust.Operator, "ann")), "certificate operator/ann is signed by"},
		{"host", lab.Issue(t, trust.Host, "h-1"), "certificate is that of host/h-1, admitted here is the role operator or worker"},
		{"etcd", lab.Issue(t, pkitest.Etcd, "e1"), "names no identity"},
		{"nobody", trust.Files{}, "no certificate was shown"},
	} {
		rt := with(t, c.files, aWorker)
		for _, path := range []string{"/v1/hosts", "/metrics", "/v1/hosts/h-1", "/nowhere", "/v1/health"} {
			code, body, err := send(t, rt, "GET", s.URL+path, "")
			if err != nil {
				t.Fatalf("%s: %s: %v", c.name, path, err)
			}
			if c.want == "" {
				if code == http.StatusForbidden {
					t.Errorf("%s: %s: %d %s", c.name, path, code, body)
				}
				continue
			}
			var p v1.Problem
			if json.Unmarshal([]byte(body), &p) != nil || code != http.StatusForbidden || p.Code != v1.CodeForbidden || !strings.Contains(p.Detail, c.want) || p.Hint == "" {
				t.Errorf("%s: %s: %d %s, want 403 with %q", c.name, path, code, body, c.want)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if code, body, err := send(t, rt, "GET", s.URL+path, ""); err != nil || code != 200 {
				t.Errorf("%s: %s: %d %s %v", c.name, path, code, body, err)
			}
		}
	}
	if code, body, err := send(t, http.DefaultTransport, "GET", "http"+strings.TrimPrefix(s.URL, "https")+"/v1/hosts", ""); err == nil && code != http.StatusBadRequest {
		t.Errorf("plaintext: %d %s", code, body)
	}
}

// A client asks only who is a worker of its fleet, at the address it dialled.
func TestWhoIsAsked(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	ann := lab.Issue(t, trust.Operator, "ann")
	for _, c := range []struct {
		name  string
		files trust.Files
		peer  trust.Peer
		want  string
	}{
		{"expired", lab.Issue(t, trust.Worker, "w2", pkitest.Expired), aWorker, "certificate worker/w2 has expired at"},
		{"not yet valid", lab.Issue(t, trust.Worker, "w3", pkitest.NotYet), aWorker, "certificate worker/w3 is not valid before"},
		{"foreign authority", lab.With(other.Issue(t, trust.Worker, "w1")), aWorker, "which is not among the authorities"},
		{"host", lab.Issue(t, trust.Host, "h-1"), aWorker, "certificate host/h-1 is not for this use"},
		{"etcd", lab.Issue(t, pkitest.Etcd, "e1"), aWorker, "names no identity"},
		{"other address", lab.Issue(t, trust.Worker, "w4"), trust.Peer{Role: trust.Worker, Name: "w5"}, "certificate worker/w4 is for w4, localhost, 127.0.0.1, ::1, not for w5"},
		{"other worker", lab.Issue(t, trust.Worker, "w4"), trust.Peer{Role: trust.Worker, ID: "w5"}, "certificate is that of worker/w4, expected is worker/w5"},
	} {
		s := secured(t, apitest.NewFleet(), c.files, nil)
		if _, _, err := send(t, with(t, ann, c.peer), "GET", s.URL+"/v1/hosts", ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// The record names who the certificate says it is, whatever the client claims, also past
// a worker that forwards; an operator cannot pass for a forwarding worker.
func TestActorIsTheCertificates(t *testing.T) {
	lab := pkitest.New(t)
	w1, w2 := lab.Issue(t, trust.Worker, "w1"), lab.Issue(t, trust.Worker, "w2")
	first, second := apitest.NewFleet(), apitest.NewFleet()
	owner := secured(t, second, w2, nil)
	first.Elsewhere["h-1"] = owner.URL
	door := secured(t, first, w1, with(t, w1, trust.Peer{Role: trust.Worker, ID: "w2"}))
	ann := with(t, lab.Issue(t, trust.Operator, "ann"), aWorker)
	for range 2 {
		code, body, err := send(t, ann, "POST", door.URL+"/v1/hosts/h-1/orders", orderOn, v1.ActorHeader, "root", "Holdfast-Forwarded", "operator/boss@10.9.9.9")
		if err != nil || code != 200 {
			t.Fatalf("%d %s %v", code, body, err)
		}
	}
	want := []string{`operator/ann@127.0.0.1: order on h-1 "r" ""`, `operator/ann@127.0.0.1: order on h-1 "r" ""`}
	if d := cmp.Diff(want, second.Noted()); d != "" {
		t.Errorf("owner (-want +got):\n%s", d)
	}
	if got := first.Noted(); len(got) > 0 {
		t.Errorf("the first worker acted: %v", got)
	}
}

// A forwarding worker that the owner refuses, or that refuses the owner, did nothing, and
// the operator is told whose certificate it was.
func TestForwardNeedsTrust(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	ann := lab.Issue(t, trust.Operator, "ann")
	issue := func(l *pkitest.Lab, role trust.Role, name string, change ...func(*pki.Options)) func() trust.Files {
		return func() trust.Files { return lab.With(l.Issue(t, role, name, change...)) }
	}
	w1, w2 := issue(lab, trust.Worker, "w1"), issue(lab, trust.Worker, "w2")
	for _, c := range []struct {
		name     string
		from, to func() trust.Files
		code     int
		want     string
	}{
		{"good", w1, w2, 200, "on record"},
		{"owner is another", w1, issue(lab, trust.Worker, "w3"), 503, "certificate is that of worker/w3, expected is worker/w2"},
		{"owner has expired", w1, issue(lab, trust.Worker, "w2", pkitest.Expired), 503, "certificate worker/w2 has expired at"},
		{"owner not yet valid", w1, issue(lab, trust.Worker, "w2", pkitest.NotYet), 503, "certificate worker/w2 is not valid before"},
		{"owner is foreign", w1, issue(other, trust.Worker, "w2"), 503, "which is not among the authorities"},
		{"owner is a host", w1, issue(lab, trust.Host, "w2"), 503, "is not for this use"},
		{"we have expired", issue(lab, trust.Worker, "w1", pkitest.Expired), w2, 403, "not admitted: certificate worker/w1 has expired at"},
		{"we are not yet valid", issue(lab, trust.Worker, "w1", pkitest.NotYet), w2, 403, "certificate worker/w1 is not valid before"},
		{"we are foreign", issue(other, trust.Worker, "w1"), w2, 403, "certificate worker/w1 is signed by"},
		{"we are a host", issue(lab, trust.Host, "w1"), w2, 403, "certificate is that of host/w1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := apitest.NewFleet(), apitest.NewFleet()
			first.Elsewhere["h-1"] = secured(t, second, c.to(), nil).URL
			door := secured(t, first, lab.Issue(t, trust.Worker, "w0"), with(t, c.from(), trust.Peer{Role: trust.Worker, ID: "w2"}))
			code, body, err := send(t, with(t, ann, aWorker), "POST", door.URL+"/v1/hosts/h-1/orders", orderOn)
			if err != nil || code != c.code || !strings.Contains(body, c.want) {
				t.Errorf("%d %s %v, want %d with %q", code, body, err, c.code, c.want)
			}
			if n := len(second.Noted()); (n > 0) != (c.code == 200) || len(first.Noted()) > 0 {
				t.Errorf("the owner acted %d times, the first worker %d times", n, len(first.Noted()))
			}
		})
	}
}
