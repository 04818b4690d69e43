// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"errors"
	"io"
	"net"
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

// Proxy forwards TCP connections to a target. It starts out transparent.
type Proxy struct {
	target string
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

// NewProxy listens on a free loopback port and forwards to target (host:port).
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, lis: lis, change: make(chan struct{}), conns: make(map[net.Conn]bool), waiting: make(map[Dir]int)}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Endpoint is what leases.Config takes.
func (p *Proxy) Endpoint() string { return "http://" + p.lis.Addr().String() }

// Hold silences directions: connections stay open, new ones are accepted, nothing passes
// and nobody is told. What arrives is kept. Directions not named pass again.
func (p *Proxy) Hold(d Dir) { p.set(func() { p.held = d }) }

// Release lets everything pass again, what was kept first.
func (p *Proxy) Release() { p.Hold(0) }

// Delay lets every piece wait so long in each direction.
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

func (p *Proxy) close() {
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
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
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
	wg.Go(func() { defer end(); p.pump(server, client, Requests, over) })
	wg.Go(func() { defer end(); p.pump(client, server, Answers, over) })
	wg.Wait()
}

func (p *Proxy) pump(to io.Writer, from io.Reader, d Dir, over <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if p.pass(d, over) != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var errOver = errors.New("connection is over")

// pass returns when the next piece may go on in direction d.
func (p *Proxy) pass(d Dir, over <-chan struct{}) error {
	var timer <-chan time.Time
	waited := false
	for {
		p.mu.Lock()
		held, change, delay, closed := p.held&d != 0, p.change, p.delay, p.closed
		p.mu.Unlock()
		switch {
		case closed:
			return errOver
		case !held && (delay == 0 || waited):
			return nil
		case !held && timer == nil:
			timer = time.After(delay)
		}
		if held {
			p.count(d, 1)
		}
		var err error
		select {
		case <-change:
		case <-timer:
			waited = true
		case <-over:
			err = errOver
		}
		if held {
			p.count(d, -1)
		}
		if err != nil {
			return err
		}
	}
}

func (p *Proxy) count(d Dir, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[d] += n
}
