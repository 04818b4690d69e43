// SPDX-License-Identifier: Apache-2.0

package power

import (
	"slices"
	"time"
)

// Goal is what a transaction must reach.
type Goal string

const (
	GoalOff   Goal = "off"   // prove OFF
	GoalCycle Goal = "cycle" // prove OFF, pause, switch on as GoalOn does, read ON
	GoalOn    Goal = "on"    // switch on, feeds first, and read ON
	GoalVerb  Goal = "verb"  // operator's soft, reset or chassis cycle: send once, read once
)

// Level is one rung of the ladder: devices that must all (or any) be off (power.md §9.1).
type Level struct {
	N        int                  `json:"n"` // 1..9
	Devices  []string             `json:"devices"`
	All      bool                 `json:"all"`
	Deadline time.Duration        `json:"deadline,omitempty"` // of this level; 0: Limits.LevelDeadline
	Min      Assurance            `json:"min,omitempty"`      // a weaker OFF of this level is no proof: the next one is tried
	Ceilings map[string]Assurance `json:"ceilings,omitempty"` // what a settled OFF proves through a device; default A3
	Feeds    []string             `json:"feeds,omitempty"`    // which of the devices feed the host: they come back before the chassis is switched on
	Human    bool                 `json:"human,omitempty"`    // nothing to command: the ladder ends here and waits for an operator's word
}

// Proves is what a settled OFF of these devices of the level proves: no more than the
// weakest of them. One feed of several proves nothing of the host: the others may feed it.
func (lv Level) Proves(devices ...string) Assurance {
	a := A5
	for _, d := range devices {
		c, ok := lv.Ceilings[d]
		switch {
		case !ok:
			c = A3
		case c > A3 && !lv.All && len(lv.Devices) > 1:
			c = A1
		}
		a = min(a, c)
	}
	if len(devices) == 0 {
		return A0
	}
	return a
}

func (lv Level) feeds(device string) bool { return slices.Contains(lv.Feeds, device) }

func (lv Level) feedsOnly() bool {
	return len(lv.Devices) > 0 && !slices.ContainsFunc(lv.Devices, func(d string) bool { return !lv.feeds(d) })
}

// Reaches is the strongest verdict the level can end with.
func (lv Level) Reaches() Assurance {
	switch {
	case lv.Human:
		return A0 // by itself; the operator's word is another proof
	case lv.All:
		return lv.Proves(lv.Devices...)
	}
	a := A0
	for _, d := range lv.Devices {
		a = max(a, lv.Proves(d))
	}
	return a
}

// Limits are the figures of power.md §6.3, resolved from settings.
type Limits struct {
	PacketTimeout   time.Duration `json:"packetTimeout"`        // 2s
	StatusDeadline  time.Duration `json:"statusDeadline"`       // 5s
	CommandDeadline time.Duration `json:"commandDeadline"`      // 15s, also the life of an intent
	VerifyInterval  time.Duration `json:"verifyInterval"`       // 2s
	SettleWindow    time.Duration `json:"settleWindow"`         // 6s
	SettleReads     int           `json:"settleReads"`          // 3
	RepeatOffAfter  time.Duration `json:"repeatOffAfter"`       // 8s
	MaxOffs         int           `json:"maxOffs"`              // 3
	OffToOn         time.Duration `json:"offToOn"`              // 5s
	OnDeadline      time.Duration `json:"onDeadline"`           // 120s
	LevelDeadline   time.Duration `json:"levelDeadline"`        // 60s
	TotalDeadline   time.Duration `json:"totalDeadline"`        // 300s
	OnNotBefore     time.Time     `json:"onNotBefore,omitzero"` // leases.md §3.5: an adopted transaction may not send ON earlier
}

// Txn is a running or finished power transaction: the fence transaction of power.md
// §6.2 or an operator's verb. It is part of the host's record, so that the worker that
// takes over goes on from it: read first, then act. Its further fields are written by
// Begin and Step only.
type Txn struct {
	ID       string    `json:"id"`
	Goal     Goal      `json:"goal"`
	Verb     Verb      `json:"verb,omitempty"` // for GoalVerb
	Boot     string    `json:"boot,omitempty"` // the boot to be proven off
	Ladder   []Level   `json:"ladder"`
	Begun    time.Time `json:"begun"`
	Deadline time.Time `json:"deadline"`

	Progress Progress `json:"progress"`

	Done    bool     `json:"done,omitempty"`
	Verdict *Verdict `json:"verdict,omitempty"` // set once Done, or as soon as OFF is proven within a cycle
}

// Verdict is what a transaction came to.
type Verdict struct {
	Assurance Assurance `json:"assurance"` // of OFF; A0 when nothing was proven
	Level     int       `json:"level,omitempty"`
	OffSince  time.Time `json:"offSince,omitzero"` // first OFF reading of the settled run
	At        time.Time `json:"at"`
	On        State     `json:"on,omitempty"`     // GoalCycle, GoalOn: last state read after ON
	Silent    bool      `json:"silent,omitempty"` // nothing but Unreachable, Timeout, Busy, SessionLimit was met
	Human     bool      `json:"human,omitempty"`  // the ladder ended at a level that only an operator can answer
	Reason    string    `json:"reason"`           // one sentence for people
}

// TxnDoKind is what a transaction asks for.
type TxnDoKind string

const (
	DoIdentity TxnDoKind = "identity" // open a session, read and compare the identity
	DoRead     TxnDoKind = "read"
	DoSend     TxnDoKind = "send" // Verb with intent ID; not after NotAfter
	DoEnd      TxnDoKind = "end"  // close the session, the transaction is over
)

// TxnEffect asks the worker for one exchange with one device. At most one is
// outstanding for a transaction; Seq names it in the answer.
type TxnEffect struct {
	Txn       string    `json:"txn"`
	Seq       int       `json:"seq"`
	Do        TxnDoKind `json:"do"`
	Device    string    `json:"device,omitempty"`
	Verb      Verb      `json:"verb,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"` // DoSend: the intent's end; others: deadline
}

// TxnEvent answers a TxnEffect, or tells the transaction of time, life or takeover.
type TxnEvent struct {
	Txn      string    `json:"txn"`
	Seq      int       `json:"seq"` // of the effect answered; 0 for Tick, Adopted, Cancel, Life
	At       time.Time `json:"at"`
	Tick     bool      `json:"tick,omitempty"`
	Adopted  bool      `json:"adopted,omitempty"` // a new owner: whatever was outstanding is lost, read first
	Cancel   string    `json:"cancel,omitempty"`  // why it must send no further packet
	Life     time.Time `json:"life,omitzero"`     // the boot to be proven off gave a sign of life then
	Reading  Reading   `json:"reading,omitzero"`
	Identity Identity  `json:"identity,omitzero"`
	Matched  bool      `json:"matched,omitempty"`  // identity equals the pinned one
	BMCYoung bool      `json:"bmcYoung,omitempty"` // the BMC restarted within the last 120 s
	Outcome  Outcome   `json:"outcome,omitempty"`
	Sent     bool      `json:"sent,omitempty"` // the packet left, or may have left
	Err      Kind      `json:"err,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}
