// SPDX-License-Identifier: Apache-2.0

package guard

import "time"

// Purpose says which action is about to be armed; some guards do not apply to some
// purposes (ha.md §3.1: confirm is not held by budget and quiet).
type Purpose string

const (
	Recover Purpose = "recover" // power cycle a host seen idle
	Fence   Purpose = "fence"   // power off a host seen idle
	Confirm Purpose = "confirm" // prove OFF of a host found off
)

// Snapshot is everything the guards look at, gathered at one moment by the owner. It
// is stored with the incident, so that a replay gives the same answers (ha.md §6).
// A field that could not be gathered is left at its zero value, and every zero value
// reads as "not known", which holds.
type Snapshot struct {
	At      time.Time `json:"at"`
	Purpose Purpose   `json:"purpose"`
	Host    string    `json:"host"`

	Claim    ClaimFacts    `json:"claim"`
	State    StateFacts    `json:"state"`
	Armed    ArmedFacts    `json:"armed"`
	Self     SelfFacts     `json:"self"`
	Signals  SignalFacts   `json:"signals"`
	Area     AreaFacts     `json:"area"`
	Budgets  []BudgetFacts `json:"budgets,omitempty"`
	Quiet    QuietFacts    `json:"quiet"`
	Power    PowerFacts    `json:"power"`
	Running  string        `json:"running,omitempty"`  // id of an action that runs for this host already
	Gathered bool          `json:"gathered,omitempty"` // the owner filled the snapshot; false holds everything
}

// ClaimFacts: does this worker certainly hold the slot now?
type ClaimFacts struct {
	Epoch     string        `json:"epoch"`
	ValidFor  time.Duration `json:"validFor"`  // lease certainly valid for this long
	NeededFor time.Duration `json:"neededFor"` // deadline of one packet
}

// StateFacts: is the verdict still about the host as it is on record?
type StateFacts struct {
	VerdictAsked    time.Time     `json:"verdictAsked"` // zero: there is no verdict
	VerdictMaxAge   time.Duration `json:"verdictMaxAge"`
	RevisionAsked   int64         `json:"revisionAsked"` // revision of the host's spec when the check was asked
	RevisionPresent int64         `json:"revisionPresent"`
	LastSignOfLife  time.Time     `json:"lastSignOfLife"`
}

// ArmedFacts: may automation act here at all?
type ArmedFacts struct {
	Policy      string   `json:"policy"`             // observe, recover, fence; empty: not known
	Disarmed    []string `json:"disarmed,omitempty"` // scopes that are disarmed, with reason and expiry, as shown to operators
	Disabled    []string `json:"disabled,omitempty"` // levels where HA or the level itself is disabled
	Maintenance bool     `json:"maintenance,omitempty"`
	Partition   string   `json:"partition"` // NONE, ACTIVE, INACTIVE; empty: not known
}

// SelfFacts: can this worker see at all?
type SelfFacts struct {
	WarmupRoundsLeft int           `json:"warmupRoundsLeft"`
	Agents           int           `json:"agents"`     // agents this worker should hear
	AgentsLost       int           `json:"agentsLost"` // of those, lost within the last AgentsLostWindow
	ReadAge          time.Duration `json:"readAge"`    // since the last linearizable read; negative: never
	ReadAgeLimit     time.Duration `json:"readAgeLimit"`
	Frozen           string        `json:"frozen,omitempty"` // why what is on record is not to be acted on (leases.md §2.10)
}

// Family is one family of signals (ha.md §5). Alive, Dead and Unknown are exclusive;
// the zero value is unknown.
type Family string

const (
	FamilyUnknown Family = ""
	FamilyAlive   Family = "alive"
	FamilyDead    Family = "dead"
)

// SignalFacts: which families say that the host is dead?
type SignalFacts struct {
	Agent          Family `json:"agent"` // link *and* stamp
	Disks          Family `json:"disks"`
	Network        Family `json:"network"`
	OnlyManagement bool   `json:"onlyManagement,omitempty"` // the only path that says so is the management network
}

// BudgetFacts is one budget that the action would spend from.
type BudgetFacts struct {
	Scope   string        `json:"scope"` // host/h1, cluster/z/p/c, pod/z/p, zone/z
	Used    int           `json:"used"`
	Limit   int           `json:"limit"`
	Window  time.Duration `json:"window"`
	Latched bool          `json:"latched,omitempty"`
	NextIn  time.Duration `json:"nextIn,omitempty"` // until the oldest slot leaves the window
	Spent   bool          `json:"spent,omitempty"`  // this incident has its slot already
	Known   bool          `json:"known"`
}

// QuietFacts: is the host booting, or did somebody else just touch its power?
type QuietFacts struct {
	Until           time.Time     `json:"until"`           // end of the quiet period; zero: none
	LastOtherAction time.Time     `json:"lastOtherAction"` // last power action outside this incident; zero: none known
	MinGap          time.Duration `json:"minGap"`
	Known           bool          `json:"known"`
}

// PowerFacts: is there a device that can do it, and does it tell the truth?
type PowerFacts struct {
	Levels []LevelFacts `json:"levels,omitempty"`
}

// LevelFacts is one level of the power ladder.
type LevelFacts struct {
	Level        int           `json:"level"`
	State        string        `json:"state"`   // ON, OFF, UNKNOWN as freshly read
	ReadAge      time.Duration `json:"readAge"` // since that reading
	MaxAge       time.Duration `json:"maxAge"`
	Tested       bool          `json:"tested"` // the last power test passed and is young enough
	Contradicted bool          `json:"contradicted,omitempty"`
	CanSwitchOn  bool          `json:"canSwitchOn"`
	Reason       string        `json:"reason,omitempty"` // why it is not readable, for people
}
