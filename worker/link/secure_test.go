// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// lines collects a log; it tells that something was said, and of what kind.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited too long for: %s", what)
		}
	}
}

// secured is a door behind a worker's certificate.
type secured struct {
	*told
	door    *Server
	port    *Door
	src     *trust.Source
	address string
	log     *lines
}

func secure(t *testing.T, files trust.Files, opts ...grpc.ServerOption) *secured {
	t.Helper()
	s := &secured{told: newTold("w1"), log: &lines{}}
	src, err := trust.Open(trust.Config{Files: files, Fields: trust.Files{CA: "ca", Cert: "cert", Key: "key"}, Logger: slog.New(slog.NewTextHandler(s.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.src, s.door = src, New("w1", s.told, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.port = NewDoor(s.door, src, opts...)
	hurry(s.door, s.port)
	served := make(chan error, 1)
	go func() { served <- s.port.Serve(l) }()
	t.Cleanup(func() {
		s.door.Close()
		s.port.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// dial opens a stream by a TLS configuration; nil: without TLS.
func (s *secured) dial(t *testing.T, conf *tls.Config) (client, error) {
	t.Helper()
	if conf == nil {
		return plainly(t, s.address), nil
	}
	conf.NextProtos = []string{frame.Protocol}
	conn, err := tls.Dial("tcp", s.address, conf)
	if err != nil {
		return client{}, err
	}
	t.Cleanup(func() { _ = conn.NetConn().Close() })
	return client{frame.New(conn)}, nil
}

// knock dials, says Hello for a host, and returns the first frame.
func (s *secured) knock(t *testing.T, conf *tls.Config, name string, number uint64) (client, *agentpb.Down, error) {
	t.Helper()
	st, err := s.dial(t, conf)
	if err != nil {
		return client{}, nil, err
	}
	_ = st.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host(name, number)}}) // what comes back explains a failure
	d, err := st.Recv()
	return st, d, err
}

// The agents' door admits hosts by certificate, each for itself, and says on both sides
// why it does not.
func TestWhoIsLetIn(t *testing.T) {
	lab, other := pkitest.New(t), pkitest.New(t)
	s := secure(t, lab.Issue(t, trust.Worker, "w1"))
	as := func(f trust.Files) (*tls.Config, *trust.Source) {
		src := pkitest.Open(t, f)
		return src.Dialer(trust.Peer{Role: trust.Worker, Name: "127.0.0.1"}), src
	}
	mine, _ := as(lab.Issue(t, trust.Host, "h1"))
	if _, first, err := s.knock(t, mine, "h1", 1); first.GetWelcome() == nil {
		t.Fatalf("h1: %v, %v", first, err)
	}
	present := s.door.Session("h1")
	for _, c := range []struct {
		name   string
		files  trust.Files // none: no certificate
		told   bool        // by a frame; else by TLS
		client string      // what the host's side can say
		reason string      // in the worker's log
	}{
		{"expired", lab.Issue(t, trust.Host, "h1x", pkitest.Expired), false, "certificate host/h1x has expired at", "reason=expired"},
		{"not yet valid", lab.Issue(t, trust.Host, "h1y", pkitest.NotYet), false, "certificate host/h1y is not valid before", "reason=not-yet-valid"},
		{"foreign authority", lab.With(other.Issue(t, trust.Host, "h1")), false, "it does not know the authority of our certificate (host/h1", "reason=foreign-ca"},
		{"worker", lab.Issue(t, trust.Worker, "w2"), true, "certificate is that of worker/w2, admitted here is the role host", "reason=wrong-role"},
		{"operator", lab.Issue(t, trust.Operator, "ann"), true, "certificate is that of operator/ann, admitted here is the role host", "operator/ann"},
		{"no identity", lab.Issue(t, pkitest.Etcd, "h1"), true, `names no identity`, "reason=no-identity"},
		{"other host", lab.Issue(t, trust.Host, "h2"), true, "certificate is that of host/h2, it may not speak for host \"h1\"", "reason=wrong-name"},
		{"no certificate", trust.Files{}, false, "certificate required", "reason=no-certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
			explain := func(err error) error { return err }
			if !c.files.None() {
				var src *trust.Source
				conf, src = as(c.files)
				explain = src.Explain
			}
			_, first, err := s.knock(t, conf, "h1", 2)
			if c.told {
				r := first.GetRefusal()
				if err = errors.New(r.GetDetail()); r.GetReason() != agentpb.Refusal_DENIED {
					t.Fatalf("got %v, want to be told that it is denied", first)
				}
			} else if err == nil {
				t.Fatalf("got %v", first)
			}
			if text := explain(err).Error(); !strings.Contains(text, c.client) {
				t.Errorf("host hears %q, want %q", text, c.client)
			}
			eventually(t, c.reason+" in the worker's log", func() bool { return s.log.has(c.reason) })
		})
	}
	t.Run("plaintext", func(t *testing.T) {
		if _, first, err := s.knock(t, nil, "h1", 9); err == nil {
			t.Fatalf("got %v", first)
		}
		eventually(t, "the worker's log", func() bool { return s.log.has("reason=plaintext") })
	})
	if s.door.Session("h1") != present || s.door.Counts().Sessions != 1 {
		t.Errorf("%d sessions: somebody took h1's place", s.door.Counts().Sessions)
	}
}

// A renewed certificate of the worker is used by new links; the ones that are up go on,
// past the end of the certificate they began with.
func TestRenewalUnderLiveLinks(t *testing.T) {
	lab := pkitest.New(t)
	s := secure(t, lab.Issue(t, trust.Worker, "w1"))
	dial := func(name string) (client, *string) {
		var seen string
		src := pkitest.Open(t, lab.Issue(t, trust.Host, name))
		conf := src.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})
		check := conf.VerifyConnection
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			seen = pki.Fingerprint(cs.PeerCertificates[0])
			return check(cs)
		}
		st, first, err := s.knock(t, conf, name, 1)
		if err != nil || first.GetWelcome() == nil {
			t.Fatalf("%s: %v, %v", name, first, err)
		}
		return st, &seen
	}
	alive := func(st client, seq uint64) {
		t.Helper()
		ping(t, st, seq)
		if d := recv(t, st); d.GetPong().GetSeq() != seq {
			t.Fatalf("got %v, want pong %d", d, seq)
		}
	}
	first, before := dial("h1")
	alive(first, 1)
	lab.Issue(t, trust.Worker, "w1")
	seq := uint64(1)
	eventually(t, "the new certificate", func() bool {
		seq++
		_, now := dial(fmt.Sprint("n", seq))
		alive(first, seq)
		return *now != *before
	})
	if s.door.Session("h1") == nil {
		t.Error("the old link is gone")
	}
}

// counted is a call that counts once its handler waits for a frame: it was admitted then.
type counted struct {
	grpc.ServerStream
	once *sync.Once
	n    *atomic.Int32
}

// RecvMsg implements grpc.ServerStream.
func (c counted) RecvMsg(m any) error {
	c.once.Do(func() { c.n.Add(1) })
	return c.ServerStream.RecvMsg(m)
}

// A revocation ends streams that are up, and is as good for those that were admitted before and
// say only then what they are for: links, streams that stand by, and relays.
func TestRevocationEndsStreams(t *testing.T) {
	lab := pkitest.New(t)
	var admitted atomic.Int32
	s := secure(t, lab.Issue(t, trust.Worker, "w1"), grpc.StreamInterceptor(func(srv any, st grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return h(srv, counted{st, new(sync.Once), &admitted})
	}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bad := map[string]string{}
	stolen := func(role trust.Role, name string) *tls.Config {
		files := lab.Issue(t, role, name)
		mine, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		bad[trust.Serial(mine.Leaf)] = "stolen"
		return pkitest.Open(t, files).Dialer(trust.Peer{Role: trust.Worker, ID: "w1"})
	}
	type link struct {
		client
		hello *agentpb.Up
	}
	linkOf := func(name string, role agentpb.Hello_Role) link {
		st, err := s.dial(t, stolen(trust.Host, name))
		if err != nil {
			t.Fatal(err)
		}
		h := host(name, 1)
		h.Role = role
		return link{st, &agentpb.Up{Frame: &agentpb.Up_Hello{Hello: h}}}
	}
	type relay struct {
		grpc.BidiStreamingClient[agentpb.FromCarrier, agentpb.FromOwner]
		hello *agentpb.FromCarrier
	}
	relayOf := func(name string) relay {
		conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(stolen(trust.Worker, name))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		st, err := agentpb.NewRelayClient(conn).Carry(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return relay{st, &agentpb.FromCarrier{What: &agentpb.FromCarrier_Carrier{Carrier: &agentpb.Carrier{Worker: name, Boot: "b"}}}}
	}
	up, upRelay := []link{linkOf("h1", agentpb.Hello_ACTIVE), linkOf("h2", agentpb.Hello_STANDBY)}, relayOf("w2")
	late, lateRelay := []link{linkOf("h3", agentpb.Hello_ACTIVE), linkOf("h4", agentpb.Hello_STANDBY)}, relayOf("w3")
	for _, l := range up {
		if err := l.Send(l.hello); err != nil {
			t.Fatal(err)
		}
		if d := recv(t, l.client); d.GetWelcome() == nil {
			t.Fatalf("got %v", d)
		}
	}
	if err := upRelay.Send(upRelay.hello); err != nil {
		t.Fatal(err)
	}
	if _, err := upRelay.Recv(); err != nil { // a sign of life
		t.Fatal(err)
	}
	eventually(t, "all are admitted", func() bool { return admitted.Load() == 2 && goroutines(t, "link.(*talk).read+") == 4 })

	s.src.Know(trust.NewKnown(nil, bad))
	cut := s.door.CutCertificates(func(shown []*x509.Certificate) bool { return s.src.Revoked(shown) != nil })
	slices.Sort(cut)
	if want := []string{"h1", "h2", "worker/w2"}; !slices.Equal(cut, want) {
		t.Errorf("cut %v, want those in use: %v", cut, want)
	}
	for _, l := range late {
		if err := l.Send(l.hello); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range append(up, late...) {
		d, err := l.Recv()
		if err == nil && !strings.Contains(d.GetRefusal().GetDetail(), "revoked") {
			t.Errorf("%s got %v, want to be refused", l.hello.GetHello().Host, d)
		}
	}
	if err := lateRelay.Send(lateRelay.hello); err != nil {
		t.Fatal(err)
	}
	for _, r := range []relay{upRelay, lateRelay} {
		for err := error(nil); err == nil; { // until it has ended
			_, err = r.Recv()
			if ctx.Err() != nil {
				t.Fatalf("the relay of %s goes on", r.hello.GetCarrier().Worker)
			}
		}
	}
	eventually(t, "nothing is in use", func() bool { n := s.door.Counts(); return n.Links+n.Standby+n.Sessions == 0 })
}
