// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/link"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// securedWorker is a fake worker behind a certificate of its own; it tells what its handshakes
// failed with.
func securedWorker(t *testing.T, files trust.Files) (*fakeWorker, chan error) {
	t.Helper()
	return spokenAt(t, files, frame.Protocol)
}

// spokenAt is one that speaks other protocols.
func spokenAt(t *testing.T, files trust.Files, protocols ...string) (*fakeWorker, chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w, failed := newFakeWorker(listener.Addr().String(), welcome(nil)), make(chan error, 100)
	door := pkitest.Open(t, files).Door(protocols...)
	w.serve(t, listener, func(raw net.Conn) (net.Conn, error) {
		conn := tls.Server(raw, door)
		err := conn.Handshake()
		if err != nil {
			failed <- err
		}
		return conn, err
	})
	return w, failed
}

// A peer that does not choose frames is no worker of ours, and is said to be none.
func TestOtherProtocolIsNamed(t *testing.T) {
	lab := pkitest.New(t)
	host := lab.Issue(t, trust.Host, "h1")
	for _, protocols := range [][]string{nil, {"h2"}} {
		w, _ := spokenAt(t, lab.Issue(t, trust.Worker, "w1"), protocols...)
		a := newAgent(t, func(o *Options) {
			o.Workers, o.InsecureLoopback, o.TLS = []string{w.address}, false, host
		})
		if end := attempt(t, a, w.address); end.err == nil || !strings.Contains(end.cause(), "does not speak "+frame.Protocol) {
			t.Errorf("of one that speaks %v the agent says %q", protocols, end.cause())
		}
	}
}

// An agent links to workers only, by their certificates; both sides say why not.
func TestAgentAcceptsWorkersOnly(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	files := lab.Issue(t, trust.Host, "h1")
	at := func(o *pki.Options) { o.IP = []string{"127.0.0.1"} }
	for _, c := range []struct {
		name   string
		worker trust.Files
		agent  string // what the agent says; empty: linked
	}{
		{"good", lab.Issue(t, trust.Worker, "w1"), ""},
		{"expired", lab.Issue(t, trust.Worker, "w2", pkitest.Expired), "certificate worker/w2 has expired at"},
		{"not yet valid", lab.Issue(t, trust.Worker, "w3", pkitest.NotYet), "certificate worker/w3 is not valid before"},
		{"foreign authority", lab.With(other.Issue(t, trust.Worker, "w1")), "certificate worker/w1 is signed by"},
		{"host as worker", lab.Issue(t, trust.Host, "h2"), "certificate host/h2 is not for this use"},
		{"etcd as worker", lab.Issue(t, pkitest.Etcd, "e1", at), `certificate "e1" names no identity`},
		{"other address", lab.Elsewhere(t, "w9"), "certificate worker/w9 is for w9.example, not for 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, failed := securedWorker(t, c.worker)
			a := newAgent(t, func(o *Options) {
				o.Workers, o.InsecureLoopback, o.TLS = []string{w.address}, false, files
			})
			if c.agent == "" {
				stop := running(t, a.Run)
				if h := expect(t, w, "hello", hello); h.Host != "h1" {
					t.Errorf("hello of %s", h.Host)
				}
				expect(t, w, "ping", ping)
				stop()
				return
			}
			end := attempt(t, a, w.address)
			if end.welcomed || end.err == nil || !strings.Contains(end.cause(), c.agent) {
				t.Errorf("agent says %q, want %q", end.cause(), c.agent)
			}
			select {
			case err := <-failed:
				if !strings.Contains(err.Error(), "remote error: tls: bad certificate") {
					t.Errorf("worker hears %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("the worker was told nothing")
			}
		})
	}
}

// What a worker thinks of the agent's certificate reaches the agent's log in words.
func TestAgentIsToldWhy(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	address := realDoor(t, lab.Issue(t, trust.Worker, "w1"))
	for want, files := range map[string]trust.Files{
		"the other side refused us: certificate host/h1 has expired at":                      lab.Issue(t, trust.Host, "h1", pkitest.Expired),
		"the other side refused us: it does not know the authority of our certificate (host": sideBySide(t, lab, other),
	} {
		a := newAgent(t, func(o *Options) {
			o.Workers, o.InsecureLoopback, o.TLS = []string{address}, false, files
		})
		if end := attempt(t, a, address); end.welcomed || end.err == nil || !strings.Contains(end.cause(), want) {
			t.Errorf("agent says %q, want %q", end.cause(), want)
		}
	}
}

// realDoor is a worker's own door; nobody gets so far as to say Hello.
func realDoor(t *testing.T, files trust.Files) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := link.NewDoor(link.New("w1", nil, slog.New(slog.DiscardHandler)), pkitest.Open(t, files))
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); served.Wait() })
	return listener.Addr().String()
}

// sideBySide is a host of another fleet that believes this one's workers as well.
func sideBySide(t *testing.T, lab, other *pkitest.Lab) trust.Files {
	f := other.Issue(t, trust.Host, "h1")
	f.CA = lab.Bundle(t, other)
	return f
}

// A redirect to a plaintext address is not followed out of TLS, and a worker that speaks
// none is said to.
func TestPlaintextWorkerIsNamed(t *testing.T) {
	lab := pkitest.New(t)
	w := startWorker(t, welcome(nil))
	a := newAgent(t, func(o *Options) {
		o.Workers, o.InsecureLoopback, o.TLS = []string{w.address}, false, lab.Issue(t, trust.Host, "h1")
	})
	if end := attempt(t, a, w.address); end.err == nil || !strings.Contains(end.cause(), "the other side does not speak TLS") {
		t.Errorf("agent says %q", end.cause())
	}
}

// An agent leaves a worker whose certificate was revoked as soon as any worker says so, and
// does not believe it again, nor does the next process of the agent.
func TestRevokedWorkerIsLeft(t *testing.T) {
	lab := pkitest.New(t)
	bad, good := lab.Issue(t, trust.Worker, "w1"), lab.Issue(t, trust.Worker, "w2")
	w1, _ := securedWorker(t, bad)
	w2, _ := securedWorker(t, good)
	for _, w := range []*fakeWorker{w1, w2} {
		w.hello = welcome(func(m *agentpb.Welcome) { m.List = list("static", 0, w1.address, w2.address) })
	}
	host := lab.Issue(t, trust.Host, "h1")
	a, stop := linkedTo(t, func(o *Options) { o.InsecureLoopback, o.TLS = false, host }, w1.address, w2.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "standby", role(agentpb.Hello_STANDBY))
	text, err := os.ReadFile(bad.Cert)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	shown, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	tell := func(w *fakeWorker, serials ...string) {
		r := &agentpb.Revoked{}
		for _, s := range serials {
			r.Certificates = append(r.Certificates, &agentpb.RevokedCertificate{Serial: s, Reason: "stolen"})
		}
		w.down <- &agentpb.Down{Frame: &agentpb.Down_Revoked{Revoked: r}}
	}
	tell(w1, "not hexadecimal", "abc123")
	expect(t, w1, "ping: it is not this one", ping)
	tell(w1, trust.Serial(shown))
	expect(t, w2, "promotion", role(agentpb.Hello_ACTIVE))
	stop()
	for _, c := range []*Agent{a, newAgent(t, func(o *Options) {
		o.Workers, o.InsecureLoopback, o.TLS, o.StateDir = []string{w1.address}, false, host, a.opts.StateDir
	})} {
		if end := attempt(t, c, w1.address); end.welcomed || !strings.Contains(end.cause(), "is revoked: stolen") {
			t.Errorf("an attempt at the revoked worker ends with %q", end.cause())
		}
		if end := attempt(t, c, w2.address); !end.welcomed {
			t.Errorf("the other worker: %q", end.cause())
		}
	}
}
