// SPDX-License-Identifier: Apache-2.0

package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Signal is what a cable carries.
type Signal uint8

const (
	Dark    Signal = iota // nothing: packets vanish in both directions, echo included
	NoTCP                 // probes are answered, connections to workers stall
	Carries               // everything
)

const (
	cableHello  = "CONNECT " // then the address and a newline
	cableOK     = "OK\n"
	cableLine   = 256
	dialTimeout = 5 * time.Second
)

// Cable is the network of one host: a proxy through which its agent reaches workers, and
// an echo that answers probes in place of its kernel. While it does not carry, nothing is
// closed or refused: bytes and ends of streams wait, as they would in a network, and go
// on when it carries again. A death in between is told by Cut.
type Cable struct {
	at      netip.Addr
	allowed func(addr string) bool
	ln      net.Listener
	echo    net.PacketConn

	mu     sync.Mutex
	signal Signal
	tcp    chan struct{} // closed while TCP flows
	wires  map[*wire]struct{}
}

// NewCable binds the agent's end to the unix socket address at (the "@" kind leaves no
// file behind), and the echo to the host's own address. It is dark, and serves nothing
// before Run, which also closes both. Connections may go to allowed addresses only.
func NewCable(socket string, host netip.Addr, allowed func(addr string) bool) (*Cable, error) {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("lay cable: %w", err)
	}
	echo, err := net.ListenPacket("udp", netip.AddrPortFrom(host, echoPort).String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lay cable: %w", err), ln.Close())
	}
	return &Cable{
		at: host, allowed: allowed, ln: ln, echo: echo,
		tcp: make(chan struct{}), wires: map[*wire]struct{}{},
	}, nil
}

// Run serves until ctx ends, then closes everything.
func (c *Cable) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { c.ln.Close(); c.echo.Close() })()
	all.Go(c.answer)
	for {
		agent, err := c.ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				agent.Close()
			}
			return nil
		}
		if err != nil {
			c.echo.Close()
			return fmt.Errorf("serve cable of %s: %w", c.at, err)
		}
		all.Go(func() { c.carry(ctx, agent) })
	}
}

// Set changes what the cable carries; it returns when the change holds for every byte
// read from now on.
func (c *Cable) Set(s Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was := c.signal == Carries; was != (s == Carries) {
		if was {
			c.tcp = make(chan struct{})
		} else {
			close(c.tcp)
		}
	}
	c.signal = s
}

// Cut makes orphans of all present connections: whatever happens, workers never hear of
// them again, and only the workers' side can end them. The agent's side is closed.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.wires {
		w.orphanOnce.Do(func() { close(w.orphan) })
		w.agent.Close()
	}
}

// answer is the echo of the host's kernel.
func (c *Cable) answer() {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.echo.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		c.mu.Lock()
		dark := c.signal == Dark
		c.mu.Unlock()
		if err == nil && !dark {
			_, _ = c.echo.WriteTo(buf[:n], from) // a lost echo is a lost datagram
		}
	}
}

// wire is one connection through the cable.
type wire struct {
	agent, worker net.Conn
	orphan        chan struct{}
	orphanOnce    sync.Once
}

func (c *Cable) carry(ctx context.Context, agent net.Conn) {
	w := &wire{agent: agent, orphan: make(chan struct{})}
	c.mu.Lock()
	c.wires[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.wires, w)
		c.mu.Unlock()
		agent.Close()
	}()
	defer context.AfterFunc(ctx, func() { agent.Close() })()

	line, err := bufio.NewReader(io.LimitReader(agent, cableLine)).ReadString('\n')
	to, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), cableHello)
	if err != nil || !ok || !c.allowed(to) || !c.pass(ctx, w) {
		return
	}
	d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.at, 0))}
	if w.worker, err = d.DialContext(ctx, "tcp", to); err != nil {
		return // the worker's kernel refused: the agent sees its connection closed
	}
	defer w.worker.Close()
	defer context.AfterFunc(ctx, func() { w.worker.Close() })()
	if _, err := io.WriteString(agent, cableOK); err != nil && !w.orphaned() {
		return
	}

	var both sync.WaitGroup
	both.Go(func() { c.pump(ctx, w, w.worker, w.agent) })
	c.pump(ctx, w, w.agent, w.worker)
	if w.orphaned() {
		_, _ = io.Copy(io.Discard, w.worker) // packets to a dead host vanish until the worker gives up
	}
	both.Wait()
}

// pump copies until one side ends, which ends the other, or until the wire is orphaned,
// which tells the other nothing.
func (c *Cable) pump(ctx context.Context, w *wire, dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if !c.pass(ctx, w) {
			return
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			if !w.orphaned() {
				w.agent.Close()
				w.worker.Close()
			}
			return
		}
	}
}

// pass waits until TCP flows; false says that the wire is orphaned or all is over.
func (c *Cable) pass(ctx context.Context, w *wire) bool {
	for {
		c.mu.Lock()
		flows := c.tcp
		c.mu.Unlock()
		if w.orphaned() {
			return false
		}
		select {
		case <-flows:
			return !w.orphaned()
		case <-w.orphan:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (w *wire) orphaned() bool {
	select {
	case <-w.orphan:
		return true
	default:
		return false
	}
}

// Dial connects to addr through the cable at the unix socket address; it is the agent's
// dialer. While the cable does not carry it waits for ctx, as a lost SYN would.
func Dial(ctx context.Context, socket, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	answer := make([]byte, len(cableOK))
	_, err = io.WriteString(conn, cableHello+addr+"\n")
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if !undo() || err != nil {
		err = errors.Join(context.Cause(ctx), err)
		return nil, errors.Join(fmt.Errorf("dial %s: %w", addr, err), conn.Close())
	}
	return conn, nil
}
