// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"
	"net/netip"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// Driver talks one protocol. It is safe for concurrent use; there is one per kind.
type Driver interface {
	Kind() string
	Describe() Descriptor
	// Check validates a target without traffic. Its error is a BadConfig naming the
	// field, the value and what is allowed.
	Check(Target) error
	Opener
}

// Opener opens connections to devices: a Driver, or a Gate in front of one.
type Opener interface {
	// Open starts one transaction with the device. Where t.Pinned is set it also reads
	// the identity: a Conn to another box is never returned (IdentityMismatch).
	Open(ctx context.Context, t Target) (Conn, error)
}

// Conn serves one transaction on one device and is used by one goroutine. After a
// call that got no answer the Conn is spent: Close it and open another.
type Conn interface {
	// Identity reads which box answers.
	Identity(ctx context.Context) (corepower.Identity, error)
	// Status reads the power state. A non-nil error implies the zero Reading.
	Status(ctx context.Context) (corepower.Reading, error)
	// Do sends one command. Accepted and AlreadyThere come with a nil error. Rejected
	// means nothing ran; Indeterminate that it may have run, and then so says the error.
	Do(ctx context.Context, c Command) (corepower.Outcome, error)
	// Close frees the session on the device. It is idempotent and bounded by ctx.
	Close(ctx context.Context) error
}

// Command is one order to a device.
type Command struct {
	Verb corepower.Verb
	// ID is the idempotency key, logged at every hop.
	ID string
	// Epoch is the fencing token of the transaction, for logs and truth records.
	Epoch string
	// NotAfter drops the command when late (DeadlinePassed): a late power-off is worse
	// than none. Zero means no limit.
	NotAfter time.Time
	// Before is called immediately before each packet that carries the command, so also
	// before a repetition. An error stops that packet. It is where the owner checks its
	// lease. It runs on the driver's goroutine and must not block.
	Before func() error
	// For is how long Identify lasts; zero means 15 s. Other verbs ignore it.
	For time.Duration
}

// Target is one device and how to reach it, with all settings already merged.
type Target struct {
	Host    string            // the host behind the device
	Device  string            // the device's name within the host
	Address string            // as the driver wants it, for example "10.0.0.7" or "10.0.0.7:623"
	Params  map[string]string // not secret; checked against Descriptor.Params
	Secret  Secret
	Limits  Limits
	Pinned  corepower.Identity // zero: not enrolled yet, nothing is compared
}

// Limits are times of one target. A zero field means the default of power.md §6.3, except Gap.
type Limits struct {
	Packet  time.Duration // wait for an answer before a packet is repeated: 2 s
	Retries int           // repetitions of a packet: 1; negative means none
	Answer  time.Duration // silence after which one exchange (status, step of a log-in) fails: 5 s
	Command time.Duration // a command and all that it needs: 15 s
	Gap     time.Duration // minimum time between sessions to one device; 0: none
}

// WithDefaults returns the limits with every zero field but Gap filled. It is idempotent.
func (l Limits) WithDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&l.Packet, 2*time.Second)
	def(&l.Answer, 5*time.Second)
	def(&l.Command, 15*time.Second)
	if l.Retries == 0 {
		l.Retries = 1
	}
	return l
}

// SessionTable is what a device tells about its remote sessions.
type SessionTable struct {
	Slots  int // sessions the device can hold
	Active int // sessions it holds now, this one included
	Others []Session
	// Complete is false when the device did not list each session: then Others proves
	// nothing, and only Active says how many there are.
	Complete bool
}

// Session is one session on a device other than the one that asked.
type Session struct {
	User    uint8      // user number on the device
	Console netip.Addr // where it was opened from; zero when not told
	Own     bool       // same user as ours
}

// Sessions is implemented by connections that can list the device's sessions. A new
// owner uses it to see that its predecessor's session is gone (leases.md §3).
type Sessions interface {
	Sessions(ctx context.Context) (SessionTable, error)
}

// As finds an optional ability (Sessions, …) of a connection, also behind a Gate.
func As[T any](c Conn) (T, bool) {
	for {
		if v, ok := c.(T); ok {
			return v, true
		}
		u, ok := c.(interface{ Unwrap() Conn })
		if !ok {
			var zero T
			return zero, false
		}
		c = u.Unwrap()
	}
}

// Warner is implemented by drivers that see doubtful but allowed settings.
type Warner interface {
	Warnings(Target) []string
}
