// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"context"
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/holdfast-ha/holdfast/leases"
)

const startTimeout = 30 * time.Second

// Server is one embedded etcd member.
type Server struct {
	etcd *embed.Etcd
	dir  string
	addr string // host:port, kept over a restart
	tls  *TLS   // of the client port; nil is plaintext
}

// TLS secures the client port of a member: clients must show a certificate of the
// authority with one of the names (leases.md §5).
type TLS struct {
	CA, Cert, Key string // files
	AllowedCNs    []string
}

// StartTLS is Start with a secured client port. Client, Dial and Raw are not for it: use
// leases.Dial with a TLS configuration.
func StartTLS(t testing.TB, files TLS) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir(), addr: "127.0.0.1:0", tls: &files}
	s.start(t)
	t.Cleanup(func() { s.Stop() })
	return s
}

// Start starts a member with empty data and waits until it serves.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir(), addr: FreeAddr(t)}
	s.start(t)
	t.Cleanup(func() { s.Stop() })
	return s
}

func (s *Server) start(t testing.TB) {
	t.Helper()
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	client := url.URL{Scheme: s.scheme(), Host: s.addr}
	cfg := embed.NewConfig()
	if s.tls != nil {
		cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = s.tls.CA, s.tls.Cert, s.tls.Key
		cfg.ClientTLSInfo.ClientCertAuth, cfg.ClientTLSInfo.AllowedCNs = true, s.tls.AllowedCNs
	}
	cfg.Dir = s.dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.LogLevel = "fatal"
	cfg.LogOutputs = []string{"stderr"}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	s.etcd = etcd
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatalf("start etcd: %v", err)
	case <-time.After(startTimeout):
		t.Fatalf("etcd is not ready after %s", startTimeout)
	}
	s.addr = etcd.Clients[0].Addr().String()
}

// Allow restarts a member that was started with StartTLS, with another list of names.
func (s *Server) Allow(t testing.TB, cns ...string) {
	t.Helper()
	s.tls.AllowedCNs = cns
	s.Restart(t)
}

// Stop ends the member. Its data stays until the test ends. Idempotent.
func (s *Server) Stop() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Restart starts a stopped member again, on the same address and data.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop()
	s.start(t)
}

// Reset is Restart with empty data: an etcd that has gone back in time.
func (s *Server) Reset(t testing.TB) {
	t.Helper()
	s.dir = t.TempDir()
	s.Restart(t)
}

// Addr is the client address, host:port: the target of a Proxy.
func (s *Server) Addr() string { return s.addr }

// Endpoints is what leases.Config takes.
func (s *Server) Endpoints() []string { return []string{s.scheme() + "://" + s.addr} }

func (s *Server) scheme() string {
	if s.tls != nil {
		return "https"
	}
	return "http"
}

// Client dials the member; the test closes it at its end.
func (s *Server) Client(t testing.TB) *leases.Client {
	t.Helper()
	return Dial(t, s.Endpoints()...)
}

// Dial connects to endpoints, such as those of a Proxy.
func Dial(t testing.TB, endpoints ...string) *leases.Client {
	t.Helper()
	c, err := leases.Dial(context.Background(), leases.Config{Endpoints: endpoints, DialTimeout: startTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Raw gives a bare etcd client, for what no product code may do: write foreign keys,
// revoke the leases of others, compact.
func (s *Server) Raw(t testing.TB) *clientv3.Client {
	t.Helper()
	return rawClient(t, s.Endpoints())
}

func rawClient(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
