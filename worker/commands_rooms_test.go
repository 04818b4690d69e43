// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"testing"
)

// "One stuck item blocks nobody": requests to a host that does not answer take the room of
// that host only.
func TestAStuckHostTakesItsOwnRoom(t *testing.T) {
	var r rooms
	var leave []func()
	for range maxAsks {
		l, err := r.enter(t.Context(), "stuck")
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	why := errors.New("no answer in time")
	late, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := r.enter(late, "stuck"); !errors.Is(err, why) {
		t.Errorf("room at a host that has none: %v, want %v", err, why)
	}
	if _, err := r.enter(t.Context(), "well"); err != nil {
		t.Errorf("no room at another host: %v", err)
	}
	for _, l := range leave {
		l()
	}
	if _, err := r.enter(t.Context(), "stuck"); err != nil {
		t.Errorf("no room when it has answered: %v", err)
	}
}
