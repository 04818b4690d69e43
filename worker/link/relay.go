// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

const (
	// relayBeat is how often both ends of a relay say that they are there, and RelaySilence
	// after how long without a word each gives it up: sooner than any missed pings count.
	relayBeat    = 400 * time.Millisecond
	relayLate    = 2*relayBeat + 200*time.Millisecond // without a word for longer, the other side stands still
	RelaySilence = 2 * time.Second
	// relayQueue bounds what waits to be sent on a relay; a host that would not fit loses its
	// session.
	relayQueue = 8192
	// envelope is what a relay adds to a frame at most, in bytes.
	envelope = 64
)

// relay is the stream from this worker, the carrier, to a worker that owns hosts which are
// linked here.
type relay struct {
	s      *Server
	peer   Peer
	out    chan *agentpb.FromCarrier
	cancel context.CancelCauseFunc
	done   <-chan struct{}

	mu       sync.Mutex
	last     uint64 // channel
	channels map[uint64]*channel
	shown    []*x509.Certificate // by the owner; nil on plaintext, and until it has answered
	ended    bool
}

// channel is the way of one agent's frames over a relay.
type channel struct {
	relay   *relay
	number  uint64
	wire    *wire
	greeted bool // the owner has answered; guarded by the relay's lock
}

// carry sends a Hello to the owner, and all that follows on the wire; what the owner says
// comes back on it.
func (s *Server) carry(w *wire, h *agentpb.Hello, owner Peer) {
	for {
		r := s.relayTo(owner)
		r.mu.Lock()
		if r.ended {
			r.mu.Unlock()
			<-r.done // it is on its way out
			s.unlist(r)
			continue
		}
		r.last++
		ch := &channel{relay: r, number: r.last, wire: w}
		r.channels[ch.number] = ch
		r.mu.Unlock()
		w.attach(nil, ch, nil)
		ch.up(&agentpb.Up{Frame: &agentpb.Up_Hello{Hello: h}})
		return
	}
}

// relayTo returns the relay to an owner, which is opened if there is none.
func (s *Server) relayTo(owner Peer) *relay {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.relays[owner.ID]; r != nil && r.peer == owner {
		return r
	} else if r != nil {
		r.cancel(errors.New("the owner has another address now"))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &relay{s: s, peer: owner, out: make(chan *agentpb.FromCarrier, relayQueue), cancel: cancel, done: ctx.Done(), channels: map[uint64]*channel{}}
	if s.closed {
		cancel(&refusedError{stopping})
	}
	s.relays[owner.ID] = r
	s.work.Go(func() { r.run(ctx) })
	return r
}

func (s *Server) unlist(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.relays[r.peer.ID] == r {
		delete(s.relays, r.peer.ID)
	}
}

// run keeps the relay until it breaks; then its agents are asked for a Hello, which goes to
// who owns their hosts then.
func (r *relay) run(ctx context.Context) {
	err := r.converse(ctx)
	r.cancel(err)
	r.s.unlist(r)
	r.mu.Lock()
	r.ended = true
	left := r.channels
	r.channels = nil
	r.mu.Unlock()
	r.s.mu.Lock()
	since, known := r.s.lost[r.peer.ID]
	if !known {
		since = r.s.now()
		r.s.lost[r.peer.ID] = since
	}
	closed := r.s.closed
	r.s.mu.Unlock()
	if closed {
		return
	}
	r.s.log.Warn("relay ended", "owner", r.peer.ID, "hosts", len(left), "cause", err)
	for _, ch := range left {
		switch {
		case !ch.wire.holds(ch):
		case ch.greeted:
			ch.wire.soon()
		default:
			ch.wire.refuse(nil, r.s.h.Unreachable(r.peer, since))
		}
	}
}

// holds reports whether the channel is where the wire's frames go.
func (w *wire) holds(ch *channel) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.channel == ch
}

// converse dials the owner and exchanges frames with it.
func (r *relay) converse(ctx context.Context) error {
	conn, err := r.s.dial(r.peer)
	if err != nil {
		return err
	}
	defer conn.Close() // the stream on it has ended
	silent := time.AfterFunc(RelaySilence, func() { r.cancel(fmt.Errorf("owner %s: not a word within %v", r.peer.ID, RelaySilence)) })
	defer silent.Stop()
	st, err := agentpb.NewRelayClient(conn).Carry(ctx)
	if err != nil {
		return fmt.Errorf("relay to owner %s: %w", r.peer.ID, orCause(ctx, err))
	}
	if err := st.Send(&agentpb.FromCarrier{What: &agentpb.FromCarrier_Carrier{Carrier: &agentpb.Carrier{Worker: r.s.id, Boot: r.s.boot}}}); err != nil {
		return fmt.Errorf("relay to owner %s: %w", r.peer.ID, orCause(ctx, err))
	}
	var sending sync.WaitGroup
	sending.Go(func() {
		r.cancel(beat(ctx, r.out, &agentpb.FromCarrier{}, st.Send))
	})
	defer sending.Wait()
	for first := true; ; first = false {
		f, err := st.Recv()
		if err != nil {
			err = fmt.Errorf("relay to owner %s: %w", r.peer.ID, orCause(ctx, err))
			r.cancel(err)
			return err
		}
		silent.Reset(RelaySilence)
		if first {
			shown := certificatesOf(st.Context())
			r.mu.Lock()
			r.shown = shown
			r.mu.Unlock()
			if r.s.trust != nil && r.s.trust.Revoked(shown) != nil { // too late for CutCertificates
				r.cancel(errors.New(cutWhy))
				return fmt.Errorf("relay to owner %s: %s", r.peer.ID, cutWhy)
			}
			r.s.mu.Lock()
			delete(r.s.lost, r.peer.ID)
			r.s.mu.Unlock()
		}
		if f.Channel != 0 {
			r.down(f)
		}
	}
}

func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// beat sends what is queued, and a sign of life now and then, until ctx ends.
func beat[T any](ctx context.Context, out <-chan T, alive T, send func(T) error) error {
	t := time.NewTicker(relayBeat)
	defer t.Stop()
	for {
		next := alive
		select {
		case next = <-out:
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := send(next); err != nil {
			return fmt.Errorf("send on relay: %w", err)
		}
	}
}

// down passes on what the owner says.
func (r *relay) down(f *agentpb.FromOwner) {
	d := f.GetDown()
	refusal := d.GetRefusal()
	r.mu.Lock()
	ch := r.channels[f.Channel]
	greeted := ch != nil && ch.greeted
	if ch != nil {
		ch.greeted = ch.greeted || d.GetWelcome() != nil
	}
	if d == nil || refusal != nil {
		delete(r.channels, f.Channel)
	}
	r.mu.Unlock()
	switch {
	case ch == nil || !ch.wire.holds(ch):
	case d == nil && greeted:
		ch.wire.again()
	case d == nil: // one of us is behind: not at once again, or two that disagree would run in a circle
		ch.wire.refuse(nil, &agentpb.Refusal{Reason: agentpb.Refusal_NO_OWNER, Detail: "the owner is just changing"})
	case refusal != nil:
		ch.wire.refuse(nil, refusal)
	default:
		if d.GetWelcome() != nil {
			ch.wire.homed()
		}
		ch.wire.send(d)
	}
}

// up passes on what the agent says; false: the relay is over.
func (ch *channel) up(up *agentpb.Up) bool {
	if proto.Size(up) > frame.Max-envelope {
		ch.wire.cancel(errors.New("frame is too large"))
		return true
	}
	return ch.put(&agentpb.FromCarrier{Channel: ch.number, What: &agentpb.FromCarrier_Up{Up: up}})
}

func (ch *channel) put(f *agentpb.FromCarrier) bool {
	select {
	case <-ch.relay.done:
		return false
	case ch.relay.out <- f:
		return true
	default:
		ch.relay.cancel(errors.New("owner reads too slowly: queue is full"))
		return false
	}
}

// gone tells the owner that frames of this channel come no more.
func (ch *channel) gone(cause error) {
	r := ch.relay
	r.mu.Lock()
	_, open := r.channels[ch.number]
	delete(r.channels, ch.number)
	r.mu.Unlock()
	if open {
		ch.put(&agentpb.FromCarrier{Channel: ch.number, What: &agentpb.FromCarrier_Gone{Gone: fmt.Sprint(cause)}})
	}
}

// inbound is a relay as the owner sees it.
type inbound struct {
	s       *Server
	carrier string
	shown   []*x509.Certificate // nil on plaintext
	out     chan *agentpb.FromOwner
	cancel  context.CancelCauseFunc
	done    <-chan struct{}
	heard   hearing

	mu       sync.Mutex
	sessions map[uint64]*Session
}

// hearing is when a carrier was heard last, and when it last came back from a silence: what
// its agents said meanwhile may still be on its way.
type hearing struct {
	mu         sync.Mutex
	last, back time.Time
}

func (h *hearing) word(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.last.IsZero() && now.Sub(h.last) > relayLate {
		h.back = now
	}
	h.last = now
}

// stood returns when the last silence ended, which is now while it lasts; ok is false when
// there was none.
func (h *hearing) stood(now time.Time) (back time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.last.IsZero() && now.Sub(h.last) > relayLate {
		return now, true
	}
	return h.back, !h.back.IsZero()
}

// CarrierStood returns when the worker that carries a host's link last came back from a
// silence, which is now while it is silent: the host's pings wait with it, and nobody may
// miss them before they had time to arrive. ok is false when there was none, or the link is
// this worker's own.
func (s *Server) CarrierStood(host string) (back time.Time, ok bool) {
	if ses := s.Session(host); ses != nil {
		if l, carried := ses.line.(*inboundLine); carried {
			return l.in.heard.stood(s.now())
		}
	}
	return time.Time{}, false
}

// Carry implements agentpb.RelayServer.
func (s *Server) Carry(st grpc.BidiStreamingServer[agentpb.FromCarrier, agentpb.FromOwner]) error {
	who, shown, err := s.admit(st.Context(), trust.Worker)
	if err != nil {
		return err
	}
	first, err := st.Recv()
	if err != nil {
		return err
	}
	c := first.GetCarrier()
	if c.GetWorker() == "" || s.trust != nil && who != (trust.Identity{Role: trust.Worker, ID: c.GetWorker()}) {
		return status.Error(codes.PermissionDenied, "the first frame must name the carrier, which must be who the certificate says")
	}
	ctx, cancel := context.WithCancelCause(st.Context())
	defer cancel(nil)
	in := &inbound{s: s, carrier: c.Worker, shown: shown, out: make(chan *agentpb.FromOwner, relayQueue), cancel: cancel, done: ctx.Done(), sessions: map[uint64]*Session{}}
	s.mu.Lock()
	late := s.late(shown)
	if late == nil {
		s.inbounds[in] = true
	}
	s.mu.Unlock()
	if late != nil {
		return status.Error(codes.Unavailable, late.Detail)
	}
	defer func() {
		s.mu.Lock()
		delete(s.inbounds, in)
		s.mu.Unlock()
	}()
	silent := time.AfterFunc(RelaySilence, func() { cancel(fmt.Errorf("not a word within %v", RelaySilence)) })
	defer silent.Stop()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		cancel(beat(ctx, in.out, &agentpb.FromOwner{}, st.Send))
	}()
	go func() {
		for {
			f, err := st.Recv()
			if err != nil {
				cancel(err)
				return
			}
			silent.Reset(RelaySilence)
			in.heard.word(s.now())
			if f.Channel != 0 {
				in.take(f)
			}
		}
	}()
	<-ctx.Done()
	in.end(context.Cause(ctx))
	idle := time.NewTimer(frame.WriteLimit)
	defer idle.Stop()
	select { // a writer stuck in flow control is freed only by this handler's return
	case <-sent:
	case <-idle.C:
	}
	return status.Error(codes.Unavailable, "relay ended")
}

// take acts on a frame of an agent. Each Hello comes on a channel of its own.
func (in *inbound) take(f *agentpb.FromCarrier) {
	in.mu.Lock()
	ses := in.sessions[f.Channel]
	in.mu.Unlock()
	up := f.GetUp()
	switch {
	case ses == nil && up.GetHello() != nil:
		l := &inboundLine{in, f.Channel}
		ses, a := in.s.begin(up.GetHello(), l, in.carrier)
		switch {
		case ses != nil:
			in.put(f.Channel, ses)
		case a.Owner != nil: // it has moved on while the Hello was on its way
			l.again()
		default:
			l.refuse(nil, a.Refusal)
		}
	case ses == nil:
	case up != nil:
		in.s.take(ses, up)
	default:
		in.remove(f.Channel)
		in.s.over(ses, errors.New(f.GetGone()))
	}
}

// put notes the session of a channel. A relay that has ended meanwhile carries none.
func (in *inbound) put(channel uint64, ses *Session) {
	in.mu.Lock()
	live := in.sessions != nil
	if live {
		in.sessions[channel] = ses
	}
	in.mu.Unlock()
	if !live {
		in.s.over(ses, ErrCarrierLost)
	}
}

func (in *inbound) remove(channel uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.sessions, channel)
}

// end ends all sessions of the relay: what has become of their agents is not known.
func (in *inbound) end(cause error) {
	in.mu.Lock()
	all := in.sessions
	in.sessions = nil
	in.mu.Unlock()
	if len(all) > 0 {
		in.s.log.Warn("carrier lost", "carrier", in.carrier, "hosts", len(all), "cause", cause)
	}
	for _, ses := range all {
		in.s.over(ses, ErrCarrierLost)
	}
}

// inboundLine is the way to one agent over its carrier.
type inboundLine struct {
	in      *inbound
	channel uint64
}

func (l *inboundLine) queue(f *agentpb.FromOwner) {
	f.Channel = l.channel
	select {
	case l.in.out <- f:
	case <-l.in.done:
	default:
		l.in.cancel(errors.New("carrier reads too slowly: queue is full"))
	}
}

func (l *inboundLine) send(d *agentpb.Down) {
	l.queue(&agentpb.FromOwner{What: &agentpb.FromOwner_Down{Down: d}})
}

func (l *inboundLine) refuse(_ *Session, r *agentpb.Refusal) {
	l.in.remove(l.channel)
	l.send(&agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}})
}

func (l *inboundLine) again() {
	l.in.remove(l.channel)
	l.queue(&agentpb.FromOwner{What: &agentpb.FromOwner_Over{Over: errMoved.Error()}})
}
