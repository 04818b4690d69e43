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

// maxQueued bounds the answers held back by delays; further ones are lost.
const maxQueued = 4096

// delayed is a batch of answers on its way.
type delayed struct {
	due       time.Time
	to        netip.AddrPort
	datagrams [][]byte
}

// Run serves until ctx ends, then closes the socket and returns nil; any other end is
// an error. It listens first if nobody has. Call it once.
func (b *BMC) Run(ctx context.Context) error {
	if err := b.Listen(); err != nil {
		return err
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = b.conn.Close() // wakes the read below, its only purpose
	})
	defer func() {
		if stop() {
			_ = b.conn.Close() // nothing of ours is unsent
			return
		}
		<-closed
	}()

	var queue []delayed // in order of due
	buf := make([]byte, maxDatagram+1)
	for {
		queue = b.send(queue)
		if err := b.conn.SetReadDeadline(b.wake(queue)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("serve bmc %s: %w", b.cfg.Name, err)
		}
		n, from, err := b.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("serve bmc %s: %w", b.cfg.Name, err)
		}
		answers, delay := b.Handle(unmap(from), buf[:n])
		if len(answers) == 0 {
			continue
		}
		batch := delayed{time.Now().Add(delay), from, answers}
		if len(queue) < maxQueued {
			at, _ := slices.BinarySearchFunc(queue, batch, func(a, b delayed) int {
				if a.due.After(b.due) {
					return 1
				}
				return -1 // equals stay in order of arrival
			})
			queue = slices.Insert(queue, at, batch)
		}
	}
}

// send puts what is due on the wire, or loses it when the BMC has died meanwhile. A
// write that fails is a datagram lost, which is what a network does.
func (b *BMC) send(queue []delayed) []delayed {
	if len(queue) > 0 && b.Faults().Mute {
		return nil
	}
	now := time.Now()
	for len(queue) > 0 && !queue[0].due.After(now) {
		for _, d := range queue[0].datagrams {
			_, _ = b.conn.WriteToUDPAddrPort(d, queue[0].to)
		}
		queue = queue[1:]
	}
	return queue
}

// wake is when the next thing happens without a datagram; the zero time is never.
func (b *BMC) wake(queue []delayed) time.Time {
	var at time.Time
	if own := b.Tick(); !own.IsZero() {
		at = time.Now().Add(own.Sub(b.cfg.Now()))
	}
	if len(queue) > 0 && (at.IsZero() || queue[0].due.Before(at)) {
		at = queue[0].due
	}
	return at
}
