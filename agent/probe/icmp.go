// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// family is what differs between ICMP for IPv4 and for IPv6.
type family struct {
	domain, proto  int
	request, reply byte
}

var (
	icmp4 = family{unix.AF_INET, unix.IPPROTO_ICMP, 8, 0}
	icmp6 = family{unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129}
)

// ping sends one ICMP echo request and expects its nonce back.
func ping(ctx context.Context, ip netip.Addr, nonce []byte) (bool, error) {
	ip = ip.Unmap()
	f := icmp4
	if ip.Is6() {
		f = icmp6
	}
	conn, raw, err := f.open()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()

	var to net.Addr = &net.UDPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}
	if raw {
		to = &net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()}
	}
	if _, err := conn.WriteTo(f.message(nonce), to); err != nil {
		return unsent(err)
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return unanswered(ctx, err)
		}
		// A raw socket sees every ICMP message of the host: only the echo from that
		// address that brings the nonce back is the answer.
		if n >= 8 && buf[0] == f.reply && bytes.Equal(buf[8:n], nonce) && source(from) == ip.WithZone("") {
			return true, nil
		}
	}
}

// open returns an ICMP socket: the unprivileged kind where net.ipv4.ping_group_range
// allows it, else a raw one, which needs CAP_NET_RAW.
func (f family) open() (conn net.PacketConn, raw bool, err error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, f.proto)
	if err != nil {
		raw = true
		var rawErr error
		if fd, rawErr = unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, f.proto); rawErr != nil {
			return nil, false, fmt.Errorf("open icmp socket (unprivileged: %w; raw: %w)", err, rawErr)
		}
	}
	file := os.NewFile(uintptr(fd), "icmp")
	conn, err = net.FilePacketConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, false, fmt.Errorf("open icmp socket: %w", err)
	}
	return conn, raw, nil
}

// message is an echo request. The kernel sets the id of unprivileged sockets and the
// checksum of everything but raw IPv4; a right checksum does no harm elsewhere.
func (f family) message(nonce []byte) []byte {
	m := append([]byte{f.request, 0, 0, 0, nonce[0], nonce[1], 0, 1}, nonce...)
	if f.domain == unix.AF_INET {
		binary.BigEndian.PutUint16(m[2:], checksum(m))
	}
	return m
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// source is the address an answer came from, without port and zone.
func source(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
