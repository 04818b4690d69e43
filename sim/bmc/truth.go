// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Verb names what was asked of a chassis.
type Verb string

// The verbs of the truth log. SelfOn is nobody's command: the chassis came on by itself.
const (
	VerbOff      Verb = "off"
	VerbOn       Verb = "on"
	VerbCycle    Verb = "cycle"
	VerbReset    Verb = "reset"
	VerbDiag     Verb = "diag"
	VerbSoft     Verb = "soft"
	VerbIdentify Verb = "identify"
	VerbSelfOn   Verb = "self-on"
	VerbMainsOff Verb = "mains-off" // its feeds were cut, BMC included; nobody asked the BMC
	VerbMainsOn  Verb = "mains-on"
	VerbInvalid  Verb = "invalid" // chassis control with an action that does not exist
)

// Outcome says what became of a command.
type Outcome string

// Executed reached the chassis; Ignored was accepted by a lying BMC and went nowhere;
// Refused got a completion code other than 00h.
const (
	Executed Outcome = "executed"
	Ignored  Outcome = "ignored"
	Refused  Outcome = "refused"
)

// Entry is one command in the truth log. Before and After are the chassis' true power
// just before and just after the command was handed over; a chassis that takes its
// time is still on After an off. Session is zero for SelfOn.
type Entry struct {
	At        time.Time `json:"at"`
	BMC       string    `json:"bmc"`
	Session   uint32    `json:"session"`
	Remote    string    `json:"remote"`
	User      string    `json:"user"`
	Privilege Privilege `json:"privilege"`
	Verb      Verb      `json:"verb"`
	Before    bool      `json:"before"`
	After     bool      `json:"after"`
	Outcome   Outcome   `json:"outcome"`
	Code      byte      `json:"code"`             // completion code sent, or meant to be sent
	Status    int       `json:"status,omitempty"` // HTTP status instead, of a Redfish face
}

// Truth returns the commands received so far, oldest first. The slice is the caller's.
func (b *BMC) Truth() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.truth)
}

// Reads returns how many chassis status requests were carried out: session valid,
// privilege sufficient, whatever was said and whether or not the answer got through.
func (b *BMC) Reads() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads
}

func (b *BMC) record(e Entry) {
	e.At, e.BMC = b.cfg.Now(), b.cfg.Name
	b.mu.Lock()
	b.truth = append(b.truth, e)
	b.mu.Unlock()
	if b.cfg.OnCommand != nil {
		b.cfg.OnCommand(e)
	}
}

// TruthWriter writes entries as JSON lines, so that another process can check them.
// One may serve many BMCs: its Record is a Config.OnCommand.
type TruthWriter struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

// NewTruthWriter writes to w, one Write per entry.
func NewTruthWriter(w io.Writer) *TruthWriter { return &TruthWriter{w: w} }

// Record writes one entry, unless an earlier write went wrong: a log with a hole
// would prove too much.
func (t *TruthWriter) Record(e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = t.w.Write(append(line, '\n'))
	}
	if err != nil {
		t.err = fmt.Errorf("write truth log: %w", err)
	}
}

// Err returns the first error; after one the log is incomplete.
func (t *TruthWriter) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
