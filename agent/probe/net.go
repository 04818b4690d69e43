// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// nonceSize is how many random bytes an answer must bring back.
const nonceSize = 16

// Net is the prober of real networks. Addresses are "icmp://IP" and "udp-echo://IP:PORT";
// names are not resolved, since a resolver is one more thing that may be dead. The zero
// value is ready and safe for concurrent use.
type Net struct{}

var _ Prober = Net{}

// Probe implements Prober.
func (Net) Probe(ctx context.Context, address string) (bool, error) {
	send, err := parse(address)
	if err != nil {
		return false, err
	}
	if ctx.Err() != nil {
		return false, fmt.Errorf("could not probe %s: %w", address, context.Cause(ctx))
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails: crypto/rand ends the process rather than return an error
	answered, err := send(ctx, nonce)
	if err != nil {
		return false, fmt.Errorf("could not probe %s: %w", address, err)
	}
	return answered, nil
}

// parse turns an address into the probe that it asks for.
func parse(address string) (func(context.Context, []byte) (bool, error), error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "icmp":
		ip, err := netip.ParseAddr(rest)
		if err != nil {
			return nil, fmt.Errorf("probe address %q: want icmp://IP", address)
		}
		return func(ctx context.Context, nonce []byte) (bool, error) { return ping(ctx, ip, nonce) }, nil
	case "udp-echo":
		to, err := netip.ParseAddrPort(rest)
		if err != nil || to.Port() == 0 {
			return nil, fmt.Errorf("probe address %q: want udp-echo://IP:PORT", address)
		}
		return func(ctx context.Context, nonce []byte) (bool, error) { return echo(ctx, to, nonce) }, nil
	default:
		return nil, fmt.Errorf("probe address %q: scheme %q is not one of icmp, udp-echo", address, scheme)
	}
}

// echo sends the nonce as a datagram and expects it back.
func echo(ctx context.Context, to netip.AddrPort, nonce []byte) (bool, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String())
	if err != nil {
		return unsent(err)
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	if _, err := conn.Write(nonce); err != nil {
		return unsent(err)
	}
	buf := make([]byte, nonceSize+1)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			return true, nil // "port unreachable" is an answer of that host's kernel
		}
		if err != nil {
			return unanswered(ctx, err)
		}
		if bytes.Equal(buf[:n], nonce) {
			return true, nil
		}
	}
}

// interrupt ends reads and writes of conn when ctx ends; the returned function undoes it.
func interrupt(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) func() bool {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// unsent sorts what stopped a probe from being sent. "Host unreachable" is how the kernel
// says that a neighbour does not answer ARP, which is silence; everything else means
// that we could not ask.
func unsent(err error) (bool, error) {
	if errors.Is(err, unix.EHOSTUNREACH) {
		return false, nil
	}
	return false, err
}

// unanswered sorts what ended the wait for an answer: no answer in time is silence.
func unanswered(ctx context.Context, err error) (bool, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if errors.Is(ctx.Err(), context.Canceled) {
			return false, context.Cause(ctx)
		}
		return false, nil
	}
	return unsent(err)
}
