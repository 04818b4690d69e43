// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// seeHello tells a boot that is new from one that is on record or over. Boot ids have
// no order: new is what was never seen.
func (s *step) seeHello() {
	id := s.ev.Boot
	switch {
	case id == "":
		return
	case id == s.r.Boot.ID:
		s.hello = helloSame
		s.r.QuietBoot = "" // it did not go down after all
	case slices.Contains(s.r.Past, id):
		s.hello = helloPast
		return
	default:
		s.hello = helloNew
		if old := s.r.Boot.ID; old != "" {
			gone := append(slices.Clone(s.r.Past), old)
			s.r.Past = gone[max(0, len(gone)-maxPast):]
		}
		s.r.Boot = Boot{ID: id, Seen: s.now}
		s.r.LastLife, s.life = s.now, s.now
		s.r.SeenDisks, s.r.SeenProbe, s.r.QuietBoot, s.r.Lost = false, false, "", nil
		s.r.Passes, s.r.PassSince = 0, time.Time{}
		s.unknownHealth()
	}
	s.seeInstances()
}

func newBoot(s *step) bool { return s.hello == helloNew }

// rebootSeen: a boot that was on record is over.
func rebootSeen(s *step) bool { return s.hello == helloNew && s.was.Boot.ID != "" }

func firstBoot(s *step) bool { return s.hello == helloNew && s.was.Boot.ID == "" }

func ungated(s *step) bool {
	return s.hello == helloSame && gateClosed(s)
}

func pushGate(s *step) { s.effect(Effect{Kind: PushGate, ID: s.r.Gate.Generation}) }

// rebooted: an authenticated Hello with a new boot id proves that the old boot is over.
func rebooted(s *step) {
	old := s.was.Boot.ID
	s.because("rebooted: boot %s, after %s", s.r.Boot.ID, orNone(old))
	s.note("seen", "%s", s.why)
	s.endReleases("the host is back")
	if p := s.r.Proof; old != "" && (p == nil || p.Boot != old || p.Revoked != "") {
		s.r.Proof = &Proof{Boot: old, Assurance: power.A3, How: howRebooted, At: s.now, Instances: s.was.movable(), Local: slices.Clone(s.was.Local)}
	}
	s.gate(s.was.movable())
	s.unorder()
	if p := s.r.Proof; p != nil && p.How == howSettled && p.Boot == old && p.Revoked == "" {
		s.r.Contradicted = nil // the device switched a boot off for certain
	}
	why := s.why
	s.drop(why)
	s.feed()
	s.why = why
	s.effect(Effect{Kind: Announce, Type: "ha.rebooted", Severity: Warning, Reason: "boot " + orNone(old) + " is over, its instances are to be restarted" + staying(s.was.Local), Boot: old, Instances: s.was.movable(), Local: slices.Clone(s.was.Local)})
	s.effect(Effect{Kind: ReadPower})
}

// feed switches on what the incident's cycle cut and did not bring back: a host boots from
// one feed of two, and would lose its redundancy because it was quick (power.md §9.1).
func (s *step) feed() {
	if !s.r.open() || s.r.Incident.Action == nil || running(s.r.OrderTxn) {
		return
	}
	if cut := s.r.Incident.Action.Cut(); len(cut) > 0 {
		s.r.OrderBy = "holdfast, which cut the feeds of this host"
		t, effects := power.Begin(s.id("t"), power.GoalOn, "", s.r.Boot.ID, cut, s.now, s.p.Fence)
		s.r.OrderTxn = &t
		s.emit(effects)
		s.orderDone()
	}
}

// gate sets the rejoin contract of ha.md §7. What an unconfirmed gate forbade stays
// forbidden.
func (s *step) gate(instances []string) {
	must := slices.Clone(instances)
	if p := s.r.Proof; p != nil {
		must = append(must, p.Instances...)
	}
	if g := s.r.Gate; g != nil && !g.Confirmed {
		must = append(must, g.MustNotRun...)
	}
	slices.Sort(must)
	s.r.Gate = &Gate{Generation: s.id("g"), MustNotRun: slices.Compact(must)}
	s.effect(Effect{Kind: PushGate, ID: s.r.Gate.Generation})
}

// revenant: the boot that was proven over, or an earlier one, is alive.
func revenant(s *step) bool {
	p := s.r.Proof
	if p == nil {
		return false
	}
	switch s.ev.Kind {
	case EvHello:
		return s.hello == helloPast || s.hello == helloSame && p.Boot == s.r.Boot.ID
	case EvHealth:
		old := p.Boot == s.r.Boot.ID && !s.otherBoot() || slices.Contains(s.r.Past, s.ev.Boot)
		return old && utc(s.ev.Life).After(p.At)
	}
	return false
}

func failRevenant(s *step) {
	boot := s.ev.Boot
	if boot == "" {
		boot = s.r.Boot.ID
	}
	s.because("boot %s was proven over and is alive: releases stop", orNone(boot))
	var devices []string
	if i := s.r.Incident; i != nil {
		devices = i.OffSentTo
	}
	s.contradict(devices, s.why)
	if p := s.r.Proof; p.Revoked == "" {
		c := *p
		c.Revoked, c.Ended = s.why, true
		s.r.Proof = &c
		s.effect(Effect{Kind: Announce, Type: "ha.proof-revoked", Severity: Page, Reason: s.why, Boot: p.Boot, Instances: slices.Clone(p.Instances)})
	}
}

// repaired: a FAILED host answers again.
func repairedFailed(s *step) {
	s.because("answers again after it FAILED")
	s.endReleases("the host is back")
	s.gate(nil)
	s.r.Off = nil
	s.effect(Effect{Kind: ReadPower})
}

// admissible: all that AVAILABLE asks for besides the health pass.
func admissible(s *step) bool { return !inactive(s) && returnable(s) }

// returnable: all that but an ACTIVE partition.
func returnable(s *step) bool {
	return pass(s) && !s.r.Admin.Forbids() && s.r.Eligible == Pass && s.r.Power == power.On && !gateClosed(s) && !goingDown(s.r)
}

// gateClosed: the running boot has not confirmed what it must not run. However well it
// answers, its way to AVAILABLE leads through INITIALIZING.
func gateClosed(s *step) bool { return s.r.Gate != nil && !s.r.Gate.Confirmed }

// returnedToGate keeps the incident open, as with a host that comes back with a new boot.
func returnedToGate(s *step) {
	s.because("answers again; its rejoin gate is not confirmed")
	s.drop(s.why)
	pushGate(s)
}

// passEnds: the pass cancels the action, or convicts its device.
func passEnds(s *step) bool { return passUnsent(s) || passSurvived(s) }

func endedToGate(s *step) {
	if passSurvived(s) {
		contradictAction(s)
	}
	returnedToGate(s)
}

// goingDown: the boot that still answers was ordered, or said, to go.
func goingDown(r Record) bool { return r.QuietBoot != "" && r.QuietBoot == r.Boot.ID }

// waitingFor says what a healthy INITIALIZING host still waits for.
func waitingFor(r Record) string {
	switch {
	case goingDown(r):
		return "the next boot: this one is going down"
	case r.Eligible != Pass:
		return "the provider's word that it is eligible"
	case r.Power != power.On:
		return "a power reading of ON"
	case r.Gate != nil && !r.Gate.Confirmed:
		return "its confirmation of the rejoin gate"
	case r.Partition != PartitionActive:
		return "a partition that is ACTIVE"
	}
	return "a health pass"
}

// available: entering AVAILABLE resets all counters and ends incident and proof.
func available(s *step) {
	s.because("healthy and protected")
	s.settleAvailable()
	s.endIncident()
}

// endIncident of a host that came back.
func (s *step) endIncident() {
	if !s.r.open() {
		s.r.Incident = nil
		return
	}
	s.outcome = "recovered"
	if s.r.Incident.Attempts == 0 {
		s.outcome = "rebooted"
	}
}

// back: the host answers again, same boot.
func (s *step) back(outcome string) {
	s.settleAvailable()
	s.r.Returns = append(recentReturns(s.r.Returns, s.now), s.now)
	s.outcome = outcome
}

func (s *step) settleAvailable() {
	s.r.Protected = true
	s.unorder()
	s.r.Passes, s.r.PassSince, s.r.QuietUntil, s.r.QuietBoot = 0, time.Time{}, time.Time{}, ""
	s.r.Health, s.r.HealthWhy, s.r.HealthOwn = Pass, "", false
	s.r.Proof, s.r.Gate = nil, nil
}

func returned(s *step) {
	countPass(s)
	if s.r.Incident.Flapping {
		s.because("answers again without a failure for %s, same boot", span(s.now.Sub(s.r.PassSince)))
	} else {
		s.because("answers again: %d passes in a row, same boot", s.r.Passes)
	}
	s.drop(s.why)
	s.back("alive")
}
