// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Kind names an event. Each has the payload fields listed beside it; the others are
// left empty. Results carry the id of what they answer; a result whose id is not the
// one on record is stale and dropped.
type Kind string

const (
	EvAdopted   Kind = "adopted"   // this worker has just taken the host over; first event an owner feeds
	EvTick      Kind = "tick"      // some deadline of the record (NextDeadline) has come
	EvPartition Kind = "partition" // Partition
	EvAdmin     Kind = "admin"     // Admin
	EvEligible  Kind = "eligible"  // Verdict, Reason
	EvHello     Kind = "hello"     // Boot, Instances
	EvHealth    Kind = "health"    // Verdict pass/fail/unknown (with a Reason: its owner cannot hear it), Reason, Boot (of the ping), Life (when the last ping arrived), Instances, Lost
	EvGoodbye   Kind = "goodbye"   // Reason: host-shutdown, host-reboot
	EvGate      Kind = "gate"      // ID = generation confirmed by the running boot
	EvActivity  Kind = "activity"  // Check (its ID answers StartCheck)
	EvPlace     Kind = "place"     // Snapshot (its Purpose answers TakePlace): a place in the recovery pool is held
	EvPower     Kind = "power"     // Power (debounced transition or adopted state), PowerFirst, PowerWhy; PowerTold false: no level can be read
	EvTxn       Kind = "txn"       // Txn: answer to TxnEffect
	EvOperator  Kind = "operator"  // Order
	EvRepaired  Kind = "repaired"  // repair hook has ended; Reason
	EvSeen      Kind = "seen"      // Boot, SeenDisks, SeenProbe: neighbours looked at a healthy host; recorded for its boot, changes no state
	EvPolicy    Kind = "policy"    // settings, arming or a checker, pool or power reading changed: a held host's check may be due at once

	// evFacts is fed by nobody: after every event the facts on record are looked at
	// once more, so that a fact counts from whatever state it finds the host in.
	evFacts Kind = "facts"
)

// Kinds lists every kind an owner may feed.
var Kinds = []Kind{EvAdopted, EvTick, EvPartition, EvAdmin, EvEligible, EvHello, EvHealth, EvGoodbye, EvGate, EvActivity, EvPlace, EvPower, EvTxn, EvOperator, EvRepaired, EvSeen, EvPolicy}

// Event is one thing that happened to a host. At is the owner's clock, UTC.
type Event struct {
	Kind Kind      `json:"kind"`
	At   time.Time `json:"at"`

	Verdict   Verdict   `json:"verdict,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	ID        string    `json:"id,omitempty"`
	Boot      string    `json:"boot,omitempty"`
	Life      time.Time `json:"life,omitzero"` // newest sign of life the owner knows; with EvOperator until when the host may have lived, which is none
	Instances []string  `json:"instances,omitempty"`
	Local     []string  `json:"local,omitempty"` // of the instances, those that return with the host (ha.md §5, mixed hosts)

	Lost []string `json:"lost,omitempty"` // shared pools that the host's own report says it cannot use

	SeenDisks bool `json:"seenDisks,omitempty"`
	SeenProbe bool `json:"seenProbe,omitempty"`

	Partition PartitionState  `json:"partition,omitempty"`
	Admin     *Admin          `json:"admin,omitempty"`
	Check     *Check          `json:"check,omitempty"`
	Snapshot  *guard.Snapshot `json:"snapshot,omitempty"`

	Power      power.State     `json:"power,omitempty"`
	PowerFirst time.Time       `json:"powerFirst,omitzero"` // first of the equal readings behind the transition
	PowerWhy   string          `json:"powerWhy,omitempty"`
	PowerTold  bool            `json:"powerTold,omitempty"`
	PowerBy    []string        `json:"powerBy,omitempty"` // devices behind the readings; empty: the first level of the ladder
	Ordered    bool            `json:"ordered,omitempty"` // the transition was ours or an operator's through us
	Txn        *power.TxnEvent `json:"txn,omitempty"`
	Order      *Order          `json:"order,omitempty"`
}

// OrderVerb is what an operator can order about a host's HA or power.
type OrderVerb string

const (
	OrderRetry      OrderVerb = "retry"
	OrderConfirmOff OrderVerb = "confirm-off"
	OrderOn         OrderVerb = "on"
	OrderOff        OrderVerb = "off"
	OrderSoft       OrderVerb = "soft"
	OrderReset      OrderVerb = "reset"
	OrderCycle      OrderVerb = "cycle"
)

// Order is an operator's word. By and Reason are recorded.
type Order struct {
	Verb   OrderVerb `json:"verb"`
	ID     string    `json:"id"`
	By     string    `json:"by"`
	Second string    `json:"second,omitempty"` // second operator, to override a sign of life at confirm-off
	Reason string    `json:"reason,omitempty"`
}

// EffectKind names an effect.
type EffectKind string

const (
	StartCheck    EffectKind = "start-check"    // ID, Deadline, Memory: ask the provider for an activity check
	TakePlace     EffectKind = "take-place"     // Purpose: wait for a place in the recovery pool, then feed EvPlace with a snapshot
	LeavePlace    EffectKind = "leave-place"    // give the place back, or stop waiting
	ReadPower     EffectKind = "read-power"     // read every power level now
	TxnDo         EffectKind = "txn"            // Txn: read, send or end, on the transaction's device
	Spend         EffectKind = "spend"          // in the same commit: one slot of each budget of the host; an operator's order is counted without being asked
	Announce      EffectKind = "announce"       // Type, Severity, Reason: an event in the log, in the same commit
	Repair        EffectKind = "repair"         // run the repair hook
	PushGate      EffectKind = "push-gate"      // tell the linked agent its gate
	CloseIncident EffectKind = "close-incident" // Incident: write incidents/<host>/<id>, in the same commit
)

// Effect is something to do once the record is committed. Announce, Spend and
// CloseIncident are part of the commit itself.
type Effect struct {
	Kind     EffectKind       `json:"kind"`
	ID       string           `json:"id,omitempty"`
	Deadline time.Time        `json:"deadline,omitzero"`
	Memory   bool             `json:"memory,omitempty"` // what neighbours saw since the host was heard last counts
	Purpose  guard.Purpose    `json:"purpose,omitempty"`
	Txn      *power.TxnEffect `json:"txn,omitempty"`

	Type      string    `json:"type,omitempty"`     // event type, e.g. "ha.suspect", "ha.safe-to-restart"
	Severity  Severity  `json:"severity,omitempty"` // of the event
	Reason    string    `json:"reason,omitempty"`   // message of the event, for people
	Instances []string  `json:"instances,omitempty"`
	Local     []string  `json:"local,omitempty"` // that return with the host, beside the instances
	Boot      string    `json:"boot,omitempty"`
	Incident  *Incident `json:"incident,omitempty"`
}

// Severity of an event. Page wakes somebody up: event, metric and hook (ha.md §7).
type Severity string

const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Page    Severity = "page"
)
