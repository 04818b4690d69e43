// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// Handler is told of every frame. Its calls come from the stream's own goroutine, in
// the order of the frames of one session; they must not block.
type Handler interface {
	// Hello admits a session or refuses it; exactly one of the two answers is set.
	Hello(h *agentpb.Hello) (*agentpb.Welcome, *agentpb.Refusal)
	// Ping was received at the given time; the answer goes back at once. A refusal
	// closes the session instead (the host is not ours any more).
	Ping(s *Session, p *agentpb.Ping, at time.Time) (*agentpb.Pong, *agentpb.Refusal)
	// Linked: an admitted session can be asked from now on.
	Linked(s *Session, h *agentpb.Hello)
	// Steps are what the agent wrote down about commands, in the order of each command's.
	Steps(s *Session, st *agentpb.Steps)
	// Progress is how far commands are.
	Progress(s *Session, p *agentpb.Progresses)
	// Goodbye announces an orderly end.
	Goodbye(s *Session, g *agentpb.Goodbye)
	// Gone: the stream of an admitted session has ended.
	Gone(s *Session, cause error)
}

// ErrNotLinked is returned for a host without a session at this worker.
var ErrNotLinked = errors.New("host is not linked to this worker")

const (
	maxFrame    = 1 << 20
	sendTimeout = 5 * time.Second
	sendQueue   = 64
)

// Server holds the sessions of one worker. Make it with New, register it on a gRPC
// server made by NewGRPC.
type Server struct {
	h     Handler
	log   *slog.Logger
	now   func() time.Time
	trust *trust.Source // nil: plaintext

	mu       sync.Mutex
	sessions map[string]*Session
	closed   bool
	agentpb.UnimplementedLinkServer
}

// New makes a door without a listener.
func New(h Handler, log *slog.Logger) *Server {
	return &Server{h: h, log: log, now: time.Now, sessions: map[string]*Session{}}
}

// NewGRPC makes the gRPC server for s with bounded frames, small buffers (an idle
// agent's memory is mostly buffers, leases.md §7) and keep-alives that find half-open
// peers; the ping message stays the health signal. Only hosts with a certificate that src
// admits get in, each for itself; with a nil src the door is plaintext, which only a
// loopback address may be.
func NewGRPC(s *Server, src *trust.Source, opts ...grpc.ServerOption) *grpc.Server {
	if s.trust = src; src != nil {
		opts = append(opts, grpc.Creds(newDoorCreds(src)))
	}
	g := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxFrame), grpc.MaxSendMsgSize(maxFrame),
		grpc.ReadBufferSize(4 << 10), grpc.WriteBufferSize(4 << 10), grpc.SharedWriteBuffer(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}, opts...)...)
	agentpb.RegisterLinkServer(g, s)
	return g
}

// Session is one admitted stream of one host.
type Session struct {
	Host, Boot, Process string
	Number              uint64
	Remote              string
	Since               time.Time

	out    chan *agentpb.Down
	cancel context.CancelCauseFunc
	done   <-chan struct{}

	mu      sync.Mutex
	waiting map[string]chan *agentpb.Answer
}

// newer reports whether a is a newer session of the same host than b: another boot or
// process that came later, or a higher counter of the same process.
func (a *Session) newer(b *Session) bool {
	if a.Boot == b.Boot && a.Process == b.Process {
		return a.Number > b.Number
	}
	return true
}

// Connect implements agentpb.LinkServer.
func (s *Server) Connect(stream grpc.BidiStreamingServer[agentpb.Up, agentpb.Down]) error {
	who, err := s.admit(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil || hello.Host == "" || hello.BootId == "" || hello.ProcessId == "" {
		return refuse(stream, &agentpb.Refusal{Reason: agentpb.Refusal_BAD_HELLO, Detail: "the first frame must be a Hello with host, boot_id and process_id"})
	}
	if err := s.speaksFor(stream.Context(), who, hello.Host); err != nil {
		return err
	}
	welcome, refusal := s.h.Hello(hello)
	if refusal != nil {
		return refuse(stream, refusal)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	ses := &Session{
		Host: hello.Host, Boot: hello.BootId, Process: hello.ProcessId, Number: hello.Session, Since: s.now(),
		out: make(chan *agentpb.Down, sendQueue), cancel: cancel, done: ctx.Done(), waiting: map[string]chan *agentpb.Answer{},
	}
	if refusal := s.enter(ses); refusal != nil {
		return refuse(stream, refusal)
	}
	defer func() {
		s.leave(ses)
		s.h.Gone(ses, context.Cause(ctx))
	}()
	if err := stream.Send(&agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	s.h.Linked(ses, hello)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.write(ctx, stream, ses)
	}()
	go func() {
		// Recv returns only when the handler returns or the peer ends the stream, so it
		// runs beside and the handler below waits for the session's own end.
		cancel(s.read(stream, ses))
	}()
	<-ctx.Done()
	// A writer stuck in flow control is freed only by this handler's return.
	idle := time.NewTimer(sendTimeout)
	defer idle.Stop()
	select {
	case <-sent:
		var r *refusedError
		if errors.As(context.Cause(ctx), &r) {
			return refuse(stream, r.Refusal)
		}
	case <-idle.C:
	}
	return status.Error(codes.Unavailable, "session ended")
}

type refusedError struct{ *agentpb.Refusal }

func (r *refusedError) Error() string { return "session refused: " + r.Refusal.GetReason().String() }

func refuse(stream grpc.BidiStreamingServer[agentpb.Up, agentpb.Down], r *agentpb.Refusal) error {
	return stream.Send(&agentpb.Down{Frame: &agentpb.Down_Refusal{Refusal: r}})
}

// enter makes ses the session of its host, or says why not.
func (s *Server) enter(ses *Session) *agentpb.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return stopping
	}
	if old := s.sessions[ses.Host]; old != nil {
		if !ses.newer(old) {
			return &agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Detail: "a newer session of this host is linked"}
		}
		old.cancel(&refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_REPLACED, Detail: "a newer session of this host has come"}})
	}
	s.sessions[ses.Host] = ses
	return nil
}

var stopping = &agentpb.Refusal{Reason: agentpb.Refusal_SHUTTING_DOWN, Detail: "this worker is stopping"}

func (s *Server) leave(ses *Session) {
	s.mu.Lock()
	if s.sessions[ses.Host] == ses {
		delete(s.sessions, ses.Host)
	}
	s.mu.Unlock()
}

func (s *Server) read(stream grpc.BidiStreamingServer[agentpb.Up, agentpb.Down], ses *Session) error {
	for {
		up, err := stream.Recv()
		if err != nil {
			return err
		}
		switch f := up.Frame.(type) {
		case *agentpb.Up_Ping:
			pong, refusal := s.h.Ping(ses, f.Ping, s.now())
			if refusal != nil {
				return &refusedError{refusal}
			}
			ses.send(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: pong}})
		case *agentpb.Up_Answer:
			ses.mu.Lock()
			ch := ses.waiting[f.Answer.Id]
			delete(ses.waiting, f.Answer.Id)
			ses.mu.Unlock()
			if ch != nil {
				ch <- f.Answer
			}
		case *agentpb.Up_Steps:
			s.h.Steps(ses, f.Steps)
		case *agentpb.Up_Progress:
			s.h.Progress(ses, f.Progress)
		case *agentpb.Up_Goodbye:
			s.h.Goodbye(ses, f.Goodbye)
		case *agentpb.Up_Hello:
			return &refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_BAD_HELLO, Detail: "a second Hello on one stream"}}
		}
	}
}

// send queues a frame. A peer so slow that its queue is full is cut: memory per agent
// is bounded.
func (ses *Session) send(d *agentpb.Down) {
	select {
	case ses.out <- d:
	case <-ses.done:
	default:
		ses.cancel(errors.New("agent reads too slowly: send queue is full"))
	}
}

func (s *Server) write(ctx context.Context, stream grpc.BidiStreamingServer[agentpb.Up, agentpb.Down], ses *Session) {
	stuck := time.AfterFunc(time.Hour, func() { ses.cancel(fmt.Errorf("send to agent: not taken within %v", sendTimeout)) })
	stuck.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-ses.out:
			stuck.Reset(sendTimeout)
			err := stream.Send(d)
			stuck.Stop()
			if err != nil {
				ses.cancel(fmt.Errorf("send to agent: %w", err))
				return
			}
		}
	}
}

// Ask sends a request to the agent of host and waits for its answer until ctx ends.
// The caller sets the epoch; the id is made here. Errors: ErrNotLinked, the context's
// cause, or the session's end.
func (s *Server) Ask(ctx context.Context, host string, r *agentpb.Request) (*agentpb.Answer, error) {
	s.mu.Lock()
	ses := s.sessions[host]
	s.mu.Unlock()
	if ses == nil {
		return nil, ErrNotLinked
	}
	r.Id = uuid.NewString()
	if dl, ok := ctx.Deadline(); ok && r.TimeoutMs == 0 {
		r.TimeoutMs = max(1, time.Until(dl).Milliseconds())
	}
	ch := make(chan *agentpb.Answer, 1)
	ses.mu.Lock()
	ses.waiting[r.Id] = ch
	ses.mu.Unlock()
	defer func() {
		ses.mu.Lock()
		delete(ses.waiting, r.Id)
		ses.mu.Unlock()
	}()
	ses.send(&agentpb.Down{Frame: &agentpb.Down_Request{Request: r}})
	select {
	case a := <-ch:
		if a.Error != "" {
			return nil, fmt.Errorf("agent %s: %s", host, a.Error)
		}
		return a, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-ses.done:
		return nil, ErrNotLinked
	}
}

// Session returns the present session of a host, nil when there is none here.
func (s *Server) Session(host string) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[host]
}

// Count returns the number of sessions.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Drop ends the session of a host with a refusal that says why, e.g. that another
// worker owns it now. Without a session it does nothing.
func (s *Server) Drop(host string, r *agentpb.Refusal) {
	if ses := s.Session(host); ses != nil {
		ses.cancel(&refusedError{r})
	}
}

// Close refuses new sessions and ends all present ones; streams return soon after.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	all := make([]*Session, 0, len(s.sessions))
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	for _, ses := range all {
		ses.cancel(&refusedError{stopping})
	}
}
