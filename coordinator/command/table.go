// SPDX-License-Identifier: Apache-2.0

package command

import "slices"

// Row is one transition. Rows are tried in their order; the first one of the present
// state and the event's kind whose condition holds is taken.
type Row struct {
	From  []State
	On    EventKind
	When  string // the condition, in words
	cond  func(*step) bool
	To    State  // empty: the same state
	Event string // type of the event that is raised, empty: none
	Do    func(*step)
}

// Groups of states.
var (
	atAgent = []State{Sent, Started, Processing, Backend}
	atWork  = []State{Started, Processing, Backend}
	unsure  = []State{Interrupted, Dangling, Reconciling}
	active  = slices.Concat(atAgent, unsure)
	judged  = []State{Completed, Failed, Reconciled}
	waiting = []State{Interrupted, Dangling}
)

func in(s ...State) []State { return s }

// Rows is the machine (commands.md "States"). The diagram and the page of states and the
// test of totality come from here.
var Rows = slices.Concat(beginRows, stepRows, lookRows, tidyRows, operatorRows)

// From the record to the agent.
var beginRows = []Row{
	{From: in(Pending), On: EvTick, When: "its deadline has passed", cond: late, To: Failed, Event: "command.failed", Do: neverSent("its deadline passed before it was sent")},
	{From: in(Pending), On: EvTick, When: "due, the target has to be prepared first", cond: dueUnprepared, Do: prepare},
	{From: in(Pending), On: EvTick, When: "due", cond: due, To: Sent, Do: send},
	{From: in(Pending), On: EvLinked, When: "the target has to be prepared first", cond: unprepared, Do: prepare},
	{From: in(Pending), On: EvLinked, When: "an agent has come", To: Sent, Do: send},
	{From: in(Pending), On: EvPrepared, When: "the target is prepared", cond: reply(Accepted), To: Sent, Do: prepared},
	{From: in(Pending), On: EvPrepared, When: "the target cannot", cond: reply(Refused), To: Failed, Event: "command.failed", Do: notPrepared},
	{From: in(Pending), On: EvPrepared, When: "no answer: asked again", Do: tryLater},
	{From: in(Pending), On: EvOperator, When: "cancel", cond: verb(VerbCancel), To: Failed, Event: "command.failed", Do: cancelUnsent},
	{From: in(Sent), On: EvSent, When: "the agent refuses it", cond: reply(Refused), To: Failed, Event: "command.failed", Do: refusedByAgent},
	{From: in(Sent), On: EvAbsent, When: "cancelled, or its deadline has passed", cond: unwanted, To: Failed, Event: "command.failed", Do: neverArrived},
	{From: in(Sent), On: EvAbsent, When: "it did not arrive: sent again", Do: sendAgain},
	{From: atAgent, On: EvLinked, When: "cancelled: its agent may not know", cond: cancelled, Do: abort},
	{From: active, On: EvTick, When: "its deadline has passed: cancelled", cond: lateUncancelled, Do: cancelLate},
}

// What the agent's journal says.
var stepRows = []Row{
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "completed, news", cond: news(Completed), To: Completed, Event: "command.completed", Do: didIt},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "failed, news", cond: news(Failed), To: Failed, Event: "command.failed", Do: didNot},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "interrupted, news", cond: news(Interrupted), To: Interrupted, Event: "command.interrupted", Do: broken},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "dangling, news", cond: news(Dangling), To: Dangling, Event: "command.interrupted", Do: broken},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "started, news", cond: news(Started), To: Started, Do: works},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "processing, news", cond: news(Processing), To: Processing, Do: works},
	{From: slices.Concat(in(Pending), active), On: EvStep, When: "in the backend, news", cond: news(Backend), To: Backend, Do: works},
	{From: in(NeedsOperator), On: EvStep, When: "a late completed, no outcome yet", cond: lateNews(Completed), To: Completed, Event: "command.completed", Do: didIt},
	{From: in(NeedsOperator), On: EvStep, When: "a late failed, no outcome yet", cond: lateNews(Failed), To: Failed, Event: "command.failed", Do: didNot},
	{From: slices.Concat(judged, in(NeedsOperator)), On: EvStep, When: "news, too late: put on record only", cond: newer, Do: stale},
	{From: atWork, On: EvAbsent, When: "the agent's journal has lost it", To: Interrupted, Event: "command.interrupted", Do: journalLost},
	{From: slices.Concat(judged, in(NeedsOperator)), On: EvAbsent, When: "released: the agent has forgotten it", cond: unacked, Do: acked},
	{From: atAgent, On: EvOver, When: "the boot that worked on it is over", To: Interrupted, Event: "command.interrupted", Do: bootOver},
}

// Looking for what is so.
var lookRows = []Row{
	{From: waiting, On: EvTick, When: "reconcile.enabled, due", cond: dueEnabled, To: Reconciling, Do: gather},
	{From: waiting, On: EvLinked, When: "reconcile.enabled", cond: enabled, To: Reconciling, Do: gather},
	{From: waiting, On: EvOver, When: "reconcile.enabled", cond: enabled, To: Reconciling, Do: gather},
	{From: in(Reconciling), On: EvTick, When: "reconcile.enabled, due", cond: dueEnabled, Do: gather},
	{From: in(Reconciling), On: EvLinked, When: "reconcile.enabled", cond: enabled, Do: gather},
	{From: in(Reconciling), On: EvOver, When: "reconcile.enabled", cond: enabled, Do: gather},
	{From: in(Reconciling), On: EvEvidence, When: "completed", cond: verdict(IsCompleted), To: Reconciled, Event: "command.reconciled", Do: foundDone},
	{From: in(Reconciling), On: EvEvidence, When: "failed", cond: verdict(IsFailed), To: Reconciled, Event: "command.reconciled", Do: foundNotDone},
	{From: in(Reconciling), On: EvEvidence, When: "in progress, nobody waits for the end", cond: runsAlone, To: Backend, Do: reattach},
	{From: in(Reconciling), On: EvEvidence, When: "in progress: its journal will tell, looked at again all the same", cond: verdict(InProgress), Do: goesOn},
	{From: in(Reconciling), On: EvEvidence, When: "the instance runs twice, in two looks in a row", cond: split, To: NeedsOperator, Event: "command.needs-operator", Do: handOver},
	{From: in(Reconciling), On: EvEvidence, When: "undetermined, attempts used up", cond: usedUp, To: NeedsOperator, Event: "command.needs-operator", Do: handOver},
	{From: in(Reconciling), On: EvEvidence, When: "undetermined", Do: lookAgain},
}

// After the outcome: until nothing is left.
var tidyRows = []Row{
	{From: judged, On: EvTick, When: "not released, due", cond: dueUnreleased, Do: gather},
	{From: judged, On: EvLinked, When: "not released", cond: unreleased, Do: gather},
	{From: judged, On: EvOver, When: "not released", cond: unreleased, Do: gather},
	{From: judged, On: EvEvidence, When: "not released, says the same, nothing is left", cond: clean, Do: release},
	{From: judged, On: EvEvidence, When: "not released, says the same, something may be tidied", cond: mayTidy, Do: tidy},
	{From: judged, On: EvEvidence, When: "not released, says the opposite of the outcome", cond: contradicts, To: NeedsOperator, Event: "command.needs-operator", Do: handOver},
	{From: judged, On: EvEvidence, When: "not released, attempts used up", cond: usedUpUnreleased, To: NeedsOperator, Event: "command.needs-operator", Do: handOver},
	{From: judged, On: EvEvidence, When: "not released", cond: unreleased, Do: lookAgain},
	{From: judged, On: EvTidied, When: "not released", cond: unreleased, Do: afterTidy},
}

var operatorRows = []Row{
	{From: active, On: EvOperator, When: "cancel, for the first time", cond: firstCancel, Do: cancel},
	{From: unsure, On: EvOperator, When: "reconcile", cond: verb(VerbReconcile), To: Reconciling, Do: gatherAnew},
	{From: in(NeedsOperator), On: EvOperator, When: "reconcile, no outcome yet", cond: retryOpen, To: Reconciling, Do: gatherAnew},
	{From: in(NeedsOperator), On: EvOperator, When: "reconcile, something is left to tidy", cond: retryLeft, To: Reconciled, Do: gatherAnew},
	{From: judged, On: EvOperator, When: "reconcile, not released", cond: retryLeft, Do: gatherAnew},
	{From: slices.Concat(unsure, in(NeedsOperator)), On: EvOperator, When: "resolve", cond: resolves, To: Reconciled, Event: "command.reconciled", Do: resolve},
	{From: judged, On: EvOperator, When: "resolve, as it was found, not released", cond: resolvesLeft, To: Reconciled, Event: "command.reconciled", Do: resolve},
}

// index finds the rows of a state and kind.
var index = func() map[State]map[EventKind][]*Row {
	out := map[State]map[EventKind][]*Row{}
	for _, s := range States {
		out[s] = map[EventKind][]*Row{}
	}
	for i := range Rows {
		for _, s := range Rows[i].From {
			out[s][Rows[i].On] = append(out[s][Rows[i].On], &Rows[i])
		}
	}
	return out
}()

// Ignore says why an event, in a state, changes nothing where no row's condition holds.
type Ignore struct {
	From []State
	On   EventKind
	Why  string
}

// Ignored is the other half of the table.
var Ignored = []Ignore{
	{States, EvTick, "nothing is due"},
	{slices.Concat(in(Sent), atWork, unsure, judged, in(NeedsOperator)), EvPrepared, "stale: it was sent since"},
	{in(Pending, Started, Processing, Backend, Interrupted, Dangling, Reconciling, Completed, Failed, Reconciled, NeedsOperator), EvSent, "stale: its journal has spoken since"},
	{in(Sent), EvSent, "taken, or no answer: its journal will tell"},
	{States, EvStep, "a step that is on record already"},
	{in(Pending, Interrupted, Dangling, Reconciling), EvAbsent, "expected: nothing was sent, or its journal is lost"},
	{slices.Concat(judged, in(NeedsOperator)), EvAbsent, "noted already, or its resources are not released yet"},
	{atAgent, EvLinked, "a reconnect of the same process changes nothing; its journal will tell"},
	{slices.Concat(waiting, in(Reconciling)), EvLinked, "reconcile.enabled is false: nothing is judged"},
	{judged, EvLinked, "released: nothing is to be done"},
	{in(NeedsOperator), EvLinked, "waits for an operator"},
	{in(Pending), EvOver, "nothing was sent"},
	{slices.Concat(waiting, in(Reconciling)), EvOver, "reconcile.enabled is false: nothing is judged"},
	{judged, EvOver, "released: nothing is to be done"},
	{in(NeedsOperator), EvOver, "waits for an operator"},
	{in(Pending, Sent, Started, Processing, Backend, Interrupted, Dangling, NeedsOperator), EvEvidence, "stale: its journal has spoken since, or it was asked before"},
	{judged, EvEvidence, "released: nothing follows from it any more"},
	{in(Pending, Sent, Started, Processing, Backend, Interrupted, Dangling, Reconciling, NeedsOperator), EvTidied, "stale: tidying follows an outcome"},
	{judged, EvTidied, "released already"},
	{States, EvOperator, "the order does not fit the state"},
}

// severity of the events that rows raise.
var severity = map[string]Severity{
	"command.completed": Info, "command.failed": Warning, "command.interrupted": Warning,
	"command.reconciled": Info, "command.needs-operator": Page,
}
