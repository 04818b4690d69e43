// SPDX-License-Identifier: Apache-2.0

package ha

import "time"

// Hearing is what one owner has heard of a host since it took it over. It counts missed
// pings; nothing of it outlives the owner.
type Hearing struct {
	Adopted time.Time
	Last    time.Time // when the last ping or Hello arrived; zero: none since adoption
	Deaf    time.Time // the owner itself stood still before: misses count from then
	Missing bool      // pings are overdue, as last told to the machine
	Told    time.Time // when that was told last
}

const reconnectJitter = time.Second

// Grace is how long a new owner waits for the first Hello before it counts missed
// pings: a hand-off never makes a suspect (ha.md §3, "adopted").
func (p Policy) Grace() time.Duration { return 2*p.PingInterval + time.Second + reconnectJitter }

// ListenAgain is how long a worker that stood still listens before it judges: pings wait
// unread in its sockets, and agents that gave it up have to come back. Who did not listen
// must not judge.
func (p Policy) ListenAgain() time.Duration { return p.PingInterval + reconnectJitter }

// Alive reports whether pings arrive in time.
func (h Hearing) Alive() bool { return !h.Missing && !h.Last.IsZero() }

// HeardBy is when the host was heard last as records may tell it: what the clock showed
// then, and no later than its age says by the clock as it is now. A clock that was set,
// forward or back, makes no sign of life out of an old ping. Zero: it was not heard.
func HeardBy(last, now time.Time) time.Time {
	if last.IsZero() {
		return time.Time{}
	}
	shown, measured := last.Round(0), now.Add(-now.Sub(last)).Round(0)
	if measured.Before(shown) {
		return measured
	}
	return shown
}

// MissAt is when the host's pings are overdue if none arrives before; it is also the
// time to say so again while they are.
func (h Hearing) MissAt(p Policy) time.Time {
	if h.Missing {
		return h.Told.Add(p.PingInterval)
	}
	from := h.Last
	if from.IsZero() {
		from = h.Adopted.Add(p.Grace())
	}
	at := from.Add(p.silence())
	if deaf := h.Deaf.Add(p.ListenAgain()); deaf.After(at) && !h.Deaf.IsZero() {
		return deaf
	}
	return at
}

// Overdue says what follows from pings that are overdue at now: whether they are missed
// or, when not, since when the owner was deaf itself. Woke is the end of its last
// standstill, if it stood still at all.
func (h Hearing) Overdue(now, woke time.Time, stood bool, p Policy) (deaf time.Time, missed bool) {
	switch at := h.MissAt(p); {
	case h.Missing:
	case now.Sub(at) > p.PingInterval/2:
		return now, false // the timer itself is late
	case stood && woke.After(h.Deaf) && now.Sub(woke) < p.ListenAgain():
		return woke, false
	}
	return h.Deaf, true
}
