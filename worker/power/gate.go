// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"
	"sync"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

const (
	authPause  = 15 * time.Minute // after a refused log-in, for that secret version (power.md §6.3)
	authWindow = time.Hour
	authTries  = 2 // refused log-ins per authWindow

	pruneFloor = 1024
)

// Urgency says who asks for a session.
type Urgency bool

const (
	Routine Urgency = false // sync, tests: keeps the gap
	Urgent  Urgency = true  // fencing: skips the gap, never the lock-out protection
)

// Gate protects devices from us: one transaction at a time per address, a minimum gap
// between sessions, and after AuthFailed no further try with that secret version for
// 15 minutes and at most two in an hour, since a try more may lock the account for
// everyone (power.md §6.3). One Gate serves all drivers of a worker.
type Gate struct {
	mu      sync.Mutex
	devices map[string]*device
	pruneAt int
}

type device struct {
	turn    chan struct{} // holds a token while free
	users   int           // waiting or inside, guarded by Gate.mu
	closed  time.Time     // when the last session ended
	refused map[string][]time.Time
}

// NewGate makes a gate that has seen no device yet.
func NewGate() *Gate { return &Gate{devices: map[string]*device{}, pruneAt: pruneFloor} }

// For puts the gate in front of a driver. The Conn it opens must be closed: until then
// nobody else gets a session with that address. When ctx ends first, Open answers
// DeadlinePassed or Cancelled; a locked-out secret gives AuthFailed with RetryAfter,
// and no packet is sent.
func (g *Gate) For(d Opener, u Urgency) Opener { return gated{g, d, u} }

type gated struct {
	gate   *Gate
	opener Opener
	urgent Urgency
}

func (o gated) Open(ctx context.Context, t Target) (Conn, error) {
	var version string
	if !t.Secret.IsZero() {
		cred, err := t.Secret.Resolve()
		if err != nil {
			return nil, err
		}
		version = cred.Version()
	}
	d, err := o.gate.enter(ctx, t, version, o.urgent)
	if err != nil {
		return nil, err
	}
	c, err := o.opener.Open(ctx, t)
	if err != nil {
		o.gate.leave(d, version, KindOf(err) == corepower.AuthFailed)
		return nil, err
	}
	g := &gatedConn{Conn: c}
	g.leave = sync.OnceFunc(func() { o.gate.leave(d, version, g.refused) })
	return g, nil
}

func (g *Gate) enter(ctx context.Context, t Target, version string, u Urgency) (*device, error) {
	g.mu.Lock()
	d := g.devices[t.Address]
	if d == nil {
		g.prune()
		d = &device{turn: make(chan struct{}, 1), refused: map[string][]time.Time{}}
		d.turn <- struct{}{}
		g.devices[t.Address] = d
	}
	d.users++
	g.mu.Unlock()
	abandon := func(err error) (*device, error) {
		g.mu.Lock()
		d.users--
		g.mu.Unlock()
		return nil, err
	}

	if ctx.Err() != nil {
		return abandon(waitError(ctx, t))
	}
	select {
	case <-d.turn:
	case <-ctx.Done():
		return abandon(waitError(ctx, t))
	}
	release := func(err error) (*device, error) { d.turn <- struct{}{}; return abandon(err) }

	g.mu.Lock()
	wait := lockedFor(d.refused[version], time.Now())
	gap := time.Until(d.closed.Add(t.Limits.Gap))
	g.mu.Unlock()
	if wait > 0 {
		return release(&Error{Kind: corepower.AuthFailed, Op: "open session with " + t.Address, RetryAfter: wait,
			Detail: "this secret was refused before; not tried again, so that the account is not locked out"})
	}
	if gap > 0 && u == Routine {
		timer := time.NewTimer(gap)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return release(waitError(ctx, t))
		}
	}
	return d, nil
}

func (g *Gate) leave(d *device, version string, refused bool) {
	g.mu.Lock()
	now := time.Now()
	d.closed = now
	if refused {
		old := d.refused[version]
		d.refused[version] = append(old[max(0, len(old)-authTries+1):], now)
	}
	d.users--
	g.mu.Unlock()
	d.turn <- struct{}{}
}

// lockedFor says how long no further try is allowed after these refusals.
func lockedFor(refusals []time.Time, now time.Time) time.Duration {
	if len(refusals) == 0 {
		return 0
	}
	until := refusals[len(refusals)-1].Add(authPause)
	if len(refusals) >= authTries {
		if hour := refusals[len(refusals)-authTries].Add(authWindow); hour.After(until) {
			until = hour
		}
	}
	return max(0, until.Sub(now))
}

// prune forgets devices nobody uses and nothing is known against; callers hold mu.
func (g *Gate) prune() {
	if len(g.devices) < g.pruneAt {
		return
	}
	now := time.Now()
	for addr, d := range g.devices {
		for v, times := range d.refused {
			if now.Sub(times[len(times)-1]) > authWindow {
				delete(d.refused, v)
			}
		}
		if d.users == 0 && len(d.refused) == 0 && now.Sub(d.closed) > authWindow {
			delete(g.devices, addr)
		}
	}
	g.pruneAt = max(pruneFloor, 2*len(g.devices))
}

func waitError(ctx context.Context, t Target) error {
	kind := corepower.Cancelled
	if ctx.Err() == context.DeadlineExceeded {
		kind = corepower.DeadlinePassed
	}
	return &Error{Kind: kind, Op: "open session with " + t.Address, Detail: "waiting for the device's turn", Err: context.Cause(ctx)}
}

type gatedConn struct {
	Conn
	refused bool // drivers without sessions log in with each call
	leave   func()
}

func (c *gatedConn) Unwrap() Conn { return c.Conn }

func (c *gatedConn) saw(err error) {
	c.refused = c.refused || KindOf(err) == corepower.AuthFailed
}

func (c *gatedConn) Identity(ctx context.Context) (corepower.Identity, error) {
	id, err := c.Conn.Identity(ctx)
	c.saw(err)
	return id, err
}

func (c *gatedConn) Status(ctx context.Context) (corepower.Reading, error) {
	r, err := c.Conn.Status(ctx)
	c.saw(err)
	return r, err
}

func (c *gatedConn) Do(ctx context.Context, cmd Command) (corepower.Outcome, error) {
	out, err := c.Conn.Do(ctx, cmd)
	c.saw(err)
	return out, err
}

func (c *gatedConn) Close(ctx context.Context) error {
	defer c.leave()
	return c.Conn.Close(ctx)
}
