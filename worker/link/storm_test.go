// SPDX-License-Identifier: Apache-2.0

package link

import (
	"sync"
	"testing"
	"testing/synctest"
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

// More handshakes than a machine can do wait, for a while; one that takes its time keeps nobody
// out for long.
func TestHandshakesTakePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := make(places, 2)
		began := time.Now()
		enter := func() func() {
			free, err := room.enter()
			if err != nil || time.Since(began) > 0 {
				t.Fatalf("no free place after %v: %v", time.Since(began), err)
			}
			return free
		}
		free := enter()
		all := make(chan func(), 7)
		all <- enter()
		free()
		free() // gives back one place, not two
		all <- enter()
		var work sync.WaitGroup
		for range 5 { // two have the places of those that take too long, the others wait in vain
			work.Go(func() {
				free, err := room.enter()
				took, want := time.Since(began), placeHeld
				if err != nil {
					want = placeWait
				} else {
					all <- free
				}
				if took != want {
					t.Errorf("waited %v, want %v: %v", took, want, err)
				}
			})
		}
		work.Wait()
		if len(all) != 4 {
			t.Errorf("%d had a place, want 4", len(all))
		}
		close(all)
		for free := range all {
			free()
		}
		if len(room) != 0 {
			t.Errorf("%d places are taken in the end", len(room))
		}
	})
}
