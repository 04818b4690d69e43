// SPDX-License-Identifier: Apache-2.0

package link

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/agentpb/frame"
	"github.com/holdfast-ha/holdfast/agent/trust"
)

// What one agent may cost. A good one stays far below: a ping a second of a thousand
// instances is some 100 kB.
const (
	maxStreams     = 8        // calls under way on one connection
	maxConns       = 8        // of one host, and a new one every second in the long run
	maxJoiners     = 64       // connections without a certificate, of everybody
	window         = 64 << 10 // bytes that a connection may have under way unread, on either side
	handshakeLimit = 10 * time.Second
	helloLimit     = 10 * time.Second // from a stream's beginning to its Hello
	joinLimit      = 15 * time.Second // of a connection without a certificate

	frameRate, frameBurst = 200, 1000         // frames a second
	byteRate, byteBurst   = 2 << 20, 16 << 20 // bytes of them a second
	helloRate, helloBurst = 4, 20             // sessions a second; who waits for an owner asks twice
	penalty               = 10 * time.Second  // without a session after each one that was cut
	joinRate              = 20                // enrolments a second, of everybody
)

// Why sessions are cut for what they send.
const (
	Oversize      = "oversize"       // a frame beyond 1 MiB
	Malformed     = "malformed"      // bytes that are no frame
	TooMany       = "too-many-parts" // a frame that would cost many times its size
	Flood         = "flood"          // more frames or bytes a second than any good agent sends
	HelloFlood    = "hello-flood"    // more sessions a second
	ReplayedHello = "replayed-hello" // a Hello that came before on its stream
	SlowReader    = "slow-reader"    // answers pile up
	NoHello       = "no-hello"       // a stream on which nobody says who he is
)

// Abuse is a session that was cut for what its agent sent, or did not take.
type Abuse struct {
	Host, Reason, Detail string
}

// OnAbuse lets fn be told of each; it must not block. It is called before NewDoor.
func (s *Server) OnAbuse(fn func(Abuse)) { s.hostile = fn }

// abuseError ends a session.
type abuseError struct{ reason, detail string }

func (a *abuseError) Error() string { return "cut for " + a.reason + ": " + a.detail }

// abused finds out whether the end of a stream is its agent's fault, and words it so; the host
// then has no session for a while. Before the Hello the certificate alone says whose stream it is.
func (s *Server) abused(certified, host string, err error) error {
	var a *abuseError
	switch {
	case errors.As(err, &a):
	case errors.Is(err, frame.ErrTooMany):
		a = &abuseError{TooMany, err.Error()}
	case errors.Is(err, frame.ErrTooLarge):
		a = &abuseError{Oversize, err.Error()}
	case errors.Is(err, frame.ErrMalformed):
		a = &abuseError{Malformed, err.Error()}
	default:
		return err // a stream that broke is nobody's fault
	}
	if host = orElse(certified, host); host != "" && a.reason != NoHello { // that may be a host without a free core
		s.guards.of(host).punish(a.reason)
	}
	return a
}

// cut names the agent whose stream ends by its own fault, and returns what it is told.
func (s *Server) cut(certified, host string, err error) error {
	var a *abuseError
	if !errors.As(err, &a) {
		return err
	}
	s.hostile(Abuse{Host: orElse(certified, host), Reason: a.reason, Detail: a.detail})
	if a.reason == NoHello {
		return banned(a.Error(), 0)
	}
	return banned(a.Error(), penalty)
}

// banned is what an agent is told that was cut.
func banned(why string, left time.Duration) error {
	return &refusedError{&agentpb.Refusal{Reason: agentpb.Refusal_CUT, Detail: why, RetryAfterMs: left.Milliseconds()}}
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// guards are the allowances of all hosts; those at rest are forgotten.
type guards struct {
	now   func() time.Time
	joins *rate.Limiter
	mu    sync.Mutex
	kept  int
	by    sync.Map // *guard by host: each frame looks its own up, without a lock that hosts share
}

func newGuards(now func() time.Time) *guards {
	return &guards{now: now, joins: rate.NewLimiter(joinRate, 2*joinRate)}
}

// maxGuards bounds the allowances that are kept: beyond it those at rest go.
const maxGuards = 50_000

// of is the allowance of one host, for all its sessions together.
func (g *guards) of(host string) *guard {
	if a, ok := g.by.Load(host); ok {
		return a.(*guard)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, ok := g.by.Load(host); ok {
		return a.(*guard)
	}
	if g.kept >= maxGuards {
		for name, old := range g.by.Range {
			if old.(*guard).rests(g.now()) {
				g.by.Delete(name)
				g.kept--
			}
		}
	}
	a := &guard{now: g.now, frames: rate.NewLimiter(frameRate, frameBurst), bytes: rate.NewLimiter(byteRate, byteBurst), hellos: rate.NewLimiter(helloRate, helloBurst)}
	g.by.Store(host, a)
	g.kept++
	return a
}

// guard is what one host may still send.
type guard struct {
	now                   func() time.Time
	frames, bytes, hellos *rate.Limiter

	mu    sync.Mutex
	until time.Time // no session before
	why   string
}

func (g *guard) rests(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return now.After(g.until) && g.bytes.TokensAt(now) >= byteBurst && g.hellos.TokensAt(now) >= helloBurst
}

// punish lets the host have no session for a while: reconnecting at once must not pay.
func (g *guard) punish(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until := g.now().Add(penalty); until.After(g.until) && g.why == "" || g.now().After(g.until) {
		g.until, g.why = until, why
	}
}

// hello admits a session's first frame, of so many bytes.
func (g *guard) hello(size int) error {
	g.mu.Lock()
	until, why := g.until, g.why
	if g.now().After(until) {
		why, g.why = "", ""
	}
	g.mu.Unlock()
	if why != "" {
		return banned(fmt.Sprintf("this host was cut for %s: no session before %s", why, until.UTC().Format(time.RFC3339)), until.Sub(g.now()))
	}
	if !g.hellos.AllowN(g.now(), 1) {
		return &abuseError{HelloFlood, fmt.Sprintf("more than %d sessions a second", helloRate)}
	}
	return g.frame(size)
}

// frame admits one more, of so many bytes.
func (g *guard) frame(size int) error {
	now := g.now()
	if !g.frames.AllowN(now, 1) {
		return &abuseError{Flood, fmt.Sprintf("more than %d frames a second", frameRate)}
	}
	if !g.bytes.AllowN(now, size) {
		return &abuseError{Flood, fmt.Sprintf("more than %d bytes a second", byteRate)}
	}
	return nil
}

// crowd bounds connections: of one host, and of those who have no certificate yet.
type crowd struct {
	s *Server

	mu      sync.Mutex
	conns   map[string]int // by host
	joiners int
}

func newCrowd(s *Server) *crowd { return &crowd{s: s, conns: map[string]int{}} }

// enter counts a connection until left is called, or says why there are too many.
func (c *crowd) enter(conn net.Conn, shown []*x509.Certificate) (left func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(shown) == 0 {
		if c.joiners >= maxJoiners {
			return nil, fmt.Errorf("%d hosts join already", c.joiners)
		}
		c.joiners++
		end := time.AfterFunc(joinLimit, func() { _ = conn.Close() })
		return func() { end.Stop(); c.change(func() { c.joiners-- }) }, nil
	}
	who := trust.Serial(shown[0])
	if id, err := trust.Of(shown[0]); err == nil {
		who = id.String()
	}
	if c.conns[who] >= maxConns {
		return nil, fmt.Errorf("%s has %d connections already", who, c.conns[who])
	}
	c.conns[who]++
	return func() {
		c.change(func() {
			if c.conns[who]--; c.conns[who] == 0 {
				delete(c.conns, who)
			}
		})
	}, nil
}

func (c *crowd) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}
