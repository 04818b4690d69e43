// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

// fakeWorker is a worker's door: it says what hello says, answers pings, and hands all
// frames to the test.
type fakeWorker struct {
	address string
	hello   func(*agentpb.Hello) *agentpb.Down
	pong    func(*agentpb.Ping) *agentpb.Pong // nil: an ordinary one
	up      chan *agentpb.Up                  // frames, dropped when nobody reads them
	down    chan *agentpb.Down                // sent to the session of the moment
	streams atomic.Int64
}

func startWorker(t *testing.T, hello func(*agentpb.Hello) *agentpb.Down) *fakeWorker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newFakeWorker(listener.Addr().String(), hello)
	w.serve(t, listener, func(raw net.Conn) (net.Conn, error) {
		preface := make([]byte, len(frame.Preface))
		_, err := io.ReadFull(raw, preface)
		if err == nil && string(preface) != frame.Preface {
			_, _ = io.WriteString(raw, "no TLS is spoken here")
			err = errors.New("no frames")
		}
		return raw, err
	})
	return w
}

func newFakeWorker(address string, hello func(*agentpb.Hello) *agentpb.Down) *fakeWorker {
	return &fakeWorker{address: address, hello: hello, up: make(chan *agentpb.Up, 1000), down: make(chan *agentpb.Down)}
}

// serve lets agents in, as whom ready shakes hands, until the test ends.
func (w *fakeWorker) serve(t *testing.T, listener net.Listener, ready func(net.Conn) (net.Conn, error)) {
	var served sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	served.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[raw] = true
			mu.Unlock()
			served.Go(func() {
				defer raw.Close()
				if conn, err := ready(raw); err == nil {
					w.converse(frame.New(conn))
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for raw := range open {
			raw.Close()
		}
		mu.Unlock()
		served.Wait()
	})
}

func (w *fakeWorker) converse(conn *frame.Conn) {
	w.streams.Add(1)
	replies := make(chan *agentpb.Down, 100)
	ended := make(chan struct{})
	active := make(chan struct{}) // closed at the first welcome
	welcomed := sync.OnceFunc(func() { close(active) })
	go func() {
		defer close(ended)
		var epoch *agentpb.Epoch
		for {
			up := new(agentpb.Up)
			if _, err := conn.Read(up); err != nil {
				return
			}
			w.note(up)
			switch {
			case up.GetHello().GetRole() == agentpb.Hello_STANDBY:
				replies <- &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: "standby"}}}
			case up.GetHello() != nil:
				answer := w.hello(up.GetHello())
				epoch = answer.GetWelcome().GetEpoch()
				replies <- answer
				if answer.GetWelcome() != nil {
					welcomed()
				}
			case up.GetPing() != nil:
				pong := &agentpb.Pong{Seq: up.GetPing().Seq, Epoch: epoch}
				if w.pong != nil {
					pong = w.pong(up.GetPing())
				}
				if pong != nil {
					replies <- &agentpb.Down{Frame: &agentpb.Down_Pong{Pong: pong}}
				}
			}
		}
	}()
	silent := (<-chan struct{})(active)
	var down chan *agentpb.Down
	for {
		var next *agentpb.Down
		select {
		case next = <-replies:
		case next = <-down:
		case <-silent:
			silent, down = nil, w.down
			continue
		case <-ended:
			return
		}
		if conn.Write(next) != nil {
			return
		}
		if r := next.GetRefusal(); r != nil && !stays(r) && !r.Keeps {
			_ = conn.CloseWrite()
			<-ended
			return
		}
	}
}

func (w *fakeWorker) note(up *agentpb.Up) {
	select {
	case w.up <- up:
	default:
	}
}

// expect returns the first frame from now on that pick wants.
func expect[T any](t *testing.T, w *fakeWorker, what string, pick func(*agentpb.Up) (T, bool)) T {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		select {
		case up := <-w.up:
			if v, ok := pick(up); ok {
				return v
			}
		case <-limit.C:
			t.Fatalf("waited too long for: %s", what)
		}
	}
}

func hello(up *agentpb.Up) (*agentpb.Hello, bool)   { return up.GetHello(), up.GetHello() != nil }
func ping(up *agentpb.Up) (*agentpb.Ping, bool)     { return up.GetPing(), up.GetPing() != nil }
func answer(up *agentpb.Up) (*agentpb.Answer, bool) { return up.GetAnswer(), up.GetAnswer() != nil }

// fastSettings make tests short; they are what a worker would push.
var fastSettings = &agentpb.Settings{PingIntervalMs: 50, StampIntervalMs: 20, HelloRetryMs: 20}

func welcome(change func(*agentpb.Welcome)) func(*agentpb.Hello) *agentpb.Down {
	w := &agentpb.Welcome{Worker: "w1", Epoch: ep("c1", 1, 10), Settings: fastSettings}
	if change != nil {
		change(w)
	}
	return func(*agentpb.Hello) *agentpb.Down { return &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: w}} }
}

func list(algorithm string, check time.Duration, addresses ...string) *agentpb.List {
	l := &agentpb.List{Algorithm: algorithm, CheckIntervalMs: check.Milliseconds()}
	for _, a := range addresses {
		l.Workers = append(l.Workers, &agentpb.Worker{Id: "w", Address: a})
	}
	return l.Sealed()
}

// attempt says hello once and returns how that ended.
func attempt(t *testing.T, a *Agent, address string) ending {
	a.boot = "boot-1"
	s, end := a.dial(t.Context(), address, toUse, welcomeLimit)
	if s != nil {
		s.close(nil)
	}
	return end
}

func refusal(r *agentpb.Refusal) *agentpb.Down {
	return &agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}}
}

// linkedTo runs a whole agent that knows the given workers.
func linkedTo(t *testing.T, change func(*Options), workers ...string) (*Agent, func()) {
	t.Helper()
	a := newAgent(t, func(o *Options) {
		o.Workers = workers
		if change != nil {
			change(o)
		}
	})
	stop := sync.OnceFunc(running(t, a.Run))
	t.Cleanup(stop)
	return a, stop
}

// agents.md "Link": Hello → Welcome → pings; an orderly stop says goodbye.
func TestHelloPingsAndGoodbye(t *testing.T) {
	w := startWorker(t, welcome(nil))
	h := &fakeHost{instances: []hypervisor.Instance{{ID: "i1"}}}
	_, stop := linkedTo(t, func(o *Options) { o.Hypervisor = h; o.Pools = []probe.Pool{newMemPool("p1")} }, w.address)
	first := expect(t, w, "hello", hello)
	if first.Host != "h1" || first.BootId != "boot-1" || first.ProcessId == "" || first.Session != 1 || first.Version != "test" || first.HighestEpoch != nil ||
		len(first.Hypervisors) != 1 || !first.Report.HypervisorOk || len(first.Report.Instances) != 1 || len(first.Report.Pools) != 1 || first.Report.Pools[0].State != agentpb.PoolReport_OK {
		t.Errorf("hello = %v", first)
	}
	for seq := uint64(1); seq <= 3; seq++ {
		if p := expect(t, w, "ping", ping); p.Seq != seq || p.Report.Pools[0].State != agentpb.PoolReport_OK || p.GateConfirmed != "" {
			t.Errorf("ping %d = %v", seq, p)
		}
	}
	stop()
	bye := expect(t, w, "goodbye", func(up *agentpb.Up) (*agentpb.Goodbye, bool) { return up.GetGoodbye(), up.GetGoodbye() != nil })
	if bye.Kind != agentpb.Goodbye_AGENT_STOP {
		t.Errorf("goodbye = %v", bye)
	}
}

// A worker that does not own the host answers Hello with a redirect to the owner; while
// there is none the agent asks again. The list that the owner sends is kept.
func TestRedirectsLeadToTheOwner(t *testing.T) {
	var mu sync.Mutex
	refusals := 0
	owner := startWorker(t, nil)
	owner.hello = welcome(func(w *agentpb.Welcome) {
		w.List = list("ring", time.Minute, owner.address, "127.0.0.1:3")
	})
	other := startWorker(t, func(*agentpb.Hello) *agentpb.Down {
		mu.Lock()
		defer mu.Unlock()
		switch refusals++; refusals {
		case 1:
			return refusal(&agentpb.Refusal{Reason: agentpb.Refusal_NO_OWNER, RetryAfterMs: 10})
		case 2:
			return refusal(&agentpb.Refusal{Reason: agentpb.Refusal_UNKNOWN_HOST, RetryAfterMs: 10})
		}
		return refusal(&agentpb.Refusal{Reason: agentpb.Refusal_NOT_OWNER, Owner: &agentpb.Worker{Id: "w2", Address: owner.address}})
	})
	a, stop := linkedTo(t, nil, other.address)
	if h := expect(t, owner, "hello at the owner", hello); h.Session != 4 {
		t.Errorf("session %d, want 4: a retry on the stream, another, a redirect, the owner", h.Session)
	}
	expect(t, owner, "ping at the owner", ping)
	stop()
	content, err := os.ReadFile(filepath.Join(a.opts.StateDir, propertiesFile))
	if want := "hosts=" + owner.address + ",127.0.0.1:3@ring\nhost.lb.check.interval=60\n"; err != nil || string(content) != want {
		t.Errorf("properties = %q, %v, want %q", content, err, want)
	}
}

// A refused connection leads to the next worker.
func TestDeadWorkerLeadsToTheNext(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	w := startWorker(t, welcome(nil))
	linkedTo(t, nil, gone.Addr().String(), w.address)
	expect(t, w, "hello", hello)
}

// Agents remember the highest epoch seen and refuse older ones: the worker that was
// replaced is left for the one that took over, and its requests are not worked on.
func TestStaleWorkerIsRefused(t *testing.T) {
	stale := startWorker(t, welcome(func(w *agentpb.Welcome) { w.Epoch = ep("c1", 1, 9); w.Worker = "stale" }))
	owner := startWorker(t, welcome(nil))
	a, _ := linkedTo(t, func(o *Options) {
		m, err := loadEpochs(o.StateDir)
		if err == nil {
			err = m.admit(ep("c1", 1, 10))
		}
		if err != nil {
			t.Fatal(err)
		}
	}, stale.address, owner.address)
	if h := expect(t, stale, "hello at the stale worker", hello); h.HighestEpoch.GetRevision() != 10 {
		t.Errorf("hello says %v, want the highest epoch 1/10", h.HighestEpoch)
	}
	expect(t, owner, "hello at the owner", hello)
	for revision, refused := range map[int64]bool{9: true, 10: false} {
		owner.down <- &agentpb.Down{Frame: &agentpb.Down_Request{Request: &agentpb.Request{
			Id: fmt.Sprint(revision), Epoch: ep("c1", 1, revision), TimeoutMs: 5000, Body: &agentpb.Request_Health{Health: &agentpb.HealthRequest{}},
		}}}
		got := expect(t, owner, "answer", answer)
		if got.Id != fmt.Sprint(revision) || (got.Error != "") != refused || (got.GetHealth() == nil) != refused {
			t.Errorf("request of epoch %d = %v, want refused %v", revision, got, refused)
		}
	}
	if a.epochs.highest().GetRevision() != 10 {
		t.Errorf("highest = %v, want 1/10", a.epochs.highest())
	}
}

// An owner that is replaced while it holds the link is noticed by its pongs.
func TestPongOfAnOlderEpochEndsTheLink(t *testing.T) {
	w := startWorker(t, welcome(nil))
	w.pong = func(p *agentpb.Ping) *agentpb.Pong { return &agentpb.Pong{Seq: p.Seq, Epoch: ep("c1", 1, 9)} }
	linkedTo(t, nil, w.address)
	expect(t, w, "hello", hello)
	if h := expect(t, w, "another hello", hello); h.Session != 2 || h.HighestEpoch.GetRevision() != 10 {
		t.Errorf("hello = %v, want session 2 that knows epoch 1/10", h)
	}
}

// silentProxy is a TCP proxy that can stop carrying bytes without a FIN or RST.
type silentProxy struct {
	address string
	mu      sync.Mutex
	silent  bool
	carried sync.WaitGroup
	conns   []net.Conn
}

func startProxy(t *testing.T, to string) *silentProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &silentProxy{address: listener.Addr().String()}
	p.carried.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.carried.Go(func() { p.carry(in, out) })
			p.carried.Go(func() { p.carry(out, in) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.carried.Wait()
	})
	return p
}

func (p *silentProxy) carry(to, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if silent {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				to.Close()
			}
			return
		}
	}
}

// Half-open links are noticed within 2 ping intervals + 1 s.
func TestHalfOpenLinkIsGivenUp(t *testing.T) {
	w := startWorker(t, welcome(nil))
	p := startProxy(t, w.address)
	linkedTo(t, nil, p.address, w.address)
	expect(t, w, "hello", hello)
	expect(t, w, "ping", ping)
	began := time.Now()
	p.mu.Lock()
	p.silent = true
	p.mu.Unlock()
	// The next worker on the list is the same one, by the straight way.
	if h := expect(t, w, "hello by the next way", hello); h.Session != 2 {
		t.Errorf("session %d, want 2", h.Session)
	}
	limit := values{ping: 50 * time.Millisecond}.halfOpen()
	if took := time.Since(began); took < limit-100*time.Millisecond || took > limit+5*time.Second {
		t.Errorf("noticed after %v, want %v and the reconnect", took, limit)
	}
}

// Settings and gates are pushed by Pong, and a confirmed gate is told at once.
func TestSettingsAndGateAreLive(t *testing.T) {
	w := startWorker(t, welcome(func(w *agentpb.Welcome) {
		w.Settings = &agentpb.Settings{PingIntervalMs: 500}
		w.Gate = &agentpb.Gate{Generation: "g1", MustNotRun: []string{"i1"}}
	}))
	var pushed sync.Once
	w.pong = func(p *agentpb.Ping) *agentpb.Pong {
		pong := &agentpb.Pong{Seq: p.Seq, Epoch: ep("c1", 1, 10)}
		pushed.Do(func() {
			pong.Settings = &agentpb.Settings{PingIntervalMs: 20, StampIntervalMs: 30}
			pong.Gate = &agentpb.Gate{Generation: "g2", MustNotRun: []string{"i2"}}
		})
		return pong
	}
	a, _ := linkedTo(t, nil, w.address)
	for _, generation := range []string{"g1", "g2"} {
		expect(t, w, "confirmation of "+generation, func(up *agentpb.Up) (bool, bool) { return true, up.GetPing().GetGateConfirmed() == generation })
	}
	if v := a.settings.get(); v.ping != 20*time.Millisecond || v.stamp != 30*time.Millisecond {
		t.Errorf("settings = %v", v)
	}
}

// A hung pool must not delay pings, and requests beyond the bound are refused, not queued.
func TestPingsGoOnWhateverHangs(t *testing.T) {
	p := newMemPool("p1")
	release := p.hang()
	defer release()
	w := startWorker(t, welcome(nil))
	linkedTo(t, func(o *Options) { o.Pools = []probe.Pool{p} }, w.address)
	expect(t, w, "ping", ping)
	for n := range maxRequests + 1 {
		w.down <- &agentpb.Down{Frame: &agentpb.Down_Request{Request: &agentpb.Request{
			Id: fmt.Sprint(n), Epoch: ep("c1", 1, 10), TimeoutMs: 60_000,
			Body: &agentpb.Request_Activity{Activity: &agentpb.ActivityRequest{Host: "h2", WindowMs: 1000, Pools: []*agentpb.PoolQuery{{Pool: "p1"}}}},
		}}}
	}
	if got := expect(t, w, "answer", answer); !strings.Contains(got.Error, "are under way already") {
		t.Errorf("request %d = %v, want a refusal", maxRequests+1, got)
	}
	last := expect(t, w, "ping", ping).Seq
	for range 5 {
		if p := expect(t, w, "ping while the pool hangs", ping); p.Seq != last+1 {
			t.Errorf("ping %d follows %d", p.Seq, last)
		} else {
			last = p.Seq
		}
	}
}

// Plaintext is for loopback only, whoever names the address.
func TestPlaintextRedirectLeavesLoopbackNever(t *testing.T) {
	a := newAgent(t, func(o *Options) {
		o.Dial = func(context.Context, string) (net.Conn, error) {
			t.Error("dialled")
			return nil, io.EOF
		}
	})
	if end := attempt(t, a, "10.0.0.1:7443"); end.err == nil || !strings.Contains(end.err.Error(), "loopback") {
		t.Errorf("session = %v, want a refusal", end.err)
	}
}

// A worker that has lost etcd says so, and the agent asks the next one at once: it neither
// asks the same again and again nor waits (chaos seed 330001).
func TestBlindWorkerIsLeftAtOnce(t *testing.T) {
	blind := startWorker(t, func(*agentpb.Hello) *agentpb.Down {
		return refusal(&agentpb.Refusal{Reason: agentpb.Refusal_BLIND, RetryAfterMs: 600_000})
	})
	sees := startWorker(t, welcome(nil))
	linkedTo(t, nil, blind.address, sees.address)
	expect(t, sees, "hello", hello)
	expect(t, sees, "ping", ping)
	hellos := 0
	for {
		select {
		case up := <-blind.up:
			if up.GetHello().GetRole() == agentpb.Hello_ACTIVE && up.GetHello() != nil {
				hellos++
			}
			continue
		default:
		}
		break
	}
	if hellos != 1 {
		t.Errorf("the blind worker was asked %d times, want once", hellos)
	}
}

// The worker of a link that goes blind is left for another; the link is kept until that one
// is there.
func TestLinkLeavesABlindWorker(t *testing.T) {
	var w1, w2 *fakeWorker
	var blind atomic.Bool
	both := func() *agentpb.List { return list("static", 0, w1.address, w2.address) }
	w2 = named(t, "w2", both)
	w1 = startWorker(t, func(*agentpb.Hello) *agentpb.Down {
		if blind.Load() {
			return refusal(&agentpb.Refusal{Reason: agentpb.Refusal_BLIND})
		}
		return &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: "w1", Epoch: ep("c1", 1, 10), Settings: fastSettings, List: both()}}}
	})
	linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "standby", role(agentpb.Hello_STANDBY))
	blind.Store(true)
	w1.down <- &agentpb.Down{Frame: &agentpb.Down_Again{Again: &agentpb.Again{}}}
	expect(t, w1, "hello again", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "promotion", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "ping", func(up *agentpb.Up) (bool, bool) { return true, up.GetPing().GetReport() != nil })
	if n := w2.streams.Load(); n != 1 {
		t.Errorf("%d streams to the next worker, want the one that stood by", n)
	}
}

// After failures two workers are tried at once: one that hangs costs nothing then. Only one of
// them hears an active Hello, the other stands by.
func TestTwoAreTriedAtOnce(t *testing.T) {
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hanging.Close() })
	w := startWorker(t, welcome(nil))
	a := newAgent(t, nil)
	a.boot = "boot-1"
	l := &links{agent: a, opened: make(chan opening, 1), said: map[string]string{}, shunned: map[string]time.Time{}}
	l.route.failures = 2
	s, end := l.race(t.Context(), []string{hanging.Addr().String(), w.address}, time.Second)
	if s == nil || s.address != w.address || l.route.last != w.address || !l.dialling {
		t.Fatalf("session %v, %v, last %s: want the one that answers", s, end.err, l.route.last)
	}
	expect(t, w, "silent hello", role(agentpb.Hello_STANDBY))
	if o := l.settle(time.Minute); o.s != nil || o.end.err == nil {
		t.Errorf("the hanging worker: %+v, want a failure", o)
	}
	s.close(nil)
	a.working.Wait()
}

// A silent stream that is half-open is given up within 2 ping intervals and 1 s by its agent,
// which opens another one: elsewhere, because this way does not work.
func TestHalfOpenStandbyIsGivenUp(t *testing.T) {
	var w1 *fakeWorker
	var proxy *silentProxy
	w2 := startWorker(t, welcome(nil))
	w1 = named(t, "w1", func() *agentpb.List { return list("static", 0, w1.address, proxy.address, w2.address) })
	proxy = startProxy(t, w2.address)
	linkedTo(t, nil, w1.address)
	expect(t, w2, "standby", role(agentpb.Hello_STANDBY))
	if quiet := expect(t, w2, "ping", ping); quiet.Report != nil {
		t.Errorf("a silent stream carries %v", quiet)
	}
	began := time.Now()
	proxy.mu.Lock()
	proxy.silent = true
	proxy.mu.Unlock()
	expect(t, w2, "standby by the straight way", role(agentpb.Hello_STANDBY))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("given up after %v, pings were answered until then", took)
	}
	expect(t, w2, "ping", ping)
}
