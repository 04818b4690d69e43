// SPDX-License-Identifier: Apache-2.0

package pdu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

// MaxOutlets is how many outlets a PDU can have.
const MaxOutlets = 48

// Config describes a PDU. Zero fields take the defaults named.
type Config struct {
	Name      string           // in the truth log, which adds "/" and the outlet
	Addr      string           // "ip:port" to listen on; port 0 takes a free one
	Community string           // for reading and writing: "private"
	Outlets   []Outlet         // numbered from 1
	Seed      uint64           // of the random faults
	Now       func() time.Time // time.Now
	OnCommand func(bmc.Entry)  // sees each entry of the truth log, in order, and returns promptly
}

// Outlet is one socket of a PDU, on at the start.
type Outlet struct {
	Label string        // "Outlet N"
	Feed  func(on bool) // told of each change, and returns promptly; nil for an empty socket
}

// Faults is what is wrong with a PDU; the zero value is a healthy one.
type Faults struct {
	// Mute keeps the socket open and silent.
	Mute bool `json:"mute,omitempty"`
	// Per cent of answers that never leave.
	LoseAnswers int `json:"lose_answers,omitempty"`
	// IgnoreCommands accepts a SET and switches nothing.
	IgnoreCommands bool `json:"ignore_commands,omitempty"`
	// SayOff and SayOn are what every reading says, whatever the truth.
	SayOff bool `json:"say_off,omitempty"`
	SayOn  bool `json:"say_on,omitempty"`
}

// PDU is one simulated unit. Its methods are safe for concurrent use.
type PDU struct {
	cfg  Config
	tree []object // in the order of their names

	// work serialises Handle; it is held while a Feed is called, mu never is.
	work sync.Mutex
	dice *rand.Rand

	mu     sync.Mutex
	on     []bool
	faults Faults
	truth  []bmc.Entry
	conn   *net.UDPConn
}

// New returns a PDU that does nothing yet. A bad Config is told by [PDU.Listen].
func New(cfg Config) *PDU {
	if cfg.Community == "" {
		cfg.Community = "private"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Outlets = slices.Clone(cfg.Outlets)
	p := &PDU{cfg: cfg, dice: rand.New(rand.NewPCG(cfg.Seed, cfg.Seed)), on: make([]bool, len(cfg.Outlets))}
	for i := range cfg.Outlets {
		p.on[i] = true
		if o := &p.cfg.Outlets[i]; o.Label == "" {
			o.Label = fmt.Sprint("Outlet ", i+1)
		}
	}
	p.tree = p.objects()
	return p
}

// Listen checks the Config and opens the socket, so that Addr is known before Run. A
// second call does nothing. A PDU that listens and is never Run keeps its socket.
func (p *PDU) Listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return nil
	}
	if n := len(p.cfg.Outlets); n < 1 || n > MaxOutlets {
		return fmt.Errorf("listen pdu %s: %d outlets, allowed are 1 to %d", p.cfg.Name, n, MaxOutlets)
	}
	addr, err := netip.ParseAddrPort(p.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen pdu %s: addr is %q, allowed is ip:port", p.cfg.Name, p.cfg.Addr)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return fmt.Errorf("listen pdu %s: %w", p.cfg.Name, err)
	}
	p.conn = conn
	return nil
}

// Addr is the address in use, the zero value before Listen.
func (p *PDU) Addr() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return netip.AddrPort{}
	}
	a := p.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Run serves until ctx ends, then closes the socket and returns nil; any other end is
// an error. It listens first if nobody has. Call it once.
func (p *PDU) Run(ctx context.Context) error {
	if err := p.Listen(); err != nil {
		return err
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = p.conn.Close() // wakes the read below, its only purpose
	})
	defer func() {
		if stop() {
			_ = p.conn.Close() // nothing of ours is unsent
			return
		}
		<-closed
	}()
	buf := make([]byte, maxDatagram+1)
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("serve pdu %s: %w", p.cfg.Name, err)
		}
		if out := p.Handle(from, buf[:n]); out != nil {
			_, _ = p.conn.WriteToUDPAddrPort(out, from) // lost, as networks lose
		}
	}
}

// SetFaults replaces all faults from the next request on.
func (p *PDU) SetFaults(f Faults) error {
	switch {
	case f.LoseAnswers < 0 || f.LoseAnswers > 100:
		return fmt.Errorf("set faults: lose_answers is %d, allowed is 0 to 100", f.LoseAnswers)
	case f.SayOff && f.SayOn:
		return errors.New("set faults: say_off and say_on are both set, allowed is one of them")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
	return nil
}

// Faults returns the faults in force.
func (p *PDU) Faults() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

// On says whether an outlet, numbered from 1, is on.
func (p *PDU) On(outlet int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return outlet >= 1 && outlet <= len(p.on) && p.on[outlet-1]
}

// Force switches an outlet by hand: the log shows nothing.
func (p *PDU) Force(outlet int, on bool) {
	p.work.Lock()
	defer p.work.Unlock()
	if outlet >= 1 && outlet <= len(p.cfg.Outlets) {
		p.set(outlet-1, on)
	}
}

// Truth returns the commands received so far, oldest first. The slice is the caller's.
func (p *PDU) Truth() []bmc.Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.truth)
}

// reading is what the PDU says of an outlet, numbered from 0.
func (p *PDU) reading(outlet int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.faults; f.SayOff || !f.SayOn && !p.on[outlet] {
		return stateOff
	}
	return stateOn
}

// control switches an outlet, numbered from 0, and reports whether the value is one
// that it can be asked for. A reboot is off and at once on. work is held.
func (p *PDU) control(from netip.AddrPort, outlet, value int) bool {
	verbs := map[int]bmc.Verb{stateOn: bmc.VerbOn, stateOff: bmc.VerbOff, stateReboot: bmc.VerbCycle}
	verb, ok := verbs[value]
	e := bmc.Entry{
		At: p.cfg.Now(), BMC: fmt.Sprintf("%s/%d", p.cfg.Name, outlet+1), Remote: from.String(), User: "snmp", Verb: verb, Before: p.On(outlet + 1), Outcome: bmc.Executed,
	}
	switch {
	case !ok:
		e.Verb, e.Outcome = bmc.VerbInvalid, bmc.Refused
	case p.Faults().IgnoreCommands:
		e.Outcome = bmc.Ignored
	default:
		for _, on := range map[bmc.Verb][]bool{bmc.VerbOn: {true}, bmc.VerbOff: {false}, bmc.VerbCycle: {false, true}}[verb] {
			p.set(outlet, on)
		}
	}
	e.After = p.On(outlet + 1)
	p.mu.Lock()
	p.truth = append(p.truth, e)
	p.mu.Unlock()
	if p.cfg.OnCommand != nil {
		p.cfg.OnCommand(e)
	}
	return ok
}

func (p *PDU) set(outlet int, on bool) {
	p.mu.Lock()
	changed := p.on[outlet] != on
	p.on[outlet] = on
	p.mu.Unlock()
	if feed := p.cfg.Outlets[outlet].Feed; changed && feed != nil {
		feed(on)
	}
}
