// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// halfOpen is the silence after which a link is given up (agents.md "Link").
func halfOpen(ping time.Duration) time.Duration { return 2*ping + time.Second }

// silent is an agent's stream that stands by: it carries nothing but now and then a ping
// without a report, until its agent says Hello on it again.
type silent struct {
	host  string
	shown []*x509.Certificate // nil on plaintext
	out   *outbox

	pace time.Duration // its agent's ping interval at its last word; touched by who reads

	heard atomic.Int64 // when the last frame came, unix nanoseconds
	limit atomic.Int64 // as of a wire; 0 until the first ping: an agent that sends none is not cut
}

var mute = &agentpb.Refusal{Detail: "standby stream is half-open: no ping came in time"}

// standBy lets the stream stand by until its agent says something else than a ping.
func (t *talk) standBy(h *agentpb.Hello) error {
	s := t.s
	if err := s.examine(t.guest, h, t.host); err != nil {
		return err
	}
	t.host = h.Host
	if err := s.guards.of(h.Host).hello(t.size); err != nil {
		return err
	}
	if refusal := s.h.Standby(h); refusal != nil {
		return &refusedError{refusal}
	}
	q := &silent{host: h.Host, shown: t.shown, out: t.out, pace: s.h.PingInterval(h.Host)}
	if r := s.keepSilent(q); r != nil {
		return &refusedError{r}
	}
	t.silent = q
	t.out.put(&agentpb.Down{Frame: &agentpb.Down_Welcome{Welcome: &agentpb.Welcome{Worker: s.id}}})
	if d := s.revoked.Load(); d != nil {
		t.out.put(d)
	}
	return nil
}

// ping answers one; after the first it is minded when none comes. An agent hears of another pace
// by its stream in use: until it has pinged here again it may go by the slower one.
func (q *silent) ping(s *Server, p *agentpb.Ping, size int) error {
	if err := s.guards.of(q.host).frame(size); err != nil {
		return err
	}
	pace := s.h.PingInterval(q.host)
	q.limit.Store(int64(halfOpen(max(q.pace, pace))))
	q.pace = pace
	q.out.put(&agentpb.Down{Frame: &agentpb.Down_Pong{Pong: &agentpb.Pong{Seq: p.Seq}}})
	return nil
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
		q.out.put(d)
	}
}
