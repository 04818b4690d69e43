// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	// homeless is how long a link without an owner is kept at least, and twice as long at
	// most: as long as it may take until somebody owns its host again. After that the agent
	// looks elsewhere, and the agents of a whole site do not do so at once.
	homeless = 20 * time.Second
	// againWithin spreads the hellos of the agents whose owner was lost.
	againWithin = 500 * time.Millisecond
	// sweepEvery is how often links are looked at while one of them may have been silent for too long.
	sweepEvery = 250 * time.Millisecond
	// sweepAtLeast is how often they are looked at in any case: no silence that begins after a look
	// may be shorter (halfOpen, homeless).
	sweepAtLeast = time.Second
)

// wire is one agent's stream that is in use. Its frames go to a session of this worker, or
// over a relay to the owner; between two owners they go nowhere, and the agent is told that
// its link is good.
type wire struct {
	guest
	s      *Server
	out    *outbox
	number uint64        // of the last Hello on this stream
	spread time.Duration // added to homeless

	heard atomic.Int64 // when the last frame came, unix nanoseconds
	limit atomic.Int64 // silence after which the link is half-open, nanoseconds; 0: not known yet

	mu      sync.Mutex
	host    string    // set by the first Hello, by who reads
	ses     *Session  // owned here
	channel *channel  // carried to its owner
	lost    time.Time // since when no owner has said welcome; zero: one has
}

// talk is what an agent says on one stream, from its first frame to the end: silent while the
// stream stands by, a wire from a Hello that asks for more until one that asks to stand by.
type talk struct {
	guest
	s      *Server
	out    *outbox
	host   string // whose Hello came
	number uint64 // of the last session that was over before the stream was
	silent *silent
	wire   *wire
	limit  *time.Timer // until the first frame
	up     *agentpb.Up // read last
	size   int         // of it
	err    error       // it is over
}

// converse talks with an agent until its connection ends, which it closes. One goroutine reads a
// stream from the beginning to the end, and sends what it answers: while it waits for a frame
// nothing of ours lies on its stack but this (docs/agents.md "What an agent costs").
func (s *Server) converse(c *frame.Conn, g guest) {
	t := s.meet(c, g)
	for t.read() {
		t.act()
	}
	t.end()
}

// meet says who it is that has opened a stream.
func (s *Server) meet(c *frame.Conn, g guest) *talk {
	t := &talk{s: s, out: newOutbox(c), guest: g}
	t.limit = time.AfterFunc(s.patient, func() { t.out.cut(&abuseError{NoHello, fmt.Sprintf("no Hello within %v", s.patient)}) })
	if err := s.identify(&t.guest, trust.Host); err != nil {
		t.err = denied(err)
	}
	return t
}

// read waits for the next frame; false: it is over.
func (t *talk) read() bool {
	if t.err == nil {
		t.up = new(agentpb.Up)
		t.size, t.err = t.out.conn.Read(t.up)
	}
	return t.err == nil
}

// act acts on a frame, and sends what is to be said on it.
func (t *talk) act() {
	t.limit.Stop()
	if t.err = t.out.over(); t.err != nil {
		return
	}
	held := t.out.hold()
	t.err = t.take(t.up)
	if t.up = nil; held { // not kept while nothing happens
		t.out.send()
	}
}

func (t *talk) take(up *agentpb.Up) error {
	if t.wire != nil && up.GetHello().GetRole() == agentpb.Hello_STANDBY {
		t.number = t.wire.number
		t.s.forget(t.wire, errLeft)
		t.wire = nil
	}
	if t.wire != nil {
		return t.wire.take(up, t.size)
	}
	if t.silent != nil {
		t.silent.heard.Store(t.s.now().UnixNano())
		if p := up.GetPing(); p != nil {
			return t.silent.ping(t.s, p, t.size)
		}
		t.s.forgetSilent(t.silent)
		t.silent = nil
	}
	switch h := up.GetHello(); {
	case h == nil:
		return badHello("the first frame must be a Hello")
	case h.Role == agentpb.Hello_STANDBY:
		return t.standBy(h)
	default:
		return t.use(up)
	}
}

// use makes a wire of the stream.
func (t *talk) use(up *agentpb.Up) error {
	w := &wire{s: t.s, out: t.out, guest: t.guest, number: t.number, host: t.host, spread: rand.N(homeless)}
	t.host = up.GetHello().GetHost()
	if r := t.s.keep(w); r != nil {
		return &refusedError{r}
	}
	t.wire = w
	if d := t.s.revoked.Load(); d != nil {
		w.send(d)
	}
	return w.take(up, t.size)
}

// end ends the stream, with a last word where there is one.
func (t *talk) end() {
	t.limit.Stop()
	err := t.s.abused(t.who.ID, t.host, t.out.why(t.err))
	if t.silent != nil {
		t.s.forgetSilent(t.silent)
	}
	if t.wire != nil {
		t.s.forget(t.wire, err)
	}
	t.out.end(t.s.cut(t.who.ID, t.host, err))
}

func badHello(why string) error {
	return &refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_BAD_HELLO, Detail: why}}
}

// examine says what is wrong with a Hello. host is that of the stream, once it is known.
func (s *Server) examine(g guest, h *agentpb.Hello, host string) error {
	switch {
	case h.Host == "" || h.BootId == "" || h.ProcessId == "":
		return badHello("a Hello has host, boot_id and process_id")
	case host != "" && h.Host != host:
		return badHello(fmt.Sprintf("a stream of %.70s cannot speak for another host", host))
	}
	return s.speaksFor(g, h.Host)
}

// keep notes a stream in use, or says why it may not be.
func (s *Server) keep(w *wire) *agentpb.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	refusal := s.late(w.shown)
	if refusal == nil {
		s.wires[w] = true
	}
	return refusal
}

func (s *Server) forget(w *wire, cause error) {
	s.mu.Lock()
	delete(s.wires, w)
	s.mu.Unlock()
	w.attach(nil, nil, cause)
}

// take acts on one frame, of so many bytes; the first is a Hello.
func (w *wire) take(up *agentpb.Up, size int) error {
	w.heard.Store(w.s.now().UnixNano())
	if h := up.GetHello(); h != nil {
		return w.greet(h, size)
	}
	if err := w.s.guards.of(w.host).frame(size); err != nil {
		return err
	}
	w.mu.Lock()
	ses, ch := w.ses, w.channel
	w.mu.Unlock()
	switch {
	case ses != nil && w.s.take(ses, up):
	case ch != nil && ch.up(up):
	case up.GetPing() != nil: // nobody owns the host now, or another one does
		w.send(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: &agentpb.Pong{Seq: up.GetPing().Seq}}})
	}
	return nil
}

// greet begins a session: of this worker, or carried to the host's owner.
func (w *wire) greet(h *agentpb.Hello, size int) error {
	if err := w.s.examine(w.guest, h, w.host); err != nil {
		return err
	}
	if w.host != "" && h.Session <= w.number {
		return &abuseError{ReplayedHello, "a Hello that came before on this stream"}
	}
	if err := w.s.guards.of(h.Host).hello(size); err != nil {
		return err
	}
	w.number = h.Session
	w.mu.Lock()
	w.host = h.Host
	w.mu.Unlock()
	w.attach(nil, nil, errMoved)
	ses, a := w.s.begin(h, w, "")
	switch {
	case ses != nil:
		w.attach(ses, nil, nil)
		if !w.s.current(ses) { // a newer one was quicker
			w.attach(nil, nil, errMoved)
		}
	case a.Owner != nil:
		w.s.carry(w, h, *a.Owner)
	default:
		w.refuse(nil, a.Refusal)
	}
	return nil
}

// attach says where frames go from now on. What they went to before is over.
func (w *wire) attach(ses *Session, ch *channel, cause error) {
	w.mu.Lock()
	oldSes, oldCh := w.ses, w.channel
	w.ses, w.channel = ses, ch
	switch {
	case ses != nil:
		w.lost = time.Time{}
	case w.lost.IsZero():
		w.lost = w.s.now()
	}
	w.mu.Unlock()
	if oldSes != nil && oldSes != ses {
		w.s.over(oldSes, cause)
	}
	if oldCh != nil && oldCh != ch {
		oldCh.gone(cause)
	}
}

// homed: an owner has answered, or none need have.
func (w *wire) homed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = time.Time{}
}

// send implements line. The agent goes by the settings that it is told last: after how long its
// link is half-open does, too.
func (w *wire) send(d *agentpb.Down) {
	for _, told := range []*agentpb.Settings{d.GetWelcome().GetSettings(), d.GetPong().GetSettings()} {
		if ms := told.GetPingIntervalMs(); ms > 0 {
			w.limit.Store(int64(halfOpen(time.Duration(ms) * time.Millisecond)))
		}
	}
	w.out.put(d)
}

// refuse implements line. The stream goes on where the agent may say Hello again on it: that there
// is no owner, or none is known, or that it has left this session for a newer one; which may be on
// this very stream by now.
func (w *wire) refuse(ses *Session, r *agentpb.Refusal) {
	if !r.Keeps && r.Reason != agentpb.Refusal_NO_OWNER && r.Reason != agentpb.Refusal_BLIND {
		w.out.refuse(r)
		return
	}
	w.mu.Lock()
	newer := ses != nil && w.ses != nil && w.ses != ses
	w.mu.Unlock()
	if newer {
		return
	}
	w.attach(nil, nil, errMoved)
	if r.Reason == agentpb.Refusal_BLIND {
		w.homed() // it looks for another worker by itself, and keeps this link until it has found one
	}
	w.send(&agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}})
}

// cancel ends the stream without a word.
func (w *wire) cancel(cause error) { w.out.cut(cause) }

// again implements line.
func (w *wire) again() {
	w.attach(nil, nil, errMoved)
	w.send(&agentpb.Down{Frame: &agentpb.Down_Again{Again: &agentpb.Again{}}})
}

// soon asks for a Hello in a moment: the owner was lost, and with it that of many.
func (w *wire) soon() {
	w.attach(nil, nil, errMoved)
	time.AfterFunc(time.Duration(rand.Float64()*float64(againWithin)), func() {
		w.send(&agentpb.Down{Frame: &agentpb.Down_Again{Again: &agentpb.Again{}}})
	})
}

// Run cuts links, silent ones too, that are half-open, within 2 ping intervals and 1 s of
// their last frame, and those whose host has had no owner for so long that another worker
// may know better, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var due time.Time
	for last := s.now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := s.now()
		switch late := now.Sub(last); {
		case late >= 2*sweepEvery: // it was not them who were silent
			s.excuse(late)
		case !now.Before(due):
			due = s.sweep(now)
		}
		last = now
	}
}

// sweep returns when it is to be called again.
func (s *Server) sweep(now time.Time) time.Time {
	wait := sweepAtLeast
	over := func(since time.Time, limit time.Duration) bool {
		left := limit - now.Sub(since)
		wait = min(wait, left)
		return left < 0
	}
	silent := func(heard, limit *atomic.Int64) bool {
		l := limit.Load()
		return l > 0 && over(time.Unix(0, heard.Load()), time.Duration(l))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.wires {
		if silent(&w.heard, &w.limit) {
			w.cancel(errors.New("link is half-open: no ping came in time"))
		}
		w.mu.Lock()
		lost := w.lost
		w.mu.Unlock()
		if !lost.IsZero() && over(lost, homeless+w.spread) {
			w.cancel(errors.New("nobody owns the host, or its owner cannot be reached"))
		}
	}
	for q := range s.silent {
		if silent(&q.heard, &q.limit) {
			q.out.refuse(mute)
		}
	}
	return now.Add(wait)
}

// excuse: this process stood still for a while, which is no silence of theirs.
func (s *Server) excuse(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.wires {
		w.heard.Add(int64(d))
	}
	for q := range s.silent {
		q.heard.Add(int64(d))
	}
}

// Here lists the hosts whose links this worker holds, whoever owns them.
func (s *Server) Here() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for w := range s.wires {
		w.mu.Lock()
		if w.ses != nil || w.channel != nil {
			out = append(out, w.host)
		}
		w.mu.Unlock()
	}
	return out
}

// Tell sends a frame of this worker's own to the hosts whose links it holds: Move or Again,
// which are the carrier's to say. d returns nil for those that are told nothing.
func (s *Server) Tell(d func(host, owner string) *agentpb.Down) {
	s.mu.Lock()
	wires := make([]*wire, 0, len(s.wires))
	for w := range s.wires {
		wires = append(wires, w)
	}
	s.mu.Unlock()
	for _, w := range wires {
		w.mu.Lock()
		owner := ""
		switch {
		case w.ses != nil:
			owner = s.id
		case w.channel != nil:
			owner = w.channel.relay.peer.ID
		}
		host := w.host
		w.mu.Unlock()
		if f := d(host, owner); f != nil {
			w.send(f)
		}
	}
}
