// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

// Figures of agent/memory.go, agent/activity.go and worker/effects.go.
const (
	maxLooks    = 16
	maxControls = 4
	minProbes   = 3
	maxRemember = 10 * time.Minute
)

// watch is one host that an agent keeps looking at (agent/watch.go). Its looks are no
// events: when they were follows from when it began, and what they showed from what
// happened when; so a fleet that is well costs nothing.
type watch struct {
	window, pace time.Duration
	disks        []string
	controls     []*host // the reader first
	since, until time.Time
	silent       [storage + 1]time.Time // by network: probes are not answered since; zero: they are
	answered     [storage + 1]time.Time // and when they began to be, or were, last
}

// same: both look at the same things in the same way.
func (w *watch) same(o *watch) bool {
	return w.window == o.window && w.pace == o.pace && slices.Equal(w.disks, o.disks) && slices.Equal(w.controls, o.controls)
}

// remember makes the agent of h keep looking at a host for so long, as it was asked to.
func (h *host) remember(subject *host, w *watch, lasts time.Duration) {
	now := h.f.now
	w.since, w.pace = now, max(h.f.effective(h).stamp, w.window/(maxLooks/2))
	w.controls = w.controls[:min(len(w.controls), maxControls)]
	if old := h.watching(subject); old != nil && old.same(w) {
		w = old
	}
	w.until = now.Add(lasts)
	h.watches[subject] = w
	w.feel(h, subject)
	if !slices.Contains(subject.watchers, h) {
		subject.watchers = append(subject.watchers, h)
	}
}

// asks: whether a neighbour can look now makes a difference to who is asked about h. It does
// not to one who comes after all who are (kvm.Chosen).
func (h *host) asks(neighbour *host, most int) bool {
	if len(h.watchers) < most || slices.Contains(h.watchers, neighbour) {
		return true
	}
	for i, w := range h.watchers {
		if neighbour.idx < w.idx {
			return true
		}
		for _, o := range h.watchers[:i] {
			if o.Rack == w.Rack && neighbour.Rack != w.Rack { // another failure domain would be preferred
				return true
			}
		}
	}
	return false
}

// watching is what the agent of h remembers of a host, if anything.
func (h *host) watching(subject *host) *watch {
	if w := h.watches[subject]; w != nil && h.f.now.Before(w.until) {
		return w
	}
	return nil
}

// feel notes since when probes are not answered.
func (w *watch) feel(reader, subject *host) {
	for n := range w.silent {
		switch {
		case subject.answers(reader, network(n)):
			w.silent[n], w.answered[n] = time.Time{}, subject.f.now
		case w.silent[n].IsZero():
			w.silent[n] = subject.f.now
		}
	}
}

// answers: a probe that the reader sends over a network is answered.
func (h *host) answers(reader *host, n network) bool {
	return h.works() && !h.NoProbes && reader.works() && reader.reaches(h, n)
}

// notice keeps what agents remember true after something about the host has changed.
func (h *host) notice() {
	if !h.kernel || !h.agent { // a new process remembers nothing
		clear(h.watches)
	}
	now := h.f.now
	switch stands := h.kernel && h.frozen; {
	case stands && h.stood.IsZero():
		h.stood = now
	case !stands && !h.stood.IsZero():
		h.stood, h.thawed = time.Time{}, now
	}
	for i, p := range h.pools {
		h.sight[i].see(now, h.poolFor(p), h.works() && h.agent)
	}
	for subject, w := range h.watches {
		w.feel(h, subject)
	}
	h.watchers = slices.DeleteFunc(h.watchers, func(reader *host) bool {
		w := reader.watching(h)
		if w != nil {
			w.feel(reader, h)
		}
		return w == nil
	})
}

// readable: its agent could read the pool now.
func (h *host) readable(p string) bool {
	mode := h.poolFor(p)
	return mode == poolOK || mode == poolReadOnly || mode == poolSlow
}

// sight is since when an agent reads a pool without a look that failed. A look that hangs
// for less than the agent's patience, or with the whole machine, is late and did not fail.
type sight struct {
	from   time.Time    // unbroken since
	gap    [2]time.Time // in which looks were late
	lost   time.Time    // no look was possible since; zero: they are
	hung   time.Time    // of that: the pool hangs since
	failed bool         // and it failed
}

func (s *sight) see(now time.Time, mode poolMode, works bool) {
	readable := mode == poolOK || mode == poolReadOnly || mode == poolSlow
	if readable && works {
		switch {
		case s.lost.IsZero():
			return
		case s.failed, !s.hung.IsZero() && now.Sub(s.hung) >= hungAfter:
			*s = sight{from: now}
		default:
			*s = sight{from: later(s.from, s.gap[1]), gap: [2]time.Time{s.lost, now}}
		}
		return
	}
	if s.lost.IsZero() {
		s.lost = now
	}
	if mode == poolHung && s.hung.IsZero() {
		s.hung = now
	}
	s.failed = s.failed || mode == poolFailed
}

// firstLook is the earliest look at a pool that may be compared with one at present: the
// host has not moved since, nor was it heard. False: there is none.
func (w *watch) firstLook(reader, subject *host, i int, heard time.Time) (at time.Time, ok bool) {
	now := reader.f.now
	k := slices.Index(reader.pools, subject.pools[i])
	if k < 0 || !reader.sight[k].lost.IsZero() {
		return at, false
	}
	s := reader.sight[k]
	least := later(later(w.since, s.from), subject.stamps[i].lastAt(now))
	if i == 0 && len(w.disks) > 0 {
		least = later(least, subject.writes[i].lastAt(now))
	}
	at = w.since.Add((least.Sub(w.since) + w.pace - 1) / w.pace * w.pace)
	if !at.After(heard) {
		at = w.since.Add((heard.Sub(w.since)/w.pace + 1) * w.pace)
	}
	at = later(at, w.since.Add((now.Sub(w.since)/w.pace-(maxLooks-1))*w.pace))
	if !at.Before(s.gap[0]) && at.Before(s.gap[1]) {
		at = s.gap[1]
	}
	return at, at.Before(now)
}

// firstProbe is when the probe was sent with which the silence began that counts: one that
// has been given up by now.
func (w *watch) firstProbe(reader *host, n network, heard time.Time) (at time.Time, ok bool) {
	if w.silent[n].IsZero() {
		return at, false
	}
	wait, least := w.probeWait(), later(later(w.since, w.silent[n]), reader.thawed)
	at = w.since.Add((least.Sub(w.since) + wait - 1) / wait * wait)
	if !at.After(heard) {
		at = w.since.Add((heard.Sub(w.since)/wait + 1) * wait)
	}
	return at, !at.Add(wait).After(reader.f.now)
}

func (w *watch) probeWait() time.Duration { return min(w.window/minProbes, time.Second) }

// tells: a new window could not show more (agent/watch.go).
func tells(p *agentpb.PoolAnswer, disks int) bool {
	if p.Stamp == agentpb.Seen_SEEN_MOVED || p.Disks == agentpb.Seen_SEEN_MOVED {
		return true
	}
	return p.Stamp == agentpb.Seen_SEEN_STILL && (disks == 0 || p.Disks == agentpb.Seen_SEEN_STILL)
}
