// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// What the guards of one host may know of all others (worker/census.go).

// count puts a host as it is on record into the census.
func (f *Fleet) count(h *host) {
	rec := h.rec
	rec.Host = h.ID
	x := rec.Fact(h.Partition, map[string]string{"rack": h.Rack, "switch": h.rack.spec.Switch, "pdu": h.rack.spec.PDU}, h.pools)
	x.Out = x.Out || h.Maintenance || h.HADisabled || h.Disabled
	if len(f.census.Put(x)) > 0 {
		f.lookAtAreas(areasSoon)
	}
}

// heard looks up when siblings of a host were heard last; those of other workers are not
// known here.
func (o *owner) heardOf(answered map[string]time.Time) func(string) time.Time {
	return func(id string) (at time.Time) {
		if n := o.w.owners[id]; n != nil && !n.lastPing().IsZero() {
			at = o.w.wallAt(n.lastPing())
		}
		if t := answered[id]; t.After(at) {
			at = t
		}
		return at
	}
}

func (o *owner) survey(now, since time.Time, answered map[string]time.Time) guard.AreaFacts {
	q := guard.Question{
		At: now, Host: o.h.ID, Since: since, Share: o.shares(), Round: o.roundLasts(), MaxAge: readAgeLimit,
		Cooldown: o.eff.Duration("guard.storm.cooldown"), Heard: o.heardOf(answered), Storms: o.w.storm,
	}
	return o.f.census.Survey(q)
}

// shares are the limits of guard share, by level.
func (o *owner) shares() map[string]int {
	out := map[string]int{}
	levels, prefixes := guard.Levels(o.h.Partition), settings.Prefixes(o.h.Partition)
	for i := range levels {
		out[levels[i]] = o.f.effectiveOf(prefixes[i], "").Int("guard.unhealthy.share")
	}
	return out
}

func (o *owner) roundLasts() time.Duration { return o.policy.PingInterval + time.Second }

// round waits until it can be said who fell together with the host: siblings that were
// not heard since are asked, once, and waited for until the round is over.
func (o *owner) round(done func(answered map[string]time.Time)) {
	since, share, answered := o.rec.Silent(), o.shares(), map[string]time.Time{}
	ends := later(since.Add(o.roundLasts()), o.wall().Add(o.eff.Duration("ha.health.timeout")))
	undecided := func() bool {
		return o.f.census.Survey(guard.Question{At: o.wall(), Host: o.h.ID, Since: since, Share: share, Round: o.roundLasts(), Heard: o.heardOf(answered)}).Undecided()
	}
	if since.IsZero() || !undecided() {
		done(nil)
		return
	}
	for _, n := range o.w.sorted() {
		at := n.lastPing()
		if n == o || at.IsZero() || o.w.wallAt(at).After(since) || !n.h.canLink() || !n.h.link.up {
			continue
		}
		o.f.after(exchange, func() { answered[n.h.ID] = o.wall() })
	}
	var again func()
	again = func() {
		switch {
		case o.over:
		case o.wall().Before(ends) && undecided():
			o.f.after(roundPoll, again)
		default:
			done(answered)
		}
	}
	o.f.after(roundPoll, again)
}

const roundPoll = 100 * time.Millisecond
