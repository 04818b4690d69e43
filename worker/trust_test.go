// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// No plaintext byte leaves this machine: without certificates a worker does not start,
// and with insecureLoopback every address must be loopback.
func TestNoPlaintextBeyondLoopback(t *testing.T) {
	local := Options{
		ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, ListenAPI: "127.0.0.1:0", ListenAgents: "[::1]:0",
		AdvertiseAPI: "localhost:1", InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler),
	}
	if _, err := New(local); err != nil {
		t.Errorf("all on loopback: %v", err)
	}
	for want, change := range map[string]func(*Options){
		"tlsCA, tlsCert, tlsKey: empty":                     func(o *Options) { o.InsecureLoopback = false },
		`etcd: "http://127.0.0.1:1", allowed is https://`:   func(o *Options) { o.InsecureLoopback = false },
		"not allowed together with certificates":            func(o *Options) { o.EtcdTLS.CA = "/ca" },
		`listenAPI: "0.0.0.0:1": insecureLoopback allows`:   func(o *Options) { o.ListenAPI = "0.0.0.0:1" },
		`listenAgents: ":1": insecureLoopback allows`:       func(o *Options) { o.ListenAgents = ":1" },
		`advertiseAPI: "10.0.0.1:1": insecureLoopback`:      func(o *Options) { o.AdvertiseAPI = "10.0.0.1:1" },
		`advertiseAgents: "w1:1": insecureLoopback`:         func(o *Options) { o.AdvertiseAgents = "w1:1" },
		`advertiseAgents: "w1", allowed is host:port`:       func(o *Options) { o.AdvertiseAgents = "w1" },
		`etcd: "http://10.0.0.1:1": insecureLoopback`:       func(o *Options) { o.Etcd = append(o.Etcd, "http://10.0.0.1:1") },
		`etcd: "https://127.0.0.1:1", allowed with insecur`: func(o *Options) { o.Etcd = []string{"https://127.0.0.1:1"} },
	} {
		o := local
		change(&o)
		if _, err := New(o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// dialEtcd is what a worker and its parent do.
func dialEtcd(t *testing.T, o Options, limit time.Duration) error {
	t.Helper()
	conf, err := EtcdConfig(o)
	if err != nil {
		t.Fatal(err)
	}
	conf.DialTimeout = limit
	c, err := leases.Dial(t.Context(), conf)
	if err != nil {
		return err
	}
	_, err = c.EnsureConfig(t.Context())
	return errors.Join(err, c.Close())
}

// etcd admits workers by the names on its list and nobody else; a worker believes only
// members for the addresses it knows (leases.md §5, auth).
func TestEtcdByCertificate(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	member := lab.Issue(t, pkitest.Etcd, "etcd-1")
	etcd := etcdtest.StartTLS(t, etcdtest.TLS{CA: member.CA, Cert: member.Cert, Key: member.Key, AllowedCNs: []string{"w1", "etcd-user"}})
	options := func(id string, tls, etcdTLS trust.Files) Options {
		return Options{ID: id, Etcd: etcd.Endpoints(), TLS: tls, EtcdTLS: etcdTLS, Logger: slog.New(slog.DiscardHandler)}
	}
	w1 := lab.Issue(t, trust.Worker, "w1")
	if err := dialEtcd(t, options("w1", w1, trust.Files{}), 20*time.Second); err != nil {
		t.Errorf("a worker on the list: %v", err)
	}
	user := lab.Issue(t, trust.Operator, "etcd-user")
	foreignFleet := other.Issue(t, trust.Worker, "w3")
	if err := dialEtcd(t, options("w3", foreignFleet, user), 20*time.Second); err != nil {
		t.Errorf("other certificates for etcd: %v", err)
	}
	for want, o := range map[string]Options{
		"remote error: tls: bad certificate":               options("w2", lab.Issue(t, trust.Worker, "w2"), trust.Files{}),
		"which is not among the authorities":               options("w3", foreignFleet, trust.Files{}),
		"remote error: tls: unknown certificate authority": options("w1", w1, lab.With(other.Issue(t, pkitest.Etcd, "w1"))),
		"remote error: tls: expired certificate":           options("w1", w1, lab.Issue(t, pkitest.Etcd, "w1", pkitest.Expired)),
	} {
		// etcd closes the connection at once, and so its reason may get lost on the way.
		lost := strings.HasPrefix(want, "remote error")
		if err := dialEtcd(t, o, time.Second); err == nil || !strings.Contains(err.Error(), want) && !(lost && (strings.Contains(err.Error(), "broken pipe") || strings.Contains(err.Error(), "connection reset"))) {
			t.Errorf("%s: %v, want %q", o.ID, err, want)
		}
	}
}

// A worker's own certificate is watched: warnings before the end, at the end, and when a
// renewal went wrong; metrics say when it ends.
func TestCertificateWarnings(t *testing.T) {
	lab := pkitest.New(t)
	files := lab.Issue(t, trust.Worker, "w1")
	w, err := New(Options{ID: "w1", Etcd: []string{"https://127.0.0.1:1"}, TLS: files, EtcdTLS: lab.Issue(t, pkitest.Etcd, "w1"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	raised := func(at time.Time) string {
		w.warnCertificates(at)
		var all []string
		for _, x := range w.health.list() {
			all = append(all, x.Code+" "+x.Severity)
		}
		return strings.Join(all, ", ")
	}
	now := time.Now()
	for _, c := range []struct {
		step string
		do   func()
		at   time.Time
		want string
	}{
		{"fresh", nil, now, ""},
		{"late", nil, now.Add(28 * 24 * time.Hour), certificateExpiring + " warning"},
		{"over", nil, now.Add(31 * 24 * time.Hour), certificateExpired + " critical"},
		{"clock", nil, now.Add(-time.Hour), certificateExpired + " critical"},
		{"other role", func() { pkitest.Copy(t, lab.Issue(t, trust.Host, "w1"), files) }, now, certificateUnusable + " warning"},
		{"mended", func() { lab.Issue(t, trust.Worker, "w1", func(o *pki.Options) { o.For = 24 * time.Hour }) }, now, ""},
		{"late again", nil, now.Add(22 * time.Hour), certificateExpiring + " warning"},
	} {
		if c.do != nil {
			c.do()
		}
		if got := raised(c.at); got != c.want {
			t.Errorf("%s: %q, want %q", c.step, got, c.want)
		}
	}
	rec := httptest.NewRecorder()
	w.metrics.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), "GET", "/metrics", nil))
	for _, role := range []string{"worker", "etcd", "ca"} {
		if !strings.Contains(rec.Body.String(), `holdfast_certificate_expiry_timestamp_seconds{role="`+role+`"} `) {
			t.Errorf("no metric of role %s", role)
		}
	}
}
