// SPDX-License-Identifier: Apache-2.0

package link

import (
	"testing"
	"time"
)

// Reconnect storms are limited: a burst goes through, the rest is spread at the rate, and
// what would wait too long is turned away.
func TestStormIsPaced(t *testing.T) {
	now := time.Unix(0, 0)
	b := &bucket{now: func() time.Time { return now }}
	at, away := 0, 0
	for range 10_000 {
		switch wait, ok := b.take(); {
		case !ok:
			away++
		case wait == 0:
			at++
		}
	}
	if at != handshakeBurst {
		t.Errorf("%d at once, want %d", at, handshakeBurst)
	}
	if in, want := 10_000-away-at, int(handshakeWait.Seconds()*handshakeRate); in != want {
		t.Errorf("%d wait for their turn, want %d", in, want)
	}
	now = now.Add(handshakeWait + time.Second)
	if wait, ok := b.take(); wait != 0 || !ok {
		t.Errorf("after the storm one waits %v", wait)
	}
}
