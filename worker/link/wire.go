// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	// homeless is how long a link without an owner is kept at least, and twice as long at
	// most: as long as it may take until somebody owns its host again. After that the agent
	// looks elsewhere, and the agents of a whole site do not do so at once.
	homeless = 20 * time.Second
	// againWithin spreads the hellos of the agents whose owner was lost.
	againWithin = 500 * time.Millisecond
	// sweepEvery is how often links are looked at that are silent.
	sweepEvery = 250 * time.Millisecond
)

type stream = grpc.BidiStreamingServer[agentpb.Up, agentpb.Down]

// wire is one agent's stream that is in use. Its frames go to a session of this worker, or
// over a relay to the owner; between two owners they go nowhere, and the agent is told that
// its link is good.
type wire struct {
	s      *Server
	out    *outbox
	ctx    context.Context // of the stream
	who    trust.Identity
	shown  []*x509.Certificate // nil on plaintext
	last   *agentpb.Hello      // of this stream
	spread time.Duration       // added to homeless

	heard atomic.Int64 // when the last frame came, unix nanoseconds
	limit atomic.Int64 // silence after which the link is half-open, nanoseconds; 0: not known yet

	mu      sync.Mutex
	host    string    // set by the first Hello
	ses     *Session  // owned here
	channel *channel  // carried to its owner
	lost    time.Time // since when no owner has said welcome; zero: one has
}

// talk is what an agent says on one stream, from its first frame to the end: silent while the
// stream stands by, a wire from the first Hello that asks for more.
type talk struct {
	s      *Server
	out    *outbox
	who    trust.Identity
	shown  []*x509.Certificate // nil on plaintext
	hello  *agentpb.Hello      // the last one
	silent *silent
	wire   *wire
	limit  *time.Timer // until the first frame
	up     *agentpb.Up // read last
	err    error       // it is over
}

// Connect implements agentpb.LinkServer. One goroutine reads a stream from the beginning to
// the end, and sends what it answers. While it waits for a frame nothing of ours lies on its
// stack but this: with gRPC's own frames it just fits into 8 kB, else it would keep 16
// (docs/agents.md "What an agent costs").
func (s *Server) Connect(st stream) error {
	t := s.meet(st)
	for t.read() {
		t.act()
	}
	return t.end()
}

// meet says who it is that has opened a stream.
func (s *Server) meet(st stream) *talk {
	t := &talk{s: s}
	if t.who, t.shown, t.err = s.admit(st.Context(), trust.Host); t.err != nil {
		return t
	}
	if t.out, t.err = newOutbox(st); t.err == nil {
		t.limit = time.AfterFunc(helloLimit, func() { t.out.cancel(&abuseError{NoHello, fmt.Sprintf("no Hello within %v", helloLimit)}) })
	}
	return t
}

// read waits for the next frame; false: it is over.
func (t *talk) read() bool {
	if t.err == nil {
		t.up = new(agentpb.Up)
		t.err = t.out.stream.RecvMsg(t.up)
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
	if t.wire != nil {
		return t.wire.take(up)
	}
	if t.silent != nil {
		t.silent.heard.Store(t.s.now().UnixNano())
		if up.GetPing() != nil {
			return t.silent.ping(t.s, up)
		}
		t.s.forgetSilent(t.silent)
		t.silent = nil
	}
	switch h := up.GetHello(); {
	case h == nil:
		return &refusedError{badHello("the first frame must be a Hello")}
	case h.Role == agentpb.Hello_STANDBY:
		t.hello = h
		return t.standBy(up)
	default:
		t.hello = h
		return t.use(up)
	}
}

// use makes a wire of the stream.
func (t *talk) use(up *agentpb.Up) error {
	w := &wire{s: t.s, out: t.out, ctx: t.out.stream.Context(), who: t.who, shown: t.shown, spread: rand.N(homeless)}
	if r := t.s.keep(w); r != nil {
		return &refusedError{r}
	}
	t.wire = w
	if d := t.s.revoked.Load(); d != nil {
		w.send(d)
	}
	return w.take(up)
}

// end ends the stream; it returns the status that the agent hears.
func (t *talk) end() error {
	if t.out == nil {
		return t.err
	}
	t.limit.Stop()
	err := t.out.why(t.err)
	if t.silent != nil {
		t.s.forgetSilent(t.silent)
	}
	w := t.wire
	if w == nil {
		return t.out.end(t.s.cut(t.who.ID, orElse(t.who.ID, t.hello.GetHost()), err))
	}
	err = t.s.abused(t.who.ID, w.host, err)
	t.s.forget(w, err)
	var abuse *abuseError
	if errors.As(err, &abuse) {
		t.s.tell(orElse(t.who.ID, w.host), abuse)
		if abuse.reason != SlowReader {
			err = &refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_BAD_HELLO, Detail: abuse.Error()}}
		}
	}
	return t.out.end(err)
}

func badHello(why string) *agentpb.Refusal {
	return &agentpb.Refusal{Reason: agentpb.Refusal_BAD_HELLO, Detail: why}
}

// examine says what is wrong with a Hello: in a word for the agent, or, when it speaks for
// a host that it is not, with an error. host is that of the stream, once it is known.
func (s *Server) examine(ctx context.Context, who trust.Identity, h *agentpb.Hello, host string) (*agentpb.Refusal, error) {
	switch {
	case h.Host == "" || h.BootId == "" || h.ProcessId == "":
		return badHello("a Hello has host, boot_id and process_id"), nil
	case host != "" && h.Host != host:
		return badHello(fmt.Sprintf("a stream of %.70s cannot speak for another host", host)), nil
	}
	return nil, s.speaksFor(ctx, who, h.Host)
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

// take acts on one frame; the first is a Hello.
func (w *wire) take(up *agentpb.Up) error {
	w.heard.Store(w.s.now().UnixNano())
	if up.GetHello() != nil {
		return w.greet(up)
	}
	if err := w.s.guards.of(w.last.Host).frame(up); err != nil {
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
func (w *wire) greet(up *agentpb.Up) error {
	h := up.GetHello()
	if r, err := w.s.examine(w.ctx, w.who, h, w.last.GetHost()); err != nil {
		return err
	} else if r != nil {
		return &refusedError{r}
	}
	if h.Role == agentpb.Hello_STANDBY {
		return &refusedError{badHello("a stream in use cannot become a silent one")}
	}
	if w.last != nil && h.Session <= w.last.Session {
		return &abuseError{ReplayedHello, "a Hello that came before on this stream"}
	}
	if err := w.s.guards.of(h.Host).hello(up); err != nil {
		return err
	}
	w.last = h
	w.mu.Lock()
	w.host = h.Host
	w.mu.Unlock()
	w.attach(nil, nil, errMoved)
	ses, a := w.s.begin(h, w, "")
	switch {
	case ses != nil:
		w.settings(a.Welcome.Settings)
		w.attach(ses, nil, nil)
	case a.Owner != nil:
		w.s.carry(w, h, *a.Owner)
	default:
		w.put(a.Refusal)
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

// settings notes after how long a silent link is half-open.
func (w *wire) settings(p *agentpb.Settings) {
	if ms := p.GetPingIntervalMs(); ms > 0 {
		w.limit.Store(int64(halfOpen(time.Duration(ms) * time.Millisecond)))
	}
}

// send implements line.
func (w *wire) send(d *agentpb.Down) { w.out.put(d) }

// refuse implements line.
func (w *wire) refuse(r *agentpb.Refusal) { w.out.refuse(r) }

// cancel ends the stream without a word.
func (w *wire) cancel(cause error) { w.out.cancel(cause) }

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
	for last := s.now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		now := s.now()
		if late := now.Sub(last); late < 2*sweepEvery { // else it was not them who were silent
			s.sweep(now)
		} else {
			s.excuse(late)
		}
		last = now
	}
}

func (s *Server) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.wires {
		if limit := w.limit.Load(); limit > 0 && now.UnixNano()-w.heard.Load() > limit {
			w.cancel(errors.New("link is half-open: no ping came in time"))
		}
		w.mu.Lock()
		lost := w.lost
		w.mu.Unlock()
		if !lost.IsZero() && now.Sub(lost) > homeless+w.spread {
			w.cancel(errors.New("nobody owns the host, or its owner cannot be reached"))
		}
	}
	for q := range s.silent {
		if limit := q.limit.Load(); limit > 0 && now.UnixNano()-q.heard.Load() > limit {
			q.out.refuse(mute)
		}
	}
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
