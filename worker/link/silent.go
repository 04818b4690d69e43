// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// halfOpen is the silence after which a link is given up (agents.md "Link").
func halfOpen(ping time.Duration) time.Duration { return 2*ping + time.Second }

// silent is an agent's stream that stands by: it carries nothing but now and then a ping
// without a report, until its agent says Hello on it again.
type silent struct {
	host  string
	shown []*x509.Certificate // nil on plaintext
	out   *outbox

	heard atomic.Int64 // when the last frame came, unix nanoseconds
	limit atomic.Int64 // as of a wire; 0 until the first ping: an agent that sends none is not cut
}

var mute = &agentpb.Refusal{Detail: "standby stream is half-open: no ping came in time"}

// standBy holds a silent stream until its agent says something else than a ping, which it
// returns.
func (s *Server) standBy(out *outbox, who trust.Identity, shown []*x509.Certificate, up *agentpb.Up) (*agentpb.Up, error) {
	h := up.GetHello()
	if r, err := s.examine(out.stream.Context(), who, h, ""); err != nil {
		return up, err
	} else if r != nil {
		return up, &refusedError{r}
	}
	if err := s.guards.of(h.Host).hello(up); err != nil {
		return up, err
	}
	ping, refusal := s.h.Standby(h)
	if refusal != nil {
		return up, &refusedError{refusal}
	}
	q := &silent{host: h.Host, shown: shown, out: out}
	if !s.keepSilent(q) {
		return up, &refusedError{stopping}
	}
	defer s.forgetSilent(q)
	out.put(&agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: s.id}}})
	if d := s.revoked.Load(); d != nil {
		out.put(d)
	}
	for {
		f, err := out.stream.Recv()
		q.heard.Store(s.now().UnixNano())
		switch {
		case err != nil:
			return up, err // up says whose stream it was
		case f.GetPing() == nil:
			return f, nil
		}
		if err := s.guards.of(h.Host).frame(f); err != nil {
			return up, err
		}
		q.limit.Store(int64(halfOpen(ping)))
		held := out.hold()
		out.put(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: &agentpb.Pong{Seq: f.GetPing().Seq}}})
		if held {
			out.send()
		}
	}
}

// keepSilent notes a stream that stands by; false when the worker is stopping.
func (s *Server) keepSilent(q *silent) bool {
	q.heard.Store(s.now().UnixNano())
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.silent[q] = true
	}
	return !s.closed
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
		q.out.put(d)
	}
}
