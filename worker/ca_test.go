// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// caFleet is a worker with a certificate and a key ring, and one host on record.
func caFleet(t *testing.T) (*vault, *Worker) {
	v := newVault(t)
	v.put(t, leases.HostSpecKey("h-1"), v1.HostSpec{V: 1, ID: "h-1", Partition: cluster, Provider: "kvm"})
	lab := pkitest.New(t)
	w, _ := v.sealing(t, "w1", v.ring, func(w *Worker) { w.wire.own = pkitest.Open(t, lab.Issue(t, trust.Worker, "w1")) })
	caughtUp(t, w)
	return v, w
}

// A join token gives one certificate to one host and one key, until it ends; the answer
// may be asked for again with the same key. Authorities change with overlap.
func TestJoinTokensAndAuthorities(t *testing.T) {
	v, w := caFleet(t)
	b, ctx := (*backend)(w), t.Context()
	if _, err := b.CreateJoinToken(ctx, "ann", v1.JoinTokenRequest{Host: "h-1"}); err == nil || !strings.Contains(err.Error(), "no authority of its own") {
		t.Errorf("without an authority: %v", err)
	}
	first, err := b.CreateAuthority(ctx, "ann", v1.AuthorityRequest{Reason: "start"})
	if err != nil || first.State != "signs" {
		t.Fatalf("%+v, %v", first, err)
	}
	eventually(t, "the authority is known", func() bool { _, _, ok := w.trusted.signer(time.Now()); return ok })
	if _, err := b.CreateJoinToken(ctx, "ann", v1.JoinTokenRequest{Host: "h-9"}); err == nil {
		t.Error("a token for a host that is not on record")
	}
	made, err := b.CreateJoinToken(ctx, "ann", v1.JoinTokenRequest{Host: "h-1", For: "2m"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := trust.ParseJoinToken(made.Secret)
	if err != nil {
		t.Fatal(err)
	}
	i, mine := (*issuer)(w), csr(t)
	join := func(host string, token trust.Token, csr []byte) (*x509.Certificate, error) {
		issued, err := i.Join(ctx, host, token, csr)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(issued.Certificate)
	}
	wrong := token.Token
	wrong.Secret = trust.NewToken().Secret
	for what, c := range map[string]func() error{
		"other host":   func() error { _, err := join("h-2", token.Token, mine); return err },
		"other secret": func() error { _, err := join("h-1", wrong, mine); return err },
		"no token":     func() error { _, err := join("h-1", trust.NewToken(), mine); return err },
		"no request":   func() error { _, err := join("h-1", token.Token, []byte("x")); return err },
	} {
		if err := c(); !errors.Is(err, link.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	cert, err := join("h-1", token.Token, mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := join("h-1", token.Token, mine); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	if _, err := join("h-1", token.Token, csr(t)); !errors.Is(err, link.ErrDenied) || !strings.Contains(err.Error(), "was used at") {
		t.Errorf("another key: %v", err)
	}
	rec, _ := read[joinRecord](t, v.rig, leases.JoinKey(token.ID))
	if strings.Contains(rec.Hash, token.Secret) || rec.Used.IsZero() {
		t.Errorf("on record: %+v", rec)
	}
	rec.Expires = time.Now().Add(-time.Second)
	v.put(t, leases.JoinKey(token.ID), rec)
	if _, err := join("h-1", token.Token, mine); !errors.Is(err, link.ErrDenied) {
		t.Errorf("after its end: %v", err)
	}
	admitted := func(c *x509.Certificate) error {
		_, err := w.wire.own.Client([]*x509.Certificate{c}, trust.Host)
		return err
	}
	eventually(t, "handshakes know the authority", func() bool { return admitted(cert) == nil })

	if _, err := i.Renew(ctx, "h-1", csr(t)); err != nil {
		t.Errorf("renewal: %v", err)
	}
	if _, err := i.Renew(ctx, "h-1", csr(t)); !errors.Is(err, link.ErrDenied) {
		t.Errorf("renewals may flood: %v", err)
	}

	second := first
	eventually(t, "another authority, by the clock's next second", func() bool {
		second, err = b.CreateAuthority(ctx, "ann", v1.AuthorityRequest{})
		return err == nil
	})
	eventually(t, "both are known", func() bool { ids, _ := w.trusted.list(); return len(ids) == 2 })
	now := time.Now()
	if id, _, _ := w.trusted.signer(now); id != first.ID || second.State != "waiting" {
		t.Errorf("%s signs at once, the new one is %s", id, second.State)
	}
	if id, _, _ := w.trusted.signer(now.Add(2 * overlap)); id != second.ID {
		t.Errorf("%s signs after the overlap", id)
	}
	if err := b.RetireAuthority(ctx, "ann", first.ID, "", false); err == nil || !strings.Contains(err.Error(), "signs") {
		t.Errorf("retire the one that signs: %v", err)
	}

	// A new key ring takes the authorities' keys along.
	v.key(t, "k2", true)
	res, err := b.Reseal(ctx, "ann", 100)
	if err != nil || len(res.Done) != 2 || len(res.Failed) > 0 {
		t.Errorf("reseal: %+v, %v", res, err)
	}
	a, _ := read[authorityRecord](t, v.rig, leases.AuthorityKey(first.ID))
	if text, err := sealed.Parse(a.Sealed); err != nil || text.Key != "k2" || len(a.Cert) == 0 {
		t.Errorf("after reseal: %+v, %v", a, err)
	}

	if err := b.RetireAuthority(ctx, "ann", first.ID, "stolen", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its certificates are worth nothing", func() bool { return admitted(cert) != nil })
}

// Revocation reaches every handshake; it takes serials as tools write them, and all of a
// host.
func TestRevocation(t *testing.T) {
	_, w := caFleet(t)
	b, ctx := (*backend)(w), t.Context()
	for _, r := range []v1.RevokeRequest{{}, {Serials: []string{"not hex"}}, {Host: "h-1"}} {
		if _, err := b.Revoke(ctx, "ann", r); err == nil {
			t.Errorf("%+v was taken", r)
		}
	}
	out, err := b.Revoke(ctx, "ann", v1.RevokeRequest{Serials: []string{"00:AB:cd", "abcd"}, Reason: "lost"})
	if err != nil || len(out) != 1 || out[0].Serial != "abcd" || out[0].State != "revoked" {
		t.Errorf("%+v, %v", out, err)
	}
	eventually(t, "it is known", func() bool {
		return slices.ContainsFunc(w.trusted.revokedWorkers(), func(c *agentpb.RevokedCertificate) bool { return c.Serial == "abcd" })
	})
	if _, err := b.Revoke(ctx, "ann", v1.RevokeRequest{Serials: []string{"abcd"}}); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// Whoever changes something is on record with what was there before and after; secrets
// are not, nor are they in any other record but the one that needs them.
func TestAuditHasBeforeAndAfter(t *testing.T) {
	_, w := caFleet(t)
	b, ctx := (*backend)(w), t.Context()
	if _, err := b.SetHost(ctx, "ann", "h-1", "maintenance", v1.Switch{On: true, Reason: "fan"}); err != nil {
		t.Fatal(err)
	}
	token, err := b.CreateToken(ctx, "ann", v1.TokenRequest{Name: "ci", Role: v1.Viewer, Reason: "pipeline"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := trust.ParseBearer(token.Secret)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token is known", func() bool { _, ok := b.Bearer(parsed, time.Now()); return ok })
	if _, ok := b.Bearer(parsed, time.Now().Add(tokenLife+time.Second)); ok {
		t.Error("the token has no end")
	}
	if err := b.RevokeToken(ctx, "ann", token.ID, "left"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token is gone", func() bool { _, ok := b.Bearer(parsed, time.Now()); return !ok })
	all, err := b.Audits(ctx, "")
	if err != nil || len(all) != 3 {
		t.Fatalf("%d audits, %v", len(all), err)
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), parsed.Secret) || strings.Contains(string(text), parsed.Hash()) {
		t.Errorf("a secret is in the audit log: %s", text)
	}
	host := all[2]
	want := []v1.AuditChange{{
		Key:    "hosts/h-1/spec",
		Before: map[string]json.RawMessage{},
		After:  map[string]json.RawMessage{"maintenance": json.RawMessage("true"), "why": json.RawMessage(`"fan"`)},
	}}
	if d := cmp.Diff(want, host.Changes, cmp.Comparer(func(a, b map[string]json.RawMessage) bool {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return string(x) == string(y) || len(a)+len(b) == 0
	})); d != "" || host.Who != "ann" || host.Reason != "fan" || host.What != "host.maintenance" {
		t.Errorf("%+v (-want +got):\n%s", host, d)
	}
}

// An agent that is cut is named in the log of events, once a minute.
func TestCutAgentIsInTheLog(t *testing.T) {
	r := newRig(t)
	w, _ := r.worker(t, "w1")
	eventually(t, "the worker is on record", func() bool { _, rev := read[v1.Worker](t, r, leases.WorkerKey("w1")); return rev > 0 })
	for range 5 {
		w.agentCut(link.Abuse{Host: "h-1", Reason: link.Flood, Detail: "too much"})
	}
	count := func() (n int) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		kvs, _, err := r.client.List(ctx, leases.EventsPrefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range kvs {
			if x, err := decodeAs[v1.Event](kv); err == nil && x.Type == "agent.cut" && x.Host == "h-1" {
				n++
			}
		}
		return n
	}
	eventually(t, "an event", func() bool { return count() > 0 })
	eventually(t, "all were looked at", func() bool { return len(w.cuts.events) == 0 })
	if n := count(); n != 1 {
		t.Errorf("%d events of five cuts", n)
	}
}
