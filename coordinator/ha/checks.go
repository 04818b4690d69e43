// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// suspect opens an incident, or goes on with the one of a host that was coming back:
// its attempts and its budget slot stay counted until it is AVAILABLE.
func suspect(s *step) {
	why := s.r.HealthWhy
	if s.ev.Kind == EvHealth && fail(s) {
		why = s.ev.Reason // with the age it has now
	}
	if why == "" {
		why = "the health check failed"
	}
	s.because("%s", why)
	if s.r.open() {
		i := s.inc()
		i.Boot, i.Unknowns, i.Actives, i.AgentBy, i.Fell = s.r.Boot.ID, 0, 0, time.Time{}, s.now
		s.r.Passes, s.r.PassSince = 0, time.Time{}
		s.scheduleFirst()
	} else {
		s.newIncident(why)
	}
	s.note("seen", "%s", why)
	if s.unreadable() {
		s.hold(unreadableHold(s.now))
	}
	s.effect(Effect{Kind: ReadPower})
}

func (s *step) newIncident(cause string) {
	s.r.Incident = &Incident{ID: s.id("i"), Opened: s.now, Fell: s.now, Cause: cause, Boot: s.r.Boot.ID, Protected: s.r.Protected, OtherAction: s.r.LastAction, Pace: s.p.Told}
	s.own = true
	s.r.Passes, s.r.PassSince = 0, time.Time{}
	s.scheduleFirst()
}

func (s *step) scheduleFirst() {
	i := s.inc()
	i.Interval, i.CheckAt = s.p.CheckInitial, s.now.Add(s.p.CheckInitial)
	if s.p.FirstCheckAtOnce {
		i.CheckAt = s.now
	}
}

// suspectUnsupported: a host that was protected is not forgotten because its BMC or
// its eligibility went away (ha.md §3, UNSUPPORTED row).
func suspectUnsupported(s *step) {
	reason := s.r.Reason
	suspect(s)
	if !s.unreadable() {
		s.hold(ineligibleHold(reason, s.now))
	}
}

func checkDue(s *step) bool {
	i := s.r.Incident
	return i.CheckID == "" && i.Waiting == "" && past(i.CheckAt, s.now)
}

// startCheck asks for an activity check. The provider abandons it at Deadline; CheckBy,
// a ping later, is the backstop for an answer that got lost with it.
func startCheck(s *step) {
	s.ask()
	s.inc().CheckNo++
	if s.r.State == Suspect {
		s.because("activity check %d runs", s.r.Incident.CheckNo)
	}
}

func (s *step) ask() {
	i := s.inc()
	deadline := s.now.Add(s.p.CheckTimeout)
	i.CheckID, i.CheckAt, i.CheckBy = s.id("c"), time.Time{}, deadline.Add(s.p.PingInterval)
	s.effect(Effect{Kind: StartCheck, ID: i.CheckID, Deadline: deadline, Memory: s.p.Memory && s.unchecked()})
}

// unchecked: nothing was learnt or done in this incident yet, so that the silence which has
// opened it is what is to be checked. Later checks are asked because of something that came
// in between (an answer, an action, a hold that cleared), and see only what comes after it.
func (s *step) unchecked() bool {
	i := s.r.Incident
	return i.CheckNo == 0 && i.Last == nil && i.Attempts == 0 && i.Action == nil
}

// answers: the event answers the check on record. Everything else is stale.
func answers(s *step) bool {
	return s.ev.Check != nil && s.r.Incident.CheckID != "" && s.ev.Check.ID == s.r.Incident.CheckID
}

func verdictIs(v Verdict) func(*step) bool {
	return func(s *step) bool { return answers(s) && s.verdict() == v }
}

// verdict reads anything but a plain active or idle as unknown.
func (s *step) verdict() Verdict {
	if v := s.ev.Check.Verdict; v == Active || v == Idle {
		return v
	}
	return Unknown
}

func activeEnough(s *step) bool {
	return verdictIs(Active)(s) && s.r.Incident.Actives+1 >= s.p.DegradedAfter
}

func unknownLeft(s *step) bool {
	return verdictIs(Unknown)(s) && s.r.Incident.Unknowns+1 < s.p.ActivityAttempts
}

// finish records the answered check and counts its verdict.
func (s *step) finish() {
	i, c := s.inc(), *s.ev.Check
	c.Verdict = s.verdict()
	c.Votes = slices.Clone(c.Votes)
	i.Last, i.CheckID, i.CheckBy = &c, "", time.Time{}
	switch c.Verdict {
	case Active:
		i.Actives, i.Unknowns = i.Actives+1, 0
	case Idle:
		i.Actives, i.Unknowns = 0, 0
	default:
		i.Actives, i.Unknowns = 0, i.Unknowns+1
	}
	word := string(c.Verdict)
	if word == "" {
		word = "unknown"
	}
	s.note("check", "activity check %d: %s: %s", i.CheckNo, word, c.Reason)
}

func foundActive(s *step) {
	s.finish()
	i := s.inc()
	i.Interval = double(i.Interval, s.p)
	i.CheckAt = s.now.Add(i.Interval)
	s.because("alive (%s), but %s", i.Last.Reason, s.complaint())
	s.clearHolds()
	s.hookRepair()
}

func degrade(s *step) {
	foundActive(s)
	i := s.inc()
	i.Interval = max(s.p.CheckMax, s.p.CheckInitial)
	i.CheckAt = s.now.Add(i.Interval)
	if i.Flapping {
		s.why = s.r.Reason
		return
	}
	s.because("alive but not controllable: %d activity checks in a row said active (%s), but %s", i.Actives, i.Last.Reason, s.complaint())
}

// complaint is why health fails, without an age that would go stale.
func (s *step) complaint() string {
	if s.r.HealthOwn {
		return "it reports itself: " + orNone(s.r.HealthWhy)
	}
	return "its health check fails"
}

// hookRepair runs the repair command at most RepairAttempts times an incident; the
// first active verdict is the moment where a repair can help (ha.md §7, step 0).
func (s *step) hookRepair() {
	if s.mayNotAct() != "" {
		return // hands off means this too
	}
	if i := s.inc(); i.Repairs < s.p.RepairAttempts {
		i.Repairs++
		s.effect(Effect{Kind: Repair, Reason: i.Last.Reason})
		s.note("seen", "repair command %d started", i.Repairs)
	}
}

func foundUnknown(s *step) {
	s.finish()
	i := s.inc()
	i.CheckAt = s.now.Add(s.p.CheckInitial)
	s.because("activity unknown (%d of %d): %s", i.Unknowns, s.p.ActivityAttempts, i.Last.Reason)
}

func unknownHold(s *step) {
	s.finish()
	i := s.inc()
	i.Interval = max(s.p.CheckMax, s.p.CheckInitial)
	i.CheckAt = s.now.Add(i.Interval)
	s.because("activity is unknown after %d checks: %s", i.Unknowns, i.Last.Reason)
	s.unguard()
	s.hold(Hold{By: "activity", Reason: s.why, Clears: "a check that says active or idle; asked again when a checker, a pool or a power reading changes", Since: s.now})
}

// foundIdle asks for a place in the recovery pool. Nothing is armed yet: the guards are
// asked with a fresh snapshot once the place is held (ha.md §7).
func foundIdle(s *step) {
	s.finish()
	s.wait(s.purpose())
	s.because("idle: %s; waiting for a place to %s", s.r.Incident.Last.Reason, s.r.Incident.Waiting)
}

// idleWhileOff: a host found OFF is not cycled, it is confirmed; one road at a time.
func idleWhileOff(s *step) {
	s.finish()
	i := s.inc()
	i.Interval = double(i.Interval, s.p)
	i.CheckAt = s.now.Add(i.Interval)
	s.because("idle, and its power was found OFF at %s: confirming", clock(s.r.Off.Seen))
	if _, signs := holdBy(s.r.Off.Holds, "signals"); signs && !s.r.Off.Waiting {
		s.off().ConfirmAt = s.now // what held it may be this very check's news
	}
}

// idleIneligible: what the provider cannot protect is not acted on, however idle.
func idleIneligible(s *step) bool { return notEligible(s) && verdictIs(Idle)(s) }

func holdIneligible(s *step) {
	s.finish()
	i := s.inc()
	i.Interval = double(i.Interval, s.p)
	i.CheckAt = s.now.Add(i.Interval)
	s.because("idle, and not eligible: %s", orNone(s.r.EligibleWhy))
	s.hold(ineligibleHold(s.r.EligibleWhy, s.now))
}

func offPending(s *step) bool { return s.r.Off != nil }

func idleAndOff(s *step) bool { return offPending(s) && verdictIs(Idle)(s) }

// purpose of acting on an idle host.
func (s *step) purpose() guard.Purpose {
	if s.p.Mode == "fence" || s.r.Incident.Attempts > 0 && s.r.Incident.Attempts >= s.p.RecoveryAttempts {
		return guard.Fence
	}
	return guard.Recover
}

func (s *step) wait(p guard.Purpose) {
	i := s.inc()
	i.Waiting, i.CheckAt = p, time.Time{}
	s.effect(Effect{Kind: TakePlace, Purpose: p})
}

// Passes.

func pass(s *step) bool { return s.ev.Verdict == Pass && !s.otherBoot() }

func fail(s *step) bool { return s.ev.Verdict == Fail && !s.otherBoot() }

// returns: two passes in a row, or as many as last five minutes for one that flaps.
func returns(s *step) bool {
	if !pass(s) || s.r.Passes+1 < 2 {
		return false
	}
	return !s.flaps() || s.now.Sub(s.r.PassSince) >= flapPasses
}

func (s *step) flaps() bool {
	return s.r.Incident.Flapping || len(recentReturns(s.r.Returns, s.now)) >= flapReturns
}

func flapsNow(s *step) bool {
	return pass(s) && s.r.Passes+1 >= 2 && s.flaps() && !s.r.Incident.Flapping
}

func flap(s *step) {
	countPass(s)
	i := s.inc()
	i.Flapping, i.Interval = true, max(s.p.CheckMax, s.p.CheckInitial)
	if i.CheckID == "" && i.Waiting == "" {
		i.CheckAt = s.now.Add(i.Interval)
	}
	s.because("flapping: %d returns within %s; it must pass for %s", len(recentReturns(s.r.Returns, s.now)), span(flapWindow), span(flapPasses))
}

func passCounts(s *step) bool { return pass(s) && s.r.Passes < 2 }

func countPass(s *step) {
	if s.r.Passes == 0 {
		s.r.PassSince = s.now
	}
	s.r.Passes++
	s.r.LastLife = s.life
}

func failAfterPass(s *step) bool { return fail(s) && s.r.Passes > 0 }

// dropPasses: the passes were not in a row. A DEGRADED host is checked soon, not after
// the maximum interval.
func dropPasses(s *step) {
	s.r.Passes, s.r.PassSince = 0, time.Time{}
	if i := s.inc(); i.CheckID == "" && i.Waiting == "" {
		if soon := s.now.Add(s.p.CheckInitial); i.CheckAt.IsZero() || soon.Before(i.CheckAt) {
			i.CheckAt = soon
		}
	}
}
