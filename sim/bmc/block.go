// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Block serves many BMCs through one socket: the n-th answers at the n-th address from
// First on, all at one port. Linux delivers the whole of 127.0.0.0/8 to the loopback
// interface, so no address is configured anywhere (power.md §5); the Addr of their
// Configs is not used.
type Block struct {
	First netip.Addr // of the first BMC, within 127.0.0.0/8
	Port  uint16
	BMCs  []*BMC

	conn *net.UDPConn
	base uint32
}

// MaxBlock is how many BMCs a block can have.
const MaxBlock = 1 << 20

// Addr is where the n-th BMC answers.
func (k *Block) Addr(n int) netip.AddrPort {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], be32(k.First)+uint32(n))
	return netip.AddrPortFrom(netip.AddrFrom4(a), k.Port)
}

func be32(a netip.Addr) uint32 {
	four := a.As4()
	return binary.BigEndian.Uint32(four[:])
}

// Listen checks the Configs and opens the socket. A second call does nothing.
func (k *Block) Listen() error {
	if k.conn != nil {
		return nil
	}
	const last = 0x7ffffffe
	if !k.First.Is4() || !k.First.IsLoopback() || uint64(be32(k.First))+uint64(len(k.BMCs)) > last+1 {
		return fmt.Errorf("listen bmcs: %d addresses from %s, allowed are those within 127.0.0.0/8", len(k.BMCs), k.First)
	}
	if n := len(k.BMCs); n < 1 || n > MaxBlock || k.Port == 0 {
		return fmt.Errorf("listen bmcs: %d BMCs at port %d, allowed are 1 to %d at one port", n, k.Port, MaxBlock)
	}
	for _, b := range k.BMCs {
		if err := b.cfg.validate(); err != nil {
			return fmt.Errorf("listen bmc %s: %w", b.cfg.Name, err)
		}
	}
	k.base = be32(k.First)
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			// The wildcard address would hear other interfaces. What they bring is dropped by
			// its destination anyway, so it is no matter if the kernel does not bind us.
			_ = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		})
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(context.Background(), "udp4", fmt.Sprint("0.0.0.0:", k.Port))
	if err != nil {
		return fmt.Errorf("listen bmcs: %w", err)
	}
	k.conn = conn.(*net.UDPConn)
	_ = k.conn.SetReadBuffer(4 << 20) // as much as the kernel gives: bursts of a sweep wait there
	return nil
}

// Run serves until ctx ends, then closes the socket and returns nil; any other end is
// an error. It listens first if nobody has. Call it once.
func (k *Block) Run(ctx context.Context) error {
	if err := k.Listen(); err != nil {
		return err
	}
	s := server{conn: k.conn, find: k.find}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("serve bmcs: %w", err)
	}
	return nil
}

// find reads the destination from the control message, and makes the one that lets the
// answer leave from there.
func (k *Block) find(control []byte) (*BMC, []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, nil
	}
	for _, m := range messages {
		if m.Header.Level != unix.IPPROTO_IP || m.Header.Type != unix.IP_PKTINFO || len(m.Data) < unix.SizeofInet4Pktinfo {
			continue
		}
		to := [4]byte(m.Data[8:12]) // in_pktinfo: interface, local address, destination
		n := binary.BigEndian.Uint32(to[:]) - k.base
		if n >= uint32(len(k.BMCs)) {
			return nil, nil
		}
		return k.BMCs[n], unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: to})
	}
	return nil, nil
}
