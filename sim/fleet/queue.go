// SPDX-License-Identifier: Apache-2.0

package fleet

import "time"

// queue is a heap of what will happen, by time and then by the order of asking.
type queue struct {
	heap []event
	seq  int64
}

type event struct {
	at  int64 // nanoseconds since epoch
	seq int64
	do  func()
}

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

func (q *queue) push(at int64, do func()) {
	q.seq++
	q.heap = append(q.heap, event{at, q.seq, do})
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.heap[i].before(q.heap[up]) {
			return
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() event {
	first, last := q.heap[0], len(q.heap)-1
	q.heap[0] = q.heap[last]
	q.heap[last] = event{}
	q.heap = q.heap[:last]
	for i := 0; ; {
		low := 2*i + 1
		if low >= last {
			return first
		}
		if r := low + 1; r < last && q.heap[r].before(q.heap[low]) {
			low = r
		}
		if !q.heap[low].before(q.heap[i]) {
			return first
		}
		q.heap[i], q.heap[low] = q.heap[low], q.heap[i]
		i = low
	}
}

// Start is when the first line of a script may happen: the zero of the story's times.
var Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Epoch is when the fleet begins to come up.
var Epoch = Start.Add(-Settle)

// track is something that happens again and again while it is on: a ping, a stamp, a
// write. It costs nothing until somebody asks when it happened last.
type track struct {
	on    bool
	since time.Time // first time of the present run
	last  time.Time // of the runs before
	every time.Duration
}

func (t *track) set(on bool, now time.Time, every time.Duration) {
	if on == t.on && every == t.every {
		return
	}
	if t.on {
		t.last = t.lastAt(now)
	}
	if t.on, t.every = on, every; on {
		t.since = now
	}
}

// lastAt is when it happened last, as of now; zero: never.
func (t *track) lastAt(now time.Time) time.Time {
	if !t.on || now.Before(t.since) || t.every <= 0 {
		return t.last
	}
	return t.since.Add(now.Sub(t.since) / t.every * t.every)
}

// next is when it happens next, after now; it must be on.
func (t *track) next(now time.Time) time.Time {
	if now.Before(t.since) {
		return t.since
	}
	return t.since.Add((now.Sub(t.since)/t.every + 1) * t.every)
}
