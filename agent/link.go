// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 5 * time.Second
	// blindPause is about how long it takes from a worker that cannot tell who owns the host to
	// the next one.
	blindPause = 100 * time.Millisecond
	// replacedBackoff is how long a process stands back whose host another one speaks for.
	replacedBackoff = 30 * time.Second
	// maxHops is how many redirects in a row are followed at once.
	maxHops = 3
	// How long a worker may take from the dial to its first frame, at first and at most.
	welcomeLimit    = 5 * time.Second
	maxWelcomeLimit = 20 * time.Second
)

// ending is how one attempt to be linked ended.
type ending struct {
	welcomed bool             // there was a session
	refusal  *agentpb.Refusal // the worker's last word, if it said one
	err      error            // else why the stream ended
}

// cause says it in words.
func (e ending) cause() string {
	r := e.refusal
	switch {
	case r == nil:
		return e.err.Error()
	case r.GetOwner().GetAddress() != "":
		return fmt.Sprintf("%s: owner is %s at %s", r.GetReason(), r.GetOwner().GetId(), r.GetOwner().GetAddress())
	case r.GetDetail() != "":
		return fmt.Sprintf("%s: %s", r.GetReason(), r.GetDetail())
	}
	return r.GetReason().String()
}

// route decides which worker to dial next and when.
type route struct {
	last     string // address dialled last
	owner    string // address that a refusal named, dialled next
	hops     int    // redirects in a row
	tried    int    // attempts since the last session
	failures int    // attempts in a row that got no answer
	workers  int    // on the list
	blind    int    // workers in a row that could not tell who owns the host
}

// next returns the address to dial: the owner when one was named, else the one that
// follows the last in the list: one that is shunned after a round of the others.
func (r *route) next(list []string, shunned func(address string) bool) string {
	r.workers = len(list)
	if at := slices.Index(list, r.last) + 1; r.owner == "" {
		order := slices.Concat(list[at:], list[:at])
		r.owner = order[0]
		if others := slices.DeleteFunc(order, shunned); r.tried < len(others) {
			r.owner = others[0]
		}
	}
	r.tried++
	r.last, r.owner = r.owner, ""
	return r.last
}

// after takes note of how an attempt ended and returns how long to wait before the next.
// Waits are jittered by jitter, in [0,1), so that agents do not come in herds.
func (r *route) after(e ending, retry time.Duration, jitter float64) time.Duration {
	if e.welcomed || e.refusal != nil {
		r.failures = 0
	}
	if e.refusal.GetReason() != agentpb.Refusal_NOT_OWNER {
		r.hops = 0
	}
	if e.refusal.GetReason() != agentpb.Refusal_BLIND {
		r.blind = 0
	}
	if e.refusal == nil {
		r.failures++
		ceiling := min(minBackoff<<min(r.failures, 8), maxBackoff)
		return minBackoff + time.Duration(jitter*float64(ceiling-minBackoff))
	}
	if ms := e.refusal.GetRetryAfterMs(); ms > 0 {
		retry = min(time.Duration(min(ms, 600_000))*time.Millisecond, maxBackoff)
	}
	switch e.refusal.GetReason() {
	case agentpb.Refusal_NOT_OWNER:
		if _, err := splitAddress(e.refusal.GetOwner().GetAddress()); err == nil {
			r.owner = e.refusal.GetOwner().GetAddress()
			if r.hops++; r.hops <= maxHops {
				return 0
			}
		}
		r.hops = 0
	case agentpb.Refusal_BLIND: // others may see; after a round of them more and more slowly
		if r.blind++; r.blind%max(r.workers, 1) != 0 {
			return blindPause/4 + time.Duration(jitter*float64(blindPause))
		}
		ceiling := min(minBackoff<<min(r.blind/max(r.workers, 1), 8), maxBackoff)
		return minBackoff + time.Duration(jitter*float64(ceiling-minBackoff))
	case agentpb.Refusal_REPLACED:
		if e.refusal.GetRetryAfterMs() == 0 { // else it was this process itself, over another stream
			retry = replacedBackoff
		}
	case agentpb.Refusal_BAD_HELLO, agentpb.Refusal_DENIED, agentpb.Refusal_UNSPECIFIED:
		retry = maxBackoff
	}
	return time.Duration(float64(retry) * (0.8 + 0.4*jitter))
}

// patience is how long the next attempt may take. One that hangs is given up as soon as a
// link would be, so that another worker is found before this host is missed; after a round
// of failures longer, because then all workers may be busy with agents that come back.
func (r *route) patience(halfOpen time.Duration, workers int) time.Duration {
	return min(min(welcomeLimit, halfOpen)<<min(r.failures/workers, 8), maxWelcomeLimit)
}

// linkLoop keeps the host linked to a worker (agents.md "Link").
func (a *Agent) linkLoop(ctx context.Context) error {
	a.waitFirst(ctx)
	boot, ok := a.waitBootID(ctx)
	if !ok || !a.enrolled(ctx) {
		return nil
	}
	a.boot = boot
	// What the last process left is read before anybody is told of this one.
	defer a.openCommands(ctx, boot)()
	defer a.working.Wait()
	l := &links{agent: a, opened: make(chan opening, 1), said: map[string]string{}, shunned: map[string]time.Time{}}
	defer l.end()
	for ctx.Err() == nil {
		if l.up(ctx) {
			l.hold(ctx)
		}
	}
	return nil
}

// waitBootID asks for the boot id until there is one: without it this host cannot say
// whom a sign of life is of.
func (a *Agent) waitBootID(ctx context.Context) (string, bool) {
	for {
		boot, err := a.health.bootID(ctx)
		if err == nil {
			return boot, true
		}
		if ctx.Err() != nil {
			return "", false
		}
		a.opts.Logger.Warn("boot id not known", "cause", err, "retry_in", maxBackoff)
		if !sleep(ctx, maxBackoff) {
			return "", false
		}
	}
}
