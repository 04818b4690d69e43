// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/probe"
)

// What is remembered of one host on one pool, or of one of its addresses, at most.
const (
	maxLooks    = 16  // samples, or probes
	maxControls = 4   // stamps of other hosts, the reader's own among them
	maxDisks    = 256 // more are not remembered, but looked at when asked
)

// span is what a check asks of a memory (ha.md §5): two looks at least window apart, both
// after the host was heard last. Times are of the reader's monotonic clock.
type span struct {
	from   time.Time // nothing that began before counts
	window time.Duration
}

// since is the span of a request that arrived at asked, from somebody who heard the host
// quiet ago; the request's own way only makes it shorter.
func since(asked time.Time, quiet, window time.Duration) span {
	return span{from: asked.Add(-quiet), window: window}
}

// stillness is how long a host has stood still on a pool, as far as is remembered. Its looks
// are unbroken: in each the host was read whole, and was as in the one before. It is no
// verdict: that takes another look, at present, and a control that moved.
type stillness struct {
	look looker // what is looked at
	host sample // the host as it was in every look
	all  []past // oldest first
}

// past is one look: when it was, and what the controls showed.
type past struct {
	began, done time.Time
	controls    []reading[[]byte]
	acked       uint64
}

// add takes a look in. One that failed, or in which something could not be read, leaves
// nothing to remember; one in which the host is another than before is where it begins anew.
func (m *stillness) add(s sample, began, done time.Time, err error) {
	if err != nil || !s.whole() {
		m.all = nil
		return
	}
	if len(m.all) > 0 && !m.host.sameHost(s) {
		m.all = nil
	}
	m.host = sample{stamp: s.stamp, disks: s.disks}
	m.all = append(m.all, past{began, done, s.controls, s.acked})
	if n := len(m.all) - maxLooks; n > 0 {
		m.all = slices.Delete(m.all, 0, n)
	}
}

// first is the earliest look that may be compared with one at present, and how long to wait
// at now until that may be taken. None is as good as a new one: false.
func (m *stillness) first(a span, now time.Time) (s sample, began time.Time, wait time.Duration, ok bool) {
	i := slices.IndexFunc(m.all, func(p past) bool { return p.began.After(a.from) })
	if i < 0 {
		return s, began, 0, false
	}
	p := m.all[i]
	if wait = a.window - now.Sub(p.done); wait >= a.window {
		return s, began, 0, false
	}
	s = m.host
	s.controls, s.acked = p.controls, p.acked
	return s, p.began, max(0, wait), true
}

// last is when the newest look ended; zero: there is none.
func (m *stillness) last() time.Time {
	if len(m.all) == 0 {
		return time.Time{}
	}
	return m.all[len(m.all)-1].done
}

// whole: everything of the host was read. A stamp that was never written is read, too.
func (s sample) whole() bool {
	return absentOr(s.stamp.err) && !slices.ContainsFunc(s.disks, func(d reading[probe.DiskSample]) bool { return d.err != nil })
}

func absentOr(err error) bool { return err == nil || errors.Is(err, fs.ErrNotExist) }

// sameHost: nothing of the host moved between two whole samples of the same looker.
func (s sample) sameHost(o sample) bool {
	return (s.stamp.err == nil) == (o.stamp.err == nil) && bytes.Equal(s.stamp.value, o.stamp.value) &&
		slices.EqualFunc(s.disks, o.disks, func(a, b reading[probe.DiskSample]) bool { return a.value.Equal(b.value) })
}

// silence is how long an address has not answered: probes that were sent one after the
// other, none of which was answered. Anything else ends it.
type silence struct {
	wait     time.Duration // for which an answer to each was waited
	sent     []time.Time   // oldest first
	done     time.Time     // when the last one was given up
	answered time.Time     // when the address answered last
}

// add takes the end of a probe in.
func (m *silence) add(sent, done time.Time, answered bool, err error) {
	switch {
	case answered:
		m.sent, m.answered = nil, done
		return
	case err != nil:
		m.sent = nil
		return
	case sent.Sub(m.done) > m.wait: // nobody listened in between
		m.sent = nil
	}
	m.sent, m.done = append(m.sent, sent), done
	if n := len(m.sent) - maxLooks; n > 0 {
		m.sent = slices.Delete(m.sent, 0, n)
	}
}

// judge says at now whether the address was silent for a whole window; if not, how much of
// it is left, and false when a new one would be over as soon.
func (m *silence) judge(a span, now time.Time) (began time.Time, left time.Duration, ok bool) {
	i, want := slices.IndexFunc(m.sent, a.from.Before), int(a.window/m.wait)
	if i < 0 || want > maxLooks/2 || now.Sub(m.done) > 2*m.wait {
		return began, 0, false
	}
	began = m.sent[i]
	left = max(0, a.window-now.Sub(began))
	if missing := want - len(m.sent[i:]); missing > 0 {
		left = max(left, time.Duration(missing)*m.wait-now.Sub(m.done), time.Millisecond) // the last may take longer than it should
	}
	return began, left, left < a.window
}
