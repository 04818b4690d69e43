// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// Holds are announced when they are placed and when they are cleared, once each.

// setHolds replaces the incident's holds; what was held before keeps its time.
func (s *step) setHolds(next []Hold) {
	old := s.r.Incident.Holds
	if len(old) == 0 && len(next) == 0 {
		return
	}
	s.inc().Holds = s.carry(old, next)
}

// setOffHolds does the same for the holds of a confirmation.
func (s *step) setOffHolds(next []Hold) {
	s.off().Holds = s.carry(s.r.Off.Holds, next)
}

func (s *step) carry(old, next []Hold) []Hold {
	var placed, cleared []string
	out := slices.Clone(next)
	for k, h := range out {
		if was, ok := holdBy(old, h.By); ok {
			out[k].Since = was.Since
		} else {
			placed = append(placed, h.By+": "+h.Reason)
		}
	}
	for _, h := range old {
		if _, still := holdBy(next, h.By); !still {
			cleared = append(cleared, h.By)
		}
	}
	if len(cleared) > 0 {
		s.tellHolds("ha.hold-cleared", "cleared: "+strings.Join(cleared, ", "))
	}
	if len(placed) > 0 {
		s.tellHolds(holdPlaced, "held by "+strings.Join(placed, "; "))
	}
	return out
}

func (s *step) tellHolds(kind, text string) {
	s.raise(kind, text)
	if s.r.open() {
		s.write("guard", text)
	}
}

// hold adds one hold to the incident, or renews its words.
func (s *step) hold(h Hold) {
	next := slices.DeleteFunc(slices.Clone(s.r.Incident.Holds), func(o Hold) bool { return o.By == h.By })
	s.setHolds(append(next, h))
}

func (s *step) unhold(by string) {
	if _, ok := holdBy(s.r.Incident.Holds, by); ok {
		s.setHolds(slices.DeleteFunc(slices.Clone(s.r.Incident.Holds), func(o Hold) bool { return o.By == by }))
	}
}

// unguard drops what guards answered about an idle verdict that is overtaken: what they
// would say now is not known, and is not what keeps the host waiting. That its power is
// unreadable is no guard's answer and stays.
func (s *step) unguard() {
	s.setHolds(slices.DeleteFunc(slices.Clone(s.r.Incident.Holds), func(h Hold) bool {
		return !(h.By == "power" && s.unreadable()) && slices.ContainsFunc(guard.Guards, func(g guard.Guard) bool { return g.Name == h.By })
	}))
}

// clearHolds drops all holds but the one on unreadable power, which ends with a
// reading only.
func (s *step) clearHolds() {
	var keep []Hold
	if s.unreadable() {
		if h, ok := holdBy(s.r.Incident.Holds, "power"); ok {
			keep = append(keep, h)
		}
	}
	s.setHolds(keep)
}

func holdBy(hs []Hold, by string) (Hold, bool) {
	k := slices.IndexFunc(hs, func(h Hold) bool { return h.By == by })
	if k < 0 {
		return Hold{}, false
	}
	return hs[k], true
}

func unreadableHold(at time.Time) Hold {
	return Hold{By: "power", Reason: "power unreadable: no power level of the host can be read", Clears: "a reading of some level, or `holdfast host confirm-off`", Since: at}
}

func ineligibleHold(why string, at time.Time) Hold {
	return Hold{By: "eligible", Reason: orNone(why), Clears: "the provider says it is eligible again, the host answers, or `holdfast host confirm-off`", Since: at}
}

// cannotHear: not the host is silent, its owner is deaf: somebody else carries its link, and
// cannot be reached (agents.md "Owner and link").
func cannotHear(s *step) bool {
	return s.ev.Verdict == Unknown && s.ev.Reason != "" && s.ev.Boot == "" && s.r.Unheard == nil
}

// holdUnheard: nothing is known of the host's health, which is no failure of it.
func holdUnheard(s *step) {
	s.unknownHealth()
	h := Hold{By: "carrier", Reason: s.ev.Reason, Clears: "a ping by way of any worker; missed pings count once its agent has had the time to link to another one", Since: s.now}
	s.r.Unheard = &s.carry(nil, []Hold{h})[0]
}

// heard: there is an answer about the host's health again, or somebody else who asks.
func (s *step) heard() {
	if s.r.Unheard == nil {
		return
	}
	was := *s.r.Unheard
	s.r.Unheard = nil
	s.carry([]Hold{was}, nil)
}

// guardHolds are the answers that do not allow.
func guardHolds(r *guard.Report, at time.Time) []Hold {
	var out []Hold
	for i := range r.Answers {
		if a := &r.Answers[i]; a.Verdict != guard.Allow {
			out = append(out, Hold{By: a.Guard, Reason: a.Reason, Clears: a.Clears, Since: at})
		}
	}
	if len(out) == 0 && !r.Allowed() {
		out = append(out, Hold{By: "guards", Reason: "no guard answered", Clears: "an evaluation of the guards", Since: at})
	}
	return out
}
