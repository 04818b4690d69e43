// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// halfOpen is the silence after which a link is given up (agents.md "Link").
func halfOpen(ping time.Duration) time.Duration { return 2*ping + time.Second }

// silent is an agent's stream that stands by: it carries nothing but now and then a ping
// without a report, until its agent says Hello on it again.
type silent struct {
	host   string
	shown  []*x509.Certificate // nil on plaintext
	out    chan *agentpb.Down  // what a worker has to say of its own
	cancel context.CancelCauseFunc

	heard atomic.Int64 // when the last frame came, unix nanoseconds
	limit atomic.Int64 // as of a wire; 0 until the first ping: an agent that sends none is not cut
}

var errHalfOpen = status.Error(codes.Unavailable, "standby stream is half-open: no ping came in time")

// standBy holds a silent stream until its agent says something. It costs two goroutines.
func (s *Server) standBy(st stream, who trust.Identity, shown []*x509.Certificate, up *agentpb.Up) (*agentpb.Up, error) {
	h := up.GetHello()
	if r, err := s.examine(st.Context(), who, h, ""); r != nil || err != nil {
		return nil, orRefuse(st, r, err)
	}
	if err := s.guards.of(h.Host).hello(up); err != nil {
		return up, err
	}
	ping, refusal := s.h.Standby(h)
	if refusal != nil {
		return nil, refuse(st, refusal)
	}
	ctx, cancel := context.WithCancelCause(st.Context())
	defer cancel(nil)
	q := &silent{host: h.Host, shown: shown, out: make(chan *agentpb.Down, 1), cancel: cancel}
	if r := s.keepSilent(q); r != nil {
		return nil, refuse(st, r)
	}
	defer s.forgetSilent(q)
	next := &agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: s.id}}}
	if err := st.Send(next); err != nil {
		return nil, err
	}
	if d := s.revoked.Load(); d != nil {
		q.tell(d)
	}
	frames := make(chan frame)
	go func() { // ends with a frame that is not a ping, or with the stream, which ends with the handler
		for pinging := true; pinging; {
			up, err := st.Recv()
			pinging = err == nil && up.GetPing() != nil
			q.heard.Store(s.now().UnixNano())
			select {
			case frames <- frame{up, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			var r *refusedError
			if errors.As(context.Cause(ctx), &r) {
				return nil, refuse(st, r.Refusal)
			}
			return nil, context.Cause(ctx)
		case next = <-q.out:
		case f := <-frames:
			if f.err != nil || f.up.GetPing() == nil {
				return f.up, f.err
			}
			if err := s.guards.of(h.Host).frame(f.up); err != nil {
				return f.up, err
			}
			q.limit.Store(int64(halfOpen(ping)))
			next = &agentpb.Down{Frame: &agentpb.Down_Pong{Pong: &agentpb.Pong{Seq: f.up.GetPing().Seq}}}
		}
		if err := st.Send(next); err != nil {
			return nil, err
		}
	}
}

// frame is what a stream gave.
type frame struct {
	up  *agentpb.Up
	err error
}

// tell leaves a frame for the agent; the newest takes the place of one that still waits.
func (q *silent) tell(d *agentpb.Down) {
	for {
		select {
		case q.out <- d:
			return
		default:
		}
		select {
		case <-q.out:
		default:
		}
	}
}

// keepSilent notes a stream that stands by, or says why it may not.
func (s *Server) keepSilent(q *silent) *agentpb.Refusal {
	q.heard.Store(s.now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	refusal := s.late(q.shown)
	if refusal == nil {
		s.silent[q] = true
	}
	return refusal
}

func (s *Server) forgetSilent(q *silent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.silent, q)
}

// Revoked tells all agents that are linked here or stand by, and those that come, which
// certificates of workers are worth nothing any more. Idempotent.
func (s *Server) Revoked(all []*agentpb.RevokedCertificate) {
	if len(all) == 0 {
		return
	}
	d := &agentpb.Down{Frame: &agentpb.Down_Revoked{Revoked: &agentpb.Revoked{Certificates: all}}}
	s.revoked.Store(d)
	s.Tell(func(string, string) *agentpb.Down { return d })
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.silent {
		q.tell(d)
	}
}
