// SPDX-License-Identifier: Apache-2.0

package ha

import "github.com/holdfast-ha/holdfast/coordinator/guard"

// holdPlaced is raised by the hold itself, once, when it is new (holds.go).
const holdPlaced = "ha.hold-placed"

// Row is one transition of the host machine. Rows are tried in their order; the first
// one of the present state and the event's kind whose condition holds is taken.
type Row struct {
	From  []State
	On    Kind
	When  string // the condition, in words
	cond  func(*step) bool
	To    State       // empty: the same state
	Event string      // type of the event that is raised, empty: none
	Do    func(*step) // what else changes and what is to be started
}

// Groups of states.
var (
	noIncident = []State{Initializing, Available, Unsupported}
	suspicion  = []State{Suspect, Checking, Degraded}
	acting     = []State{Recovering, Fencing}
	atRest     = []State{None, Initializing, Available, Ineligible, Unsupported, Suspect, Checking, Degraded, Fenced, Failed} // all but acting
	confirms   = []State{Initializing, Available, Unsupported, Suspect, Checking, Degraded, Failed}
	others     = []State{None, Initializing, Ineligible, Unsupported}
	come       = []State{Available, Suspect, Checking, Degraded, Fenced, Failed, Recovering, Fencing}
)

func in(s ...State) []State { return s }

// Rows is the host machine: ha.md §§3 and 3.1 (and §2 for what a partition does to its
// hosts). The diagram, the page of states and the test of totality come from here.
var Rows = concat(factRows, healthRows, checkRows, actingRows, confirmRows, powerRows, helloRows, operatorRows)

// What is on record counts, whatever brought it there.
var factRows = []Row{
	{From: []State{Initializing, Available, Unsupported, Ineligible}, On: evFacts, When: "partition not ACTIVE, no running incident", cond: both(inactive, shut), To: None, Do: leavePartition},
	{From: in(None), On: evFacts, When: "partition ACTIVE", cond: func(s *step) bool { return !inactive(s) }, To: Initializing},
	{From: []State{Initializing, Available, Unsupported, Suspect, Checking, Degraded}, On: evFacts, When: "maintenance on, excluded or host disabled", cond: forbidden, To: Ineligible, Event: "ha.ineligible", Do: forbid},
	{From: in(Ineligible), On: evFacts, When: "no administrative condition forbids HA", cond: func(s *step) bool { return !forbidden(s) }, To: Initializing, Event: "ha.initializing", Do: permit},
	{From: in(Initializing), On: evFacts, When: "not eligible", cond: notEligible, To: Unsupported, Do: sayNotEligible},
	{From: in(Available), On: evFacts, When: "no longer eligible", cond: notEligible, To: Unsupported, Event: "ha.unsupported", Do: sayNotEligible},
	{From: in(Initializing, Available), On: evFacts, When: "no power level can be read", cond: func(s *step) bool { return s.unreadable() }, To: Unsupported, Event: "ha.unprotected", Do: sayUnreadable},
	{From: in(Initializing), On: evFacts, When: "ordered off", cond: func(s *step) bool { return s.r.OrderedOff }, To: Unsupported, Do: func(s *step) { s.because("ordered off") }},
	{From: in(Unsupported), On: evFacts, When: "eligible, some power level reads ON, not ordered off, seen before", cond: supported, To: Initializing, Do: func(s *step) { s.because("eligible, and power reads ON") }},
	{From: confirms, On: evFacts, When: "power found OFF, but a sign of life since the first of the readings", cond: offRefuted, Do: refuteOff},
	{From: confirms, On: evFacts, When: "power found OFF that nobody ordered, and the host was protected or an incident is open", cond: foundOff, Do: findOff},
	{From: in(Checking), On: evFacts, When: "power found OFF while a place was waited for", cond: offWhileWaiting, To: Suspect, Do: func(s *step) { s.because("its power was found OFF: confirming") }},
	{From: in(Initializing), On: evFacts, When: "health fail, quiet period over, power OFF and no proof owed", cond: both(failing, offUnowed), To: Unsupported, Do: sayNotRunning},
	{From: in(Initializing), On: evFacts, When: "health fail, quiet period over, never seen running", cond: both(failing, neverSeen), To: Unsupported, Do: func(s *step) { s.because("never seen running") }},
	{From: in(Initializing), On: evFacts, When: "eligible, health fail, quiet period over", cond: failing, To: Suspect, Event: "ha.suspect", Do: suspect},
	{From: in(Unsupported), On: evFacts, When: "health fail, was protected, nobody ordered it off", cond: failingUnsupported, To: Suspect, Event: "ha.suspect", Do: suspectUnsupported},
	{From: acting, On: evFacts, When: "automation may not act any more, no packet was sent", cond: mustStop, To: Suspect, Event: "ha.suspect", Do: stopUnsent},
	{From: acting, On: evFacts, When: "OFF is proven strongly enough", cond: proven, Do: prove},
	{From: in(Recovering), On: evFacts, When: "cycle proven, ON read or sent", cond: cycled, Do: awaitAgent},
	{From: in(Recovering), On: evFacts, When: "OFF proven, the host does not switch on", cond: stuckOff, Do: confirmStuck},
	{From: in(Recovering), On: evFacts, When: "cycle failed: a check is asked", cond: ended, Do: attemptFailed},
	{From: in(Fencing), On: evFacts, When: "proof recorded", cond: fenceProven, To: Fenced, Event: "ha.fenced", Do: fenced},
	{From: in(Fencing), On: evFacts, When: "ordered soft off was sent", cond: softSent, Do: awaitSoft},
	{From: in(Fencing), On: evFacts, When: "ordered soft off, power reads OFF", cond: softReadsOff, Do: settleSoft},
	{From: in(Fencing), On: evFacts, When: "ladder ended at a level that only an operator can answer: held", cond: needsHuman, To: Suspect, Event: "ha.suspect", Do: fenceByHand},
	{From: in(Fencing), On: evFacts, When: "ladder ended with nothing but Unreachable, Timeout, Busy, SessionLimit", cond: silent, To: Suspect, Event: "ha.suspect", Do: fenceSilent},
	{From: in(Fencing), On: evFacts, When: "ladder ended, some device answered otherwise", cond: ended, To: Failed, Event: "ha.failed", Do: fenceFailed},
}

var healthRows = []Row{
	{From: in(Initializing), On: EvHealth, When: "eligible, health pass, power ON, gate confirmed", cond: admissible, To: Available, Event: "ha.available", Do: available},
	{From: in(Initializing), On: EvHealth, When: "health pass, nothing is missing but an ACTIVE partition: its incident ends", cond: recoveredOutside, To: None, Do: leaveRecovered},
	{From: in(Initializing), On: EvHealth, When: "health pass, something is still missing", cond: pass, Do: sayWaiting},
	{From: in(Initializing), On: EvHealth, When: "health fail within the quiet period", cond: both(fail, withinQuiet)},
	{From: noIncident, On: EvHealth, When: "health unknown: its owner cannot reach the worker that carries its link", cond: cannotHear, Event: holdPlaced, Do: holdUnheard},
	{From: in(Available), On: EvHealth, When: "health fail", cond: fail, To: Suspect, Event: "ha.suspect", Do: suspect},
	{From: suspicion, On: EvHealth, When: "two passes in a row, and its gate is not confirmed", cond: both(returns, gateClosed), To: Initializing, Event: "ha.initializing", Do: returnedToGate},
	{From: suspicion, On: EvHealth, When: "two passes in a row, same boot (five minutes of them from the third return within 10 min)", cond: returns, To: Available, Event: "ha.available", Do: returned},
	{From: suspicion, On: EvHealth, When: "third return within 10 min: flapping", cond: flapsNow, To: Degraded, Event: "ha.degraded", Do: flap},
	{From: suspicion, On: EvHealth, When: "first health pass", cond: passCounts, Do: countPass},
	{From: suspicion, On: EvHealth, When: "health fail after a pass", cond: failAfterPass, Do: dropPasses},
	{From: acting, On: EvHealth, When: "health pass that ends the action, and its gate is not confirmed", cond: both(passEnds, gateClosed), To: Initializing, Event: "ha.initializing", Do: endedToGate},
	{From: in(Fenced), On: EvHealth, When: "a ping of a boot from before the proof", cond: revenant, To: Failed, Event: "ha.failed", Do: failRevenant},
	{From: in(Failed), On: EvHealth, When: "health pass", cond: pass, To: Initializing, Event: "ha.initializing", Do: repairedFailed},
}

var checkRows = []Row{
	{From: in(Suspect), On: EvTick, When: "check due", cond: checkDue, To: Checking, Event: "ha.checking", Do: startCheck},
	{From: in(Degraded), On: EvTick, When: "check due", cond: checkDue, Do: startCheck},
	{From: in(Checking), On: EvActivity, When: "active, ha.degraded.after reached", cond: activeEnough, To: Degraded, Event: "ha.degraded", Do: degrade},
	{From: in(Checking), On: EvActivity, When: "active: the interval doubles", cond: verdictIs(Active), To: Suspect, Do: foundActive},
	{From: in(Checking), On: EvActivity, When: "unknown, attempts left", cond: unknownLeft, To: Suspect, Do: foundUnknown},
	{From: in(Checking), On: EvActivity, When: "unknown, attempts used up", cond: verdictIs(Unknown), To: Suspect, Event: holdPlaced, Do: unknownHold},
	{From: in(Checking), On: EvActivity, When: "idle, and power was found OFF: it is being confirmed", cond: idleAndOff, To: Suspect, Do: idleWhileOff},
	{From: in(Checking), On: EvActivity, When: "idle, and not eligible", cond: idleIneligible, To: Suspect, Event: holdPlaced, Do: holdIneligible},
	{From: in(Checking), On: EvActivity, When: "idle by quorum: a place is waited for", cond: verdictIs(Idle), Do: foundIdle},
	{From: in(Degraded), On: EvActivity, When: "active", cond: verdictIs(Active), Do: degrade},
	{From: in(Degraded), On: EvActivity, When: "unknown, attempts left", cond: unknownLeft, Do: foundUnknown},
	{From: in(Degraded), On: EvActivity, When: "unknown, attempts used up", cond: verdictIs(Unknown), Event: holdPlaced, Do: unknownHold},
	{From: in(Degraded), On: EvActivity, When: "idle, and power was found OFF: it is being confirmed", cond: idleAndOff, Do: idleWhileOff},
	{From: in(Degraded), On: EvActivity, When: "idle, and not eligible", cond: idleIneligible, Event: holdPlaced, Do: holdIneligible},
	{From: in(Degraded), On: EvActivity, When: "idle by quorum: a place is waited for", cond: verdictIs(Idle), Do: foundIdle},
	{From: suspicion, On: EvRepaired, When: "the repair command ended", Do: func(s *step) { s.note("seen", "repair command ended: %s", orNone(s.ev.Reason)) }},
	{From: confirms, On: EvPolicy, When: "a hold may have cleared: asked again at once", cond: mayHaveCleared, Do: askAgain},
}

var actingRows = []Row{
	{From: in(Checking, Degraded), On: EvPlace, When: "idle by quorum, all guards allow, policy recover", cond: allowed(guard.Recover), To: Recovering, Event: "ha.recovering", Do: recoverHost},
	{From: in(Checking, Degraded), On: EvPlace, When: "idle by quorum, all guards allow, policy fence or attempts used up", cond: allowed(guard.Fence), To: Fencing, Event: "ha.fencing", Do: fenceHost},
	{From: in(Checking), On: EvPlace, When: "idle, some guard holds", cond: actAnswered, To: Suspect, Event: holdPlaced, Do: held},
	{From: in(Degraded), On: EvPlace, When: "idle, some guard holds", cond: actAnswered, Event: holdPlaced, Do: held},
	{From: in(Recovering), On: EvPlace, When: "attempts left, a fresh check says idle, all guards allow", cond: allowed(guard.Recover), To: Recovering, Event: "ha.recovering", Do: recoverHost},
	{From: in(Recovering), On: EvPlace, When: "attempts used up, a fresh check says idle, all guards allow", cond: allowed(guard.Fence), To: Fencing, Event: "ha.fencing", Do: fenceHost},
	{From: in(Recovering), On: EvPlace, When: "OFF proven, it does not switch on, all guards allow", cond: allowed(guard.Confirm), To: Fencing, Event: "ha.fencing", Do: confirmOff},
	{From: in(Recovering), On: EvPlace, When: "attempt failed, some guard holds", cond: func(s *step) bool { return s.report != nil }, To: Suspect, Event: holdPlaced, Do: heldAfterAttempt},
	{From: in(Recovering), On: EvTick, When: "the agent is not back in time: a check is asked", cond: agentLate, Do: agentMissing},
	{From: in(Recovering), On: EvActivity, When: "a check after the attempt says idle, and not eligible", cond: idleIneligible, To: Suspect, Event: holdPlaced, Do: holdIneligible},
	{From: in(Recovering), On: EvActivity, When: "a check after the attempt says idle: a place is waited for", cond: verdictIs(Idle), Do: foundIdle},
	{From: in(Recovering), On: EvActivity, When: "attempt failed, a fresh check says active or unknown", cond: answers, To: Suspect, Event: holdPlaced, Do: notIdleAfter},
	{From: in(Recovering), On: EvPower, When: "switched on after all", cond: switchedOn, Do: awaitAgent},
	{From: in(Recovering), On: EvHealth, When: "health pass before the irreversible packet was sent", cond: passUnsent, To: Available, Event: "ha.available", Do: cancelled},
	{From: in(Recovering), On: EvHealth, When: "failing, but alive since the check, before the irreversible packet was sent", cond: lifeUnsent, To: Suspect, Event: "ha.suspect", Do: cancelledFailing},
	{From: in(Recovering), On: EvHealth, When: "still passing, old boot, after the proof or later than failures × interval after the last hard off", cond: passSurvived, To: Available, Event: "ha.available", Do: survivedWell},
	{From: in(Recovering), On: EvHealth, When: "failing, but alive, old boot, after the proof or later than failures × interval after the last hard off", cond: lifeSurvived, To: Suspect, Event: "ha.suspect", Do: survivedFailing},
	{From: in(Recovering), On: EvHello, When: "the same boot, since the check, before the irreversible packet was sent", cond: helloUnsent, To: Suspect, Event: "ha.suspect", Do: cancelledHello},
	{From: acting, On: EvTxn, When: "answer to the running action", cond: both(actionEvent, notConfirmingOn), Do: feedAction},
}

// confirmRows: OFF that nobody ordered (ha.md §3.1), and back to where it came from.
var confirmRows = concat([]Row{
	{From: confirms, On: EvTick, When: "confirmation due: a place is waited for", cond: confirmDue, Do: askConfirm},
	{From: confirms, On: EvPlace, When: "power found OFF, no sign of life since, all guards but budget and quiet allow", cond: allowed(guard.Confirm), To: Fencing, Event: "ha.fencing", Do: confirmOff},
	{From: confirms, On: EvPlace, When: "power found OFF, some guard holds", cond: confirmAnswered, Do: confirmHeld},
}, abandonRows(EvPower, "ON reading while confirming", onWhileConfirming, abandonOn),
	abandonRows(EvTxn, "ON reading while confirming", onWhileConfirming, abandonOn),
	abandonRows(EvHealth, "sign of life while confirming", lifeWhileConfirming, abandonLife),
	abandonRows(EvHello, "sign of life while confirming", lifeWhileConfirming, abandonLife),
	[]Row{
		{From: in(Fencing), On: EvHello, When: "the same boot, since the check, before the irreversible packet was sent", cond: helloUnsent, To: Suspect, Event: "ha.suspect", Do: cancelledHello},
		{From: acting, On: EvHello, When: "the same boot, alive since OFF was first read: OFF must settle anew", cond: lifeUnsettles, Do: unsettle},
		{From: in(Fencing), On: EvHealth, When: "health pass before the irreversible packet was sent", cond: passUnsent, To: Available, Event: "ha.available", Do: cancelled},
		{From: in(Fencing), On: EvHealth, When: "failing, but alive since the check, before the irreversible packet was sent", cond: lifeUnsent, To: Suspect, Event: "ha.suspect", Do: cancelledFailing},
		{From: in(Fencing), On: EvHealth, When: "still passing, old boot, after the proof or later than failures × interval after the last hard off", cond: passSurvived, To: Available, Event: "ha.available", Do: survivedWell},
		{From: in(Fencing), On: EvHealth, When: "failing, but alive, old boot, after the proof or later than failures × interval after the last hard off", cond: lifeSurvived, To: Suspect, Event: "ha.suspect", Do: survivedFailing},
		{From: acting, On: EvHealth, When: "alive since OFF was first read: OFF must settle anew", cond: lifeUnsettles, Do: unsettle},
	})

// abandonRows: one for each state that a confirmation can come from.
func abandonRows(on Kind, when string, cond func(*step) bool, do func(*step)) []Row {
	row := func(to State, came ...State) Row {
		return Row{From: in(Fencing), On: on, When: when + ", came from " + names(came), cond: both(cond, from(came...)), To: to, Event: "ha.confirm-abandoned", Do: do}
	}
	return []Row{row(Initializing, Initializing), row(Available, Available), row(Unsupported, Unsupported), row(Degraded, Degraded),
		row(Suspect, Suspect, Checking, Recovering), row(Failed, Failed)}
}

func concat(rows ...[]Row) []Row {
	var out []Row
	for _, r := range rows {
		out = append(out, r...)
	}
	return out
}

// index is Rows by state and kind.
var index = func() map[State]map[Kind][]*Row {
	out := map[State]map[Kind][]*Row{}
	for k := range Rows {
		for _, from := range Rows[k].From {
			if out[from] == nil {
				out[from] = map[Kind][]*Row{}
			}
			out[from][Rows[k].On] = append(out[from][Rows[k].On], &Rows[k])
		}
	}
	return out
}()
