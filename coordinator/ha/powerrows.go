// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Power transitions (ha.md §3.1). A reading never ends an incident; OFF that nobody
// ordered is confirmed, and an unreadable level only holds.

// seePower records the reading. A reading other than OFF ends a confirmation that has
// not begun.
func (s *step) seePower() {
	ev := s.ev
	told := ev.PowerTold || ev.Power != power.Unknown
	if s.r.PowerSince.IsZero() || ev.Power != s.r.Power || told != s.r.PowerTold {
		s.r.PowerSince = s.now
		if !ev.PowerFirst.IsZero() {
			s.r.PowerSince = utc(ev.PowerFirst)
		}
	}
	s.r.Power, s.r.PowerTold = ev.Power, told
	if ev.Power == power.Off && s.r.OrderedOff {
		s.r.Protected = false // it went off as ordered: no proof is owed
	}
	if s.r.Off != nil && ev.Power != power.Off {
		if s.r.Off.Waiting {
			s.effect(Effect{Kind: LeavePlace})
		}
		s.setOffHolds(nil)
		s.r.Off = nil
	}
}

// unreadable: it was told that no level can be read. Before the first word of the
// power machine nothing is known, and nothing follows.
func (s *step) unreadable() bool { return !s.r.PowerSince.IsZero() && !s.r.PowerTold }

func (s *step) wasUnreadable() bool { return !s.was.PowerSince.IsZero() && !s.was.PowerTold }

func (s *step) toOn() bool {
	return s.ev.Kind == EvPower && s.r.Power == power.On && s.was.Power != power.On
}

// switchedOnByHand: an OFF from before the present boot is that boot's past, and a
// device that is not believed says nothing.
func switchedOnByHand(s *step) bool {
	stale := s.r.State != Unsupported && s.was.PowerSince.Before(s.r.Boot.Seen)
	return s.toOn() && s.was.Power == power.Off && len(s.r.Contradicted) == 0 && !stale
}

func readsOnAgain(s *step) bool {
	return s.toOn() && s.was.Power == power.Unknown && !s.was.PowerSince.IsZero()
}

func bootsNow(s *step) {
	s.because("power went from %s to ON", s.was.Power)
	s.r.Protected = false
	s.unorder()
	s.unknownHealth()
	s.quiet()
}

func (s *step) quiet() { s.r.QuietUntil, s.r.QuietBoot = s.now.Add(s.p.QuietPeriod), "" }

func reassess(s *step) {
	s.because("power reads ON again")
	s.unorder()
}

// notRunning: OFF of a host that owes nobody a proof.
func notRunning(s *step) bool {
	return s.ev.Kind == EvPower && s.r.Power == power.Off && s.was.Power != power.Off && !s.r.Protected && !s.ev.Ordered && !s.r.OrderedOff
}

func sayNotRunning(s *step) {
	s.because("the host is not running")
	s.r.QuietUntil, s.r.QuietBoot = time.Time{}, ""
}

// foundOff: OFF on record that nobody ordered through us and no boot came after.
func foundOff(s *step) bool {
	owes := s.r.Protected || s.r.Unhealthy()
	return s.r.Power == power.Off && s.r.Off == nil && owes && !s.r.OrderedOff && len(s.r.Contradicted) == 0 &&
		!(s.ev.Kind == EvPower && s.ev.Ordered) && !running(s.r.OrderTxn) && s.r.Boot.Seen.Before(s.r.PowerSince) && (s.r.OffVoid.Before(s.r.PowerSince) || s.offAgain())
}

// offAgain: a confirmation saw the power ON (or an order explained its OFF), nobody has seen it
// ON since, and it reads OFF all the same now
// that the host would have booted: what switched it off was that confirmation's own packet.
func (s *step) offAgain() bool { return past(s.r.OffVoid.Add(s.p.QuietPeriod), s.now) }

// findOff begins the wait before a confirmation: a manual restart may pass, and after
// UNKNOWN mains may be coming back.
func findOff(s *step) {
	if !s.r.OffVoid.Before(s.r.PowerSince) {
		s.r.PowerSince = s.now // since when is not known: it was ON in between
	}
	delay := s.p.confirmDelay()
	if s.ev.Kind == EvPower && s.was.Power == power.Unknown {
		delay = s.p.QuietPeriod
	}
	s.r.Off = &OffFound{Seen: s.r.PowerSince, ConfirmAt: s.now.Add(delay), Devices: slices.Clone(s.ev.PowerBy)}
	s.because("power was found OFF at %s, nobody ordered it; confirmed at %s unless it comes back", clock(s.r.PowerSince), clock(s.r.Off.ConfirmAt))
	s.note("reading", "%s", s.why)
	s.announce("power.external-off", "%s", s.why)
	if s.r.open() && s.r.Incident.Waiting != "" {
		// One road at a time: the place that was waited for was for a running host.
		i := s.inc()
		i.Waiting, i.CheckAt = "", s.now.Add(i.Interval)
		s.effect(Effect{Kind: LeavePlace})
	}
}

// offWhileWaiting: a CHECKING host whose place was given up has no check running.
func offWhileWaiting(s *step) bool {
	return s.r.Off != nil && s.r.Incident.CheckID == "" && s.r.Incident.Waiting == ""
}

func offRefuted(s *step) bool { return s.r.Off != nil && s.life.After(s.r.Off.Seen) }

// refuteOff: a sign of life since OFF was read. The device is contradicted.
func refuteOff(s *step) {
	o := s.r.Off
	s.because("alive since its power was found OFF at %s: the device is not to be believed", clock(o.Seen))
	s.r.LastLife = s.life
	s.contradict(o.Devices, s.why)
	if o.Waiting {
		s.effect(Effect{Kind: LeavePlace})
	}
	s.setOffHolds(nil)
	s.r.Off = nil
}

func confirmDue(s *step) bool {
	return s.r.Off != nil && !s.r.Off.Waiting && past(s.r.Off.ConfirmAt, s.now)
}

func askConfirm(s *step) {
	s.off().Waiting = true
	s.effect(Effect{Kind: TakePlace, Purpose: guard.Confirm})
}

// Power while an incident is open.

func bootsInIncident(s *step) bool { return s.toOn() && s.was.Power == power.Off && !s.ev.Ordered }

func quietInIncident(s *step) {
	s.quiet()
	s.note("reading", "power went from OFF to ON: quiet period until %s", clock(s.r.QuietUntil))
	s.soon()
}

func lostPower(s *step) bool { return s.unreadable() && !s.wasUnreadable() }

func holdUnreadable(s *step) {
	h := unreadableHold(s.now)
	if s.ev.PowerWhy != "" {
		h.Reason = "power unreadable: " + s.ev.PowerWhy
	}
	s.because("%s", h.Reason)
	s.hold(h)
}

// readableAgain also where it never was: any level that reads clears the hold.
func readableAgain(s *step) bool {
	_, held := holdBy(s.r.Incident.Holds, "power")
	return !s.unreadable() && (s.wasUnreadable() || held && s.was.Power != s.r.Power)
}

func clearUnreadable(s *step) {
	if s.because("power reads %s again", s.r.Power); s.r.Power == power.Unknown {
		s.because("a power device answers again")
	}
	s.unhold("power")
	s.soon()
}

// soon makes a check due at once, unless one runs or a place is waited for. However
// often it is said, checks keep the initial interval.
func (s *step) soon() {
	i, at := s.r.Incident, s.now
	if i.Last != nil {
		at = i.Last.Done.Add(s.p.CheckInitial)
	}
	if at.Before(s.now) {
		at = s.now
	}
	if i.CheckID == "" && i.Waiting == "" && i.CheckAt.After(at) {
		s.inc().CheckAt = at
	}
}

// Abandoning a confirmation.

func confirming(s *step) bool {
	return s.r.Incident.Purpose == guard.Confirm && s.r.Incident.By == "" && !s.recorded()
}

func from(state ...State) func(*step) bool {
	return func(s *step) bool { return slices.Contains(state, s.r.Incident.From) }
}

// onWhileConfirming: one ON reading, the machine's or the transaction's own.
func onWhileConfirming(s *step) bool {
	if !confirming(s) {
		return false
	}
	if s.ev.Kind == EvTxn {
		return actionEvent(s) && s.ev.Txn.Reading.State == power.On
	}
	return s.toOn()
}

func lifeWhileConfirming(s *step) bool {
	return confirming(s) && !s.otherBoot() && s.livedAt().After(s.r.Incident.OffSeen)
}

func abandonOn(s *step) {
	s.because("power reads ON: confirmation abandoned")
	s.r.OffVoid = s.now
	s.quiet()
	s.abandon()
	s.effect(Effect{Kind: ReadPower})
}

func abandonLife(s *step) {
	s.because("alive since its power was found OFF: confirmation abandoned, the device is not to be believed")
	if at := s.livedAt(); at.After(s.life) {
		s.life = at
	}
	s.r.LastLife = s.life
	s.contradict(s.r.Incident.OffSentTo, s.why)
	s.abandon()
}

// abandon goes back to where it came from: an incident that only confirmed ends, one
// that was open before goes on with a fresh check.
func (s *step) abandon() {
	s.drop(s.why)
	switch s.r.Incident.From {
	case Suspect, Checking, Degraded, Recovering:
		s.scheduleFirst()
		s.inc().CheckAt = s.now
	default:
		s.outcome = "abandoned"
	}
}

// quietOver: also a hold that named the quiet period may end now.
func quietOver(s *step) bool { return past(s.r.QuietUntil, s.now) }

func endQuiet(s *step) {
	s.r.QuietUntil, s.r.QuietBoot = time.Time{}, ""
	if s.r.State == Suspect || s.r.State == Degraded {
		s.soon()
	}
}

// mayHaveCleared: something changed that a hold may have waited for.
func mayHaveCleared(s *step) bool {
	return s.r.open() && len(s.r.Incident.Holds) > 0 || s.r.Off != nil && len(s.r.Off.Holds) > 0
}

func askAgain(s *step) {
	if s.r.open() && len(s.r.Incident.Holds) > 0 && (s.r.State == Suspect || s.r.State == Degraded) {
		s.soon()
	}
	if s.r.Off != nil && len(s.r.Off.Holds) > 0 && !s.r.Off.Waiting && s.r.Off.ConfirmAt.After(s.now) {
		s.off().ConfirmAt = s.now
	}
}
