// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// relay is the man in the middle: UDP from one client to a BMC and back. Hooks see each
// datagram and say which leave instead.
type relay struct {
	front, back *net.UDPConn
	mute        atomic.Bool

	mu       sync.Mutex
	client   *net.UDPAddr
	up, down func([]byte) [][]byte
}

func newRelay(t testing.TB, bmc string) *relay {
	t.Helper()
	listen, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	dial, err := net.Dial("udp", bmc)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	r := &relay{front: listen, back: dial.(*net.UDPConn)}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := r.front.ReadFromUDP(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.client = from
			hook := r.up
			r.mu.Unlock()
			for _, p := range r.pass(hook, buf[:n]) {
				_, _ = r.back.Write(p)
			}
		}
	})
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := r.back.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			hook := r.down
			r.mu.Unlock()
			for _, p := range r.pass(hook, buf[:n]) {
				r.inject(p)
			}
		}
	})
	t.Cleanup(func() { r.front.Close(); r.back.Close(); wg.Wait() })
	return r
}

func (r *relay) pass(hook func([]byte) [][]byte, p []byte) [][]byte {
	switch {
	case r.mute.Load():
		return nil
	case hook == nil:
		return [][]byte{p}
	}
	return hook(slices.Clone(p))
}

// inject sends a datagram to the client as if it came from the BMC.
func (r *relay) inject(p []byte) {
	r.mu.Lock()
	to := r.client
	r.mu.Unlock()
	if to != nil {
		_, _ = r.front.WriteToUDP(p, to)
	}
}

func (r *relay) hook(up, down func([]byte) [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.down = up, down
}

func (r *relay) addr() string { return r.front.LocalAddr().String() }
