// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
)

// link is the connection of a host's agent to the worker that owns it.
type link struct {
	up        bool
	to        *owner
	pings     track
	seq       int // of the attempt under way
	trying    bool
	telling   bool   // the answer to its next ping tells it new settings
	confirmed string // gate that the agent has confirmed
}

// connectWithin is how soon an agent without a worker has found its own.
const connectWithin = time.Second

// canLink: the agent can reach its owner.
func (h *host) canLink() bool {
	o := h.owner
	return o != nil && h.works() && h.agent && h.onNet(mgmt) && o.w.alive && !o.w.isolated
}

// relink follows what is true: a link ends at once when its agent or its worker does;
// one whose cable was cut is silent until somebody misses its pings.
func (h *host) relink() {
	l, f := &h.link, h.f
	can := h.canLink()
	if l.up && (l.to != h.owner || !can) {
		l.pings.set(false, f.now, l.pings.every)
		if l.to != h.owner || !h.agent && h.works() {
			h.gone()
		}
	}
	if l.up && can && !l.pings.on { // the cable is back: the connection was never told
		h.gone()
	}
	if l.up || !can || l.trying {
		return
	}
	l.seq++
	seq, o := l.seq, h.owner
	l.trying = true
	f.after(100*time.Millisecond+f.jitter(connectWithin), func() {
		if l.seq != seq {
			return
		}
		l.trying = false
		if h.owner != o || !h.canLink() {
			h.relink()
			return
		}
		if o.w.paused { // its sockets take the connection and nobody answers
			l.trying = true
			o.w.onResume(func() { l.trying = false; h.relink() })
			return
		}
		l.up, l.to = true, o
		o.goBy(o.eff.pace())
		h.heard(func() { o.onHello() })
	})
}

func (h *host) gone() {
	o := h.link.to
	if o != nil {
		o.heardAt = o.lastPing()
	}
	h.link.up, h.link.to = false, nil
	h.link.pings.set(false, h.f.now, h.link.pings.every)
	if o != nil && !o.over {
		o.post(func() { o.readersMayHaveChanged() })
	}
}

// heard delivers what the agent says to its owner.
func (h *host) heard(do func()) {
	if o := h.owner; o != nil {
		o.post(do)
	}
}

// armPing makes the next ping an event of its own while the owner wants every one.
func (o *owner) armPing() {
	l := &o.h.link
	if o.over || o.calm || o.pingArmed || !l.up || l.to != o || !l.pings.on {
		return
	}
	o.pingArmed = true
	seq := l.seq
	o.f.at(l.pings.next(o.f.now), func() {
		o.pingArmed = false
		if o.over || !l.up || l.to != o || !l.pings.on || l.seq != seq {
			o.armPing()
			return
		}
		o.post(o.onPing)
		o.armPing()
	})
}

// lastPing is when the last ping or Hello arrived at this owner, in true time.
func (o *owner) lastPing() time.Time {
	l := &o.h.link
	if l.to != o || o.deafened {
		return o.heardAt
	}
	if at := l.pings.lastAt(o.f.now); at.After(o.heardAt) {
		return at
	}
	return o.heardAt
}

// goBy tells the agent how often to ping and stamp.
func (o *owner) goBy(p ha.Pace) {
	o.h.pace, o.pace = p, p
	o.h.link.pings.set(true, o.f.now, p.Ping)
	o.refreshPolicy()
	o.f.refresh(o.h)
}

// tellPace has the agent go by the settings as they are now. It hears of them with the
// answer to its next ping, as often as it pings until then.
func (o *owner) tellPace() {
	l := &o.h.link
	if o.over || l.telling || !l.up || l.to != o || !l.pings.on || o.h.pace == o.eff.pace() {
		return
	}
	l.telling = true
	o.f.at(l.pings.next(o.f.now), func() {
		l.telling = false
		if n := o.h.owner; n != nil && n.h.link.to == n && l.up && l.pings.on && n.h.works() {
			if n.w.paused {
				n.tellPace()
				return
			}
			n.goBy(n.eff.pace())
			n.post(func() { n.step(ha.Event{Kind: ha.EvPolicy}) })
		}
	})
}

// readersStamps are the stamp intervals of its neighbours as they are set (worker/policy.go).
func (h *host) readersStamps() (out []time.Duration) {
	plain := 0
	for _, m := range h.f.members[h.Partition] {
		own := len(h.f.settings["host/"+m.ID]) > 0
		if m == h || !own && plain == 2 {
			continue
		}
		if out = append(out, h.f.effective(m).stamp); !own {
			plain++
		}
	}
	return out
}

// stampsEvery is how often its agent stamps; one that was told nothing yet as the settings say.
func (h *host) stampsEvery() time.Duration {
	if h.pace.Stamp > 0 {
		return h.pace.Stamp
	}
	return h.f.effective(h).stamp
}

// goodbye is the agent's last word.
func (o *owner) goodbye(why string) {
	o.post(func() { o.step(ha.Event{Kind: ha.EvGoodbye, Reason: why, Boot: o.h.boot()}) })
}
