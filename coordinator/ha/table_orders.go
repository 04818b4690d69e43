// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"strings"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// powerRows: §3.1 for hosts without an incident, and holds for those with one. OFF of
// a host that owes a proof is a row on facts.
var powerRows = []Row{
	{From: noIncident, On: EvPower, When: "OFF→ON", cond: switchedOnByHand, To: Initializing, Do: bootsNow},
	{From: noIncident, On: EvPower, When: "UNKNOWN→ON", cond: readsOnAgain, To: Initializing, Do: reassess},
	{From: noIncident, On: EvPower, When: "→OFF, nobody ordered it, not protected since its last ON", cond: notRunning, To: Unsupported, Do: sayNotRunning},
	{From: suspicion, On: EvPower, When: "OFF→ON: the quiet period runs as a hold", cond: bootsInIncident, Do: quietInIncident},
	{From: suspicion, On: EvPower, When: "→UNKNOWN and no other level reads: held", cond: lostPower, Do: holdUnreadable},
	{From: suspicion, On: EvPower, When: "some level reads again: hold cleared, check due at once", cond: readableAgain, Do: clearUnreadable},
	{From: States, On: EvTick, When: "quiet period over", cond: quietOver, Do: endQuiet},
	{From: in(Fencing), On: EvTick, When: "the ordered soft shutdown gives up", cond: softOver, To: Suspect, Event: "ha.suspect", Do: softHeld},
	{From: States, On: EvTick, When: "the ordered soft shutdown gives up", cond: softOver, Do: softGivesUp},
}

// helloRows: boots, the rejoin gate, hand-offs and goodbyes.
var helloRows = []Row{
	{From: in(Fenced), On: EvHello, When: "a boot from before the proof", cond: revenant, To: Failed, Event: "ha.failed", Do: failRevenant},
	{From: come, On: EvHello, When: "a new boot", cond: newBoot, To: Initializing, Event: "ha.initializing", Do: rebooted},
	{From: others, On: EvHello, When: "a new boot, another was on record", cond: rebootSeen, Do: rebooted},
	{From: others, On: EvHello, When: "the first boot ever seen", cond: firstBoot},
	{From: States, On: EvHello, When: "the same boot, its gate is not confirmed", cond: ungated, Do: pushGate},
	{From: acting, On: EvAdopted, When: "taken over by another worker, too late to go on without a fresh check", cond: outdated, To: Suspect, Event: "ha.suspect", Do: beginAgain},
	{From: States, On: EvAdopted, When: "taken over by another worker", Do: resume},
	{From: noIncident, On: EvGoodbye, When: "the agent said goodbye", cond: ownBoot, To: Initializing, Do: goodbye},
	{From: []State{None, Ineligible, Suspect, Checking, Degraded, Fenced, Failed}, On: EvGoodbye, When: "the agent said goodbye", cond: ownBoot, Do: goodbye},
}

var operatorRows = []Row{
	{From: States, On: EvOperator, When: "power order, no power device", cond: both(powerVerb, noDevice), Do: refuse("the host has no power device")},
	{From: acting, On: EvOperator, When: "power order while an action runs", cond: powerVerb, Do: refuse("HA is acting on the host; order again once it has ended")},
	{From: atRest, On: EvOperator, When: "power order while another runs", cond: both(powerVerb, orderRuns), Do: refuseBusy},
	{From: []State{Initializing, Unsupported, Suspect, Checking, Degraded}, On: EvOperator, When: "off or soft, incident open", cond: both(downVerb, open), To: Fencing, Event: "ha.fencing", Do: orderFence},
	{From: in(Failed), On: EvOperator, When: "off or soft", cond: downVerb, To: Fencing, Event: "ha.fencing", Do: orderFence},
	{From: noIncident, On: EvOperator, When: "off or soft, no incident", cond: downVerb, To: Unsupported, Do: orderDown},
	{From: in(None, Ineligible, Fenced), On: EvOperator, When: "off or soft", cond: downVerb, Do: orderDown},
	{From: noIncident, On: EvOperator, When: "on, reset or cycle", cond: upVerb, To: Initializing, Do: orderUp},
	{From: []State{None, Ineligible, Suspect, Checking, Degraded, Fenced, Failed}, On: EvOperator, When: "on, reset or cycle", cond: upVerb, Do: orderUp},
	{From: in(Failed), On: EvOperator, When: "retry", cond: ordered(OrderRetry), To: Suspect, Event: "ha.suspect", Do: retry},
	{From: States, On: EvOperator, When: "retry of a host that has not FAILED", cond: ordered(OrderRetry), Do: refuse("only a FAILED host can be retried")},
	{From: in(Available), On: EvOperator, When: "confirm-off", cond: ordered(OrderConfirmOff), Do: refuse("the host is AVAILABLE: it answers")},
	{From: in(Fenced), On: EvOperator, When: "confirm-off", cond: ordered(OrderConfirmOff), Do: refuse("the host is FENCED already")},
	{From: States, On: EvOperator, When: "confirm-off, no sign of life in the last ha.confirm.silence or a second operator", cond: both(ordered(OrderConfirmOff), offBelieved), To: Fenced, Event: "ha.fenced", Do: believeOff},
	{From: States, On: EvOperator, When: "confirm-off, a sign of life too lately", cond: ordered(OrderConfirmOff), Do: refuseOff},
	{From: States, On: EvTxn, When: "answer to an operator's power order", cond: orderEvent, Do: feedOrder},
}

// Conditions and words that several rows share.

func notEligible(s *step) bool { return s.r.Eligible == Fail }

func sayNotEligible(s *step) {
	s.because("not eligible: %s", orNone(s.r.EligibleWhy))
	s.drop(s.why)
	s.outcome = "not eligible"
}

func sayUnreadable(s *step) {
	why := s.ev.PowerWhy
	if why == "" || s.ev.Kind != EvPower {
		why = "no power level of the host can be read"
	}
	s.because("power unreadable: %s", why)
	s.drop(s.why) // an incident of a host that came back stays open: readings end none
}

func supported(s *step) bool {
	return s.r.Eligible == Pass && s.r.Power == power.On && !s.r.OrderedOff && s.r.Boot.ID != ""
}

func withinQuiet(s *step) bool { return s.r.QuietUntil.After(s.now) }

func failing(s *step) bool {
	return s.r.Health == Fail && s.r.Eligible == Pass && !withinQuiet(s)
}

func neverSeen(s *step) bool { return s.r.Boot.ID == "" }

func offUnowed(s *step) bool { return s.r.Power == power.Off && !s.r.Protected && !s.r.open() }

func failingUnsupported(s *step) bool {
	return s.r.Health == Fail && s.r.Protected && !s.r.OrderedOff
}

func sayWaiting(s *step) {
	if why := "healthy; waits for " + waitingFor(s.r); why != s.r.Reason {
		s.why = why
	}
}

func notConfirmingOn(s *step) bool { return !onWhileConfirming(s) }

func heldAfterAttempt(s *step) {
	stuck := s.r.Off != nil
	s.r.Off = nil
	held(s)
	if stuck {
		s.because("it did not switch on, and proving OFF anew is held by %s", s.r.Incident.Holds[0].By)
	}
}

func ownBoot(s *step) bool { return !s.otherBoot() }

func goodbye(s *step) {
	s.because("the agent said goodbye: %s", orNone(s.ev.Reason))
	s.note("seen", "%s", s.why)
	s.quiet()
	s.r.QuietBoot = s.r.Boot.ID
}

// outdated: an action that proved nothing yet rests on what is no longer so. Its time is
// over, or nothing was sent and its verdict is too old to arm anything (ha.md §5). A
// confirmation goes on: whatever it reads, ON abandons it.
func outdated(s *step) bool {
	i := s.r.Incident
	if !running(i.Action) || i.Action.Verdict != nil || i.Purpose == guard.Confirm {
		return false
	}
	old := i.Last == nil || s.now.Sub(i.Last.Asked) > s.p.CheckWindow+s.p.CheckTimeout
	return s.now.After(i.Action.Deadline) || unsent(s) && old
}

func beginAgain(s *step) {
	s.because("taken over when what the action rests on was too old: asked again")
	s.drop(s.why)
	s.scheduleFirst()
	s.inc().CheckAt = s.now
	s.effect(Effect{Kind: ReadPower})
}

// resume goes on from the record: what was asked is asked again, uncounted, and a
// transaction reads before it acts. A hand-off never makes a suspect.
func resume(s *step) {
	s.resumeTxns()
	if s.r.Off != nil && s.r.Off.Waiting {
		askConfirm(s)
	}
	if !s.r.open() {
		return
	}
	i := s.r.Incident
	if i.CheckID != "" {
		s.ask()
	}
	if i.Waiting != "" {
		s.wait(i.Waiting)
	}
}

// resumeTxns lets transactions read before they act. An operator's order whose time is
// over was meant for another hour.
func (s *step) resumeTxns() {
	told := s.ev.Txn
	if t := s.r.OrderTxn; running(t) {
		s.ev.Txn = &power.TxnEvent{Txn: t.ID, At: s.now, Adopted: true}
		if s.now.After(t.Deadline) {
			s.ev.Txn.Cancel = "its time was over before it was taken over"
		}
		feedOrder(s)
	}
	if s.r.open() && running(s.r.Incident.Action) {
		s.ev.Txn = &power.TxnEvent{Txn: s.r.Incident.Action.ID, At: s.now, Adopted: true}
		feedAction(s)
	}
	s.ev.Txn = told
}

func names(states []State) string {
	var out []string
	for _, s := range states {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}
