// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// State is the HA state of a host (ha.md §3).
type State string

const (
	None         State = "NONE"
	Initializing State = "INITIALIZING"
	Available    State = "AVAILABLE"
	Ineligible   State = "INELIGIBLE"
	Unsupported  State = "UNSUPPORTED"
	Suspect      State = "SUSPECT"
	Checking     State = "CHECKING"
	Degraded     State = "DEGRADED"
	Recovering   State = "RECOVERING"
	Fencing      State = "FENCING"
	Fenced       State = "FENCED"
	Failed       State = "FAILED"
)

// States lists every state once, in the order of ha.md §3.
var States = []State{None, Initializing, Available, Ineligible, Unsupported, Suspect, Checking, Degraded, Recovering, Fencing, Fenced, Failed}

// Verdict is the value of an observation. The zero value is unknown and is never read
// as dead, idle or failed (ha.md §1).
type Verdict string

const (
	Unknown Verdict = ""
	Pass    Verdict = "pass"   // health, eligibility
	Fail    Verdict = "fail"   // health, eligibility
	Active  Verdict = "active" // activity check
	Idle    Verdict = "idle"   // activity check
)

// Record is all that is known of one host's HA: the value of hosts/<host>/ha. The
// owner commits it under its claim before any effect starts; a new owner goes on from
// it alone. All times are UTC.
type Record struct {
	V      int       `json:"v"`
	Host   string    `json:"host"`
	State  State     `json:"state"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"` // why it is in this state, one sentence for people

	Partition   PartitionState `json:"partition"` // as last told by the partition machine
	Admin       Admin          `json:"admin"`
	Eligible    Verdict        `json:"eligible"` // last answer of the provider that was not unknown
	EligibleWhy string         `json:"eligibleWhy,omitempty"`
	Protected   bool           `json:"protected,omitempty"`  // was AVAILABLE since its last ON
	OrderedOff  bool           `json:"orderedOff,omitempty"` // an operator's off or soft stands
	Health      Verdict        `json:"health,omitempty"`     // last health verdict that was not unknown; unknown for a new boot, and while Unheard
	HealthWhy   string         `json:"healthWhy,omitempty"`  // of a failure, as told when it began
	HealthOwn   bool           `json:"healthOwn,omitempty"`  // the host reports the failure itself: it is alive
	Unheard     *Hold          `json:"unheard,omitempty"`    // nothing is known of its health, because its owner cannot reach who carries its link; it says so until it knows
	Seq         int            `json:"seq,omitempty"`        // names given so far: incidents, checks, transactions, gates

	Lost      []LostPool `json:"lost,omitempty"`      // pools that the host reports it cannot use, by name; as its boot said last
	Boot      Boot       `json:"boot"`                // newest authenticated boot
	Past      []string   `json:"past,omitempty"`      // boots that are over, newest last, at most maxPast
	Instances []string   `json:"instances,omitempty"` // instances of the newest boot, as last reported
	Local     []string   `json:"local,omitempty"`     // of those, with disks on pools of this host alone: they return with it, never elsewhere
	// SeenDisks and SeenProbe: families of signals that neighbours saw alive during the
	// present boot (EvSeen; reset with a new boot). Silence of a family never seen alive
	// proves nothing (ha.md §5).
	SeenDisks  bool        `json:"seenDisks,omitempty"`
	SeenProbe  bool        `json:"seenProbe,omitempty"`
	LastLife   time.Time   `json:"lastLife,omitzero"` // last sign of life that mattered to a decision; not every ping
	Passes     int         `json:"passes,omitempty"`  // health passes in a row while an incident is open
	PassSince  time.Time   `json:"passSince,omitzero"`
	Returns    []time.Time `json:"returns,omitempty"` // returns to AVAILABLE out of an incident, for flapping
	QuietUntil time.Time   `json:"quietUntil,omitzero"`
	QuietBoot  string      `json:"quietBoot,omitempty"` // boot that is going down: its pings do not end the quiet period

	Power      power.State `json:"power"` // of the power machine, as last told
	PowerSince time.Time   `json:"powerSince,omitzero"`
	PowerTold  bool        `json:"powerTold,omitempty"` // some power level could be read at all
	LastOff    time.Time   `json:"lastOff,omitzero"`    // last hard off sent by us
	LastAction time.Time   `json:"lastAction,omitzero"` // last power action of anybody, operators included

	Off      *OffFound  `json:"off,omitempty"`      // power found OFF that nobody ordered: being confirmed (ha.md §3.1)
	OffVoid  time.Time  `json:"offVoid,omitzero"`   // an OFF first read before it was refuted by an ON reading
	OrderTxn *power.Txn `json:"orderTxn,omitempty"` // running power order of an operator outside an incident's action
	OrderBy  string     `json:"orderBy,omitempty"`  // who gave it
	SoftBy   time.Time  `json:"softBy,omitzero"`    // an ordered soft shutdown gives up then

	Gate         *Gate     `json:"gate,omitempty"`         // rejoin gate that this boot must confirm
	Proof        *Proof    `json:"proof,omitempty"`        // last proof; stays until the host is AVAILABLE again
	Incident     *Incident `json:"incident,omitempty"`     // open, or the last one while FENCED or FAILED
	Contradicted []string  `json:"contradicted,omitempty"` // devices whose OFF was followed by a sign of life of the same boot
}

// Boot names one boot of a host. Life and death are about a boot, not about a host.
type Boot struct {
	ID   string    `json:"id,omitempty"`
	Seen time.Time `json:"seen,omitzero"` // first Hello of this boot
}

// LostPool is a pool that a host's own report says it cannot use, and since when.
type LostPool struct {
	Pool  string    `json:"pool"`
	Since time.Time `json:"since"`
}

// Admin is what administrators say of the host; any of them forbids HA.
type Admin struct {
	Maintenance bool   `json:"maintenance,omitempty"`
	Excluded    bool   `json:"excluded,omitempty"` // ha disabled for this host
	Disabled    bool   `json:"disabled,omitempty"` // the host itself is disabled
	Why         string `json:"why,omitempty"`
}

// Forbids reports whether an administrative condition forbids HA for the host.
func (a Admin) Forbids() bool { return a.Maintenance || a.Excluded || a.Disabled }

// OffFound is a power level read OFF twice that nobody ordered through us. It is no
// proof (A2): the guards are asked at ConfirmAt, and only a hard off and a settled OFF
// fence the host.
type OffFound struct {
	Seen      time.Time     `json:"seen"` // first of the equal readings
	ConfirmAt time.Time     `json:"confirmAt"`
	Devices   []string      `json:"devices,omitempty"`
	Waiting   bool          `json:"waiting,omitempty"`  // asked for a place to confirm
	Holds     []Hold        `json:"holds,omitempty"`    // why it is not confirmed
	Interval  time.Duration `json:"interval,omitempty"` // until the guards are asked again
}

// Gate is the rejoin contract of ha.md §7: a host that comes back is not AVAILABLE
// before it confirmed the generation and the instances it must not run.
type Gate struct {
	Generation string   `json:"generation"`
	MustNotRun []string `json:"mustNotRun,omitempty"`
	Confirmed  bool     `json:"confirmed,omitempty"`
}

// Proof is evidence that one boot of the host cannot run or write any more.
type Proof struct {
	Boot      string          `json:"boot"`
	Assurance power.Assurance `json:"assurance"`
	How       string          `json:"how"` // settled-off, operator, rebooted
	At        time.Time       `json:"at"`
	OffSince  time.Time       `json:"offSince,omitzero"`
	By        string          `json:"by,omitempty"`
	Epoch     string          `json:"epoch,omitempty"`
	Revoked   string          `json:"revoked,omitempty"`   // why it no longer counts
	Instances []string        `json:"instances,omitempty"` // that may run elsewhere
	Local     []string        `json:"local,omitempty"`     // that return with the host
	Ended     bool            `json:"ended,omitempty"`     // ON was sent or the host is back: no new releases
}

// Incident is one episode of suspicion. SUSPECT to FENCING belong to one; it ends with
// AVAILABLE, FENCED, FAILED or an operator.
type Incident struct {
	ID        string    `json:"id"`
	Opened    time.Time `json:"opened"`
	Fell      time.Time `json:"fell,omitzero"` // when the host fell silent last; Opened, unless it had been coming back since
	Cause     string    `json:"cause"`
	Boot      string    `json:"boot"`
	Protected bool      `json:"protected"`

	Interval time.Duration `json:"interval"`           // between activity checks
	CheckAt  time.Time     `json:"checkAt,omitzero"`   // next check due
	CheckID  string        `json:"checkID,omitempty"`  // check that runs
	CheckBy  time.Time     `json:"checkBy,omitzero"`   // the running check counts as unknown then, whatever became of it
	CheckNo  int           `json:"checkNo"`            // checks asked so far
	Unknowns int           `json:"unknowns,omitempty"` // unknown verdicts in a row
	Actives  int           `json:"actives,omitempty"`  // active verdicts in a row
	Last     *Check        `json:"last,omitempty"`     // last finished check
	Holds    []Hold        `json:"holds,omitempty"`    // why nothing happens, empty: nothing holds
	Guards   *guard.Report `json:"guards,omitempty"`   // last evaluation
	Waiting  guard.Purpose `json:"waiting,omitempty"`  // asked for a place to act for this purpose
	Budgeted bool          `json:"budgeted,omitempty"` // its budget slot is spent

	Purpose     guard.Purpose `json:"purpose,omitempty"`  // what the running action is for; "operator" actions have By set
	By          string        `json:"by,omitempty"`       // operator, for an operator's action
	From        State         `json:"from,omitempty"`     // state the running action was begun in
	Epoch       string        `json:"epoch,omitempty"`    // claim under which the running action was armed
	Attempts    int           `json:"attempts,omitempty"` // recovery attempts begun
	Action      *power.Txn    `json:"action,omitempty"`   // running or last power transaction
	AgentBy     time.Time     `json:"agentBy,omitzero"`   // after a cycle: agent must be back by then
	Repairs     int           `json:"repairs,omitempty"`
	OffSeen     time.Time     `json:"offSeen,omitzero"`     // confirm: first of the readings that found it OFF
	OffSentTo   []string      `json:"offSentTo,omitempty"`  // devices that were sent a hard off
	OtherAction time.Time     `json:"otherAction,omitzero"` // last power action outside this incident, operators' included
	Pace        Pace          `json:"pace,omitzero"`        // Policy.Told: what its agent goes by, which cannot hear of faster settings
	Flapping    bool          `json:"flapping,omitempty"`   // third return within 10 min: 5 min of passes are asked for

	Ledger  []Entry   `json:"ledger,omitempty"` // bounded: newest MaxLedger entries
	Steps   int       `json:"steps,omitempty"`  // recorded for replay so far; counted by the owner, no decision looks at it
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome,omitempty"`
	Proof   *Proof    `json:"proof,omitempty"` // once ended: the proof that the incident came to
}

// MaxLedger bounds the evidence ledger kept with an incident.
const MaxLedger = 100

// Entry is one line of an incident's story, written for people.
type Entry struct {
	At   time.Time `json:"at"`
	What string    `json:"what"` // seen, check, guard, packet, reading, state, operator
	Text string    `json:"text"`
}

// Hold says why nothing happens and what would change that.
type Hold struct {
	By     string    `json:"by"` // guard or rule
	Reason string    `json:"reason"`
	Clears string    `json:"clears"`
	Since  time.Time `json:"since"`
}

// Check is the result of one activity check.
type Check struct {
	ID      string            `json:"id"`
	Asked   time.Time         `json:"asked"`
	Done    time.Time         `json:"done"`
	Verdict Verdict           `json:"verdict"`
	Reason  string            `json:"reason"`
	Votes   []Vote            `json:"votes,omitempty"`
	Signals guard.SignalFacts `json:"signals"`
}

// Vote is what one reader saw, in words and as a verdict.
type Vote struct {
	Reader  string  `json:"reader"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
}
