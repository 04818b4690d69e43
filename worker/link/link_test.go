// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is a Handler that admits every host but "foreign" and passes on what it is told.
type told struct {
	name     string
	settings *agentpb.Settings
	ping     time.Duration // interval of those that stand by
	pings    chan *agentpb.Ping
	byes     chan *agentpb.Goodbye
	gone     chan error

	mu     sync.Mutex
	owner  *Peer // of all hosts that are linked here
	nobody bool  // owns them
	blind  bool
}

func newTold(name string) *told {
	return &told{name: name, pings: make(chan *agentpb.Ping, 100), byes: make(chan *agentpb.Goodbye, 10), gone: make(chan error, 100)}
}

func (h *told) owns(owner *Peer, nobody bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.owner, h.nobody = owner, nobody
}

func (h *told) sees(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blind = !on
}

// minutely is a ping that is answered with a pace of one a minute.
const minutely = 777

func (h *told) Hello(m *agentpb.Hello) Admission {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.blind:
		return Admission{Refusal: &agentpb.Refusal{Reason: agentpb.Refusal_BLIND}}
	case m.Host == "foreign":
		return Admission{Refusal: &agentpb.Refusal{Reason: agentpb.Refusal_NOT_OWNER, Owner: &agentpb.Worker{Id: "w2", Address: "w2:1"}}}
	case h.owner != nil:
		return Admission{Owner: h.owner}
	case h.nobody:
		return Admission{Refusal: &agentpb.Refusal{Reason: agentpb.Refusal_NO_OWNER}}
	}
	return Admission{Welcome: &agentpb.Welcome{Worker: h.name, Settings: h.settings}}
}

func (h *told) Standby(*agentpb.Hello) *agentpb.Refusal { return nil }

func (h *told) PingInterval(string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ping
}

// paced sets another ping interval for streams that stand by.
func (h *told) paced(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ping = d
}

func (h *told) Unreachable(owner Peer, _ time.Time) *agentpb.Refusal {
	return &agentpb.Refusal{Reason: agentpb.Refusal_NOT_OWNER, Owner: &agentpb.Worker{Id: owner.ID, Address: owner.Address}}
}

func (h *told) Ping(_ *Session, p *agentpb.Ping, _ time.Time) *agentpb.Pong {
	if p.Seq == 666 {
		return nil
	}
	h.pings <- p
	pong := &agentpb.Pong{Seq: p.Seq, Epoch: &agentpb.Epoch{Revision: 1}}
	if p.Seq == minutely {
		pong.Settings = &agentpb.Settings{PingIntervalMs: time.Minute.Milliseconds()}
	}
	return pong
}

func (h *told) Linked(*Session, *agentpb.Hello)        {}
func (h *told) Steps(*Session, *agentpb.Steps)         {}
func (h *told) Progress(*Session, *agentpb.Progresses) {}
func (h *told) Goodbye(_ *Session, g *agentpb.Goodbye) { h.byes <- g }
func (h *told) Gone(_ *Session, cause error)           { h.gone <- cause }

type world struct {
	*told
	door    *Server
	port    *Door
	address string
}

func open(t *testing.T) *world { return openAs(t, newTold("w1")) }

func openAs(t *testing.T, h *told) *world {
	t.Helper()
	door := New(h.name, h, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := NewDoor(door, nil)
	hurry(door, port)
	served := make(chan error, 1)
	go func() { served <- port.Serve(l) }()
	ctx, stop := context.WithCancel(context.Background())
	swept := make(chan error, 1)
	go func() { swept <- door.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-swept; err != nil {
			t.Error(err)
		}
		door.Close()
		port.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &world{h, door, port, l.Addr().String()}
}

// client is an agent's end of a stream.
type client struct{ *frame.Conn }

func (c client) Send(up *agentpb.Up) error { return c.Write(up) }

func (c client) Recv() (*agentpb.Down, error) {
	d := new(agentpb.Down)
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	_, err := c.Read(d)
	return d, err
}

func (c client) CloseSend() error { return c.CloseWrite() }

// plainly opens a stream without TLS.
func plainly(t *testing.T, address string) client {
	t.Helper()
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	if _, err := io.WriteString(raw, frame.Preface); err != nil {
		t.Fatal(err)
	}
	return client{frame.New(raw)}
}

func (w *world) hello(t *testing.T, h *agentpb.Hello) (client, *agentpb.Down) {
	t.Helper()
	s := plainly(t, w.address)
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: h}}); err != nil {
		t.Fatal(err)
	}
	return s, recv(t, s)
}

func recv(t *testing.T, s client) *agentpb.Down {
	t.Helper()
	d, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func host(name string, number uint64) *agentpb.Hello {
	return &agentpb.Hello{Host: name, BootId: "b1", ProcessId: "p1", Session: number}
}

func ping(t *testing.T, s client, seq uint64) {
	t.Helper()
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Ping{Ping: &agentpb.Ping{Seq: seq}}}); err != nil {
		t.Fatal(err)
	}
}

// TestSession walks Hello, Welcome, Ping, Pong, Ask, Answer, Goodbye and the end.
func TestSession(t *testing.T) {
	w := open(t)
	s, first := w.hello(t, host("h1", 1))
	if first.GetWelcome().GetWorker() != "w1" {
		t.Fatalf("first frame %v, want a Welcome", first)
	}
	ping(t, s, 7)
	if p := <-w.pings; p.Seq != 7 {
		t.Errorf("handler saw ping %d", p.Seq)
	}
	if d := recv(t, s); d.GetPong().GetSeq() != 7 {
		t.Errorf("got %v, want pong 7", d)
	}
	asked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a, err := w.door.Ask(ctx, "h1", &agentpb.Request{Body: &agentpb.Request_Health{}})
		if err == nil && a.GetHealth() == nil {
			err = errors.New("another answer than was given")
		}
		asked <- err
	}()
	r := recv(t, s).GetRequest()
	if r.GetId() == "" || r.GetTimeoutMs() <= 0 {
		t.Errorf("request %v has no id or no time", r)
	}
	for _, id := range []string{"nobody-asked", r.GetId()} {
		if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: id, Body: &agentpb.Answer_Health{Health: &agentpb.HealthAnswer{}}}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_AGENT_STOP}}}); err != nil {
		t.Fatal(err)
	}
	<-w.byes
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-w.gone
	if w.door.Counts().Sessions != 0 || w.door.Session("h1") != nil {
		t.Error("the session outlived its client")
	}
	if _, err := w.door.Ask(t.Context(), "h1", &agentpb.Request{}); !errors.Is(err, ErrNotLinked) {
		t.Errorf("asking a host that is gone: %v", err)
	}
}

// TestRefusals: each wrong beginning is told why.
func TestRefusals(t *testing.T) {
	w := open(t)
	if _, d := w.hello(t, host("foreign", 1)); d.GetRefusal().GetOwner().GetId() != "w2" {
		t.Errorf("got %v, want a redirect to w2", d)
	}
	if _, d := w.hello(t, &agentpb.Hello{Host: "h1"}); d.GetRefusal().GetReason() != agentpb.Refusal_BAD_HELLO {
		t.Errorf("got %v for a Hello without boot", d)
	}
	s, _ := w.hello(t, host("h1", 1))
	ping(t, s, 666)
	if d := recv(t, s); d.GetAgain() == nil {
		t.Errorf("got %v, want to be asked for another Hello", d)
	}
	<-w.gone
	s, _ = w.hello(t, host("h1", 2))
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host("h2", 1)}}); err != nil {
		t.Fatal(err)
	}
	if d := recv(t, s); d.GetRefusal().GetReason() != agentpb.Refusal_BAD_HELLO {
		t.Errorf("got %v: a stream may not speak for a second host", d)
	}
	<-w.gone
}

// TestNewestSessionWins: the older is told why, a late older one is refused. A process that
// meets itself may come again at once, one that meets another stands back.
func TestNewestSessionWins(t *testing.T) {
	w := open(t)
	old, _ := w.hello(t, host("h1", 1))
	newer, d := w.hello(t, host("h1", 2))
	if d.GetWelcome() == nil {
		t.Fatalf("the newer session got %v", d)
	}
	itself := func(what string, d *agentpb.Down) {
		t.Helper()
		if r := d.GetRefusal(); r.GetReason() != agentpb.Refusal_REPLACED || r.GetRetryAfterMs() == 0 {
			t.Errorf("%s got %v, want REPLACED, and when to come again", what, d)
		}
	}
	itself("the older session", recv(t, old))
	_, d = w.hello(t, host("h1", 1))
	itself("a late older session", d)
	reboot := host("h1", 1)
	reboot.BootId = "b2"
	if _, d := w.hello(t, reboot); d.GetWelcome() == nil {
		t.Errorf("another boot got %v", d)
	}
	if d := recv(t, newer); d.GetRefusal().GetReason() != agentpb.Refusal_REPLACED || d.GetRefusal().GetRetryAfterMs() != 0 {
		t.Errorf("the boot before got %v, want REPLACED, and no invitation", d)
	}
}

// TestAskEndsWithItsContext: a host that never answers costs its deadline, no more.
func TestAskEndsWithItsContext(t *testing.T) {
	w := open(t)
	w.hello(t, host("h1", 1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.door.Ask(ctx, "h1", &agentpb.Request{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	ses := w.door.Session("h1")
	w.door.mu.Lock()
	defer w.door.mu.Unlock()
	if len(ses.asks) != 0 {
		t.Error("an abandoned question is still waited for")
	}
}

// TestSlowReaderIsCut: an agent that does not read holds no memory beyond its queue.
func TestSlowReaderIsCut(t *testing.T) {
	w := open(t)
	w.hello(t, host("h1", 1))
	ses := w.door.Session("h1")
	big := &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: string(make([]byte, 64<<10))}}}
	for {
		select {
		case cause := <-w.gone:
			if cause == nil {
				t.Error("the session was cut without a cause")
			}
			return
		default:
			ses.line.send(big)
		}
	}
}

// TestHomelessLinkEnds: an agent that says Hello again and again to a worker that knows of no
// owner is sent elsewhere in the end: this worker may be the one who does not know.
func TestHomelessLinkEnds(t *testing.T) {
	w := open(t)
	w.owns(nil, true)
	s, first := w.hello(t, host("h1", 1))
	since := time.Now()
	again := func(number uint64) *agentpb.Down {
		t.Helper()
		if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host("h1", number)}}); err != nil {
			t.Fatal(err)
		}
		return recv(t, s)
	}
	for n, d := range []*agentpb.Down{first, again(2), again(3)} {
		if d.GetRefusal().GetReason() != agentpb.Refusal_NO_OWNER {
			t.Fatalf("hello %d got %v, want NO_OWNER", n+1, d)
		}
	}
	w.owns(nil, false)
	if d := again(4); d.GetWelcome() == nil {
		t.Fatalf("got %v of the owner, want a welcome", d)
	}
	w.door.sweep(since.Add(2 * homeless))
	ping(t, s, 1)
	if d := recv(t, s); d.GetPong().GetEpoch() == nil {
		t.Errorf("got %v on a link that has an owner, want its pong", d)
	}

	w.owns(nil, true)
	ping(t, s, 666) // handed over
	if d := recv(t, s); d.GetAgain() == nil {
		t.Fatalf("got %v, want again", d)
	}
	recv(t, s) // the carrier's own pong
	w.sees(false)
	if d := again(5); d.GetRefusal().GetReason() != agentpb.Refusal_BLIND {
		t.Fatalf("got %v of a blind worker", d)
	}
	w.door.sweep(since.Add(2 * homeless)) // the agent looks around by itself
	w.sees(true)
	again(6)
	since = time.Now()
	again(7)
	w.door.mu.Lock()
	for x := range w.door.wires {
		since = since.Add(x.spread)
	}
	w.door.mu.Unlock()
	w.door.sweep(since.Add(homeless))
	if d, err := s.Recv(); err == nil {
		t.Errorf("got %v, want the end of the stream", d)
	}
}
