// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// agents of one fleet at one door, by real connections with certificates.
type agents struct {
	*secured
	t    *testing.T
	lab  *pkitest.Lab
	cuts chan Abuse
}

func crew(t *testing.T) *agents {
	lab := pkitest.New(t)
	a := &agents{t: t, lab: lab, cuts: make(chan Abuse, 100)}
	a.secured = secure(t, lab.Issue(t, trust.Worker, "w1"))
	a.door.OnAbuse(func(x Abuse) { a.cuts <- x })
	return a
}

// dial opens a stream with the certificate of a host.
func (a *agents) dial(host string) client {
	a.t.Helper()
	src := pkitest.Open(a.t, a.lab.Issue(a.t, trust.Host, host))
	st, err := a.secured.dial(a.t, src.Dialer(trust.Peer{Role: trust.Worker, ID: "w1"}))
	if err != nil {
		a.t.Fatal(err)
	}
	return st
}

// raw sends bytes as they are: an agent need not speak our protobuf.
func (c client) raw(b []byte) error {
	_, err := c.Conn.Conn.Write(b)
	return err
}

// framed puts the length before a message.
func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func frameBytes(t testing.TB, up *agentpb.Up) []byte {
	t.Helper()
	b, err := proto.Marshal(up)
	if err != nil {
		t.Fatal(err)
	}
	return framed(b)
}

func helloBytes(t testing.TB, name string, number uint64) []byte {
	return frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host(name, number)}})
}

func (a *agents) linked(host string, number uint64) client {
	a.t.Helper()
	st := a.dial(host)
	if err := st.raw(helloBytes(a.t, host, number)); err != nil {
		a.t.Fatal(err)
	}
	if down := recv(a.t, st); down.GetWelcome() == nil {
		a.t.Fatalf("%s: %v", host, down)
	}
	return st
}

// beats proves that a host's link works.
func (a *agents) beats(st client, seq uint64) {
	a.t.Helper()
	ping(a.t, st, seq)
	<-a.pings
	if down := recv(a.t, st); down.GetPong().GetSeq() != seq {
		a.t.Fatalf("%v, want pong %d", down, seq)
	}
}

// An agent that sends what no good one does is cut and named, cannot come back at once,
// and its neighbour at the same door feels nothing.
func TestHostileAgentIsCutAndNamed(t *testing.T) {
	digest := func() []byte { // a report with half a million empty entries in a megabyte
		var inner []byte
		for range 500_000 {
			inner = protowire.AppendBytes(protowire.AppendTag(inner, 4, protowire.BytesType), nil)
		}
		report := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), inner)
		return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), report)
	}()
	if len(digest) > frame.Max {
		t.Fatalf("the digest has %d bytes and would be cut for those", len(digest))
	}
	answer := frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: "nobody asked"}}})
	for reason, send := range map[string]func(st client){
		Oversize:      func(st client) { _ = st.raw(framed(make([]byte, frame.Max+1))) },
		Malformed:     func(st client) { _ = st.raw(framed([]byte{0xff, 0xff, 0xff, 0xff})) },
		TooMany:       func(st client) { _ = st.raw(framed(digest)) },
		ReplayedHello: func(st client) { _ = st.raw(helloBytes(t, "bad", 1)) },
		Flood: func(st client) {
			for n := 0; n < 20*frameBurst && st.raw(answer) == nil; n++ {
			}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			a := crew(t)
			good, bad := a.linked("good", 1), a.linked("bad", 1)
			a.beats(good, 1)
			send(bad)
			x := <-a.cuts
			if x.Host != "bad" || x.Reason != reason || x.Detail == "" {
				t.Errorf("cut: %+v, want bad for %s", x, reason)
			}
			a.hearsWhy(bad, reason)
			eventually(t, "the session is gone", func() bool { return a.door.Session("bad") == nil })
			again := a.dial("bad")
			_ = again.raw(helloBytes(t, "bad", 2))
			a.hearsWhy(again, "no session before")
			for seq := uint64(2); seq < 5; seq++ {
				a.beats(good, seq)
			}
			if n := a.door.Counts().Sessions; n != 1 {
				t.Errorf("%d sessions", n)
			}
		})
	}
}

// hearsWhy: the stream ends with a word why.
func (a *agents) hearsWhy(st client, why string) {
	a.t.Helper()
	for {
		d, err := st.Recv()
		if err != nil {
			a.t.Errorf("the stream ends with %v, nobody said %q", err, why)
			return
		}
		if r := d.GetRefusal(); r != nil {
			if r.Reason != agentpb.Refusal_CUT || r.RetryAfterMs <= 0 || !strings.Contains(r.Detail, why) {
				a.t.Errorf("the last word is %v, want %q", r, why)
			}
			return
		}
	}
}

// Lengths that lie, and frames that are none, end a stream at once; before its Hello an agent is
// named by its certificate.
func TestHostileBytes(t *testing.T) {
	for name, c := range map[string]struct {
		bytes  []byte
		reason string
	}{
		"no protobuf":               {framed([]byte{0xff}), Malformed},
		"no length":                 {make([]byte, 4), Malformed},
		"one byte too long":         {binary.BigEndian.AppendUint32(nil, frame.Max+1), Oversize},
		"2^31":                      {[]byte{0x80, 0, 0, 0}, Oversize},
		"2^32-1":                    {[]byte{0xff, 0xff, 0xff, 0xff}, Oversize},
		"2^63 as a varint":          {protowire.AppendVarint(nil, 1<<63), Oversize},
		"the beginning of HTTP/2":   {[]byte(rpcPreface), Oversize},
		"another frame's remainder": {frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: "remainder"}}})[5:], Oversize},
	} {
		t.Run(name, func(t *testing.T) {
			a := crew(t)
			st := a.dial("bad")
			_ = st.raw(c.bytes)
			if x := <-a.cuts; x.Host != "bad" || x.Reason != c.reason {
				t.Errorf("cut: %+v, want %s", x, c.reason)
			}
			a.hearsWhy(st, c.reason)
		})
	}
}

// A host may say Hello again and again only so often, on whatever streams.
func TestHelloFlood(t *testing.T) {
	a := crew(t)
	st := a.linked("bad", 1)
	for n := uint64(2); n < 10*helloBurst && st.raw(helloBytes(t, "bad", n)) == nil; n++ {
	}
	if x := <-a.cuts; x.Host != "bad" || x.Reason != HelloFlood {
		t.Errorf("cut: %+v", x)
	}
}

// A host has so many connections and no more; another host's are its own.
func TestConnectionsOfOneHost(t *testing.T) {
	a := crew(t)
	stand := host("bad", 1)
	stand.Role = agentpb.Hello_STANDBY
	hello := frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Hello{Hello: stand}})
	for range maxConns {
		st := a.dial("bad")
		if err := st.raw(hello); err != nil {
			t.Fatal(err)
		}
		recv(t, st)
	}
	st := a.dial("bad")
	_ = st.raw(hello)
	if d, err := st.Recv(); err == nil {
		t.Errorf("connection number %d was let in: %v", maxConns+1, d)
	}
	a.beats(a.linked("good", 1), 1)
}

// Who stops in the middle of a frame holds no more than what has come of it, and that not for
// long: a link that pings no more is half-open, others have had the time of a Hello.
func TestHalfFrames(t *testing.T) {
	a := crew(t)
	a.settings = &agentpb.Settings{PingIntervalMs: 100}
	ctx, stop := context.WithCancel(t.Context())
	swept := make(chan error, 1)
	go func() { swept <- a.door.Run(ctx) }()
	defer func() { stop(); <-swept }()
	bad := a.linked("bad", 1)
	if err := bad.raw(helloBytes(t, "bad", 2)[:7]); err != nil {
		t.Fatal(err)
	}
	if cause := <-a.gone; !strings.Contains(cause.Error(), "half-open") {
		t.Errorf("gone: %v", cause)
	}
	if _, err := bad.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}

// An agent that takes nothing is cut and named, even while it goes on sending.
func TestSlowReaderIsNamed(t *testing.T) {
	a := crew(t)
	a.linked("bad", 1)
	ses := a.door.Session("bad")
	big := &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: string(make([]byte, 64<<10))}}}
	for {
		select {
		case x := <-a.cuts:
			if x.Host != "bad" || x.Reason != SlowReader {
				t.Errorf("cut: %+v", x)
			}
			a.beats(a.linked("good", 1), 1)
			return
		default:
			ses.line.send(big)
		}
	}
}

// One agent cannot answer a question that another was asked.
func TestAnswersAreTheAskedHosts(t *testing.T) {
	a := crew(t)
	good, bad := a.linked("good", 1), a.linked("bad", 1)
	got := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		answer, err := a.door.Ask(ctx, "good", &agentpb.Request{})
		if err == nil && answer.GetHealth().GetReport().GetHypervisorDetail() != "mine" {
			err = fmt.Errorf("answer %v", answer)
		}
		got <- err
	}()
	down := recv(t, good)
	reply := func(st client, detail string) {
		if err := st.raw(frameBytes(t, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: down.GetRequest().GetId(), Body: &agentpb.Answer_Health{Health: &agentpb.HealthAnswer{Report: &agentpb.Report{HypervisorDetail: detail}}}}}})); err != nil {
			t.Error(err)
		}
	}
	reply(bad, "forged")
	a.beats(bad, 7) // the forged answer has been read
	reply(good, "mine")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// script is a connection on which all that comes is known before.
type script struct {
	net.Conn
	in  *bytes.Reader
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *script) Read(b []byte) (int, error) { return s.in.Read(b) }

func (s *script) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) CloseWrite() error                { return nil }

// taker takes whatever an agent says and adds up what it is made of.
type taker struct {
	told
	parts int
}

func (k *taker) Ping(_ *Session, p *agentpb.Ping, _ time.Time) *agentpb.Pong {
	k.parts = max(k.parts, len(p.GetReport().GetInstances())+len(p.GetReport().GetPools())+len(p.GetJournal()))
	return &agentpb.Pong{Seq: p.Seq}
}
func (k *taker) Goodbye(*Session, *agentpb.Goodbye) {}
func (k *taker) Gone(*Session, error)               {}
func (k *taker) Steps(_ *Session, st *agentpb.Steps) {
	k.parts = max(k.parts, len(st.GetSteps()))
}

// FuzzFrames: whatever bytes an agent sends, they are frames or the end of its stream; no frame
// costs more than its bounds, what is answered are frames, and nothing is left in the end.
func FuzzFrames(f *testing.F) {
	hello := helloBytes(f, "h1", 1)
	stand := host("h1", 1)
	stand.Role = agentpb.Hello_STANDBY
	ping := frameBytes(f, &agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{Seq: 1, Report: &agentpb.Report{Instances: []*agentpb.Instance{{Id: "i", Disks: []*agentpb.Disk{{Pool: "p"}}}}}}}})
	bye := frameBytes(f, &agentpb.Up{Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_HOST_REBOOT}}})
	answer := frameBytes(f, &agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: "x", Body: &agentpb.Answer_Activity{Activity: &agentpb.ActivityAnswer{}}}}})
	for _, b := range [][]byte{
		hello, slices.Concat(hello, ping, answer, bye, ping), slices.Concat(hello, hello), slices.Concat(hello, helloBytes(f, "h1", 2), ping[:9]),
		slices.Concat(frameBytes(f, &agentpb.Up{Frame: &agentpb.Up_Hello{Hello: stand}}), ping, helloBytes(f, "h1", 2), ping),
		{0, 0, 0, 0}, {0x80, 0, 0, 0}, slices.Concat(hello, []byte{0, 0x10, 0, 1}), slices.Concat(hello, make([]byte, 4000)),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k := &taker{}
		s := New("w1", k, slog.New(slog.DiscardHandler))
		c := &script{in: bytes.NewReader(b)}
		s.converse(frame.New(c), guest{})
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("left: %+v", n)
		}
		if k.parts > frame.MaxParts {
			t.Errorf("a frame of %d parts", k.parts)
		}
		answers := frame.New(&script{in: bytes.NewReader(c.out.Bytes())})
		for {
			_, err := answers.Read(new(agentpb.Down))
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("answer: %v", err)
			}
		}
	})
}
