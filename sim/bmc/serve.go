// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Listen checks the Config and opens the socket, so that Addr is known before Run. A
// second call does nothing. A BMC that listens and is never Run keeps its socket.
func (b *BMC) Listen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		return nil
	}
	if err := b.cfg.validate(); err != nil {
		return fmt.Errorf("listen bmc %s: %w", b.cfg.Name, err)
	}
	addr, err := netip.ParseAddrPort(b.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen bmc %s: addr is %q, allowed is ip:port", b.cfg.Name, b.cfg.Addr)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("listen bmc %s: %w", b.cfg.Name, err)
	}
	b.conn = conn
	return nil
}

// Addr is the address in use, the zero value before Listen.
func (b *BMC) Addr() netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return netip.AddrPort{}
	}
	return unmap(b.conn.LocalAddr().(*net.UDPAddr).AddrPort())
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Run serves until ctx ends, then closes the socket and returns nil; any other end is
// an error. It listens first if nobody has. Call it once.
func (b *BMC) Run(ctx context.Context) error {
	if err := b.Listen(); err != nil {
		return err
	}
	s := server{conn: b.conn, find: func([]byte) (*BMC, []byte) { return b, nil }}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("serve bmc %s: %w", b.cfg.Name, err)
	}
	return nil
}

// maxQueued bounds the answers held back by delays; further ones are lost.
const maxQueued = 1 << 16

// server moves datagrams between one socket and the BMCs behind it.
type server struct {
	conn *net.UDPConn
	// find says for which BMC a datagram is, by the control message that came with it,
	// and which one goes with the answers. nil: for none.
	find func(control []byte) (b *BMC, answer []byte)

	queue  []delayed // in order of due
	alarms []alarm   // one per BMC at most
}

// delayed is a batch of answers on its way.
type delayed struct {
	due       time.Time
	b         *BMC
	to        netip.AddrPort
	control   []byte
	datagrams [][]byte
}

// alarm is when a BMC wants its Tick.
type alarm struct {
	at time.Time
	b  *BMC
}

func (s *server) run(ctx context.Context) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = s.conn.Close() // wakes the read below, its only purpose
	})
	defer func() {
		if stop() {
			_ = s.conn.Close() // nothing of ours is unsent
			return
		}
		<-closed
	}()

	buf, control := make([]byte, maxDatagram+1), make([]byte, 64)
	var wake time.Time // as the socket knows it
	for {
		s.ring()
		s.send()
		if next := s.wake(); !next.Equal(wake) {
			wake = next
			if err := s.conn.SetReadDeadline(wake); err != nil && ctx.Err() == nil {
				return err
			}
		}
		n, c, _, from, err := s.conn.ReadMsgUDPAddrPort(buf, control)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return err
		}
		if b, back := s.find(control[:c]); b != nil {
			s.take(b, unmap(from), back, buf[:n])
		}
	}
}

// take hands a datagram to its BMC and queues the answers.
func (s *server) take(b *BMC, from netip.AddrPort, back, datagram []byte) {
	answers, delay := b.Handle(from, datagram)
	if len(answers) > 0 && len(s.queue) < maxQueued {
		batch := delayed{time.Now().Add(delay), b, from, back, answers}
		at, _ := slices.BinarySearchFunc(s.queue, batch, func(a, b delayed) int {
			if a.due.After(b.due) {
				return 1
			}
			return -1 // equals stay in order of arrival
		})
		s.queue = slices.Insert(s.queue, at, batch)
	}
	s.schedule(b)
}

// schedule notes when the BMC wants its Tick.
func (s *server) schedule(b *BMC) {
	at := b.Tick()
	i := slices.IndexFunc(s.alarms, func(a alarm) bool { return a.b == b })
	switch {
	case !at.IsZero() && i >= 0:
		s.alarms[i].at = time.Now().Add(at.Sub(b.cfg.Now()))
	case !at.IsZero():
		s.alarms = append(s.alarms, alarm{time.Now().Add(at.Sub(b.cfg.Now())), b})
	case i >= 0:
		s.alarms = slices.Delete(s.alarms, i, i+1)
	}
}

// ring lets the BMCs do what is due by itself.
func (s *server) ring() {
	if len(s.alarms) == 0 {
		return
	}
	now := time.Now()
	for _, a := range slices.Clone(s.alarms) {
		if !a.at.After(now) {
			s.schedule(a.b)
		}
	}
}

// send puts what is due on the wire, or loses it when its BMC has died meanwhile. A
// write that fails is a datagram lost, which is what a network does.
func (s *server) send() {
	if len(s.queue) == 0 {
		return
	}
	sent, now := 0, time.Now()
	for _, q := range s.queue {
		if q.due.After(now) {
			break
		}
		sent++
		if q.b.silent() {
			continue
		}
		for _, d := range q.datagrams {
			_, _, _ = s.conn.WriteMsgUDPAddrPort(d, q.control, q.to)
		}
	}
	s.queue = slices.Delete(s.queue, 0, sent)
}

// wake is when the next thing happens without a datagram; the zero time is never.
func (s *server) wake() time.Time {
	var at time.Time
	if len(s.queue) > 0 {
		at = s.queue[0].due
	}
	for _, a := range s.alarms {
		if at.IsZero() || a.at.Before(at) {
			at = a.at
		}
	}
	return at
}
