// SPDX-License-Identifier: Apache-2.0

package command

import "time"

// EventKind is what happened.
type EventKind string

// The kinds of events.
const (
	EvTick     EventKind = "tick"     // something is due
	EvPrepared EventKind = "prepared" // the target answered a request to make volumes
	EvSent     EventKind = "sent"     // the agent answered, or did not answer, that it took the command
	EvStep     EventKind = "step"     // a step of the agent's journal
	EvAbsent   EventKind = "absent"   // the linked agent's journal does not hold the command
	EvLinked   EventKind = "linked"   // an agent that can be asked has come
	EvOver     EventKind = "over"     // a boot that may have worked on it is proven over
	EvEvidence EventKind = "evidence" // what was asked for has been looked at
	EvTidied   EventKind = "tidied"   // agents have tidied, or tried to
	EvOperator EventKind = "operator" // an operator's word
)

// EventKinds are all of them.
var EventKinds = []EventKind{EvTick, EvPrepared, EvSent, EvStep, EvAbsent, EvLinked, EvOver, EvEvidence, EvTidied, EvOperator}

// Reply is how a request ended.
type Reply string

// The replies.
const (
	Accepted Reply = "accepted"
	Refused  Reply = "refused" // the agent answered that it will not, and nothing was done
	NoReply  Reply = ""        // it may or may not have been done
)

// JournalStep is one step of an agent's journal: the agent's own words, in its own order.
type JournalStep struct {
	V       int       `json:"v"`
	Seq     int       `json:"seq"` // from 1
	At      time.Time `json:"at"`  // by the agent's clock; shown, never compared
	State   State     `json:"state"`
	Boot    string    `json:"boot"`
	Process string    `json:"process"`
	What    string    `json:"what"`
	Ran     string    `json:"ran,omitempty"` // of a terminal step: what the instance was seen to do
}

// Terminal: the agent does nothing more by itself.
func (s JournalStep) Terminal() bool { return s.State == Completed || s.State == Failed }

// Verb is an operator's word.
type Verb string

// The verbs.
const (
	VerbCancel    Verb = "cancel"
	VerbReconcile Verb = "reconcile"
	VerbDone      Verb = "resolve as completed"
	VerbNotDone   Verb = "resolve as failed"
)

// Event is what Step decides about.
type Event struct {
	Kind     EventKind
	At       time.Time
	Reply    Reply
	Reason   string
	Step     *JournalStep
	Evidence *Evidence
	Tidied   []Action
	Paths    map[string]string // EvPrepared: where the target has its pools
	Verb     Verb
	By       string
}

// Policy are the settings in force.
type Policy struct {
	Enabled     bool          // reconcile.enabled
	Interval    time.Duration // reconcile.interval
	MaxAttempts int           // reconcile.max.attempts
}

// EffectKind is what is to be done once the record is committed.
type EffectKind string

// The effects. Announce is done in the commit itself, as is the outcome: a step that sets
// Record.Outcome or Record.Released changes the resources in the same transaction.
const (
	Prepare  EffectKind = "prepare"  // have the target make the volumes
	Send     EffectKind = "send"     // give the command to the agent
	Abort    EffectKind = "abort"    // have the agent cancel it
	Gather   EffectKind = "gather"   // ask all hosts what they see
	Reattach EffectKind = "reattach" // have the agent wait for a job that runs
	Tidy     EffectKind = "tidy"     // have agents do Actions
	Announce EffectKind = "announce"
)

// Severity of an announcement.
type Severity string

// The severities.
const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Page    Severity = "page"
)

// Effect is one thing to do.
type Effect struct {
	Kind     EffectKind
	Actions  []Action
	Type     string // of the event, such as command.completed
	Severity Severity
	Reason   string
}
