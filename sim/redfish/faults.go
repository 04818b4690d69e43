// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"fmt"
	"slices"
	"time"
)

// Faults is what is wrong with a service, its network and its honesty; the zero value
// is a healthy one. Durations are nanoseconds in JSON. Fields that count down are
// written back, so [Server.Faults] shows what is left.
type Faults struct {
	// Mute keeps socket and connections open and silent, as a controller without mains.
	// Connections that lost bytes meanwhile are closed at the first byte after it.
	Mute bool `json:"mute,omitempty"`
	// Delay holds every answer back, Jitter adds up to as much again at random. The
	// command itself runs at once: to make that slow is the chassis' business.
	Delay  time.Duration `json:"delay,omitempty"`
	Jitter time.Duration `json:"jitter,omitempty"`
	// Per cent of requests that never arrive and of answers that never leave; the
	// connection ends instead.
	LoseRequests int `json:"lose_requests,omitempty"`
	LoseAnswers  int `json:"lose_answers,omitempty"`

	// IgnoreCommands accepts a reset and does nothing.
	IgnoreCommands bool `json:"ignore_commands,omitempty"`
	// SayState is the PowerState every reading says, whatever the truth; "null" is null.
	SayState string `json:"say_state,omitempty"`
	// OffReadings counts down: so many readings say Off, then the truth.
	OffReadings int `json:"off_readings,omitempty"`
	// NoPowerState leaves the property out.
	NoPowerState bool `json:"no_power_state,omitempty"`
	// RejectSameState answers 409 to ForceOff when off and to On when on.
	RejectSameState bool `json:"reject_same_state,omitempty"`
	// TaskFails lets tasks end with an exception; only with Config.Tasks.
	TaskFails bool `json:"task_fails,omitempty"`

	// Unauthorized and Forbidden answer 401 and 403 to all that needs a log-in.
	Unauthorized bool `json:"unauthorized,omitempty"`
	Forbidden    bool `json:"forbidden,omitempty"`
	// Counting down: resets answered 503 with Retry-After, 429 with Retry-After, and
	// 409 "resource in use"; readings answered 503.
	Busy      int `json:"busy,omitempty"`
	TooMany   int `json:"too_many,omitempty"`
	InUse     int `json:"in_use,omitempty"`
	BusyReads int `json:"busy_reads,omitempty"`
	// NoSlots refuses every new session with 503.
	NoSlots bool `json:"no_slots,omitempty"`
	// LockoutAfter failed log-ins in a row lock a user for LockoutFor, five minutes if
	// zero; attempts meanwhile extend it.
	LockoutAfter int           `json:"lockout_after,omitempty"`
	LockoutFor   time.Duration `json:"lockout_for,omitempty"`

	// WrongJSON cuts every body in its middle; HugeBody goes on for so many bytes;
	// Trickle sends one byte per that time.
	WrongJSON bool          `json:"wrong_json,omitempty"`
	HugeBody  int64         `json:"huge_body,omitempty"`
	Trickle   time.Duration `json:"trickle,omitempty"`
	// Redirect answers everything with 307 to this base URL.
	Redirect string `json:"redirect,omitempty"`
	// OtherUUID shows another system's UUID; OtherCertificate another certificate to
	// new connections.
	OtherUUID        bool `json:"other_uuid,omitempty"`
	OtherCertificate bool `json:"other_certificate,omitempty"`
}

var powerStates = []string{"", "On", "Off", "PoweringOn", "PoweringOff", "Paused", "ForceOffInProgress", "null"}

func (f Faults) validate() error {
	for _, p := range []struct {
		name       string
		value, max int64
	}{
		{"lose_requests", int64(f.LoseRequests), 100}, {"lose_answers", int64(f.LoseAnswers), 100},
		{"off_readings", int64(f.OffReadings), 1 << 30}, {"busy", int64(f.Busy), 1 << 30}, {"too_many", int64(f.TooMany), 1 << 30},
		{"in_use", int64(f.InUse), 1 << 30}, {"busy_reads", int64(f.BusyReads), 1 << 30}, {"lockout_after", int64(f.LockoutAfter), 1 << 30},
		{"huge_body", f.HugeBody, 1 << 40},
	} {
		if p.value < 0 || p.value > p.max {
			return fmt.Errorf("set faults: %s is %d, allowed is 0 to %d", p.name, p.value, p.max)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"delay", f.Delay}, {"jitter", f.Jitter}, {"trickle", f.Trickle}, {"lockout_for", f.LockoutFor},
	} {
		if d.value < 0 || d.value > time.Hour {
			return fmt.Errorf("set faults: %s is %s, allowed is 0 to 1h", d.name, d.value)
		}
	}
	if !slices.Contains(powerStates, f.SayState) {
		return fmt.Errorf("set faults: say_state is %q, allowed are %q", f.SayState, powerStates[1:])
	}
	return nil
}

// SetFaults replaces all faults from the next request on. Faults out of bounds are
// refused and the present ones stay. Safe at any time, also from inside a chassis.
func (s *Server) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	if f.LockoutFor == 0 {
		f.LockoutFor = 5 * time.Minute
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
	s.muted.Store(f.Mute || s.dark)
	return nil
}

// Faults returns the faults in force, counters as they stand.
func (s *Server) Faults() Faults {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

// spend takes one from a counting fault; false when there is none left.
func (s *Server) spend(counter func(*Faults) *int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := counter(&s.faults)
	if *n <= 0 {
		return false
	}
	*n--
	return true
}

// chance is true in so many per cent of the calls.
func (s *Server) chance(percent int) bool {
	if percent <= 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(100) < percent
}

// delay is how long this answer is held back.
func (s *Server) delay(f Faults) time.Duration {
	if f.Jitter <= 0 {
		return f.Delay
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.Delay + time.Duration(s.dice.Int64N(int64(f.Jitter)))
}
