// SPDX-License-Identifier: Apache-2.0

package trust_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

var fields = trust.Files{CA: "tlsCA", Cert: "tlsCert", Key: "tlsKey"}

// Bad files are named: field, file, what is allowed.
func TestBadFiles(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	good := lab.Issue(t, trust.Worker, "w1")
	host := lab.Issue(t, trust.Host, "w1")
	text := func(content string, mode os.FileMode) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key, err := os.ReadFile(good.Key)
	if err != nil {
		t.Fatal(err)
	}
	shared := text(string(key), 0o604)
	garbage := text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600)
	for _, c := range []struct {
		name   string
		change func(*trust.Files)
		want   string
	}{
		{"not given", func(f *trust.Files) { f.Key = "" }, "tlsKey: empty, all of tlsCA, tlsCert, tlsKey are needed"},
		{"not there", func(f *trust.Files) { f.CA = "/no/ca" }, "tlsCA /no/ca: no such file"},
		{"key not there", func(f *trust.Files) { f.Key = "/no/key" }, "tlsKey /no/key: no such file"},
		{"no PEM", func(f *trust.Files) { f.Cert = text("x", 0o600) }, "no certificate in it: want PEM text"},
		{"no certificate", func(f *trust.Files) { f.CA = garbage }, "tlsCA " + garbage + ": read certificate number 1"},
		{"key as certificate", func(f *trust.Files) { f.Cert = f.Key }, "holds a PRIVATE KEY: want certificates only"},
		{"leaf as authority", func(f *trust.Files) { f.CA = f.Cert }, "certificate worker/w1 is no authority"},
		{"shared key", func(f *trust.Files) { f.Key = shared }, "tlsKey " + shared + ": mode 0604 lets everybody at the key, allowed are 0600 and 0640"},
		{"other key", func(f *trust.Files) { f.Key = host.Key }, "not the key of the certificate in " + good.Cert},
		{"role", func(f *trust.Files) { f.Cert, f.Key = host.Cert, host.Key }, "certificate is that of host/w1, want worker/w1"},
		{"other worker", func(f *trust.Files) { *f = lab.Issue(t, trust.Worker, "w2") }, "certificate is that of worker/w2, want worker/w1"},
		{"foreign", func(f *trust.Files) { *f = other.With(*f) }, "which is not among the authorities in tlsCA " + other.Dir},
		{"no identity", func(f *trust.Files) { *f = lab.Issue(t, pkitest.Etcd, "w1") }, `certificate "w1" names no identity`},
	} {
		f := good
		c.change(&f)
		_, err := trust.Open(trust.Config{Files: f, Fields: fields, Want: trust.Identity{Role: trust.Worker, ID: "w1"}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", c.name, err, c.want)
		}
	}
	if err := os.Chmod(shared, 0o640); err != nil {
		t.Fatal(err)
	}
	good.Key = shared
	if _, err := trust.Open(trust.Config{Files: good, Fields: fields, Want: trust.Identity{Role: trust.Worker, ID: "w1"}}); err != nil {
		t.Errorf("a key for owner and group: %v", err)
	}
}

// A certificate out of date does not stop its holder from starting: it waits for another.
func TestOutOfDateStarts(t *testing.T) {
	lab := pkitest.New(t)
	for _, change := range []func(*pki.Options){pkitest.Expired, pkitest.NotYet} {
		s, err := trust.Open(trust.Config{Files: lab.Issue(t, trust.Host, "h1", change), Fields: fields, Want: trust.Identity{Role: trust.Host, ID: "h1"}})
		if err != nil {
			t.Fatal(err)
		}
		if st := s.State(); st.Identity.String() != "host/h1" || st.NotAfter.IsZero() || st.CANotAfter.IsZero() {
			t.Errorf("state %+v", st)
		}
		lab.Issue(t, trust.Host, "h1")
		if st := s.State(); st.Err != nil || !time.Now().Before(st.NotAfter) || !time.Now().After(st.NotBefore) {
			t.Errorf("after renewal: %+v", st)
		}
	}
}

// clock is a time that the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// shake is one handshake over loopback; it returns the certificates each side was shown.
func shake(t *testing.T, server, client *tls.Config) (byServer, byClient *x509.Certificate, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if serverErr = conn.HandshakeContext(ctx); serverErr == nil {
			if c := conn.ConnectionState().PeerCertificates; len(c) > 0 {
				byClient = c[0]
			}
			_, serverErr = conn.Write([]byte("x"))
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, client)
	if clientErr = conn.HandshakeContext(ctx); clientErr == nil {
		byServer = conn.ConnectionState().PeerCertificates[0]
		_, clientErr = conn.Read(make([]byte, 1)) // what the server has to say comes only now
	}
	<-done
	return byServer, byClient, serverErr, clientErr
}

// New files are used by the next handshake a second later at most, without a word from
// anybody, also where the whole directory changes behind a link as in Kubernetes.
func TestHotReload(t *testing.T) {
	lab := pkitest.New(t)
	for _, swap := range []string{"files", "link"} {
		t.Run(swap, func(t *testing.T) {
			mount := t.TempDir()
			put := func(version string) {
				dir := filepath.Join(mount, version)
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				pkitest.Copy(t, lab.Issue(t, trust.Worker, "w1"), trust.Files{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")})
				tmp := filepath.Join(mount, "..tmp")
				if err := errors.Join(os.Symlink(version, tmp), os.Rename(tmp, filepath.Join(mount, "..data"))); err != nil {
					t.Fatal(err)
				}
			}
			put("..1")
			files := trust.Files{CA: filepath.Join(mount, "..data/ca"), Cert: filepath.Join(mount, "..data/cert"), Key: filepath.Join(mount, "..data/key")}
			renew := func() { put("..2") }
			if swap == "files" {
				files = lab.Issue(t, trust.Worker, "w1")
				renew = func() { lab.Issue(t, trust.Worker, "w1") }
			}
			now := &clock{now: time.Now()}
			src, err := trust.Open(trust.Config{Files: files, Fields: fields, Now: now.Now})
			if err != nil {
				t.Fatal(err)
			}
			client := pkitest.Open(t, lab.Issue(t, trust.Host, "h1"))
			server, dialer := src.Door(), client.Dialer(trust.Peer{Role: trust.Worker, Name: "127.0.0.1"})
			seen := func() string {
				c, _, serverErr, clientErr := shake(t, server, dialer)
				if serverErr != nil || clientErr != nil {
					t.Fatalf("handshake: %v, %v", serverErr, clientErr)
				}
				return pki.Fingerprint(c)
			}
			first := seen()
			renew()
			if seen() != first {
				t.Error("files were looked at twice within a second")
			}
			now.pass(time.Second)
			second := seen()
			if second == first {
				t.Error("the new certificate is not used")
			}
			if now.pass(time.Second); seen() != second {
				t.Error("the certificate changed by itself")
			}
		})
	}
}

// A client's certificate and authorities are renewed in the same way: here the fleet
// moves to another authority, as a rotation does, with both believed in between.
func TestRotationOfTheAuthority(t *testing.T) {
	oldLab, newLab := pkitest.New(t), pkitest.New(t)
	both := oldLab.Bundle(t, newLab)
	worker, host := oldLab.Issue(t, trust.Worker, "w1"), oldLab.Issue(t, trust.Host, "h1")
	late := pkitest.Open(t, newLab.With(oldLab.Issue(t, trust.Host, "h9")))
	w, h := pkitest.Open(t, worker), pkitest.Open(t, host)
	check := func(step string) {
		t.Helper()
		if w, h := w.State(), h.State(); w.Err != nil || h.Err != nil {
			t.Fatalf("%s: %v, %v", step, w.Err, h.Err)
		}
		if _, _, serverErr, clientErr := shake(t, w.Door(), h.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})); serverErr != nil || clientErr != nil {
			t.Errorf("%s: %v, %v", step, serverErr, clientErr)
		}
	}
	check("old")
	pkitest.Copy(t, trust.Files{CA: both, Cert: worker.Cert, Key: worker.Key}, worker)
	check("worker believes both")
	// worker and host of oldLab share the file of the authority, so both believe now.
	pkitest.Copy(t, trust.Files{CA: worker.CA, Cert: newLab.Issue(t, trust.Host, "h1").Cert, Key: newLab.Issue(t, trust.Host, "h2").Key}, host)
	if st := h.State(); st.Err == nil || !strings.Contains(st.Err.Error(), "not the key of") {
		t.Errorf("half of a renewal: %v", st.Err)
	}
	fresh := newLab.Issue(t, trust.Host, "h1")
	pkitest.Copy(t, trust.Files{CA: worker.CA, Cert: fresh.Cert, Key: fresh.Key}, host)
	check("host has a new certificate")
	fresh = newLab.Issue(t, trust.Worker, "w1")
	pkitest.Copy(t, fresh, worker)
	check("all is new")
	if _, _, serverErr, _ := shake(t, w.Door(), late.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})); serverErr == nil {
		t.Error("a certificate of the old authority is still admitted")
	}
}

// Files that cannot be used, or are out of date, change nothing; what is wrong is told,
// and good ones are taken later.
func TestBrokenRenewalKeepsTheOld(t *testing.T) {
	lab := pkitest.New(t)
	files := lab.Issue(t, trust.Worker, "w1")
	src, err := trust.Open(trust.Config{Files: files, Fields: fields, Want: trust.Identity{Role: trust.Worker, ID: "w1"}})
	if err != nil {
		t.Fatal(err)
	}
	end := src.State().NotAfter
	for what, c := range map[string]struct {
		breakIt func()
		want    string
	}{
		"gone":      {func() { remove(t, files.Cert) }, "no such file"},
		"half":      {func() { half(t, files.Cert) }, "no certificate in it"},
		"expired":   {func() { lab.Issue(t, trust.Worker, "w1", pkitest.Expired) }, "has expired"},
		"future":    {func() { lab.Issue(t, trust.Worker, "w1", pkitest.NotYet) }, "is not valid before"},
		"everybody": {func() { chmod(t, files.Key, 0o644) }, "lets everybody at the key"},
	} {
		c.breakIt()
		if st := src.State(); st.Err == nil || !strings.Contains(st.Err.Error(), c.want) || !st.NotAfter.Equal(end) {
			t.Errorf("%s: %v until %v, want %q and the old one", what, st.Err, st.NotAfter, c.want)
		}
		lab.Issue(t, trust.Worker, "w1", func(o *pki.Options) { o.For = 90 * 24 * time.Hour })
		st := src.State()
		if st.Err != nil || st.NotAfter.Equal(end) {
			t.Errorf("%s: mended, but %v until %v", what, st.Err, st.NotAfter)
		}
		lab.Issue(t, trust.Worker, "w1")
		end = src.State().NotAfter
	}
}

func remove(t *testing.T, file string) {
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func half(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, b[:len(b)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, file string, mode os.FileMode) {
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

// Renewal is late when a fifth of the time is left, and two weeks at most.
func TestExpiring(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		life, left time.Duration
		want       bool
	}{
		{24 * time.Hour, 8 * time.Hour, false}, {24 * time.Hour, 4 * time.Hour, true}, {24 * time.Hour, -time.Hour, true},
		{8760 * time.Hour, 30 * 24 * time.Hour, false}, {8760 * time.Hour, 13 * 24 * time.Hour, true},
	} {
		s := trust.State{NotBefore: at.Add(c.left - c.life), NotAfter: at.Add(c.left)}
		if s.Expiring(at) != c.want {
			t.Errorf("%v of %v left: %t", c.left, c.life, !c.want)
		}
	}
}

// etcd's members are believed for the names they are configured with, and no others.
func TestEtcdNames(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	client := pkitest.Open(t, lab.Issue(t, trust.Worker, "w1"))
	member := pkitest.Open(t, lab.Issue(t, pkitest.Etcd, "e1", func(o *pki.Options) { o.IP = []string{"10.0.0.1"} }))
	foreign := pkitest.Open(t, lab.With(other.Issue(t, pkitest.Etcd, "e1")))
	for _, c := range []struct {
		member *trust.Source
		names  []string
		dialed string
		want   string
	}{
		{member, []string{"10.0.0.1", "10.0.0.2"}, "", ""},
		{member, []string{"10.0.0.2", "e1"}, "e1", ""},
		{member, []string{"10.0.0.2"}, "", `certificate "e1" is not for 10.0.0.2`},
		{member, []string{"10.0.0.1", "e2"}, "e2", `certificate "e1" is not for e2`},
		{foreign, []string{"e1"}, "e1", "is not among the authorities"},
		{pkitest.Open(t, lab.Issue(t, pkitest.Etcd, "e3", pkitest.Expired)), []string{"e3"}, "e3", "has expired at"},
		{pkitest.Open(t, lab.Issue(t, trust.Host, "h1")), []string{"h1"}, "h1", "is not for this use"},
	} {
		conf := client.Etcd(c.names...)
		conf.ServerName = c.dialed
		_, _, _, err := shake(t, c.member.Desk(), conf)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, dialled %q: %v, want %q", c.names, c.dialed, err, c.want)
		}
	}
}

// TLS 1.3 and nothing older.
func TestOldTLSIsRefused(t *testing.T) {
	lab := pkitest.New(t)
	w := pkitest.Open(t, lab.Issue(t, trust.Worker, "w1"))
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	for _, server := range []*tls.Config{w.Door(), w.Desk()} {
		if _, _, err, _ := shake(t, server, old); err == nil {
			t.Error("TLS 1.2 was accepted")
		}
	}
}

// The words of the other side are found in whatever text carries them, and say whose
// certificate it was.
func TestExplain(t *testing.T) {
	lab := pkitest.New(t)
	files := lab.Issue(t, trust.Host, "h1")
	s := pkitest.Open(t, files)
	for alert, want := range map[uint8]string{42: "it refuses our certificate", 45: "expired or not yet valid", 48: "does not know the authority", 116: "shown none"} {
		err := s.Explain(errors.New(`rpc error: desc = "error reading server preface: remote error: ` + tls.AlertError(alert).Error() + `"`))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "host/h1 from "+files.Cert) {
			t.Errorf("alert %d: %v, want %q", alert, err, want)
		}
	}
	for _, err := range []error{nil, errors.New("connection refused")} {
		if got := s.Explain(err); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	expired := pkitest.Open(t, lab.Issue(t, trust.Host, "h2", pkitest.Expired))
	if err := expired.Explain(errors.New("remote error: " + tls.AlertError(45).Error())); err == nil || !strings.Contains(err.Error(), "certificate host/h2 has expired at") {
		t.Errorf("expired: %v", err)
	}
}
