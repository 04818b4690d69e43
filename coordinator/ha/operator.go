// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Operators' orders (ha.md §3): they are not held by armed or budget, are recorded with
// the name of who gave them, and each gets an answer, a refusal too.

func ordered(verbs ...OrderVerb) func(*step) bool {
	return func(s *step) bool { return s.ev.Order != nil && slices.Contains(verbs, s.ev.Order.Verb) }
}

var (
	powerVerb = ordered(OrderOn, OrderOff, OrderSoft, OrderReset, OrderCycle)
	downVerb  = ordered(OrderOff, OrderSoft)
	upVerb    = ordered(OrderOn, OrderReset, OrderCycle)
)

func both(a, b func(*step) bool) func(*step) bool {
	return func(s *step) bool { return a(s) && b(s) }
}

func open(s *step) bool { return s.r.open() }

func orderRuns(s *step) bool { return running(s.r.OrderTxn) }

func noDevice(s *step) bool { return len(s.p.Ladder) == 0 }

func refuse(why string) func(*step) {
	return func(s *step) { s.refuse("%s", why) }
}

// refuse answers an order without changing anything.
func (s *step) refuse(format string, args ...any) {
	verb, id := OrderVerb("?"), ""
	if o := s.ev.Order; o != nil {
		verb, id = o.Verb, o.ID
	}
	s.effect(Effect{Kind: Announce, ID: id, Type: "ha.order-refused", Severity: Warning, Boot: s.r.Boot.ID,
		Reason: fmt.Sprintf("%s refused: ", verb) + fmt.Sprintf(format, args...)})
}

func refuseBusy(s *step) {
	s.refuse("transaction %s of %s is running: one power order at a time", s.r.OrderTxn.ID, s.r.OrderBy)
}

// heed notes the order.
func (s *step) heed() {
	o := s.ev.Order
	text := fmt.Sprintf("%s by %s", o.Verb, orNone(o.By))
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	s.because("ordered: %s", text)
	s.effect(Effect{Kind: Announce, ID: o.ID, Type: "ha.order", Severity: Info, Reason: text, Boot: s.r.Boot.ID})
	s.note("operator", "%s", text)
}

// goalOf an order: its transaction's goal and verb.
func goalOf(v OrderVerb) (power.Goal, power.Verb) {
	switch v {
	case OrderOff:
		return power.GoalOff, ""
	case OrderOn:
		return power.GoalOn, ""
	case OrderSoft:
		return power.GoalVerb, power.SoftOff
	case OrderReset:
		return power.GoalVerb, power.Reset
	}
	return power.GoalVerb, power.Cycle
}

// orderPower begins the order's transaction outside any incident's action. Nothing is
// restarted elsewhere because of it: the first level that can carry it out is enough.
func (s *step) orderPower() {
	goal, verb := goalOf(s.ev.Order.Verb)
	s.r.OrderBy = s.ev.Order.By
	s.otherAction()
	if goal != power.GoalOn {
		s.effect(Effect{Kind: Spend, ID: s.ev.Order.ID}) // counted, never asked (power.md §9.5)
	}
	ladder := slices.Clone(s.p.Ladder)
	for i := range ladder {
		ladder[i].Min = power.A0
	}
	t, effects := power.Begin(s.id("t"), goal, verb, s.r.Boot.ID, ladder, s.now, s.p.Fence)
	s.r.OrderTxn = &t
	s.emit(effects)
	s.orderDone()
}

// otherAction notes a power action that automation did not take in this incident.
func (s *step) otherAction() {
	s.r.LastAction = s.now
	if s.r.open() {
		s.inc().OtherAction = s.now
	}
}

// orderDown: off or soft of a host without an incident. No suspicion follows.
func orderDown(s *step) {
	s.heed()
	s.r.OrderedOff = true
	s.dropFound()
	if s.ev.Order.Verb == OrderSoft {
		s.r.SoftBy = s.now.Add(s.p.SoftGrace)
	}
	s.orderPower()
}

// orderFence: off or soft while an incident is open, or of a FAILED host.
func orderFence(s *step) {
	if s.r.Incident == nil || !s.r.Incident.Ended.IsZero() {
		s.newIncident("ordered off by " + orNone(s.ev.Order.By))
	}
	s.heed()
	goal, verb := goalOf(s.ev.Order.Verb)
	why := s.why
	from := s.r.State
	s.drop(why)
	s.otherAction()
	if i := s.inc(); !i.Budgeted { // one slot per incident, whoever acts; his is counted and never asked
		i.Budgeted = true
		s.effect(Effect{Kind: Spend, ID: i.ID})
	}
	s.arm(guard.Fence, goal, verb, orNone(s.ev.Order.By))
	s.inc().From = from
	s.why = why
}

// orderUp: on, reset or cycle; the host boots, and its quiet period starts.
func orderUp(s *step) {
	s.heed()
	s.unorder()
	s.dropFound()
	s.r.OffVoid = s.now // what reads OFF now is explained by the order
	s.quiet()
	if s.ev.Order.Verb != OrderOn {
		s.r.QuietBoot = s.r.Boot.ID
	}
	s.orderPower()
}

// unorder: no operator's off stands any more.
func (s *step) unorder() { s.r.OrderedOff, s.r.SoftBy = false, time.Time{} }

// dropFound: what an operator just ordered explains the OFF.
func (s *step) dropFound() {
	if s.r.Off == nil {
		return
	}
	if s.r.Off.Waiting {
		s.effect(Effect{Kind: LeavePlace})
	}
	s.setOffHolds(nil)
	s.r.Off = nil
}

func orderEvent(s *step) bool {
	return s.ev.Txn != nil && running(s.r.OrderTxn) && s.ev.Txn.Txn == s.r.OrderTxn.ID
}

func feedOrder(s *step) {
	t, effects := s.r.OrderTxn.Step(*s.ev.Txn, s.p.Fence)
	s.r.OrderTxn = &t
	s.emit(effects)
	s.orderDone()
}

// orderDone tells how the order ended. An off that proved nothing is over: the host is
// watched again.
func (s *step) orderDone() {
	t := s.r.OrderTxn
	if !t.Done {
		return
	}
	v := power.Verdict{Reason: "it ended without a verdict"}
	if t.Verdict != nil {
		v = *t.Verdict
	}
	ok := true
	switch t.Goal {
	case power.GoalOff:
		if ok = v.Assurance >= power.A2; ok {
			v.Reason += ", which proves " + v.Assurance.String()
			s.r.Protected = false
		} else {
			s.unorder()
		}
	case power.GoalOn:
		if ok = v.On == power.On; !ok {
			s.r.OffVoid = time.Time{}
		}
	case power.GoalVerb:
		if t.Verb != power.SoftOff && s.r.Power == power.Off {
			s.r.OffVoid = time.Time{} // it was off before: a reset explains nothing and starts nothing
		}
	}
	s.effect(Effect{Kind: ReadPower})
	kind := "power.order-done"
	if !ok {
		kind = "power.order-failed"
	}
	s.announce(kind, "order of %s: %s", orNone(s.r.OrderBy), v.Reason)
	s.r.OrderTxn, s.r.OrderBy = nil, ""
}

func softOver(s *step) bool { return past(s.r.SoftBy, s.now) }

// softGivesUp: the host did not shut down in its grace; it is watched again.
func softGivesUp(s *step) {
	s.r.SoftBy = time.Time{}
	if s.r.Power != power.Off {
		s.unorder()
		s.because("the ordered soft shutdown gave up: the host still runs")
		s.announce("power.order-failed", "%s", s.why)
	}
}

// A soft order in FENCING waits for OFF to be read, and then settles it.

func softSent(s *step) bool {
	a := s.r.Incident.Action
	return ended(s) && a.Goal == power.GoalVerb && a.Verb == power.SoftOff
}

func awaitSoft(s *step) {
	s.r.SoftBy = s.now.Add(s.p.SoftGrace)
	s.because("soft off was sent; the host has until %s", clock(s.r.SoftBy))
}

// softReadsOff: an OFF from before the order says nothing of what it did.
func softReadsOff(s *step) bool {
	a := s.r.Incident.Action
	return !s.r.SoftBy.IsZero() && s.r.Power == power.Off && a != nil && a.Done && a.Verb == power.SoftOff && s.r.PowerSince.After(a.Begun)
}

func settleSoft(s *step) {
	s.r.SoftBy = time.Time{}
	by, from := s.r.Incident.By, s.r.Incident.From
	s.arm(guard.Fence, power.GoalOff, "", by)
	s.inc().From = from
	s.because("the host shut down as ordered: proving OFF")
}

func softHeld(s *step) {
	s.r.SoftBy = time.Time{}
	s.because("the ordered soft shutdown gave up: power still reads %s", s.r.Power)
	s.scheduleFirst()
	s.hold(Hold{By: "operator", Reason: s.why, Clears: "another order, a check that says idle, or the host's return", Since: s.now})
}

// confirm-off.

// offBelieved: no sign of life in the last Policy.ConfirmSilence, and the neighbours'
// last word is not that it lives; or a second operator.
func offBelieved(s *step) bool {
	o := s.ev.Order
	if o.Second != "" && o.Second != o.By {
		return true
	}
	age, known := s.silentFor()
	return known && age >= s.p.confirmSilence() && s.seenActive() == nil
}

// seenActive is the last activity check of the open incident, if it saw the host alive:
// checks of a host that goes on living are minutes apart, longer than ConfirmSilence.
func (s *step) seenActive() *Check {
	if i := s.r.Incident; s.r.open() && i.Last != nil && i.Last.Verdict == Active {
		return i.Last
	}
	return nil
}

// silentFor is how long no sign of life was seen. Healthy hosts' pings are not on
// record, so without an incident only the owner's own word (Event.Life) counts; with
// one the record tells, to within a silence (seeLife). A host that never said Hello was
// never alive for us.
func (s *step) silentFor() (age time.Duration, known bool) {
	last := s.life
	if told := utc(s.ev.Life); told.After(last) {
		last = told
	} else if told.IsZero() && !last.IsZero() {
		last = last.Add(s.p.silence())
	}
	if s.r.Boot.Seen.After(last) {
		last = s.r.Boot.Seen
	}
	if last.IsZero() {
		return s.p.confirmSilence(), true
	}
	return max(0, s.now.Sub(last)), !s.ev.Life.IsZero() || s.r.Unhealthy()
}

func refuseOff(s *step) {
	age, known := s.silentFor()
	if !known {
		s.refuse("when the host was last alive is not known here; a second operator can override")
		return
	}
	if c := s.seenActive(); c != nil && age >= s.p.confirmSilence() {
		s.refuse("%s ago its neighbours saw it alive (%s), and none has seen it dead since; a second operator can override", span(s.now.Sub(c.Done)), c.Reason)
		return
	}
	s.refuse("a sign of life %s ago, %s of silence are asked for; a second operator can override", span(age), span(s.p.confirmSilence()))
}

// believeOff records the operator's word as proof A5.
func believeOff(s *step) {
	o := s.ev.Order
	if !s.r.open() {
		s.newIncident("confirmed off by " + orNone(o.By))
	}
	s.heed()
	why := s.why
	s.drop(why)
	if running(s.r.OrderTxn) {
		_, effects := s.r.OrderTxn.Step(power.TxnEvent{Txn: s.r.OrderTxn.ID, At: s.now, Cancel: why}, s.p.Fence)
		s.r.OrderTxn, s.r.OrderBy = nil, ""
		s.emit(effects)
	}
	by := o.By
	if o.Second != "" {
		by += ", " + o.Second
	}
	s.r.Proof = &Proof{Boot: s.r.Boot.ID, Assurance: power.A5, How: howOperator, At: s.now, By: by, Instances: s.r.movable(), Local: slices.Clone(s.r.Local)}
	s.r.Protected = false
	s.unorder()
	s.release()
	s.why, s.outcome = "off by the word of "+by, "fenced"
}

// retry opens a new incident for a FAILED host; devices get another chance.
func retry(s *step) {
	o := s.ev.Order
	s.r.Contradicted = nil
	s.newIncident("retry by " + orNone(o.By))
	s.heed()
	s.inc().CheckAt = s.now
	s.effect(Effect{Kind: ReadPower})
}

// Administrators.

func forbidden(s *step) bool { return s.r.Admin.Forbids() }

func forbid(s *step) {
	a := s.r.Admin
	switch {
	case a.Maintenance:
		s.because("maintenance")
	case a.Excluded:
		s.because("excluded from HA")
	default:
		s.because("host disabled")
	}
	if a.Why != "" {
		s.why += ": " + a.Why
	}
	s.drop(s.why)
	s.outcome = "by operator"
	s.r.Protected = false
}

// permit: whoever worked on the host had its devices in hand.
func permit(s *step) {
	s.because("no administrative condition forbids HA any more")
	s.r.Contradicted = nil
}

func inactive(s *step) bool { return s.r.Partition != PartitionActive }

// shut: no incident runs. Leaving ACTIVE never erases one (ha.md §2).
func shut(s *step) bool { return !s.r.open() }

func leavePartition(s *step) {
	s.because("the partition is %s", orNone(string(s.r.Partition)))
	s.drop(s.why)
	s.r.Protected = false
}

// recoveredOutside: a host that came back while its partition is not ACTIVE.
func recoveredOutside(s *step) bool { return s.r.open() && inactive(s) && returnable(s) }

func leaveRecovered(s *step) {
	s.settleAvailable()
	s.endIncident()
	s.because("healthy again; the partition is %s", orNone(string(s.r.Partition)))
	s.r.Protected = false
}
