// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A hung mount costs one goroutine per kind, however often it is asked (doc.go).
func TestHungLaneTellsOthersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane("pool p1", accessLimit)
		release := make(chan struct{})
		began := time.Now()
		var hung *hungError
		_, err := through(t.Context(), l, func(context.Context) (int, error) { <-release; return 1, nil })
		if !errors.As(err, &hung) || time.Since(began) != accessLimit {
			t.Errorf("a call that hangs = %v after %v, want hung after %v", err, time.Since(began), accessLimit)
		}
		began = time.Now()
		for range 100 {
			_, err := through(t.Context(), l, func(context.Context) (int, error) { t.Error("a second access began"); return 0, nil })
			if !errors.As(err, &hung) {
				t.Errorf("asked while hung = %v, want hung", err)
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("asked while hung: waited %v, want no wait", waited)
		}
		close(release)
		synctest.Wait()
		if v, err := through(t.Context(), l, func(context.Context) (int, error) { return 2, nil }); v != 2 || err != nil {
			t.Errorf("after the hang = %d, %v, want 2", v, err)
		}
		if err := l.hung(); err != nil {
			t.Errorf("hung() after the hang = %v", err)
		}
	})
}

func TestLaneServesOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane("pool p1", accessLimit)
		busy := 0
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				_, err := through(t.Context(), l, func(context.Context) (int, error) {
					if busy++; busy != 1 {
						t.Errorf("%d accesses side by side", busy)
					}
					defer func() { busy-- }()
					return 0, sleepErr(t.Context(), time.Second)
				})
				if err != nil {
					t.Errorf("waiting for a lane that moves on: %v", err)
				}
			})
		}
		callers.Wait()
	})
}

func sleepErr(ctx context.Context, d time.Duration) error {
	if !sleep(ctx, d) {
		return ctx.Err()
	}
	return nil
}

func TestLaneLeavesWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane("pool p1", accessLimit)
		cause := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		release := make(chan struct{})
		for _, what := range []string{"the holder", "one who waits"} {
			if _, err := through(ctx, l, func(context.Context) (int, error) { <-release; return 0, nil }); !errors.Is(err, cause) {
				t.Errorf("%s = %v, want %v", what, err, cause)
			}
		}
		close(release)
	})
}
