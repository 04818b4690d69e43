// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"fmt"
	"slices"
	"time"
)

// Faults is what is wrong with a BMC, its network and its honesty; the zero value is
// a healthy one. Durations are nanoseconds in JSON. Fields that count down are
// written back, so [BMC.Faults] shows what is left.
type Faults struct {
	// Mute keeps the socket open and silent, as a BMC without mains.
	Mute bool `json:"mute,omitempty"`
	// Delay holds every answer back, Jitter adds up to as much again at random. The
	// command itself runs at once: to make that slow is the chassis' business.
	Delay  time.Duration `json:"delay,omitempty"`
	Jitter time.Duration `json:"jitter,omitempty"`
	// Per cent of requests that never arrive, of answers that never leave, and of
	// answers sent twice.
	LoseRequests     int `json:"lose_requests,omitempty"`
	LoseAnswers      int `json:"lose_answers,omitempty"`
	DuplicateAnswers int `json:"duplicate_answers,omitempty"`

	// IgnoreCommands accepts chassis control (00h) and does nothing.
	IgnoreCommands bool `json:"ignore_commands,omitempty"`
	// SayOff and SayOn are what every reading says, whatever the truth.
	SayOff bool `json:"say_off,omitempty"`
	SayOn  bool `json:"say_on,omitempty"`
	// OffReadings counts down: so many readings say OFF, then the truth.
	OffReadings int `json:"off_readings,omitempty"`
	// SelfOnAfter powers the chassis on by itself this long after each executed off.
	SelfOnAfter time.Duration `json:"self_on_after,omitempty"`
	// RejectSameState answers D5h to an off when off and to an on when on.
	RejectSameState bool `json:"reject_same_state,omitempty"`

	// Busy counts down chassis control answered C0h, BusyReads chassis status.
	Busy      int `json:"busy,omitempty"`
	BusyReads int `json:"busy_reads,omitempty"`
	// EmptyBody answers readings with 00h and nothing after it.
	EmptyBody bool `json:"empty_body,omitempty"`
	// Initialising answers D2h to chassis commands: a BMC that has just restarted.
	Initialising bool `json:"initialising,omitempty"`
	// NoSlots refuses every new session with status 01h.
	NoSlots bool `json:"no_slots,omitempty"`
	// OrphanOpens takes another slot for each retransmitted Open Session request.
	OrphanOpens bool `json:"orphan_opens,omitempty"`
	// LockoutAfter failed log-ins in a row lock a user (0Dh) for LockoutFor, five
	// minutes if zero; attempts meanwhile extend it.
	LockoutAfter int           `json:"lockout_after,omitempty"`
	LockoutFor   time.Duration `json:"lockout_for,omitempty"`

	// WrongIntegrity spoils the integrity code of every answer in a session.
	WrongIntegrity bool `json:"wrong_integrity,omitempty"`
	// Downgrade answers Open Session with neither integrity nor confidentiality,
	// and goes on so with a client that accepts it.
	Downgrade bool `json:"downgrade,omitempty"`
	// OtherGUID shows another system's GUID, in RAKP and in Get System GUID.
	OtherGUID bool `json:"other_guid,omitempty"`

	// How many hostile datagrams of each kind go before each true answer, lost ones
	// included: with LoseAnswers 100 they come instead of it. Forged are plaintext,
	// unauthenticated OFF answers to status reads; Short are cut answers and
	// payloads too small to decrypt; BadPadding are ciphertexts, half of them
	// rightly signed, of impossible padding or length; Garbage is random bytes;
	// Replayed are earlier answers of this BMC.
	Forged     int `json:"forged,omitempty"`
	Short      int `json:"short,omitempty"`
	BadPadding int `json:"bad_padding,omitempty"`
	Garbage    int `json:"garbage,omitempty"`
	Replayed   int `json:"replayed,omitempty"`
}

// maxHostile bounds the datagrams one request can cause.
const maxHostile = 1000

func (f Faults) validate() error {
	for _, p := range []struct {
		name       string
		value, max int
	}{
		{"lose_requests", f.LoseRequests, 100}, {"lose_answers", f.LoseAnswers, 100},
		{"duplicate_answers", f.DuplicateAnswers, 100},
		{"forged", f.Forged, maxHostile}, {"short", f.Short, maxHostile}, {"garbage", f.Garbage, maxHostile},
		{"bad_padding", f.BadPadding, maxHostile}, {"replayed", f.Replayed, maxHostile},
		{"off_readings", f.OffReadings, 1 << 30}, {"busy", f.Busy, 1 << 30}, {"busy_reads", f.BusyReads, 1 << 30},
		{"lockout_after", f.LockoutAfter, 1 << 30},
	} {
		if p.value < 0 || p.value > p.max {
			return fmt.Errorf("set faults: %s is %d, allowed is 0 to %d", p.name, p.value, p.max)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"delay", f.Delay}, {"jitter", f.Jitter}, {"self_on_after", f.SelfOnAfter}, {"lockout_for", f.LockoutFor},
	} {
		if d.value < 0 || d.value > time.Hour {
			return fmt.Errorf("set faults: %s is %s, allowed is 0 to 1h", d.name, d.value)
		}
	}
	if f.SayOff && f.SayOn {
		return fmt.Errorf("set faults: say_off and say_on are both set, allowed is one of them")
	}
	return nil
}

// SetFaults replaces all faults from the next request on. Faults out of bounds are
// refused and the present ones stay. Safe at any time, also from inside a [Chassis].
func (b *BMC) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	if f.LockoutFor == 0 {
		f.LockoutFor = 5 * time.Minute
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
	return nil
}

// Faults returns the faults in force, counters as they stand.
func (b *BMC) Faults() Faults {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults
}

// spend takes one from a counting fault; false when there is none left.
func (b *BMC) spend(counter func(*Faults) *int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := counter(&b.faults)
	if *n <= 0 {
		return false
	}
	*n--
	return true
}

func (b *BMC) chance(percent int) bool { return percent > 0 && b.dice.IntN(100) < percent }

// reply is a true answer and what an attacker needs to imitate it.
type reply struct {
	datagram []byte
	s        *session // nil outside a session
	request  message  // meaningful inside a session
}

// hostile makes the datagrams that go before a true answer.
func (b *BMC) hostile(f Faults, r reply) [][]byte {
	var out [][]byte
	if r.s != nil && r.request.netFn == netFnChassis && r.request.cmd == cmdChassisStatus {
		for i := range f.Forged {
			out = append(out, forgedOff(i, r))
		}
	}
	for range f.Short {
		out = append(out, b.short(r))
	}
	for range f.BadPadding {
		if r.s != nil && r.s.block != nil {
			out = append(out, b.badPadding(r.s))
		}
	}
	for range f.Garbage {
		out = append(out, b.garbage())
	}
	for range f.Replayed {
		if len(b.history) > 0 {
			out = append(out, b.history[b.dice.IntN(len(b.history))])
		}
	}
	return out
}

// forgedOff says OFF without any key, in the three wrappings a careless client takes.
func forgedOff(form int, r reply) []byte {
	msg := r.request.answer(codeOK, []byte{0x20, 0x00, 0x40, 0x00})
	switch form % 3 {
	case 1:
		return append(header(payloadIPMI, r.s.console, r.s.out, len(msg)), msg...)
	case 2:
		return plainV15(msg)
	}
	return plainPlus(payloadIPMI, msg)
}

// short is either the true answer cut off somewhere, or a payload that claims to be
// encrypted but has not even a vector: 19 bytes stop a client that slices first.
func (b *BMC) short(r reply) []byte {
	if r.s != nil && b.dice.IntN(2) == 0 {
		n := b.dice.IntN(4)
		out := header(payloadIPMI|flagEncrypted, r.s.console, r.s.out, n)
		return append(out, b.noise(n)...)
	}
	return slices.Clone(r.datagram[:b.dice.IntN(len(r.datagram))])
}

func (b *BMC) badPadding(s *session) []byte {
	var body []byte
	switch b.dice.IntN(3) {
	case 0: // pad length beyond the message
		plain := b.noise(32)
		plain[31] = byte(0x20 + b.dice.IntN(0xe0))
		body = s.encrypt(plain)
	case 1: // not a multiple of the block
		body = b.noise(17 + b.dice.IntN(15))
	case 2: // pad bytes that are not 1, 2, 3...
		plain := b.noise(32)
		copy(plain[28:], []byte{9, 9, 9, 3})
		body = s.encrypt(plain)
	}
	if b.dice.IntN(2) == 0 {
		return append(header(payloadIPMI|flagEncrypted, s.console, s.out, len(body)), body...)
	}
	return s.frame(body)
}

// garbage is random bytes, half of them behind headers that look right.
func (b *BMC) garbage() []byte {
	out := b.noise(b.dice.IntN(200))
	if b.dice.IntN(2) == 0 {
		copy(out, rmcpIPMI)
		if len(out) > 4 {
			out[4] = formatPlus
		}
	}
	return out
}

func (b *BMC) noise(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(b.dice.Uint32())
	}
	return out
}

// How many answers are kept for replays; few while nobody asks for any, since ten
// thousand BMCs are to fit into one small process.
const (
	historyLen     = 32
	historyLenIdle = 3
)

// remember keeps an answer for replays.
func (b *BMC) remember(datagram []byte, f Faults) {
	keep := historyLenIdle
	if f.Replayed > 0 {
		keep = historyLen
	}
	if over := len(b.history) - keep + 1; over > 0 {
		b.history = slices.Delete(b.history, 0, over)
	}
	b.history = append(b.history, datagram)
}
