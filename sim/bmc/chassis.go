// SPDX-License-Identifier: Apache-2.0

package bmc

import (
	"sync"
	"time"
)

// Chassis is the host behind a BMC, owned by whoever simulates the world. All methods
// are safe for concurrent use and return promptly: they start things, they do not wait
// for them, since the BMC answers nobody meanwhile. They may call the BMC's methods,
// except Handle, Tick and Sessions.
type Chassis interface {
	// Power is the truth: true while the host draws power to run.
	Power() bool
	// SetPower asks for hard on or hard off; asking for the present state is fine and
	// overtakes whatever was still pending.
	SetPower(on bool)
	// Cycle is hard off, a pause, and on; asked for only while Power is true.
	Cycle()
	// Reset restarts without power loss; asked for only while Power is true.
	Reset()
	// SoftOff asks the operating system to stop, which it may ignore.
	SoftOff()
	// Identify lights the lamp for seconds, 0 for off, or until told otherwise with force.
	Identify(seconds int, force bool)
}

// Diagnoser is a Chassis that takes a diagnostic interrupt. Without it the BMC
// answers CCh.
type Diagnoser interface{ Diag() }

// ChassisConfig describes a model chassis. Zero latencies act at once.
type ChassisConfig struct {
	On         bool          // power at the start
	OffLatency time.Duration // from a hard off to power off
	OnLatency  time.Duration // from an on to power on
	CycleGap   time.Duration // off time of a cycle
	// SoftLatency is from a soft off to power off; negative means the hung host that
	// never obeys.
	SoftLatency time.Duration
	Now         func() time.Time // time.Now if nil
}

// ModelChassis is a chassis of latencies and nothing behind it, for tests. It runs no
// goroutine: power is worked out when asked for.
type ModelChassis struct {
	cfg ChassisConfig

	mu     sync.Mutex
	on     bool
	plan   []change // in order of time
	dark   bool     // without mains
	resume bool     // on when mains went
	counts Counts
}

type change struct {
	at time.Time
	on bool
}

// Counts is what a model chassis has been asked to do.
type Counts struct{ On, Off, Cycle, Reset, Soft, Diag, Identify int }

// NewChassis returns a model chassis.
func NewChassis(cfg ChassisConfig) *ModelChassis {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &ModelChassis{cfg: cfg, on: cfg.On}
}

// Force sets the power at once and clears what was pending: a technician at the rack.
func (c *ModelChassis) Force(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on, c.plan = on && !c.dark, nil
}

// SetMains takes mains away, which ends everything at once, or gives it back: then the
// chassis returns to what it was, as the power restore policy in its status says.
func (c *ModelChassis) SetMains(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	c.settle(now)
	switch {
	case on && c.dark:
		c.dark = false
		if c.resume {
			c.plan = []change{{now.Add(c.cfg.OnLatency), true}}
		}
	case !on && !c.dark:
		c.resume = c.on
		if n := len(c.plan); n > 0 {
			c.resume = c.plan[n-1].on
		}
		c.on, c.plan, c.dark = false, nil, true
	}
}

// Counts returns how often each thing was asked for.
func (c *ModelChassis) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts
}

// Power implements Chassis.
func (c *ModelChassis) Power() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(c.cfg.Now())
	return c.on
}

// settle applies the changes that are due.
func (c *ModelChassis) settle(now time.Time) {
	for len(c.plan) > 0 && !c.plan[0].at.After(now) {
		c.on, c.plan = c.plan[0].on, c.plan[1:]
	}
}

// ask counts and, when there are changes, puts them in place of the pending ones.
func (c *ModelChassis) ask(count func(*Counts) *int, plan func(now time.Time) []change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*count(&c.counts)++
	if plan != nil && !c.dark {
		now := c.cfg.Now()
		c.settle(now)
		c.plan = plan(now)
	}
}

// SetPower implements Chassis.
func (c *ModelChassis) SetPower(on bool) {
	latency := c.cfg.OffLatency
	if on {
		latency = c.cfg.OnLatency
	}
	c.ask(func(n *Counts) *int {
		if on {
			return &n.On
		}
		return &n.Off
	}, func(now time.Time) []change { return []change{{now.Add(latency), on}} })
}

// Cycle implements Chassis.
func (c *ModelChassis) Cycle() {
	c.ask(func(n *Counts) *int { return &n.Cycle }, func(now time.Time) []change {
		off := now.Add(c.cfg.OffLatency)
		return []change{{off, false}, {off.Add(c.cfg.CycleGap + c.cfg.OnLatency), true}}
	})
}

// Reset implements Chassis.
func (c *ModelChassis) Reset() { c.ask(func(n *Counts) *int { return &n.Reset }, nil) }

// SoftOff implements Chassis.
func (c *ModelChassis) SoftOff() {
	var plan func(time.Time) []change
	if c.cfg.SoftLatency >= 0 {
		plan = func(now time.Time) []change { return []change{{now.Add(c.cfg.SoftLatency), false}} }
	}
	c.ask(func(n *Counts) *int { return &n.Soft }, plan)
}

// Identify implements Chassis.
func (c *ModelChassis) Identify(int, bool) { c.ask(func(n *Counts) *int { return &n.Identify }, nil) }

// Diag implements Diagnoser.
func (c *ModelChassis) Diag() { c.ask(func(n *Counts) *int { return &n.Diag }, nil) }
