// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Dir is a direction through a Proxy, as a set.
type Dir int

// Directions, seen from the client.
const (
	Requests Dir = 1 << iota // client to server
	Answers                  // server to client
	Both     = Requests | Answers
)

const (
	pieces      = 64 // on their way in one direction of one connection
	pieceSize   = 32 << 10
	dialTimeout = 5 * time.Second
)

// Proxy carries TCP connections to a target and can silence, delay, refuse and cut them.
// It starts out transparent.
type Proxy struct {
	target string
	from   net.Addr // what connections to the target come from; nil: any address
	lis    net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex
	change  chan struct{} // closed and replaced when what follows changes
	held    Dir
	refuse  bool
	delay   time.Duration
	closed  bool
	conns   map[net.Conn]bool
	waiting map[Dir]int // connections with something held back
}

// NewProxy listens on a free loopback port and forwards to target (host:port) until the
// test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p, err := listen("127.0.0.1:0", target, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// NewProxyAt listens at a fixed address, and calls the target from a fixed address, so that
// the target knows who calls. Close ends it.
func NewProxyAt(at, target netip.AddrPort, from netip.Addr) (*Proxy, error) {
	return listen(at.String(), target.String(), net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
}

func listen(at, target string, from net.Addr) (*Proxy, error) {
	lis, err := net.Listen("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("set up proxy to %s: %w", target, err)
	}
	p := &Proxy{target: target, from: from, lis: lis, change: make(chan struct{}), conns: make(map[net.Conn]bool), waiting: make(map[Dir]int)}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the host:port where it listens.
func (p *Proxy) Addr() string { return p.lis.Addr().String() }

// Endpoint is what leases.Config takes.
func (p *Proxy) Endpoint() string { return "http://" + p.Addr() }

// Hold silences directions: connections stay open, new ones are accepted, nothing passes
// and nobody is told. What arrives is kept. Directions not named pass again.
func (p *Proxy) Hold(d Dir) { p.set(func() { p.held = d }) }

// Release lets everything pass again, what was kept first.
func (p *Proxy) Release() { p.Hold(0) }

// Delay lets every piece arrive so much later in each direction, as on a long line: pieces
// are late, not rare.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Refuse closes new connections at once, until called with false.
func (p *Proxy) Refuse(on bool) { p.set(func() { p.refuse = on }) }

// Cut closes all present connections; what was held is lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Held returns how many connections have something held back in direction d.
func (p *Proxy) Held(d Dir) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting[d]
}

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.change)
	p.change = make(chan struct{})
}

// Close ends the proxy and waits for all that it has started.
func (p *Proxy) Close() {
	p.lis.Close()
	p.set(func() { p.closed = true })
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.lis.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// track remembers a connection so that Cut finds it; false means it must not live.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.refuse {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	d := net.Dialer{Timeout: dialTimeout, LocalAddr: p.from}
	server, err := d.Dial("tcp", p.target)
	if err != nil {
		return // the client sees its connection closed
	}
	defer server.Close()
	if !p.track(server) {
		return
	}
	defer p.forget(server)

	over := make(chan struct{}) // either side is closed
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(over)
			client.Close()
			server.Close()
		})
	}
	var wg sync.WaitGroup
	for _, way := range []struct {
		to, from net.Conn
		d        Dir
	}{{server, client, Requests}, {client, server, Answers}} {
		line := make(chan piece, pieces)
		wg.Go(func() { defer close(line); read(way.from, line, over) })
		wg.Go(func() { defer end(); p.write(way.to, way.d, line, over) })
	}
	wg.Wait()
}

// piece is what arrived at once, and when.
type piece struct {
	data []byte
	at   time.Time
}

func read(from net.Conn, line chan<- piece, over <-chan struct{}) {
	for {
		buf := make([]byte, pieceSize)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case line <- piece{buf[:n], time.Now()}:
			case <-over:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) write(to net.Conn, d Dir, line <-chan piece, over <-chan struct{}) {
	for x := range line {
		if !p.pass(x, d, over) {
			return
		}
		if _, err := to.Write(x.data); err != nil {
			return
		}
	}
}

// pass waits until a piece may go on; false: the connection is over.
func (p *Proxy) pass(x piece, d Dir, over <-chan struct{}) bool {
	for {
		p.mu.Lock()
		held, change, wait, closed := p.held&d != 0, p.change, time.Until(x.at.Add(p.delay)), p.closed
		if closed || !held && wait <= 0 {
			p.mu.Unlock()
			return !closed
		}
		if held {
			p.waiting[d]++
		}
		p.mu.Unlock()
		var due <-chan time.Time
		if !held {
			due = time.After(wait)
		}
		live := true
		select {
		case <-change:
		case <-due:
		case <-over:
			live = false
		}
		if held {
			p.mu.Lock()
			p.waiting[d]--
			p.mu.Unlock()
		}
		if !live {
			return false
		}
	}
}
