// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// answered is one evaluation of the guards for a place that was waited for.
type answered struct {
	report  guard.Report
	purpose guard.Purpose
}

// evaluate asks the guards when a place is held that the record waits for. What the
// record itself knows is laid over the snapshot: it is what the commit compares.
func (s *step) evaluate() {
	if s.ev.Snapshot == nil {
		return
	}
	snap := *s.ev.Snapshot
	confirm := snap.Purpose == guard.Confirm && s.r.Off != nil && s.r.Off.Waiting
	act := s.r.open() && s.r.Incident.Waiting != "" && s.r.Incident.Waiting == snap.Purpose
	if !confirm && !act {
		return
	}
	snap.Host = s.r.Host
	snap.Quiet.LastOtherAction = s.r.LastOtherAction()
	if snap.Quiet.Until.Before(s.r.QuietUntil) {
		snap.Quiet.Until = s.r.QuietUntil
	}
	if snap.State.LastSignOfLife.Before(s.life) {
		snap.State.LastSignOfLife = s.life
	}
	snap.Armed.Partition = string(s.r.Partition)
	snap.Armed.Maintenance = snap.Armed.Maintenance || s.r.Admin.Maintenance
	if s.r.Admin.Forbids() && !s.r.Admin.Maintenance {
		snap.Armed.Disabled = append(slices.Clone(snap.Armed.Disabled), "host/"+s.r.Host)
	}
	if s.p.Frozen != "" {
		snap.Self.Frozen = s.p.Frozen
	}
	if s.p.Disarmed != "" && len(snap.Armed.Disarmed) == 0 {
		snap.Armed.Disarmed = []string{s.p.Disarmed}
	}
	if running(s.r.OrderTxn) {
		snap.Running = s.r.OrderTxn.ID
	}
	if i := s.r.Incident; s.r.open() {
		if running(i.Action) {
			snap.Running = i.Action.ID
		}
		if last := i.Last; last != nil && last.Verdict == Idle {
			snap.State.VerdictAsked = last.Asked
			if snap.Signals == (guard.SignalFacts{}) {
				snap.Signals = last.Signals
			}
		}
	}
	s.report = &answered{report: guard.Evaluate(snap), purpose: snap.Purpose}
}

func allowed(purpose guard.Purpose) func(*step) bool {
	return func(s *step) bool {
		return s.report != nil && s.report.purpose == purpose && s.report.report.Allowed()
	}
}

func confirmAnswered(s *step) bool { return s.report != nil && s.report.purpose == guard.Confirm }

func actAnswered(s *step) bool { return s.report != nil && s.report.purpose != guard.Confirm }

// keepReport stores the answers with the incident.
func (s *step) keepReport() {
	i := s.inc()
	i.Guards = &s.report.report
	if snap := s.report.report.Snapshot; snap != nil {
		i.Epoch = snap.Claim.Epoch
	}
}

// held records why nothing is done and when it is asked again. No old verdict arms
// anything: the next evaluation comes after a fresh check.
func held(s *step) {
	s.keepReport()
	i := s.inc()
	holds := guardHolds(&s.report.report, s.now)
	i.Waiting = ""
	i.Interval = double(i.Interval, s.p)
	i.CheckAt = s.now.Add(i.Interval)
	if len(holds) == 1 && holds[0].By == "state" {
		i.CheckAt = s.now // only the verdict is too old: ask at once
	}
	s.because("idle, and held by %s: %s", holds[0].By, holds[0].Reason)
	s.setHolds(holds)
	s.effect(Effect{Kind: LeavePlace})
}

// confirmHeld: the guards do not let the found OFF be confirmed; the same state.
func confirmHeld(s *step) {
	rep := &s.report.report
	if s.r.open() {
		s.keepReport()
	}
	o := s.off()
	o.Interval = min(max(2*o.Interval, s.p.confirmDelay()), max(s.p.CheckMax, s.p.confirmDelay()))
	o.Waiting, o.ConfirmAt = false, s.now.Add(o.Interval)
	s.setOffHolds(guardHolds(rep, s.now))
	if _, signs := holdBy(s.r.Off.Holds, "signals"); signs && (s.r.State == Suspect || s.r.State == Degraded) {
		s.soon() // a check is what clears it
	}
	s.effect(Effect{Kind: LeavePlace})
}

// arm begins the power transaction of an action. The caller has the guards' allowance
// (or an operator's order, by) for exactly this.
func (s *step) arm(purpose guard.Purpose, goal power.Goal, verb power.Verb, by string) {
	i := s.inc()
	if s.report != nil {
		s.keepReport()
		s.write("guard", "all guards allow to "+string(purpose))
	}
	s.setHolds(nil)
	i.From, i.Purpose, i.By, i.Waiting = s.r.State, purpose, by, ""
	i.CheckAt, i.CheckID, i.CheckBy, i.AgentBy = time.Time{}, "", time.Time{}, time.Time{}
	if by == "" && purpose != guard.Confirm && !i.Budgeted {
		i.Budgeted = true
		s.effect(Effect{Kind: Spend, ID: i.ID})
	}
	if purpose == guard.Recover {
		i.Attempts++
	}
	s.r.Off = nil
	s.r.Passes, s.r.PassSince = 0, time.Time{}
	i.Boot = s.r.Boot.ID // what is to be proven over is the newest boot, whatever began the incident
	ladder := s.p.Ladder
	if by == "" && slices.ContainsFunc(ladder, s.contradicted) {
		ladder = slices.DeleteFunc(slices.Clone(ladder), s.contradicted)
	}
	t, effects := power.Begin(s.id("t"), goal, verb, i.Boot, ladder, s.now, s.p.Fence)
	i.Action = &t
	s.emit(effects)
}

func recoverHost(s *step) {
	s.arm(guard.Recover, power.GoalCycle, "", "")
	s.because("power cycle %d of %d: %s", s.r.Incident.Attempts, s.p.RecoveryAttempts, s.lastReason())
}

func fenceHost(s *step) {
	s.arm(guard.Fence, power.GoalOff, "", "")
	s.because("power off: %s", s.lastReason())
}

func (s *step) lastReason() string {
	if l := s.r.Incident.Last; l != nil {
		return l.Reason
	}
	return s.r.Incident.Cause
}

// confirmOff proves a found OFF. It spends nothing: no sign of life was seen since OFF
// was read.
func confirmOff(s *step) {
	stuck := s.r.State == Recovering
	seen := s.r.Off.Seen
	if !s.r.open() {
		s.newIncident("power was found OFF, nobody ordered it")
	}
	s.inc().OffSeen = seen
	s.arm(guard.Confirm, power.GoalOff, "", "")
	if stuck {
		s.because("it did not switch on: proving OFF anew")
		return
	}
	s.because("power was found OFF at %s and nobody ordered it: confirming", clock(seen))
}

// emit hands the transaction's wishes to the owner and notes what each packet means.
func (s *step) emit(effects []power.TxnEffect) {
	for _, e := range effects {
		s.effect(Effect{Kind: TxnDo, ID: e.Txn, Deadline: e.NotAfter, Txn: &e})
		if e.Do != power.DoSend || e.Verb == power.Identify {
			continue
		}
		if s.r.LastAction = s.now; running(s.r.OrderTxn) && s.r.OrderTxn.ID == e.Txn {
			s.otherAction()
		}
		s.note("packet", "%s to %s", e.Verb, e.Device)
		switch e.Verb {
		case power.HardOff:
			s.r.LastOff = s.now
			if s.r.open() && running(s.r.Incident.Action) && s.r.Incident.Action.ID == e.Txn && !slices.Contains(s.r.Incident.OffSentTo, e.Device) {
				i := s.inc()
				i.OffSentTo = append(slices.Clone(i.OffSentTo), e.Device)
			}
		case power.HardOn, power.Reset, power.Cycle:
			s.endReleases(string(e.Verb) + " is being sent")
		}
	}
}

func (s *step) endReleases(why string) {
	if p := s.r.Proof; p != nil && !p.Ended {
		c := *p
		c.Ended = true
		s.r.Proof = &c
		if p.Revoked == "" && p.How != howRebooted {
			s.effect(Effect{Kind: Announce, Type: "ha.safe-to-restart-ended", Severity: Info, Reason: "no new releases: " + why, Boot: p.Boot, Instances: slices.Clone(p.Instances), Local: p.Local})
		}
	}
}

// How a proof was had.
const (
	howSettled  = "settled-off"
	howOperator = "operator"
	howRebooted = "rebooted"
)

func actionEvent(s *step) bool {
	a := s.r.Incident.Action
	return s.ev.Txn != nil && running(a) && s.ev.Txn.Txn == a.ID
}

// feedAction gives an answer to the running transaction.
func feedAction(s *step) {
	before := s.r.Incident.Action
	t, effects := before.Step(*s.ev.Txn, s.p.Fence)
	i := s.inc()
	i.Action = &t
	if at := t.LastOff(); at.After(s.r.LastOff) {
		s.r.LastOff, s.r.LastAction = at, at
	}
	if r := s.ev.Txn.Reading; r.State != power.Unknown {
		s.note("reading", "power reads %s", r.State)
	}
	s.emit(effects)
}

// cancelAction lets the transaction send no further packet.
func (s *step) cancelAction(why string) {
	a := s.r.Incident.Action
	if !running(a) {
		return
	}
	if i := s.inc(); i.Purpose == guard.Recover && i.By == "" && !a.OffSent() {
		i.Attempts-- // nothing was tried
	}
	t, effects := a.Step(power.TxnEvent{Txn: a.ID, At: s.now, Cancel: why}, s.p.Fence)
	s.inc().Action = &t
	s.emit(effects)
}

// drop ends whatever the incident has under way: check, place, transaction.
func (s *step) drop(why string) {
	if s.r.Off != nil && s.r.Off.Waiting || s.r.open() && (s.r.Incident.Waiting != "" || running(s.r.Incident.Action)) {
		s.effect(Effect{Kind: LeavePlace})
	}
	s.r.Off = nil
	if !s.r.open() {
		return
	}
	s.cancelAction(why)
	i := s.inc()
	i.Waiting, i.CheckAt, i.CheckID, i.CheckBy, i.AgentBy = "", time.Time{}, "", time.Time{}, time.Time{}
	s.setHolds(nil)
}

// contradicted: a level with a device that is not believed does not count (ha.md §3).
func (s *step) contradicted(l power.Level) bool {
	return slices.ContainsFunc(l.Devices, func(d string) bool { return slices.Contains(s.r.Contradicted, d) })
}

// disbelieved: the verdict rests on a level that does not count; only an operator's order
// works with one.
func (s *step) disbelieved() bool {
	a := s.r.Incident.Action
	return a.Verdict != nil && slices.ContainsFunc(a.Ladder, func(l power.Level) bool { return l.N == a.Verdict.Level && s.contradicted(l) })
}

// proven: OFF is proven strongly enough, and that is not on record yet.
func proven(s *step) bool {
	a := s.r.Incident.Action
	return a != nil && a.Verdict != nil && a.Verdict.Assurance >= s.p.ProofMin && a.Verdict.Assurance > power.A0 && !s.disbelieved() && !s.recorded()
}

// recorded: the proof of this action is on record. The readings name it: clocks may move.
func (s *step) recorded() bool {
	p, a := s.r.Proof, s.r.Incident.Action
	return p != nil && a != nil && a.Verdict != nil && p.How == howSettled && p.Boot == s.r.Incident.Boot && p.OffSince.Equal(a.Verdict.OffSince)
}

// prove records the proof and announces that the instances of that boot may be
// restarted elsewhere (ha.md §7).
func prove(s *step) {
	i := s.inc()
	v := i.Action.Verdict
	s.r.Proof = &Proof{Boot: i.Boot, Assurance: v.Assurance, How: howSettled, At: v.At, OffSince: v.OffSince, By: i.By, Epoch: i.Epoch, Instances: s.r.movable(), Local: slices.Clone(s.r.Local)}
	s.r.Protected = false
	s.because("OFF is proven (%s): %s", v.Assurance, v.Reason)
	s.note("reading", "OFF is proven (%s): %s", v.Assurance, v.Reason)
	s.release()
	if i.Action.OnSent() {
		s.endReleases("on is being sent")
	}
}

func (s *step) release() {
	p := s.r.Proof
	s.effect(Effect{Kind: Announce, Type: "ha.safe-to-restart", Severity: Info, Boot: p.Boot, Instances: slices.Clone(p.Instances), Local: slices.Clone(p.Local),
		Reason: "boot " + orNone(p.Boot) + " is proven over (" + p.Assurance.String() + ", " + p.How + "): its instances may be restarted elsewhere" + staying(p.Local)})
}

// movable are the instances that may run elsewhere: those without a disk on a pool of
// this host alone (ha.md §5, mixed hosts).
func (r Record) movable() []string {
	return slices.DeleteFunc(slices.Clone(r.Instances), func(i string) bool { return slices.Contains(r.Local, i) })
}

// staying says in words which instances return with the host.
func staying(local []string) string {
	if len(local) == 0 {
		return ""
	}
	return "; on its own pools, and back with it: " + strings.Join(local, ", ")
}
