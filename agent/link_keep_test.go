// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

func role(want agentpb.Hello_Role) func(*agentpb.Up) (*agentpb.Hello, bool) {
	return func(up *agentpb.Up) (*agentpb.Hello, bool) {
		return up.GetHello(), up.GetHello() != nil && up.GetHello().Role == want
	}
}

// promoted is the active Hello on a stream that was silent until then.
func promoted(t *testing.T) func(*agentpb.Up) (*agentpb.Hello, bool) {
	return func(up *agentpb.Up) (*agentpb.Hello, bool) {
		if up.GetPing().GetReport() != nil {
			t.Error("a report on a silent stream")
		}
		return role(agentpb.Hello_ACTIVE)(up)
	}
}

// named is a worker that sends this list, filled in later.
func named(t *testing.T, id string, l func() *agentpb.List) *fakeWorker {
	return startWorker(t, func(*agentpb.Hello) *agentpb.Down {
		return &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: id, Epoch: ep("c1", 1, 10), Settings: fastSettings, List: l()}}}
	})
}

// agents.md: a silent standby stream goes to the next worker in rank; when the active one is
// lost it is promoted, on the same stream.
func TestStandbyTakesOver(t *testing.T) {
	var w1, w2 *fakeWorker
	both := func() *agentpb.List { return list("static", time.Minute, w1.address, w2.address) }
	w1, w2 = named(t, "w1", both), named(t, "w2", both)
	linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	first := expect(t, w2, "standby", role(agentpb.Hello_STANDBY))
	expect(t, w1, "ping", ping)
	w1.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_SHUTTING_DOWN})
	next := expect(t, w2, "promotion", promoted(t))
	if next.Session <= first.Session || w2.streams.Load() != 1 {
		t.Errorf("session %d after %d over %d streams, want a later one over the same", next.Session, first.Session, w2.streams.Load())
	}
	expect(t, w2, "ping", ping)
	// The other one stands by as soon as it can.
	expect(t, w1, "standby", role(agentpb.Hello_STANDBY))
}

// A check moves the agent to the preferred worker, the new link first: there is no moment
// without one, and the old worker is told nothing worse than the end of the stream.
func TestCheckMovesNewLinkFirst(t *testing.T) {
	var w1, w2 *fakeWorker
	w1 = named(t, "w1", func() *agentpb.List { return list("static", 100*time.Millisecond, w2.address, w1.address) })
	w2 = named(t, "w2", func() *agentpb.List { return nil })
	a, _ := linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	h := expect(t, w2, "hello of the move", role(agentpb.Hello_ACTIVE))
	if h.List.GetHash() != list("static", 100*time.Millisecond, w2.address, w1.address).Hash {
		t.Errorf("hello tells the list %v", h.List)
	}
	expect(t, w2, "ping", ping)
	expect(t, w1, "standby", role(agentpb.Hello_STANDBY))
	if set, _ := a.workers.watch(); set.algorithm != "static" {
		t.Errorf("list %+v", set)
	}
}

// A request that was begun on one link is answered on the next, once.
func TestAnswersFollowTheAgent(t *testing.T) {
	var w1, w2 *fakeWorker
	both := func() *agentpb.List { return list("static", 0, w1.address, w2.address) }
	w1, w2 = named(t, "w1", both), named(t, "w2", both)
	linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "standby", role(agentpb.Hello_STANDBY))
	ask := &agentpb.Down{Frame: &agentpb.Down_Request{Request: &agentpb.Request{
		Id: "r1", Epoch: ep("c1", 1, 10), TimeoutMs: 5000,
		Body: &agentpb.Request_Activity{Activity: &agentpb.ActivityRequest{Host: "h2", WindowMs: 1000}},
	}}}
	w1.down <- ask
	w1.down <- &agentpb.Down{Frame: &agentpb.Down_Move{Move: &agentpb.Move{}}}
	expect(t, w2, "promotion", role(agentpb.Hello_ACTIVE))
	w2.down <- ask // as the owner does when a session takes the place of another
	if got := expect(t, w2, "answer", answer); got.Id != "r1" {
		t.Errorf("answer %v", got)
	}
}

// An agent that met itself, because its older stream said the newer Hello, is back at once:
// standing back is for another process that speaks for its host.
func TestWhoMeetsItselfDoesNotStandBack(t *testing.T) {
	w := startWorker(t, welcome(nil))
	linkedTo(t, nil, w.address)
	expect(t, w, "hello", hello)
	expect(t, w, "ping", ping)
	w.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, RetryAfterMs: 100})
	expect(t, w, "another hello", hello)
}

// A worker may ask for another Hello on the stream in use; pongs without an epoch keep the
// link up and are obeyed in nothing.
func TestHelloAgainOnTheSameStream(t *testing.T) {
	w := startWorker(t, welcome(nil))
	w.pong = func(p *agentpb.Ping) *agentpb.Pong {
		return &agentpb.Pong{Seq: p.Seq, Settings: &agentpb.Settings{PingIntervalMs: 10_000}}
	}
	a, _ := linkedTo(t, nil, w.address)
	one := expect(t, w, "hello", hello)
	expect(t, w, "ping", ping)
	w.down <- &agentpb.Down{Frame: &agentpb.Down_Again{Again: &agentpb.Again{}}}
	two := expect(t, w, "hello again", hello)
	if two.Session != one.Session+1 || w.streams.Load() != 1 {
		t.Errorf("session %d over %d streams, want %d over one", two.Session, w.streams.Load(), one.Session+1)
	}
	if v := a.settings.get(); v.ping == 10*time.Second {
		t.Error("settings of a pong without an epoch were obeyed")
	}
}

// A stream that is left for another worker stands by: the way back, or on when the other worker
// is lost, takes no handshake.
func TestLeftStreamStandsBy(t *testing.T) {
	var w1, w2 *fakeWorker
	both := func() *agentpb.List { return list("static", 100*time.Millisecond, w2.address, w1.address) }
	w1, w2 = named(t, "w1", both), named(t, "w2", both)
	a, _ := linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	moved := expect(t, w2, "hello of the move", role(agentpb.Hello_ACTIVE))
	if !moved.Keeps {
		t.Error("the owner is not told that the stream that is left is kept")
	}
	rests := expect(t, w1, "standby", role(agentpb.Hello_STANDBY))
	expect(t, w2, "ping", ping)
	expect(t, w1, "silent ping", ping)
	// The new worker is lost.
	w2.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_SHUTTING_DOWN})
	back := expect(t, w1, "promotion", promoted(t))
	if back.Session <= rests.Session || w1.streams.Load() != 1 {
		t.Errorf("session %d after %d over %d streams, want a later one over the same", back.Session, rests.Session, w1.streams.Load())
	}
	expect(t, w1, "report", func(up *agentpb.Up) (*agentpb.Report, bool) {
		return up.GetPing().GetReport(), up.GetPing().GetReport() != nil
	})
	// And left a second time.
	expect(t, w2, "second move", role(agentpb.Hello_ACTIVE))
	expect(t, w1, "second standby", role(agentpb.Hello_STANDBY))
	if w1.streams.Load() != 1 || a.linked.Load() == nil {
		t.Errorf("%d streams to the worker that was left, want the same one", w1.streams.Load())
	}
}

// A worker that knows no kept streams ends the one that was left: another one stands by.
func TestLeftStreamThatEnds(t *testing.T) {
	var w1, w2 *fakeWorker
	both := func() *agentpb.List { return list("static", 100*time.Millisecond, w2.address, w1.address) }
	w1, w2 = named(t, "w1", both), named(t, "w2", func() *agentpb.List {
		w1.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, RetryAfterMs: 100})
		return both()
	})
	linkedTo(t, nil, w1.address)
	expect(t, w1, "hello", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "hello of the move", role(agentpb.Hello_ACTIVE))
	expect(t, w2, "ping", ping)
	for w1.streams.Load() < 2 {
		expect(t, w1, "standby", role(agentpb.Hello_STANDBY))
	}
}

// An owner may have said welcome to a move that never came through: it has dropped the session of
// the stream that is still in use, and hears another Hello on it.
func TestSparedStreamSaysHello(t *testing.T) {
	w := startWorker(t, welcome(nil))
	linkedTo(t, nil, w.address)
	one := expect(t, w, "hello", hello)
	expect(t, w, "ping", ping)
	w.down <- refusal(&agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Keeps: true})
	two := expect(t, w, "hello again", hello)
	if two.Session <= one.Session || w.streams.Load() != 1 {
		t.Errorf("session %d after %d over %d streams, want a later one over the same", two.Session, one.Session, w.streams.Load())
	}
}

// A stream that has been left is ended by no timer of the time before, which a late pong may have
// set once more.
func TestRestingStreamHasNoTimers(t *testing.T) {
	s := &session{agent: newAgent(t, nil), again: make(chan struct{}, 1), spared: make(chan struct{}, 1), cancel: func(error) {}}
	s.standsBy()
	s.activate()
	s.silent.Reset(time.Hour)
	s.answered()
	used, silent := s.halfOpen, s.silent
	s.rests()
	if used.Stop() || silent.Stop() {
		t.Error("a timer is set")
	}
	s.answered() // of a ping from before
	if s.active() || s.halfOpen != nil || s.silent != nil {
		t.Error("it minds pings, and sends none")
	}
}
