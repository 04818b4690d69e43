// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// pair is a worker that holds links and another one that owns the hosts.
func pair(t *testing.T) (carrier, owner *world) {
	owner, carrier = openAs(t, newTold("w2")), openAs(t, newTold("w1"))
	carrier.owns(&Peer{"w2", owner.address}, false)
	return carrier, owner
}

// agents.md "Owner and link": frames are relayed over one stream per pair; Hello, pings,
// answers, requests, goodbyes.
func TestRelayCarriesEverything(t *testing.T) {
	c, o := pair(t)
	s, first := c.hello(t, host("h1", 1))
	if first.GetWelcome().GetWorker() != "w2" {
		t.Fatalf("first frame %v, want the owner's Welcome", first)
	}
	ses := o.door.Session("h1")
	if ses == nil || ses.Carrier != "w1" || c.door.Session("h1") != nil {
		t.Fatalf("session %+v: want one at the owner, carried by w1", ses)
	}
	ping(t, s, 7)
	if p := <-o.pings; p.Seq != 7 {
		t.Errorf("owner saw ping %d", p.Seq)
	}
	if d := recv(t, s); d.GetPong().GetSeq() != 7 || d.GetPong().GetEpoch() == nil {
		t.Errorf("got %v, want the owner's pong 7", d)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := o.door.Ask(t.Context(), "h1", &agentpb.Request{TimeoutMs: 1000})
		asked <- err
	}()
	r := recv(t, s).GetRequest()
	answer(t, s, r.GetId())
	if err := <-asked; err != nil {
		t.Error(err)
	}
	s2, _ := c.hello(t, host("h2", 1))
	if n := c.door.Counts(); n.Relays != 1 || n.Links != 2 || n.Sessions != 0 {
		t.Errorf("the carrier has %+v: want one relay for two links", n)
	}
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Goodbye{Goodbye: &agentpb.Goodbye{Kind: agentpb.Goodbye_AGENT_STOP}}}); err != nil {
		t.Fatal(err)
	}
	<-o.byes
	if err := errors.Join(s.CloseSend(), s2.CloseSend()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-o.gone; errors.Is(err, ErrCarrierLost) {
			t.Errorf("gone: %v: the carrier is there", err)
		}
	}
}

func answer(t *testing.T, s client, id string) {
	t.Helper()
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Answer{Answer: &agentpb.Answer{Id: id}}}); err != nil {
		t.Fatal(err)
	}
}

// An agent that moves, new link first, is not asked twice and loses no request.
func TestRequestOutlivesAMove(t *testing.T) {
	c, o := pair(t)
	old, _ := c.hello(t, host("h1", 1))
	asked := make(chan error, 1)
	go func() {
		_, err := o.door.Ask(t.Context(), "h1", &agentpb.Request{TimeoutMs: 1000})
		asked <- err
	}()
	r := recv(t, old).GetRequest()
	s, first := o.hello(t, host("h1", 2)) // straight to the owner
	if first.GetWelcome() == nil {
		t.Fatalf("got %v", first)
	}
	if again := recv(t, s).GetRequest(); again.GetId() != r.GetId() {
		t.Errorf("asked for %v on the new link, want %s again", again, r.GetId())
	}
	if d := recv(t, old); d.GetRefusal().GetReason() != agentpb.Refusal_REPLACED {
		t.Errorf("the old link got %v, want REPLACED", d)
	}
	answer(t, s, r.GetId())
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if len(o.gone) > 0 {
		t.Errorf("the host was said to be gone: %v", <-o.gone)
	}
}

// The owner that loses the carrier says just that; the carrier keeps the link, answers for
// itself, and asks the agent for a Hello that goes to whoever owns the host by then.
func TestOwnerAndCarrierLoseEachOther(t *testing.T) {
	c, o := pair(t)
	s, _ := c.hello(t, host("h1", 1))
	ses := o.door.Session("h1")
	ses.line.(*inboundLine).in.cancel(errors.New("cut by the test"))
	if err := <-o.gone; !errors.Is(err, ErrCarrierLost) {
		t.Errorf("gone: %v, want ErrCarrierLost", err)
	}
	if d := recv(t, s); d.GetAgain() == nil {
		t.Fatalf("got %v, want to be asked for a Hello", d)
	}
	ping(t, s, 8)
	if d := recv(t, s); d.GetPong().GetSeq() != 8 || d.GetPong().GetEpoch() != nil {
		t.Errorf("got %v, want the carrier's own pong", d)
	}
	c.owns(nil, false) // it is the new owner itself
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host("h1", 2)}}); err != nil {
		t.Fatal(err)
	}
	if d := recv(t, s); d.GetWelcome().GetWorker() != "w1" {
		t.Errorf("got %v, want the Welcome of w1", d)
	}
	if c.door.Session("h1") == nil {
		t.Error("no session")
	}
}

// A worker that hands a host over keeps its link and carries it from then on.
func TestHandedOverHostKeepsItsLink(t *testing.T) {
	c, o := pair(t)
	c.owns(nil, false)
	s, _ := c.hello(t, host("h1", 1))
	c.owns(&Peer{"w2", o.address}, false)
	c.door.Rehome("h1")
	<-c.gone
	if d := recv(t, s); d.GetAgain() == nil {
		t.Fatalf("got %v, want to be asked for a Hello", d)
	}
	o.owns(nil, true) // it does not know yet that it owns it
	for seq := uint64(2); seq < 4; seq++ {
		if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host("h1", seq)}}); err != nil {
			t.Fatal(err)
		}
		d := recv(t, s)
		if seq == 2 && d.GetRefusal().GetReason() != agentpb.Refusal_NO_OWNER {
			t.Errorf("got %v, want NO_OWNER on a stream that stays", d)
		}
		if seq == 3 && d.GetWelcome().GetWorker() != "w2" {
			t.Errorf("got %v, want the Welcome of w2", d)
		}
		o.owns(nil, false)
	}
}

// An owner that cannot be reached from here may be from elsewhere: the agent is told where.
func TestUnreachableOwnerIsNamed(t *testing.T) {
	c := open(t)
	c.owns(&Peer{"w2", "127.0.0.1:1"}, false)
	_, d := c.hello(t, host("h1", 1))
	if r := d.GetRefusal(); r.GetReason() != agentpb.Refusal_NOT_OWNER || r.GetOwner().GetAddress() != "127.0.0.1:1" {
		t.Errorf("got %v, want to be sent to the owner", d)
	}
}

// A standby stream is silent until it is promoted, without a handshake.
func TestStandbyIsPromoted(t *testing.T) {
	w := open(t)
	h := host("h1", 1)
	h.Role = agentpb.Hello_STANDBY
	s, d := w.hello(t, h)
	if d.GetWelcome() == nil || w.door.Session("h1") != nil {
		t.Fatalf("got %v and session %v, want a silent welcome", d, w.door.Session("h1"))
	}
	if n := w.door.Counts(); n.Standby != 1 || n.Links != 0 {
		t.Errorf("counts %+v", n)
	}
	if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host("h1", 2)}}); err != nil {
		t.Fatal(err)
	}
	if d := recv(t, s); d.GetWelcome() == nil || w.door.Session("h1") == nil {
		t.Errorf("got %v, want to be welcome", d)
	}
	if n := w.door.Counts(); n.Standby != 0 || n.Links != 1 {
		t.Errorf("counts %+v", n)
	}
}

// TestLeftStreamStandsBy: the stream that an agent leaves for another worker, and says that it keeps,
// is not ended; over a relay neither. It stands by once its agent says so, and may be promoted.
func TestLeftStreamStandsBy(t *testing.T) {
	carrier, owner := pair(t)
	for name, at := range map[string]*world{"here": owner, "carried": carrier} {
		t.Run(name, func(t *testing.T) {
			left, d := at.hello(t, host(name, 1))
			if d.GetWelcome() == nil {
				t.Fatalf("got %v, want to be welcome", d)
			}
			moved := host(name, 2)
			moved.Keeps = true
			next, d := owner.hello(t, moved)
			if d.GetWelcome() == nil {
				t.Fatalf("the move got %v", d)
			}
			if r := recv(t, left).GetRefusal(); r.GetReason() != agentpb.Refusal_REPLACED || !r.GetKeeps() {
				t.Fatalf("the stream that was left got %v", r)
			}
			rests := host(name, 3)
			rests.Role = agentpb.Hello_STANDBY
			if err := left.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: rests}}); err != nil {
				t.Fatal(err)
			}
			if d := recv(t, left); d.GetWelcome() == nil {
				t.Fatalf("got %v, want a silent welcome", d)
			}
			if ses := owner.door.Session(name); ses == nil || ses.Number != 2 || at.door.Counts().Standby != 1 {
				t.Errorf("session %+v, counts %+v: want the new session, and one stream that stands by", ses, at.door.Counts())
			}
			for _, s := range []client{left, next} {
				ping(t, s, 1)
				if d := recv(t, s); d.GetPong() == nil {
					t.Errorf("got %v, want a pong", d)
				}
			}
			if err := left.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: host(name, 4)}}); err != nil {
				t.Fatal(err)
			}
			if d := recv(t, left); d.GetWelcome() == nil {
				t.Errorf("got %v, want to be welcome again", d)
			}
			if n := at.door.Counts(); n.Standby != 0 || owner.door.Session(name).Number != 4 {
				t.Errorf("counts %+v, session %+v", n, owner.door.Session(name))
			}
		})
	}
}

// TestLeftForAnother: nobody may stand by as another host than the one that the stream was used for,
// nor repeat a Hello from before.
func TestLeftForAnother(t *testing.T) {
	for what, again := range map[string]*agentpb.Hello{
		"another host": {Host: "h2", BootId: "b1", ProcessId: "p1", Session: 9, Role: agentpb.Hello_STANDBY},
		"a replay":     host("h1", 3),
	} {
		w := open(t)
		s, d := w.hello(t, host("h1", 3))
		if d.GetWelcome() == nil {
			t.Fatalf("got %v", d)
		}
		rests := host("h1", 4)
		rests.Role = agentpb.Hello_STANDBY
		for _, h := range []*agentpb.Hello{rests, again} {
			if err := s.Send(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: h}}); err != nil {
				t.Fatal(err)
			}
		}
		if d := recv(t, s); d.GetWelcome() == nil {
			t.Fatalf("%s: got %v, want a silent welcome first", what, d)
		}
		if r := recv(t, s).GetRefusal(); r == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

// Half-open links are noticed by the worker too, within 2 ping intervals and 1 s.
func TestSilentLinkIsCut(t *testing.T) {
	h := newTold("w1")
	h.settings = &agentpb.Settings{PingIntervalMs: 100}
	w := openAs(t, h)
	began := time.Now()
	s, _ := w.hello(t, host("h1", 1))
	cause := <-w.gone
	if took := time.Since(began); took < time.Second || took > 5*time.Second {
		t.Errorf("cut after %v (%v), want about 1.2s", took, cause)
	}
	if _, err := s.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}

// So are streams that stand by, once their agent pings on them: they are answered, and cut
// when nothing more comes.
func TestSilentStandbyIsCut(t *testing.T) {
	h := newTold("w1")
	h.ping = 100 * time.Millisecond
	w := openAs(t, h)
	stand := host("h1", 1)
	stand.Role = agentpb.Hello_STANDBY
	s, _ := w.hello(t, stand)
	ping(t, s, 7)
	if d := recv(t, s); d.GetPong().GetSeq() != 7 || d.GetPong().Epoch != nil {
		t.Errorf("got %v, want the carrier's own pong 7", d)
	}
	began := time.Now()
	d, err := s.Recv()
	if took := time.Since(began); !strings.Contains(d.GetRefusal().GetDetail(), "half-open") || took < 500*time.Millisecond {
		t.Errorf("after %v: %v, %v, want to be cut as half-open", took, d, err)
	}
	if d, err := s.Recv(); err == nil {
		t.Errorf("the stream goes on: %v", d)
	}
	eventually(t, "nothing stands by", func() bool { return w.door.Counts().Standby == 0 })
	if len(h.pings) != 0 {
		t.Error("a ping that stands by counts as a sign of life")
	}
}

// What a silence may last follows the pace that the agent was told: a slower one counts at once, a
// faster one for streams that stand by once the agent can have heard of it.
func TestSilenceFollowsThePace(t *testing.T) {
	h := newTold("w1")
	h.settings, h.ping = &agentpb.Settings{PingIntervalMs: 1000}, time.Second
	w := openAs(t, h)
	active, _ := w.hello(t, host("h1", 1))
	stand := host("h2", 1)
	stand.Role = agentpb.Hello_STANDBY
	quiet, _ := w.hello(t, stand)
	beat := func(s client, seq uint64) {
		t.Helper()
		ping(t, s, seq)
		if d := recv(t, s); d.GetPong().GetSeq() != seq {
			t.Fatalf("got %v, want pong %d", d, seq)
		}
	}
	beat(active, minutely)
	h.paced(time.Minute)
	beat(quiet, 1)
	w.door.sweep(time.Now().Add(time.Minute))
	beat(active, 1)
	h.paced(time.Second)
	beat(quiet, 2)
	w.door.sweep(time.Now().Add(time.Minute))
	beat(quiet, 3)
	w.door.sweep(time.Now().Add(4 * time.Second))
	if d := recv(t, quiet); !strings.Contains(d.GetRefusal().GetDetail(), "half-open") {
		t.Errorf("standing by, silent for 4 s: %v", d)
	}
	beat(active, 2)
	w.door.sweep(time.Now().Add(3 * time.Minute))
	if d, err := active.Recv(); err == nil {
		t.Errorf("in use, silent for 3 minutes: %v", d)
	}
}

// Agents are told of workers' revoked certificates wherever they are linked or stand by, and
// those that come later as well.
func TestRevokedIsTold(t *testing.T) {
	w := open(t)
	active, _ := w.hello(t, host("h1", 1))
	stand := host("h2", 1)
	stand.Role = agentpb.Hello_STANDBY
	quiet, _ := w.hello(t, stand)
	w.door.Revoked([]*agentpb.RevokedCertificate{{Serial: "ab"}})
	for name, s := range map[string]client{"linked": active, "standing by": quiet} {
		if d := recv(t, s); len(d.GetRevoked().GetCertificates()) != 1 {
			t.Errorf("%s: got %v", name, d)
		}
	}
	late, first := w.hello(t, host("h3", 1))
	if first.GetRevoked() == nil {
		first = recv(t, late)
	}
	if first.GetRevoked().GetCertificates()[0].GetSerial() != "ab" {
		t.Errorf("who comes later got %v", first)
	}
}

// What is asked of a host that is lost with its carrier is answered at once: not linked.
func TestRequestEndsWithTheCarrier(t *testing.T) {
	c, o := pair(t)
	s, _ := c.hello(t, host("h1", 1))
	asked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := o.door.Ask(ctx, "h1", &agentpb.Request{})
		asked <- err
	}()
	recv(t, s)
	c.port.Stop()
	c.door.Close()
	if err := <-asked; !errors.Is(err, ErrNotLinked) {
		t.Errorf("got %v", err)
	}
}

// TestCarrierStood: a carrier that was silent has come back when it is heard again, and is
// coming back now as long as it is not.
func TestCarrierStood(t *testing.T) {
	var h hearing
	at := time.Unix(1000, 0)
	stood := func(what string, want time.Time) {
		t.Helper()
		if back, ok := h.stood(at); !back.Equal(want) || ok != !want.IsZero() {
			t.Errorf("%s: %v, %t, want %v", what, back, ok, want)
		}
	}
	stood("nothing was heard yet", time.Time{})
	for range 5 {
		at = at.Add(relayBeat)
		h.word(at)
	}
	stood("it beats", time.Time{})
	at = at.Add(relayLate)
	stood("as late as it may be", time.Time{})
	at = at.Add(time.Millisecond)
	stood("it is silent", at)
	at = at.Add(time.Second)
	stood("it is still silent", at)
	h.word(at)
	back := at
	at = at.Add(relayBeat)
	h.word(at)
	stood("it is back", back)
}
