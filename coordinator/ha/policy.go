// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Policy is the effective settings of one host, resolved by the settings package and
// handed in with every step, so that changes are live (ha.md §4).
type Policy struct {
	Mode     string `json:"mode"`               // ha.policy: observe, recover, fence
	Frozen   string `json:"frozen,omitempty"`   // why nobody may act on this host now, operators neither (leases.md §2.10)
	Disarmed string `json:"disarmed,omitempty"` // why automation may not act on this host now (ha disarm), empty: armed

	PingInterval   time.Duration `json:"pingInterval"`
	HealthFailures int           `json:"healthFailures"`

	CheckInitial     time.Duration `json:"checkInitial"`
	CheckMax         time.Duration `json:"checkMax"`
	CheckWindow      time.Duration `json:"checkWindow"`
	CheckTimeout     time.Duration `json:"checkTimeout"`
	ActivityAttempts int           `json:"activityAttempts"`
	DegradedAfter    int           `json:"degradedAfter"`
	FirstCheckAtOnce bool          `json:"firstCheckAtOnce"` // preset fast
	Memory           bool          `json:"memory"`           // preset fast: neighbours remember what healthy hosts do

	RecoveryAttempts int             `json:"recoveryAttempts"`
	RecoveryWait     time.Duration   `json:"recoveryWait"`
	OffConfirmDelay  time.Duration   `json:"offConfirmDelay"`
	ConfirmSilence   time.Duration   `json:"confirmSilence"`
	QuietPeriod      time.Duration   `json:"quietPeriod"`
	SoftGrace        time.Duration   `json:"softGrace"`      // an ordered soft shutdown gives up after it (power.md §6.3, 180s)
	RepairAttempts   int             `json:"repairAttempts"` // 0: no repair command
	ProofMin         power.Assurance `json:"proofMin"`

	Told Pace `json:"told,omitzero"` // what its agent was told last, where that is slower than the settings are now

	Fence       power.Limits  `json:"fence"`  // figures of the fence transaction
	Ladder      []power.Level `json:"ladder"` // devices of the host by level
	CanSwitchOn bool          `json:"canSwitchOn"`
}

// Pace is how often an agent pings and stamps. It is told with every answer to a ping, so
// that it goes by older settings until its next one, and for as long as it is cut off.
type Pace struct {
	Ping  time.Duration `json:"ping,omitempty"`
	Stamp time.Duration `json:"stamp,omitempty"`
}

// Slower takes the longer interval of each kind.
func (p Pace) Slower(o Pace) Pace { return Pace{max(p.Ping, o.Ping), max(p.Stamp, o.Stamp)} }

// Paced is the policy for a host whose agent was told this pace last. A pace slower than the
// settings are now must not look like silence: pings are waited for, and stamps looked at,
// for as long as the agent's own pace takes (window as in ha.md §4: twice the stamps and 1 s).
func (p Policy) Paced(told Pace) Policy {
	p.Told = Pace{}
	if told.Ping > p.PingInterval {
		p.PingInterval, p.Told.Ping = told.Ping, told.Ping
	}
	if window := windowOf(told.Stamp); told.Stamp > 0 && window > p.CheckWindow {
		p.Told.Stamp = told.Stamp
		p.widen(window)
	}
	return p
}

// ReadBy is the policy where neighbours stamp this often: a reader cannot look over a window
// in which it does not stamp twice itself, so that a host for which faster figures are set
// than for those who look at it is looked at over a window that two of them, or the only
// one, can use.
func (p Policy) ReadBy(stamps []time.Duration) Policy {
	if len(stamps) > 0 {
		p.widen(windowOf(slices.Sorted(slices.Values(stamps))[min(2, len(stamps))-1]))
	}
	return p
}

// windowOf is the shortest window over which stamps can be looked at (ha.md §4).
func windowOf(stamp time.Duration) time.Duration { return 2*stamp + time.Second }

// widen makes activity checks look for at least so long, and wait for as much longer.
func (p *Policy) widen(window time.Duration) {
	if window > p.CheckWindow {
		p.CheckTimeout += window - p.CheckWindow
		p.CheckWindow = window
	}
}

// Figures are settings as they are effective for one host, by their names.
type Figures interface {
	String(name string) string
	Duration(name string) time.Duration
	Int(name string) int
	Bool(name string) bool
}

// PolicyOf is the policy of a host with these settings and this ladder of power levels.
func PolicyOf(e Figures, proof power.Assurance, ladder []power.Level, canSwitchOn bool) Policy {
	p := Policy{
		Mode:             e.String("ha.policy"),
		PingInterval:     e.Duration("agent.ping.interval"),
		HealthFailures:   e.Int("ha.health.failures"),
		CheckInitial:     e.Duration("ha.activity.interval.initial"),
		CheckMax:         e.Duration("ha.activity.interval.max"),
		CheckWindow:      e.Duration("ha.activity.window"),
		CheckTimeout:     e.Duration("ha.activity.timeout"),
		ActivityAttempts: e.Int("ha.activity.attempts"),
		DegradedAfter:    e.Int("ha.degraded.after"),
		FirstCheckAtOnce: e.Bool("ha.activity.first.at.once"),
		Memory:           e.Bool("ha.activity.memory"),
		RecoveryAttempts: e.Int("ha.recovery.attempts"),
		RecoveryWait:     e.Duration("ha.recovery.wait"),
		OffConfirmDelay:  e.Duration("ha.off.confirm.delay"),
		ConfirmSilence:   e.Duration("ha.confirm.silence"),
		QuietPeriod:      e.Duration("ha.quiet.period"),
		SoftGrace:        e.Duration("power.soft.grace"),
		ProofMin:         proof,
		CanSwitchOn:      canSwitchOn,
		Ladder:           ladder,
		Fence: power.Limits{
			PacketTimeout:   e.Duration("power.packet.timeout"),
			StatusDeadline:  e.Duration("power.status.deadline"),
			CommandDeadline: e.Duration("power.command.deadline"),
			VerifyInterval:  e.Duration("power.verify.interval"),
			SettleWindow:    e.Duration("power.settle.window"),
			SettleReads:     e.Int("power.settle.reads"),
			RepeatOffAfter:  e.Duration("power.off.repeat"),
			MaxOffs:         e.Int("power.off.max"),
			OffToOn:         e.Duration("power.off.to.on"),
			OnDeadline:      e.Duration("power.on.deadline"),
			LevelDeadline:   e.Duration("ha.fence.level.timeout"),
			TotalDeadline:   e.Duration("ha.fence.timeout"),
		},
	}
	if e.String("ha.repair.command") != "" {
		p.RepairAttempts = e.Int("ha.repair.attempts")
	}
	return p
}

// PartitionState is the HA state of a partition (ha.md §2).
type PartitionState string

const (
	PartitionNone     PartitionState = "NONE"
	PartitionActive   PartitionState = "ACTIVE"
	PartitionInactive PartitionState = "INACTIVE"
)
