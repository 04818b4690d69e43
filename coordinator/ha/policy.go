// SPDX-License-Identifier: Apache-2.0

package ha

import (
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

	RecoveryAttempts int             `json:"recoveryAttempts"`
	RecoveryWait     time.Duration   `json:"recoveryWait"`
	OffConfirmDelay  time.Duration   `json:"offConfirmDelay"`
	ConfirmSilence   time.Duration   `json:"confirmSilence"`
	QuietPeriod      time.Duration   `json:"quietPeriod"`
	SoftGrace        time.Duration   `json:"softGrace"`      // an ordered soft shutdown gives up after it (power.md §6.3, 180s)
	RepairAttempts   int             `json:"repairAttempts"` // 0: no repair command
	ProofMin         power.Assurance `json:"proofMin"`

	Fence       power.Limits  `json:"fence"`  // figures of the fence transaction
	Ladder      []power.Level `json:"ladder"` // devices of the host by level
	CanSwitchOn bool          `json:"canSwitchOn"`
}

// PartitionState is the HA state of a partition (ha.md §2).
type PartitionState string

const (
	PartitionNone     PartitionState = "NONE"
	PartitionActive   PartitionState = "ACTIVE"
	PartitionInactive PartitionState = "INACTIVE"
)
