// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// connect connects a host to a door once and returns what both sides say of it. The ticket for
// the next time comes with the first byte.
func connect(t *testing.T, host, door *trust.Source) (resumed bool, atHost, atDoor error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, door.Door())
		if err = c.HandshakeContext(t.Context()); err == nil {
			resumed = c.ConnectionState().DidResume
			_, err = c.Write([]byte("x"))
		}
		done <- err
	}()
	conf := host.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})
	conf.ServerName = "w1" // else each port would be a peer of its own
	c, err := tls.Dial("tcp", l.Addr().String(), conf)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close() // all of it was read
	}
	atDoor = <-done
	return resumed, err, atDoor
}

// A second connect resumes the first, also at the worker's next process; nobody gets in by
// resumption whose certificate was revoked since, and a host that has another certificate shows
// that one.
func TestResumption(t *testing.T) {
	lab := pkitest.New(t)
	worker, files := lab.Issue(t, trust.Worker, "w1"), lab.Issue(t, trust.Host, "h1")
	door, host := pkitest.Open(t, worker), pkitest.Open(t, files)
	want := func(what string, door *trust.Source, resumes bool) {
		t.Helper()
		if resumed, atHost, atDoor := connect(t, host, door); atHost != nil || atDoor != nil || resumed != resumes {
			t.Errorf("%s: resumed %v, want %v (%v, %v)", what, resumed, resumes, atHost, atDoor)
		}
	}
	want("the first time", door, false)
	want("the second time", door, true)
	want("at the next process", pkitest.Open(t, worker), true)
	want("at another worker's door with the same name", pkitest.Open(t, lab.Issue(t, trust.Worker, "w1")), false)
	door = pkitest.Open(t, worker) // the files were replaced above
	want("at the present door", door, true)

	lab.Issue(t, trust.Host, "h1")
	host.State() // looks at the files
	want("with a renewed certificate", door, false)
	want("and again with that one", door, true)

	door.Know(trust.NewKnown(nil, map[string]string{trust.Serial(certificate(t, files.Cert)): "lost"}))
	for range 2 {
		resumed, atHost, atDoor := connect(t, host, door)
		var why *trust.PeerError
		if resumed || atHost == nil || !errors.As(atDoor, &why) || why.Reason != trust.Revoked {
			t.Errorf("a revoked host: resumed %v; host: %v, door: %v", resumed, atHost, atDoor)
		}
	}
}

func certificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
