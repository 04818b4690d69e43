// SPDX-License-Identifier: Apache-2.0

package ha

import "time"

// clockSlack is more than the events of one owner, or two owners' clocks, are apart.
const clockSlack = 30 * time.Second

// setClock goes on by the present clock when the record tells of a time to come: the
// clock was set back, or the last owner's was fast. Else deadlines would stand for as
// long as it was wrong, and what was seen would seem younger than all that follows.
func (s *step) setClock() {
	newest := later(s.r.Since, later(s.r.LastAction, s.r.LastLife))
	if s.r.Off != nil {
		newest = later(newest, s.r.Off.Seen)
	}
	if s.r.open() && len(s.r.Incident.Ledger) > 0 {
		newest = later(newest, s.r.Incident.Ledger[len(s.r.Incident.Ledger)-1].At)
	}
	if !newest.After(s.now.Add(clockSlack)) {
		return
	}
	for _, t := range []*time.Time{&s.r.Since, &s.r.LastLife, &s.r.LastOff, &s.r.LastAction, &s.r.PassSince} {
		*t = clamp(*t, s.now, 0)
	}
	s.keepOrder()
	if s.r.open() {
		i := s.inc()
		i.OtherAction, i.OffSeen, i.Fell = clamp(i.OtherAction, s.now, 0), clamp(i.OffSeen, s.now, 0), clamp(i.Fell, s.now, 0)
	}
	if p := s.r.Proof; p != nil {
		c := *p
		c.At = clamp(c.At, s.now, 0)
		s.r.Proof = &c
	}
	if o := s.r.Off; o != nil {
		s.off().Seen = clamp(o.Seen, s.now, 0)
	}
	s.note("seen", "the clock went back by %s", span(newest.Sub(s.now)))
	s.clampDeadlines()
	if s.ev.Kind != EvAdopted {
		s.resumeTxns()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// keepOrder clamps what is compared to each other: whether the power was found OFF after
// the present boot began must be told after the clock was set, too.
func (s *step) keepOrder() {
	since := s.r.PowerSince
	s.r.PowerSince = clamp(since, s.now, 0)
	for _, t := range []*time.Time{&s.r.Boot.Seen, &s.r.OffVoid} {
		before := t.Before(since)
		if *t = clamp(*t, s.now, 0); before && !t.Before(s.r.PowerSince) {
			*t = s.r.PowerSince.Add(-time.Millisecond)
		}
	}
}

// clampDeadlines brings persisted deadlines into [0, original length] from now
// (ha.md §7).
func (s *step) clampDeadlines() {
	s.r.QuietUntil = clamp(s.r.QuietUntil, s.now, s.p.QuietPeriod)
	s.r.SoftBy = clamp(s.r.SoftBy, s.now, s.p.SoftGrace)
	if o := s.r.Off; o != nil {
		if at := clamp(o.ConfirmAt, s.now, max(s.p.confirmDelay(), s.p.QuietPeriod, o.Interval)); at != o.ConfirmAt {
			s.off().ConfirmAt = at
		}
	}
	if !s.r.open() {
		return
	}
	i := s.r.Incident
	check, agent := clamp(i.CheckAt, s.now, max(i.Interval, s.p.CheckInitial)), clamp(i.AgentBy, s.now, s.p.RecoveryWait)
	answer := clamp(i.CheckBy, s.now, s.p.CheckTimeout+s.p.PingInterval)
	if check != i.CheckAt || agent != i.AgentBy || answer != i.CheckBy {
		i = s.inc()
		i.CheckAt, i.AgentBy, i.CheckBy = check, agent, answer
	}
}
