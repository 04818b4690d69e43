// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"
	"math/rand/v2"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

const closeWait = time.Second

// ReadOnce opens a session, reads the power state and closes the session.
// A non-nil error implies the zero Reading.
func ReadOnce(ctx context.Context, o Opener, t Target) (corepower.Reading, error) {
	c, err := o.Open(ctx, t)
	if err != nil {
		return corepower.Reading{}, err
	}
	// The slot on the device must be freed also when ctx has just ended.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
		defer cancel()
		_ = c.Close(ctx) // the reading stands; a slot not freed here expires by itself
	}()
	r, err := c.Status(ctx)
	if err != nil {
		return corepower.Reading{}, err
	}
	return r, nil
}

// ReadWithRetry is ReadOnce with one more try in a new session after a second and
// jitter, where that makes sense (Retryable, power.md §6.3 "operation retry").
func ReadWithRetry(ctx context.Context, o Opener, t Target) (corepower.Reading, error) {
	r, err := ReadOnce(ctx, o, t)
	if err == nil || !Retryable(KindOf(err)) {
		return r, err
	}
	timer := time.NewTimer(time.Second + rand.N(500*time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ReadOnce(ctx, o, t)
	case <-ctx.Done():
		return corepower.Reading{}, err
	}
}

// Retryable reports whether one immediate retry in a new session makes sense: power.md
// §7, rows "once". Busy and SessionLimit want a longer pause, which their RetryAfter tells.
func Retryable(k corepower.Kind) bool {
	return k == corepower.Timeout || k == corepower.RemoteError || k == corepower.ProtocolViolation
}
