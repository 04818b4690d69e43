// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Privilege is an IPMI privilege level.
type Privilege byte

// The levels a user can have. UserLevel may read; Operator and above may control.
const (
	UserLevel     Privilege = 2
	Operator      Privilege = 3
	Administrator Privilege = 4
)

// User is an account. Names have 1 to 16 bytes, passwords at most 20 (IPMI 2.0 §22.28).
type User struct {
	Name, Password string
	Privilege      Privilege
}

const (
	maxName     = 16
	maxPassword = 20
)

// Config describes a BMC. Zero fields take the defaults named.
type Config struct {
	Name           string           // in the truth log
	Addr           string           // "ip:port" to listen on; port 0 takes a free one
	GUID           [16]byte         // of the system, in the byte order of the wire
	Users          []User           //
	Slots          int              // of sessions, half-open ones included: 4, at most 255
	SessionTimeout time.Duration    // of silence until a slot is free: 60 s
	Suites         []int            // cipher suites offered: 3 and 17
	Seed           uint64           // of the random faults
	Chassis        Chassis          // a model chassis that is on
	Now            func() time.Time // time.Now
	OnCommand      func(Entry)      // sees each entry of the truth log, in order, and returns promptly
}

func (c Config) validate() error {
	if c.Slots < 1 || c.Slots > 255 {
		return fmt.Errorf("slots is %d, allowed is 1 to 255", c.Slots)
	}
	for _, id := range c.Suites {
		if _, ok := suiteByID(id); !ok {
			return fmt.Errorf("suites has %d, allowed are 0 to 3 and 15 to 17", id)
		}
	}
	return validateUsers(c.Users)
}

func validateUsers(users []User) error {
	for i, u := range users {
		switch {
		case len(u.Name) < 1 || len(u.Name) > maxName:
			return fmt.Errorf("user %d: name %q has %d bytes, allowed is 1 to %d", i, u.Name, len(u.Name), maxName)
		case len(u.Password) > maxPassword:
			return fmt.Errorf("user %q: password has %d bytes, allowed is up to %d", u.Name, len(u.Password), maxPassword)
		case u.Privilege < UserLevel || u.Privilege > Administrator:
			return fmt.Errorf("user %q: privilege is %d, allowed is %d to %d", u.Name, u.Privilege, UserLevel, Administrator)
		case slices.ContainsFunc(users[:i], func(o User) bool { return o.Name == u.Name }):
			return fmt.Errorf("user %q: name is there twice", u.Name)
		}
	}
	return nil
}

// BMC is one simulated controller. Its methods are safe for concurrent use.
type BMC struct {
	cfg Config

	// work serialises Handle and Tick, and with them the commands of one chassis.
	// It is held while the chassis is called; mu never is.
	work       sync.Mutex
	sessions   []*session // at most cfg.Slots
	setups     []exchange
	failures   map[string]strike
	history    [][]byte
	dice       *rand.Rand
	selfOn     time.Time // when the chassis comes on by itself; zero for never
	lampForced bool
	lampUntil  time.Time

	mu        sync.Mutex
	faults    Faults
	users     []User
	restarted bool // sessions are to be forgotten before the next request
	dark      bool // without mains
	truth     []Entry
	reads     uint64
	conn      *net.UDPConn
}

// New returns a BMC that does nothing yet. A bad Config is told by [BMC.Listen].
func New(cfg Config) *BMC {
	if cfg.Slots == 0 {
		cfg.Slots = 4
	}
	if cfg.SessionTimeout <= 0 {
		cfg.SessionTimeout = 60 * time.Second
	}
	if len(cfg.Suites) == 0 {
		cfg.Suites = []int{3, 17}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Chassis == nil {
		cfg.Chassis = NewChassis(ChassisConfig{On: true, Now: cfg.Now})
	}
	return &BMC{
		cfg:   cfg,
		users: slices.Clone(cfg.Users),
		dice:  rand.New(rand.NewPCG(cfg.Seed, cfg.Seed)),
	}
}

// SetUsers replaces the accounts; sessions that are open go on. Safe from inside a Chassis.
func (b *BMC) SetUsers(users []User) error {
	if err := validateUsers(users); err != nil {
		return fmt.Errorf("set users: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users = slices.Clone(users)
	return nil
}

func (b *BMC) userByName(name string) (u User, id byte, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, u := range b.users {
		if u.Name == name {
			return u, byte(i + 2), true // slot 1 is the nameless user's
		}
	}
	return User{}, 0, false
}

// Restart forgets all sessions and lock-outs, as a BMC whose own power came back.
// Faults, users and the truth log stay. Safe from inside a Chassis.
func (b *BMC) Restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.restarted = true
}

// SetMains takes the BMC's own power away or gives it back. Without it the BMC is mute
// whatever its faults; with it again it has restarted. Safe from inside a Chassis.
func (b *BMC) SetMains(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.restarted = b.restarted || on && b.dark
	b.dark = !on
}

// silent reports whether nothing leaves the BMC now.
func (b *BMC) silent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults.Mute || b.dark
}

// Sessions counts the sessions in use and those whose setup was never finished.
func (b *BMC) Sessions() (live, halfOpen int) {
	b.work.Lock()
	defer b.work.Unlock()
	b.begin()
	for _, s := range b.sessions {
		if s.phase == active {
			live++
		} else {
			halfOpen++
		}
	}
	return live, halfOpen
}

// GUID is the system's in the byte order of the wire, whatever the faults show.
func (b *BMC) GUID() [16]byte { return b.cfg.GUID }

// guid is the system's, or another's when the fault says so.
func (b *BMC) guid(f Faults) [16]byte {
	g := b.cfg.GUID
	if f.OtherGUID {
		for i := range g {
			g[i] ^= 0xff
		}
	}
	return g
}

// begin brings the BMC up to the present; work is held.
func (b *BMC) begin() (now time.Time, f Faults) {
	now = b.cfg.Now()
	b.mu.Lock()
	f = b.faults
	f.Mute = f.Mute || b.dark
	restarted := b.restarted
	b.restarted = false
	b.mu.Unlock()
	if restarted {
		b.sessions, b.setups = nil, nil
		clear(b.failures)
	}
	if !b.selfOn.IsZero() && !now.Before(b.selfOn) {
		b.selfOn = time.Time{}
		before := b.cfg.Chassis.Power()
		b.cfg.Chassis.SetPower(true)
		b.record(Entry{Verb: VerbSelfOn, Before: before, After: b.cfg.Chassis.Power(), Outcome: Executed})
	}
	b.expire(now)
	return now, f
}

// Tick does what is due by itself, and returns when it wants to be called again: the
// zero time for "only after another Handle".
func (b *BMC) Tick() time.Time {
	b.work.Lock()
	defer b.work.Unlock()
	b.begin()
	return b.selfOn
}

// Handle takes one datagram and returns those to send back to its sender, in this
// order, after the delay. The datagrams are the caller's, except to write to.
func (b *BMC) Handle(from netip.AddrPort, datagram []byte) (answers [][]byte, delay time.Duration) {
	b.work.Lock()
	defer b.work.Unlock()
	now, f := b.begin()
	if f.Mute || len(datagram) > maxDatagram || b.chance(f.LoseRequests) {
		return nil, 0
	}
	r := b.dispatch(from, datagram, f, now)
	if len(r.datagram) == 0 {
		return nil, 0
	}
	answers = b.hostile(f, r)
	if f.WrongIntegrity && r.s != nil && r.s.suite.integrity != 0 {
		r.datagram = bytes.Clone(r.datagram)
		r.datagram[len(r.datagram)-1] ^= 0x01
	}
	b.remember(r.datagram, f)
	if !b.chance(f.LoseAnswers) {
		answers = append(answers, r.datagram)
		if b.chance(f.DuplicateAnswers) {
			answers = append(answers, r.datagram)
		}
	}
	delay = f.Delay
	if f.Jitter > 0 {
		delay += time.Duration(b.dice.Int64N(int64(f.Jitter)))
	}
	return answers, delay
}

// dispatch finds the true answer; none for what a BMC ignores.
func (b *BMC) dispatch(from netip.AddrPort, d []byte, f Faults, now time.Time) reply {
	if len(d) < 4 || d[0] != 0x06 || d[3]&0x80 != 0 { // not RMCP, or an RMCP acknowledgement
		return reply{}
	}
	if d[3]&0x1f == classASF {
		return reply{datagram: pong(d)}
	}
	k, ok := parsePacket(d[4:])
	if !ok || d[3]&0x1f != classIPMI {
		return reply{}
	}
	switch k.kind {
	case payloadIPMI:
		if k.session == 0 {
			return b.outside(k, f, now)
		}
		return b.inside(k, f, now)
	case payloadOpen, payloadRAKP1, payloadRAKP3:
		if k.session == 0 {
			return reply{datagram: b.setup(from, k, f, now)}
		}
	}
	return reply{}
}

// outside answers the few commands that need no session, in the wrapping they came in.
func (b *BMC) outside(k packet, f Faults, now time.Time) reply {
	msg, ok := parseMessage(k.body)
	if !ok || k.encrypted || k.authenticated {
		return reply{}
	}
	out := b.execute(call{message: msg, f: f, now: now})
	if k.v15 {
		return reply{datagram: plainV15(out)}
	}
	return reply{datagram: plainPlus(payloadIPMI, out)}
}

func (b *BMC) inside(k packet, f Faults, now time.Time) reply {
	s := b.byID(k.session)
	if s == nil || s.phase != active {
		return reply{}
	}
	body, ok := s.unwrap(k)
	if !ok {
		return reply{}
	}
	msg, ok := parseMessage(body)
	if !ok {
		return reply{}
	}
	s.seen = now
	out := b.execute(call{message: msg, s: s, f: f, now: now})
	return reply{datagram: s.wrap(out), s: s, request: msg}
}
