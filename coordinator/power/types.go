// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"time"
)

// State is the power state of a chassis as far as it is known. The zero value is
// Unknown on purpose: whatever was not read, could not be read or was read wrongly
// is Unknown, never Off (power.md §1).
type State uint8

const (
	Unknown State = iota
	On
	Off
)

var stateNames = [...]string{"UNKNOWN", "ON", "OFF"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText writes the word operators see: UNKNOWN, ON or OFF.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote; any other word is an error.
func (s *State) UnmarshalText(b []byte) error {
	for i, n := range stateNames {
		if n == string(b) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("power state %q: allowed are UNKNOWN, ON, OFF", b)
}

// Reading is one answer of one device. A failed read is the zero Reading beside an
// error Kind; it never carries a state.
type Reading struct {
	State        State     `json:"state"`
	Transitional bool      `json:"transitional,omitempty"` // powering on or off, reset in progress: counts as On when settling
	Fault        bool      `json:"fault,omitempty"`        // power-control fault reported by the device: counts as On when settling
	Authentic    bool      `json:"authentic,omitempty"`    // the answer was tied to our credentials by cryptography
	At           time.Time `json:"at"`                     // when the answer arrived
	Raw          string    `json:"raw,omitempty"`          // bounded, redacted
}

// Verb is what can be asked of a device. Automation uses HardOff and HardOn only
// (leases.md §3.3); the others are operators' verbs.
type Verb string

const (
	HardOff  Verb = "off"
	HardOn   Verb = "on"
	Reset    Verb = "reset"
	Cycle    Verb = "cycle"
	SoftOff  Verb = "soft"
	Identify Verb = "identify"
)

// Outcome is what is known about a command after it was sent.
type Outcome string

const (
	Accepted      Outcome = "accepted"      // the device said it will do so: proves nothing (A1)
	Rejected      Outcome = "rejected"      // the device refused; nothing ran
	AlreadyThere  Outcome = "already-there" // not supported in the present state: neutral, go on reading
	Indeterminate Outcome = "indeterminate" // no answer after the command left: it may have run
)

// Kind classifies why an operation on a device failed (power.md §7).
type Kind string

const (
	NoError           Kind = ""
	AuthFailed        Kind = "AuthFailed"
	PrivilegeDenied   Kind = "PrivilegeDenied"
	Unreachable       Kind = "Unreachable"
	Timeout           Kind = "Timeout"
	SessionLimit      Kind = "SessionLimit"
	Busy              Kind = "Busy"
	Unsupported       Kind = "Unsupported"
	InvalidState      Kind = "InvalidState"
	RemoteError       Kind = "RemoteError"
	ProtocolViolation Kind = "ProtocolViolation"
	IdentityMismatch  Kind = "IdentityMismatch"
	BadConfig         Kind = "BadConfig"
	ToolMissing       Kind = "ToolMissing"
	DeadlinePassed    Kind = "DeadlinePassed"
	Cancelled         Kind = "Cancelled"
)

// Silent reports whether the kind means only that the device did not talk to us now.
// A ladder that ended with nothing but silence leaves the host held, not FAILED
// (ha.md §3, FENCING rows).
func (k Kind) Silent() bool {
	switch k {
	case Unreachable, Timeout, Busy, SessionLimit:
		return true
	}
	return false
}

// Final reports whether trying again at once cannot help: a human, another device or
// another configuration is needed (power.md §7). It ends the device within a transaction
// and makes the power machine forget the state on the first such reading.
func (k Kind) Final() bool {
	switch k {
	case AuthFailed, PrivilegeDenied, Unsupported, IdentityMismatch, BadConfig, ToolMissing:
		return true
	}
	return false
}

// ours reports whether the exchange was given up on our side and says nothing of the device.
func (k Kind) ours() bool { return k == DeadlinePassed || k == Cancelled }

// Assurance says how strongly a verdict excludes that the host still runs
// (power.md §6.2). Order matters: a larger value is stronger proof.
type Assurance uint8

const (
	A0 Assurance = iota // none, or contradicted
	A1                  // command accepted
	A2                  // one authenticated OFF
	A3                  // settled OFF, identity matched; also AW and "rebooted"
	A4                  // A3 and independent corroboration
	A5                  // all feeds cut and read back, or an operator's statement
)

func (a Assurance) String() string { return fmt.Sprintf("A%d", uint8(a)) }

// MarshalText writes A0 to A5.
func (a Assurance) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads A0 to A5; any other word is an error.
func (a *Assurance) UnmarshalText(b []byte) error {
	if len(b) == 2 && b[0] == 'A' && b[1] >= '0' && b[1] <= '5' {
		*a = Assurance(b[1] - '0')
		return nil
	}
	return fmt.Errorf("assurance %q: allowed are A0 to A5", b)
}

// Identity names the box behind a device, so that the right one is switched off.
// Empty fields are not compared.
type Identity struct {
	SystemUUID  string `json:"systemUUID,omitempty"`
	Serial      string `json:"serial,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Matches reports whether got is the pinned box: at least one field is pinned and
// every pinned field is equal. An unpinned identity matches nothing.
func (pinned Identity) Matches(got Identity) bool {
	if pinned == (Identity{}) {
		return false
	}
	eq := func(p, g string) bool { return p == "" || p == g }
	return eq(pinned.SystemUUID, got.SystemUUID) && eq(pinned.Serial, got.Serial) && eq(pinned.Fingerprint, got.Fingerprint)
}
