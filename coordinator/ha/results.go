// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// What the end of a power transaction means (ha.md §3, RECOVERING and FENCING rows).

// ended: the transaction is over and nothing was made of that yet.
func ended(s *step) bool {
	i := s.r.Incident
	asked := i.CheckID != "" || i.Waiting != "" || s.r.Off != nil
	return i.Action != nil && i.Action.Done && i.AgentBy.IsZero() && !asked && s.r.SoftBy.IsZero()
}

// result of a transaction that is over; a missing verdict proves nothing.
func (s *step) result() power.Verdict {
	if v := s.r.Incident.Action.Verdict; v != nil {
		return *v
	}
	return power.Verdict{Reason: "it ended without a verdict"}
}

// cycled: OFF was proven and ON was read, or sent and not read back: the host may boot.
func cycled(s *step) bool {
	return ended(s) && s.recorded() && (s.result().On == power.On || s.result().On == power.Unknown && s.r.Incident.Action.OnSent())
}

func awaitAgent(s *step) {
	i := s.inc()
	i.AgentBy = s.now.Add(s.p.RecoveryWait)
	s.because("switched off and on (cycle %d of %d); its agent must be back by %s", i.Attempts, s.p.RecoveryAttempts, clock(i.AgentBy))
	s.effect(Effect{Kind: LeavePlace})
}

// stuckOff: OFF is proven and the host would not switch on.
func stuckOff(s *step) bool { return ended(s) && s.recorded() && s.result().On != power.On }

// switchedOn: it came on after all, while its OFF was about to be confirmed.
func switchedOn(s *step) bool { return s.toOn() && ended(s) && s.recorded() }

// confirmStuck: ON was sent, so the proof ended with it; a host that stays OFF is
// confirmed anew and ends FENCED instead of being cycled once more.
func confirmStuck(s *step) {
	i := s.inc()
	s.r.Off = &OffFound{Seen: s.now, ConfirmAt: s.now, Devices: slices.Clone(i.OffSentTo), Waiting: true}
	s.because("proven OFF, and it did not switch on: %s", s.result().Reason)
	s.effect(Effect{Kind: TakePlace, Purpose: guard.Confirm})
}

// attemptFailed asks anew whether the host lives: no old verdict arms the next attempt.
func attemptFailed(s *step) {
	s.because("attempt %d of %d failed: %s", s.r.Incident.Attempts, s.p.RecoveryAttempts, s.result().Reason)
	s.checkAgain()
	s.effect(Effect{Kind: LeavePlace})
}

func agentLate(s *step) bool { return past(s.r.Incident.AgentBy, s.now) }

func agentMissing(s *step) {
	s.because("attempt %d of %d failed: its agent was not back within %s", s.r.Incident.Attempts, s.p.RecoveryAttempts, span(s.p.RecoveryWait))
	s.inc().AgentBy = time.Time{}
	s.checkAgain()
}

func (s *step) checkAgain() {
	s.note("packet", "%s", s.why)
	s.ask()
	s.inc().CheckNo++
}

// notIdleAfter: the check after an attempt does not say idle.
func notIdleAfter(s *step) {
	s.finish()
	i := s.inc()
	i.CheckAt = s.now.Add(i.Interval)
	i.Actives, i.Unknowns = 0, 0
	word := "active"
	if i.Last.Verdict != Active {
		word = "unknown"
	}
	s.because("after attempt %d the host is %s: %s", i.Attempts, word, i.Last.Reason)
	s.hold(Hold{By: "attempt", Reason: s.why, Clears: "a check that says idle, or the host's return", Since: s.now})
}

func fenceProven(s *step) bool { return ended(s) && s.recorded() }

func fenced(s *step) {
	s.because("proven off (%s): nothing runs there", s.r.Proof.Assurance)
	s.leaveAction()
	s.outcome = "fenced"
}

func (s *step) leaveAction() {
	if s.r.Incident.By == "" {
		s.effect(Effect{Kind: LeavePlace})
	}
}

func silent(s *step) bool { return ended(s) && s.result().Silent }

func fenceSilent(s *step) {
	s.because("power unreadable: %s", s.result().Reason)
	h := unreadableHold(s.now)
	h.Reason = s.why
	s.fenceLater(h)
}

// needsHuman: no device could prove it, and the ladder ends with a human who can
// (power.md §8.7).
func needsHuman(s *step) bool { return ended(s) && s.result().Human }

// fenceByHand holds the incident for the operator and wakes him up.
func fenceByHand(s *step) {
	s.because("only a human can prove it off: %s", s.result().Reason)
	s.fenceLater(Hold{By: "manual", Reason: s.why, Since: s.now,
		Clears: "make sure that the host is off, then `holdfast host confirm-off " + s.r.Host + "`; or the host's return"})
	s.announce("power.needs-human", "host %s: %s; make sure that it is off, then holdfast host confirm-off %s", s.r.Host, s.result().Reason, s.r.Host)
}

// fenceLater goes back to checking, as rarely as there is.
func (s *step) fenceLater(h Hold) {
	i := s.inc()
	i.Interval = max(s.p.CheckMax, s.p.CheckInitial)
	i.CheckAt = s.now.Add(i.Interval)
	s.hold(h)
	s.leaveAction()
	s.effect(Effect{Kind: ReadPower})
}

func fenceFailed(s *step) {
	v := s.result()
	reason := v.Reason
	switch {
	case v.Assurance > power.A0 && s.disbelieved():
		reason = "its device reads OFF and is not to be believed: the host lived after an earlier OFF"
	case v.Assurance > power.A0 && v.Assurance < s.p.ProofMin:
		reason = "proof is " + v.Assurance.String() + ", and " + s.p.ProofMin.String() + " is wanted"
	}
	s.because("no proof of OFF: %s; `holdfast host confirm-off` is the way on", reason)
	s.leaveAction()
	s.outcome = "failed"
}

// A sign of life while an action runs.

// unsent: nothing irreversible left, and the action is automation's own.
func unsent(s *step) bool {
	i := s.r.Incident
	return i.By == "" && running(i.Action) && !i.Action.OffSent()
}

func passUnsent(s *step) bool { return pass(s) && unsent(s) }

// lifeUnsent: the host's own report of failing health is a sign of life, too: the idle
// verdict no longer stands.
func lifeUnsent(s *step) bool {
	i := s.r.Incident
	return fail(s) && unsent(s) && i.Last != nil && s.ev.Life.After(i.Last.Asked)
}

// helloUnsent: the boot that was seen idle says Hello. Whether it is healthy its pings will
// tell; it lives, and nothing may be sent any more.
func helloUnsent(s *step) bool {
	i := s.r.Incident
	return s.hello == helloSame && unsent(s) && i.Last != nil && s.now.After(i.Last.Asked)
}

func cancelledHello(s *step) {
	s.because("said Hello before any packet was sent: action cancelled")
	s.drop(s.why)
	s.scheduleFirst()
	if ungated(s) {
		pushGate(s)
	}
}

func cancelled(s *step) {
	s.because("answered before any packet was sent: action cancelled")
	s.drop(s.why)
	s.back("alive")
}

func cancelledFailing(s *step) {
	s.because("alive before any packet was sent: %s", s.r.HealthWhy)
	s.drop(s.why)
	s.scheduleFirst()
}

// survived: the same boot is alive after its OFF was proven, or later than a living host
// could be silent after the last hard off. A soft shutdown may take its time.
func survived(s *step) bool {
	a, life := s.r.Incident.Action, utc(s.ev.Life)
	if s.otherBoot() || s.r.Incident.Boot != s.r.Boot.ID || a == nil || a.Goal == power.GoalVerb || !a.OffSent() {
		return false
	}
	return life.After(s.r.LastOff.Add(s.p.silence())) || s.recorded() && life.After(s.r.Proof.At)
}

// livedAt is when the host gave the sign of life that the event tells of; a Hello of the boot
// on record is one.
func (s *step) livedAt() time.Time {
	if s.hello == helloSame {
		return s.now
	}
	return utc(s.ev.Life)
}

// lifeUnsettles: a sign of life after the first OFF reading of a run that is not settled
// yet; too early to convict the device, but the readings before it prove nothing.
func lifeUnsettles(s *step) bool {
	a := s.r.Incident.Action
	return !s.otherBoot() && running(a) && a.Unsettles(s.livedAt())
}

func unsettle(s *step) {
	s.ev.Txn = &power.TxnEvent{Txn: s.r.Incident.Action.ID, At: s.now, Life: s.livedAt()}
	feedAction(s)
	s.note("seen", "alive since its power read OFF: OFF must settle anew")
}

func passSurvived(s *step) bool { return pass(s) && survived(s) }

func lifeSurvived(s *step) bool { return fail(s) && survived(s) }

func contradictAction(s *step) {
	s.because("still alive with boot %s after a hard off: its device is not to be believed", orNone(s.r.Boot.ID))
	s.contradict(s.r.Incident.OffSentTo, s.why)
	s.revoke(s.why)
	s.drop(s.why)
}

func survivedWell(s *step) {
	contradictAction(s)
	s.back("contradicted")
}

func survivedFailing(s *step) {
	contradictAction(s)
	s.scheduleFirst()
}

// contradict marks devices whose OFF was followed by life; their level does not count.
func (s *step) contradict(devices []string, why string) {
	if len(devices) == 0 && len(s.p.Ladder) > 0 {
		devices = s.p.Ladder[0].Devices
	}
	marks := slices.Clone(s.r.Contradicted)
	for _, d := range devices {
		if !slices.Contains(marks, d) {
			marks = append(marks, d)
		}
	}
	s.r.Contradicted = marks
	s.announce("power.contradicted", "%s", why)
	s.note("seen", "%s", why)
}

// revoke takes the proof of the host's newest boot back.
func (s *step) revoke(why string) {
	p := s.r.Proof
	if p == nil || p.Revoked != "" || p.Boot != s.r.Boot.ID {
		return
	}
	c := *p
	c.Revoked, c.Ended = why, true
	s.r.Proof = &c
	s.effect(Effect{Kind: Announce, Type: "ha.proof-revoked", Severity: Page, Reason: why, Boot: p.Boot, Instances: slices.Clone(p.Instances)})
}

// mustStop: automation may not act here any more, and nothing was sent.
func mustStop(s *step) bool { return unsent(s) && s.mayNotAct() != "" }

func (s *step) mayNotAct() string {
	switch {
	case s.p.Frozen != "":
		return s.p.Frozen
	case s.p.Disarmed != "":
		return "HA was disarmed: " + s.p.Disarmed
	case s.p.Mode == "observe":
		return "policy is observe"
	case s.r.Admin.Forbids():
		return "an administrator forbids HA for this host"
	case s.r.Partition != PartitionActive:
		return "the partition is not ACTIVE"
	}
	return ""
}

func stopUnsent(s *step) {
	why := s.mayNotAct()
	s.drop(why)
	s.scheduleFirst()
	s.because("stopped before any packet was sent: %s", why)
	if s.p.Frozen != "" {
		s.hold(Hold{By: "self", Reason: why, Clears: "`holdfast etcd raise-generation`, see docs/etcd-restore.md", Since: s.now})
		return
	}
	s.hold(Hold{By: "armed", Reason: why, Clears: "arming HA again", Since: s.now})
}
