// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// direction through a proxy, as a set, seen from the client.
type direction int

const (
	requests direction = 1 << iota
	answers
	both = requests | answers
)

const (
	pieces      = 64 // on their way in one direction of one connection
	pieceSize   = 32 << 10
	dialTimeout = 5 * time.Second
)

// proxy carries TCP to one target and can silence, delay and cut it. Where etcdtest's
// proxy serves one test of one process, this one stands at a fixed address, comes from a
// fixed address, so that the target knows who calls, and delays like a long line: pieces
// are late, not rare.
type proxy struct {
	target, from netip.AddrPort
	ln           net.Listener
	wg           sync.WaitGroup

	mu     sync.Mutex
	change chan struct{} // closed and replaced when what follows changes
	held   direction
	delay  time.Duration
	closed bool
	conns  map[net.Conn]bool
}

func newProxy(at, target netip.AddrPort, from netip.Addr) (*proxy, error) {
	ln, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("set up proxy to %s: %w", target, err)
	}
	p := &proxy{target: target, from: netip.AddrPortFrom(from, 0), ln: ln, change: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	return p, nil
}

// hold silences directions: connections stay, new ones are accepted, nothing passes and
// nobody is told. What arrives is kept and delivered late. Those not named pass again.
func (p *proxy) hold(d direction) { p.set(func() { p.held = d }) }

// lag makes every piece wait so long in each direction.
func (p *proxy) lag(d time.Duration) { p.set(func() { p.delay = d }) }

// cut closes all present connections; what was held is lost.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.change)
	p.change = make(chan struct{})
}

// close ends the proxy and waits for all it has started.
func (p *proxy) close() {
	p.ln.Close()
	p.set(func() { p.closed = true })
	p.cut()
	p.wg.Wait()
}

func (p *proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

// track remembers a connection for cut; false means it must not live.
func (p *proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[c] = true
	}
	return !p.closed
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.track(client) {
		return
	}
	defer p.forget(client)
	d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(p.from)}
	server, err := d.Dial("tcp", p.target.String())
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
		d        direction
	}{{server, client, requests}, {client, server, answers}} {
		line := make(chan piece, pieces)
		wg.Go(func() { defer close(line); p.read(way.from, line, over) })
		wg.Go(func() { defer end(); p.write(way.to, way.d, line, over) })
	}
	wg.Wait()
}

// piece is what arrived at once, and when.
type piece struct {
	data []byte
	at   time.Time
}

func (p *proxy) read(from net.Conn, line chan<- piece, over <-chan struct{}) {
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

func (p *proxy) write(to net.Conn, d direction, line <-chan piece, over <-chan struct{}) {
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
func (p *proxy) pass(x piece, d direction, over <-chan struct{}) bool {
	for {
		p.mu.Lock()
		held, change, wait := p.held&d != 0, p.change, time.Until(x.at.Add(p.delay))
		p.mu.Unlock()
		if !held && wait <= 0 {
			return true
		}
		var due <-chan time.Time
		if !held {
			due = time.After(wait)
		}
		select {
		case <-change:
		case <-due:
		case <-over:
			return false
		}
	}
}
