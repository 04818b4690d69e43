// SPDX-License-Identifier: Apache-2.0

package power

import (
	"maps"
	"slices"
	"time"
)

// Phase is what a transaction, or one device of it, does next.
type Phase string

const (
	PhaseIdentify Phase = "identify"  // compare the identity with the pinned one
	PhaseStatus   Phase = "status"    // one fresh reading, recorded, never an exit
	PhaseOff      Phase = "off"       // send hard off
	PhaseSettle   Phase = "settle"    // read until OFF is settled
	PhasePause    Phase = "pause"     // OFF is proven; wait before ON
	PhaseOn       Phase = "on"        // send hard on, or the operator's verb
	PhaseOnVerify Phase = "on-verify" // read until ON, or once after an operator's verb
	PhaseEnd      Phase = "end"
)

// MaxEvidence bounds Progress.Evidence: the newest lines are kept.
const MaxEvidence = 32

// Progress is how far a transaction is. It holds all that the next owner needs; only
// Begin and Step write it, everybody may read it.
type Progress struct {
	Phase      Phase            `json:"phase"`
	Rung       int              `json:"rung"`              // index into Txn.Ladder
	Feeding    bool             `json:"feeding,omitempty"` // while switching on: what feeds the host, not yet the chassis
	LevelBegun time.Time        `json:"levelBegun,omitzero"`
	LevelEnds  time.Time        `json:"levelEnds,omitzero"`
	Devices    []DeviceProgress `json:"devices,omitempty"` // of the present level, in its order

	Seq  int        `json:"seq"`           // of the last effect asked for
	Out  *TxnEffect `json:"out,omitempty"` // asked for and not answered; a send among it may have left
	Wake time.Time  `json:"wake,omitzero"` // when a Tick is due

	OffPackets int       `json:"offPackets,omitempty"` // irreversible packets that left or may have left, all levels
	LastOff    time.Time `json:"lastOff,omitzero"`     // when the last of them was answered, or asked for
	OnPackets  int       `json:"onPackets,omitempty"`
	LastOn     time.Time `json:"lastOn,omitzero"`
	OnEnds     time.Time `json:"onEnds,omitzero"` // ON must be read by then

	Outcome  Outcome      `json:"outcome,omitempty"`  // of an operator's verb
	Errors   map[Kind]int `json:"errors,omitempty"`   // met so far, by kind
	Answered bool         `json:"answered,omitempty"` // some device answered against us: read ON after a hard off, or refused it
	Fed      bool         `json:"fed,omitempty"`      // all that feeds the host was read ON
	Unfed    []string     `json:"unfed,omitempty"`    // why feeds did not come back, for people
	Weak     *Verdict     `json:"weak,omitempty"`     // strongest OFF that was settled and is not strong enough
	Human    bool         `json:"human,omitempty"`    // the ladder came to a level that only an operator can answer
	Failed   []string     `json:"failed,omitempty"`   // why devices and levels were given up, for people
	Evidence []Evidence   `json:"evidence,omitempty"`
}

// DeviceProgress is how far a transaction is with one device of the present level.
type DeviceProgress struct {
	Name       string        `json:"name"`
	Phase      Phase         `json:"phase"`
	Identified bool          `json:"identified,omitempty"` // the identity matched in the present session
	Due        time.Time     `json:"due,omitzero"`         // nothing is asked of it before
	Fails      int           `json:"fails,omitempty"`      // failed exchanges in a row
	Waits      int           `json:"waits,omitempty"`      // Busy or SessionLimit in a row: the back-off grows
	Offs       int           `json:"offs,omitempty"`       // hard offs that were not refused for being busy
	LastOff    time.Time     `json:"lastOff,omitzero"`
	Commanded  bool          `json:"commanded,omitempty"` // the last hard off ran, may have run or was not needed
	Run        OffRun        `json:"run,omitzero"`
	Window     time.Duration `json:"window,omitempty"` // longer settle window, while the BMC is young
	Ons        int           `json:"ons,omitempty"`
	Last       State         `json:"last"` // last state read
	LastAt     time.Time     `json:"lastAt,omitzero"`
	Over       string        `json:"over,omitempty"` // why it was given up, for people
}

// OffRun is a row of authentic OFF readings with no ON among them.
type OffRun struct {
	Count    int       `json:"count,omitempty"`
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	Failed   bool      `json:"failed,omitempty"`   // a read failed since Last
	Adjacent bool      `json:"adjacent,omitempty"` // no read failed between the last two OFF readings
}

// Evidence is one line of a transaction's story, for people.
type Evidence struct {
	At     time.Time `json:"at"`
	Level  int       `json:"level,omitempty"`
	Device string    `json:"device,omitempty"`
	Text   string    `json:"text"`
}

// clone copies what Step changes in place, so that the caller's value stays as it was.
func (p Progress) clone() Progress {
	p.Devices = slices.Clone(p.Devices)
	p.Errors = maps.Clone(p.Errors)
	p.Failed = slices.Clone(p.Failed)
	p.Unfed = slices.Clone(p.Unfed)
	p.Evidence = slices.Clone(p.Evidence)
	return p
}

// OffSent reports whether a packet that cannot be taken back (hard off, or an operator's
// soft off, reset or cycle) left or may have left. A send that is asked for and not
// answered counts: a cancellation must assume the worst (ha.md §3).
func (t Txn) OffSent() bool {
	return t.Progress.OffPackets > 0 || t.Progress.sending(irreversible)
}

// OnSent reports whether a hard on left or may have left.
func (t Txn) OnSent() bool {
	return t.Progress.OnPackets > 0 || t.Progress.sending(func(v Verb) bool { return v == HardOn })
}

// Unsettles reports whether a sign of life belies OFF readings that no verdict rests on
// yet; such a sign is fed as TxnEvent.Life.
func (t Txn) Unsettles(life time.Time) bool {
	return !t.Done && t.Verdict == nil && slices.ContainsFunc(t.Progress.Devices, func(d DeviceProgress) bool { return d.Run.beliedBy(life) })
}

func (o OffRun) beliedBy(life time.Time) bool { return o.Count > 0 && life.After(o.First) }

// LastOff is when the last irreversible packet left at the latest, zero if none did.
func (t Txn) LastOff() time.Time { return t.Progress.LastOff }

// NextDeadline is when the transaction wants a Tick if nothing else happens before;
// zero once it is over.
func (t Txn) NextDeadline() time.Time { return t.Progress.Wake }

func (p Progress) sending(is func(Verb) bool) bool {
	return p.Out != nil && p.Out.Do == DoSend && is(p.Out.Verb)
}

func irreversible(v Verb) bool { return v != HardOn && v != Identify }
