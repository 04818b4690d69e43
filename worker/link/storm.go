// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// handshakeRate is how many handshakes a second a door begins in the long run, and
	// handshakeBurst how many at once: what comes beyond waits its turn for a while and is
	// then turned away, so that those that are let in are done before their agents give up.
	handshakeRate  = 500
	handshakeBurst = 500
	handshakeWait  = 2 * time.Second
)

var errStorm = errors.New("too many connections at once")

// bucket paces what agents would else do all at the same moment.
type bucket struct {
	now func() time.Time

	mu   sync.Mutex
	next time.Time // when the bucket is full again
}

// take is how long to wait for a token; false: too long, none was taken.
func (b *bucket) take() (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.next.Before(now) {
		b.next = now
	}
	next := b.next.Add(time.Second / handshakeRate)
	wait := next.Sub(now) - handshakeBurst*time.Second/handshakeRate
	if wait > handshakeWait {
		return 0, false
	}
	b.next = next
	return max(wait, 0), true
}

// enter waits for a token. Who gets none is turned away after a moment, not at once: an
// agent that is refused at once comes back at once.
func (b *bucket) enter() error {
	wait, ok := b.take()
	if !ok {
		wait = time.Duration(rand.Float64() * float64(time.Second))
	}
	if wait > 0 {
		<-time.After(wait)
	}
	if !ok {
		return errStorm
	}
	return nil
}
