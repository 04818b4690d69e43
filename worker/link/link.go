// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// Handler is told of every frame of the hosts that this worker owns, whoever carries them.
// Its calls come from the goroutine that reads the frames of one session, in their order;
// they must not block.
type Handler interface {
	// Hello says what becomes of a session. One that is welcome may come to nothing all the same,
	// where a newer one was quicker.
	Hello(h *agentpb.Hello) Admission
	// Standby says why a host may not have a silent stream here; nil: it may.
	Standby(h *agentpb.Hello) *agentpb.Refusal
	// PingInterval is what the settings say of a host, whoever owns it.
	PingInterval(host string) time.Duration
	// Unreachable says what an agent is told whose frames cannot be carried to the owner,
	// which has not been reached since then.
	Unreachable(owner Peer, since time.Time) *agentpb.Refusal
	// Ping was received at the given time; the answer goes back at once. nil: the host is
	// not ours any more.
	Ping(s *Session, p *agentpb.Ping, at time.Time) *agentpb.Pong
	// Linked: an admitted session can be asked from now on.
	Linked(s *Session, h *agentpb.Hello)
	// Steps are what the agent wrote down about commands, in the order of each command's.
	Steps(s *Session, st *agentpb.Steps)
	// Progress is how far commands are.
	Progress(s *Session, p *agentpb.Progresses)
	// Goodbye announces an orderly end.
	Goodbye(s *Session, g *agentpb.Goodbye)
	// Gone: an admitted session has ended; ErrCarrierLost: not the agent is known to be gone,
	// but the worker that carries its link.
	Gone(s *Session, cause error)
}

// Admission is the answer to a Hello: exactly one of the three is set.
type Admission struct {
	Welcome *agentpb.Welcome
	Refusal *agentpb.Refusal
	Owner   *Peer // carry the frames to this worker
}

// Peer is another worker.
type Peer struct{ ID, Address string }

// ErrNotLinked is returned for a host without a session at this worker.
var ErrNotLinked = errors.New("host is not linked to this worker")

// ErrCarrierLost ends the sessions that a worker carried which cannot be reached.
var ErrCarrierLost = errors.New("the worker that carries the link cannot be reached")

// sendQueue bounds what waits to be sent to one agent, in frames.
const sendQueue = 64

// Server is what is behind the door of one worker: it holds agents' streams, and the sessions of the hosts
// that the worker owns. Make it with New, give it a Door, and let it Run.
type Server struct {
	h     Handler
	id    string // of this worker
	boot  string
	log   *slog.Logger
	now   func() time.Time
	trust *trust.Source // nil: plaintext

	issuer  Issuer      // nil: hosts get no certificates here
	hostile func(Abuse) // told of each session that was cut for what it sent
	guards  *guards
	patient time.Duration // from a stream's beginning to its Hello
	agentpb.UnimplementedEnrollServer

	revoked atomic.Pointer[agentpb.Down] // nil: nothing is
	work    sync.WaitGroup               // relays to owners
	peers   peers

	mu       sync.Mutex
	sessions map[string]*Session  // of the hosts owned here
	wires    map[*wire]bool       // agents' streams in use, also between two owners
	silent   map[*silent]bool     // those that stand by
	inbounds map[*inbound]bool    // relays from other workers
	relays   map[string]*relay    // to owners, by their ids
	lost     map[string]time.Time // since when an owner is not reached
	closed   bool
	agentpb.UnimplementedRelayServer
}

// New makes it for a worker, without a door.
func New(id string, h Handler, log *slog.Logger) *Server {
	s := &Server{
		h: h, id: id, boot: uuid.NewString(), log: log, now: time.Now, sessions: map[string]*Session{}, wires: map[*wire]bool{},
		silent: map[*silent]bool{}, inbounds: map[*inbound]bool{},
		relays: map[string]*relay{}, lost: map[string]time.Time{}, hostile: func(Abuse) {}, guards: newGuards(time.Now), patient: helloLimit,
	}
	s.peers.s = s
	return s
}

// Session is one host's admitted session: over a stream of this worker, or over another
// worker that carries it.
type Session struct {
	Host, Boot, Process string
	Number              uint64
	Carrier             string // worker that holds the link; empty: this one
	Since               time.Time

	line line
	live atomic.Bool            // it is the session of its host; every frame asks, without a lock that hosts share
	asks map[string]*asking     // guarded by the server's lock
	list atomic.Pointer[string] // hash of the list that the agent has, as far as this worker knows
}

// line is the way to an agent. Its methods never block.
type line interface {
	send(d *agentpb.Down) // a peer too slow to take it is cut
	// refuse is the last word of a session, nil: of one that does not begin, and of the stream
	// unless r says that it goes on.
	refuse(ses *Session, r *agentpb.Refusal)
	again() // the session is over, the stream is as good as before
}

// asking is a request that is under way.
type asking struct {
	request *agentpb.Request
	answer  chan *agentpb.Answer
	lost    chan struct{} // closed when no session is left to answer it
}

// ListHash is the hash of the list that the agent has.
func (ses *Session) ListHash() string {
	if h := ses.list.Load(); h != nil {
		return *h
	}
	return ""
}

// newer reports whether a is a newer session of the same host than b: another boot or
// process that came later, or a higher counter of the same process.
func (ses *Session) newer(b *Session) bool {
	if ses.same(b) {
		return ses.Number > b.Number
	}
	return true
}

func (ses *Session) same(b *Session) bool { return ses.Boot == b.Boot && ses.Process == b.Process }

type refusedError struct{ *agentpb.Refusal }

func (r *refusedError) Error() string { return "session refused: " + r.Refusal.GetReason().String() }

var (
	stopping = &agentpb.Refusal{Reason: agentpb.Refusal_SHUTTING_DOWN, Detail: "this worker is stopping"}
	replaced = &agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Detail: "another process speaks for this host"}
	// A process that meets itself, on another stream, need not stand back: whichever of its
	// streams is left, it may say hello again at once.
	superseded = &agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Detail: "a newer session of this process has come", RetryAfterMs: 100}
	// It has said that it lets the older stream stand by.
	left = &agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Detail: superseded.Detail, Keeps: true}
)

// begin makes a session of a Hello that came over a line, if the handler admits it; the
// welcome is on its way then.
func (s *Server) begin(h *agentpb.Hello, l line, carrier string) (*Session, Admission) {
	a := s.h.Hello(h)
	if a.Welcome == nil {
		return nil, a
	}
	ses := &Session{Host: h.Host, Boot: h.BootId, Process: h.ProcessId, Number: h.Session, Carrier: carrier, Since: s.now(), line: l, asks: map[string]*asking{}}
	hash := h.GetList().GetHash()
	if a.Welcome.List != nil {
		hash = a.Welcome.List.Hash
	}
	ses.list.Store(&hash)
	if r := s.enter(ses, a.Welcome, h.Keeps); r != nil {
		return nil, Admission{Refusal: r}
	}
	s.h.Linked(ses, h)
	return ses, a
}

// enter makes ses the session of its host, or says why not. What an older session of the
// same process was asked is asked again over the new one; the agent works on it once. keeps: the
// stream of that one goes on without it.
func (s *Server) enter(ses *Session, welcome *agentpb.Welcome, keeps bool) *agentpb.Refusal {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return stopping
	}
	old := s.sessions[ses.Host]
	if old != nil && !ses.newer(old) {
		s.mu.Unlock()
		return superseded
	}
	if s.sessions[ses.Host] = ses; old != nil {
		old.live.Store(false)
	}
	ses.live.Store(true)
	ses.line.send(&agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: welcome}})
	if old != nil && old.same(ses) {
		ses.asks, old.asks = old.asks, nil
		for _, a := range ses.asks {
			ses.line.send(&agentpb.Down{Frame: &agentpb.Down_Request{Request: a.request}})
		}
	}
	s.mu.Unlock()
	if old != nil {
		why := replaced
		switch {
		case old.same(ses) && keeps:
			why = left
		case old.same(ses):
			why = superseded
		}
		s.over(old, &refusedError{why})
		old.line.refuse(old, why)
	}
	return nil
}

// over ends a session, once; what becomes of its line is its caller's business.
func (s *Server) over(ses *Session, cause error) {
	s.mu.Lock()
	current := s.sessions[ses.Host] == ses
	if current {
		delete(s.sessions, ses.Host)
		ses.live.Store(false)
	}
	for _, a := range ses.asks {
		close(a.lost)
	}
	ses.asks = nil
	s.mu.Unlock()
	if current {
		s.h.Gone(ses, cause)
	}
}

// current reports whether ses is the session of its host.
func (s *Server) current(ses *Session) bool { return ses.live.Load() }

// take acts on a frame of a session; false: the session is over.
func (s *Server) take(ses *Session, up *agentpb.Up) bool {
	if !s.current(ses) {
		return false
	}
	switch f := up.Frame.(type) {
	case *agentpb.Up_Ping:
		pong := s.h.Ping(ses, f.Ping, s.now())
		if pong == nil {
			s.over(ses, errMoved)
			ses.line.again()
			return false
		}
		ses.line.send(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: pong}})
	case *agentpb.Up_Answer:
		s.mu.Lock()
		a := ses.asks[f.Answer.Id]
		delete(ses.asks, f.Answer.Id)
		s.mu.Unlock()
		if a != nil {
			a.answer <- f.Answer
		}
	case *agentpb.Up_Steps:
		s.h.Steps(ses, f.Steps)
	case *agentpb.Up_Progress:
		s.h.Progress(ses, f.Progress)
	case *agentpb.Up_Goodbye:
		s.h.Goodbye(ses, f.Goodbye)
	}
	return true
}

var (
	errMoved = errors.New("another worker owns the host")
	errLeft  = errors.New("its agent lets the stream stand by")
)

// Ask sends a request to the agent of host and waits for its answer until ctx ends, also
// while the agent moves from one worker to another. The caller sets the epoch; the id is made
// here. Errors: ErrNotLinked, the context's cause, or the agent's.
func (s *Server) Ask(ctx context.Context, host string, r *agentpb.Request) (*agentpb.Answer, error) {
	r.Id = uuid.NewString()
	if dl, ok := ctx.Deadline(); ok && r.TimeoutMs == 0 {
		r.TimeoutMs = max(1, time.Until(dl).Milliseconds())
	}
	a := &asking{request: r, answer: make(chan *agentpb.Answer, 1), lost: make(chan struct{})}
	s.mu.Lock()
	ses := s.sessions[host]
	if ses != nil {
		ses.asks[r.Id] = a
		ses.line.send(&agentpb.Down{Frame: &agentpb.Down_Request{Request: r}})
	}
	s.mu.Unlock()
	if ses == nil {
		return nil, ErrNotLinked
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if now := s.sessions[host]; now != nil {
			delete(now.asks, r.Id)
		}
	}()
	select {
	case answer := <-a.answer:
		if answer.Error != "" {
			return nil, fmt.Errorf("agent %s: %s", host, answer.Error)
		}
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-a.lost:
		return nil, ErrNotLinked
	}
}

// Session returns the present session of a host that this worker owns, nil when there is none.
func (s *Server) Session(host string) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[host]
}

// SendList sends a list to a host that this worker owns; nothing without a session.
func (s *Server) SendList(host string, l *agentpb.List) {
	if ses := s.Session(host); ses != nil {
		ses.list.Store(&l.Hash)
		ses.line.send(&agentpb.Down{Frame: &agentpb.Down_NewList{NewList: l}})
	}
}

// Move asks the agent of a host that this worker owns to link elsewhere; false without a session.
func (s *Server) Move(host string, m *agentpb.Move) bool {
	ses := s.Session(host)
	if ses != nil {
		ses.line.send(&agentpb.Down{Frame: &agentpb.Down_Move{Move: m}})
	}
	return ses != nil
}

// Drop ends the session of a host with a refusal that says why, e.g. that it is not on
// record any more. Without a session it does nothing.
func (s *Server) Drop(host string, r *agentpb.Refusal) {
	if ses := s.Session(host); ses != nil {
		s.over(ses, &refusedError{r})
		ses.line.refuse(ses, r)
	}
}

// Rehome ends the session of a host that another worker owns now. The link stays: the agent
// is asked for a Hello, which is carried to the new owner.
func (s *Server) Rehome(host string) {
	if ses := s.Session(host); ses != nil {
		s.over(ses, errMoved)
		ses.line.again()
	}
}

// Counts are the streams and sessions of a worker.
type Counts struct {
	Sessions int // of hosts owned here
	Relayed  int // of them, carried by other workers
	Links    int // agents' streams in use here
	Standby  int // silent ones
	Relays   int // streams to other workers that own hosts linked here
}

// Counts returns how much there is of each.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Counts{Sessions: len(s.sessions), Links: len(s.wires), Standby: len(s.silent), Relays: len(s.relays)}
	for _, ses := range s.sessions {
		if ses.Carrier != "" {
			c.Relayed++
		}
	}
	return c
}

// Linked lists the hosts of the agents' streams in use here, whoever owns them; those that
// have not said Hello yet are not among them.
func (s *Server) Linked() []string {
	s.mu.Lock()
	wires := slices.Collect(maps.Keys(s.wires))
	s.mu.Unlock()
	out := make([]string, 0, len(wires))
	for _, w := range wires {
		w.mu.Lock()
		host := w.host
		w.mu.Unlock()
		if host != "" {
			out = append(out, host)
		}
	}
	return out
}

// Close refuses new sessions, ends all present ones and waits for the relays to owners; the
// agents' streams return soon after.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	sessions := make([]*Session, 0, len(s.sessions))
	for _, ses := range s.sessions {
		sessions = append(sessions, ses)
	}
	wires := make([]*wire, 0, len(s.wires))
	for w := range s.wires {
		wires = append(wires, w)
	}
	for _, r := range s.relays {
		r.cancel(&refusedError{stopping})
	}
	for q := range s.silent {
		q.out.refuse(stopping)
	}
	s.mu.Unlock()
	for _, ses := range sessions {
		if s.over(ses, &refusedError{stopping}); ses.Carrier != "" {
			ses.line.again() // its link is another worker's and stays
		}
	}
	for _, w := range wires {
		w.refuse(nil, stopping)
	}
	s.peers.close()
	s.work.Wait()
}
