// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// HostStates are the HA states a host can be in (ha.md §3).
var HostStates = []string{
	"NONE", "INITIALIZING", "AVAILABLE", "INELIGIBLE", "UNSUPPORTED", "SUSPECT",
	"CHECKING", "DEGRADED", "RECOVERING", "FENCING", "FENCED", "FAILED",
}

// OrderVerbs are the verbs of an OrderRequest.
var OrderVerbs = []string{"on", "off", "soft", "reset", "cycle", "identify", "test", "retry", "confirm-off"}

// Severities of events, mildest first.
var Severities = []string{"info", "warning", "page"}

// HostSpec is what operators declare of a host: the value of hosts/<host>/spec.
type HostSpec struct {
	V         int               `json:"v"`
	ID        string            `json:"id"`
	Partition string            `json:"partition"`          // zone/pod/cluster, or a prefix of it
	Provider  string            `json:"provider,omitempty"` // kvm (default) or exec
	Labels    map[string]string `json:"labels,omitempty"`   // rack, switch, pdu, …
	Probes    []string          `json:"probes,omitempty"`   // icmp://10.0.0.7, udp-echo://127.0.0.1:7007; with #network where it is not the management network
	Pools     []string          `json:"pools,omitempty"`    // shared pools it mounts
	Power     []Device          `json:"power,omitempty"`
	Control   string            `json:"control,omitempty"` // hypervisor's address as other hosts reach it; default qemu+tls://<id>/system

	Maintenance bool   `json:"maintenance,omitempty"`
	HADisabled  bool   `json:"haDisabled,omitempty"`
	Disabled    bool   `json:"disabled,omitempty"`
	Why         string `json:"why,omitempty"` // reason given for the last of the three switches
}

// Device is one power device of a host. What is left out comes from the power profiles
// (Profile) of the host's scopes, by the device's name.
type Device struct {
	Name      string            `json:"name"`
	Level     int               `json:"level,omitempty"`     // 1..9; default 1, of a PDU 2, of manual 4
	Driver    string            `json:"driver,omitempty"`    // ipmi, redfish, fence-agent, pdu, exec, provider, libvirt, manual
	Address   string            `json:"address,omitempty"`   // as the driver wants it
	User      string            `json:"user,omitempty"`      // a name or a reference
	Secret    string            `json:"secret,omitempty"`    // reference: sealed, env:NAME or file:/path; never the secret itself
	Assurance string            `json:"assurance,omitempty"` // what a settled OFF proves at most; default: as the driver says
	Params    map[string]string `json:"params,omitempty"`
	Identity  Identity          `json:"identity,omitzero"`   // pinned; empty: pinned at the first good power test
	Enrolment int               `json:"enrolment,omitempty"` // raised by one: what the power test pinned is forgotten
}

// Identity names the box behind a device.
type Identity struct {
	SystemUUID  string `json:"systemUUID,omitempty"`
	Serial      string `json:"serial,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Host is a host as it is.
type Host struct {
	Spec     HostSpec   `json:"spec"`
	Status   HostStatus `json:"status"`
	Revision int64      `json:"revision"`          // of the spec: the ETag
	Deleted  bool       `json:"deleted,omitempty"` // only in a watch: the host is gone
}

// HostStatus is what Holdfast knows of a host.
type HostStatus struct {
	State        string            `json:"state"`
	Since        time.Time         `json:"since,omitzero"`
	Reason       string            `json:"reason"`
	Holds        []Hold            `json:"holds,omitempty"`
	Power        string            `json:"power"`
	PowerSince   time.Time         `json:"powerSince,omitzero"`
	Devices      []DeviceStatus    `json:"devices,omitempty"`
	Boot         string            `json:"boot,omitempty"`
	Linked       string            `json:"linked"`             // yes, no or unknown: only the owner knows
	LastPing     time.Time         `json:"lastPing,omitzero"`  // only from the owner
	DiskHung     string            `json:"diskHung,omitempty"` // since when, by the host's clock, the disk of its agent has not come back with a write: it begins no commands; only from the owner
	Owner        string            `json:"owner,omitempty"`
	Epoch        string            `json:"epoch,omitempty"`
	Slot         int               `json:"slot"`
	Incident     string            `json:"incident,omitempty"` // id of the open one
	Proof        *Proof            `json:"proof,omitempty"`
	Instances    []string          `json:"instances,omitempty"`
	Local        []string          `json:"local,omitempty"`     // of the instances, those on pools of this host alone: they return with it, never elsewhere
	Witnessed    []string          `json:"witnessed,omitempty"` // signs of life that neighbours have seen of this boot: disks, network; the silence of others proves nothing
	Contradicted []string          `json:"contradicted,omitempty"`
	Labels       map[string]string `json:"-"`
}

// Values of HostStatus.Linked.
const (
	LinkedYes     = "yes"
	LinkedNo      = "no"
	LinkedUnknown = "unknown"
)

// DeviceStatus is the last that is known of one power device.
type DeviceStatus struct {
	Name    string    `json:"name"`
	Driver  string    `json:"driver"`
	State   string    `json:"state"`
	Read    time.Time `json:"read,omitzero"`
	Error   string    `json:"error,omitempty"`
	Tested  time.Time `json:"tested,omitzero"`
	TestOK  bool      `json:"testOK"`
	TestErr string    `json:"testError,omitempty"`
	Depth   *int      `json:"depth,omitempty"` // deepest step of the last test that was passed, see TestDepths
	Level   int       `json:"level"`
	Proves  string    `json:"proves,omitempty"` // what a settled OFF of it is worth at most
}

// Hold says why nothing happens and what would change that.
type Hold struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Clears string    `json:"clears"`
	Since  time.Time `json:"since"`
}

// Proof is evidence that one boot of the host cannot run or write any more.
type Proof struct {
	Boot      string    `json:"boot"`
	Assurance string    `json:"assurance"`
	How       string    `json:"how"`
	At        time.Time `json:"at"`
	Revoked   string    `json:"revoked,omitempty"`
	Instances []string  `json:"instances,omitempty"` // that may run elsewhere
	Local     []string  `json:"local,omitempty"`     // that return with the host
}

// PartitionSpec is what operators declare of a zone, pod or cluster.
type PartitionSpec struct {
	V          int               `json:"v"`
	Path       string            `json:"path"` // zone, zone/pod or zone/pod/cluster
	Disabled   bool              `json:"disabled,omitempty"`
	HADisabled bool              `json:"haDisabled,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Why        string            `json:"why,omitempty"`
}

// Partition is a zone, pod or cluster as it is.
type Partition struct {
	Spec     PartitionSpec  `json:"spec"`
	State    string         `json:"state"`
	Since    time.Time      `json:"since,omitzero"`
	Reason   string         `json:"reason"`
	Owner    string         `json:"owner,omitempty"`
	Hosts    int            `json:"hosts"`
	States   map[string]int `json:"states,omitempty"`
	Disarmed []string       `json:"disarmed,omitempty"`
	Budget   *Budget        `json:"budget,omitempty"`
	Revision int64          `json:"revision"`
}

// Worker is a member of the control plane.
type Worker struct {
	ID      string    `json:"id"`
	Boot    string    `json:"boot"`
	API     string    `json:"api"`    // address of its operator API
	Agents  string    `json:"agents"` // address agents dial
	Zone    string    `json:"zone,omitempty"`
	Weight  int       `json:"weight"`
	State   string    `json:"state"`          // on record: ready, draining, restarting; as shown see WorkerStates
	Since   time.Time `json:"since,omitzero"` // of the state
	Started time.Time `json:"started"`
	PID     int       `json:"pid,omitempty"`
	Version string    `json:"version"`
	Slots   int       `json:"slots"`           // computed
	Hosts   int       `json:"hosts"`           // computed
	Drain   *Drain    `json:"drain,omitempty"` // computed: operators want it to own nothing

	// Only from the worker itself. Answers is unknown when it said nothing in time; its
	// links and lease are then left out, never zero.
	Answers   string   `json:"answers,omitempty"`
	Links     *int     `json:"links,omitempty"`     // agents linked to it
	Standby   *int     `json:"standby,omitempty"`   // silent streams that stand by here, for agents linked elsewhere
	LeaseLeft string   `json:"leaseLeft,omitempty"` // duration for which its lease certainly holds
	Keys      []string `json:"keys,omitempty"`      // ids of the keys in its ring; the first seals
}

// WorkerStates are the states in which workers are shown: a drained worker owns nothing
// and takes nothing; an absent one is drained and not running.
var WorkerStates = []string{"starting", "ready", "draining", "drained", "restarting", "absent"}

// Values of Worker.Answers.
const (
	AnswersYes     = "yes"
	AnswersUnknown = "unknown"
)

// Drain is the value of drains/<worker> in etcd: it outlives restarts of the worker.
type Drain struct {
	V      int       `json:"v"`
	Worker string    `json:"worker"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// DrainRequest asks that a worker hands over all it owns and takes nothing, or, undrain,
// that it takes part again.
type DrainRequest struct {
	Reason string `json:"reason,omitempty"`
	Force  bool   `json:"force,omitempty"` // drain only: also the last ready worker, which keeps what it owns until another comes
}

// GenerationRequest asks to raise the generation of the etcd data.
type GenerationRequest struct {
	From   int64  `json:"from,omitempty"` // refused when it is not the present one; 0: whatever it is
	Reason string `json:"reason,omitempty"`
}

// Generation says what raising the generation of the etcd data does, or did.
type Generation struct {
	From    int64    `json:"from"`
	To      int64    `json:"to"`
	Cluster string   `json:"cluster"`           // etcd's own id, as in the epochs of agents
	Workers []string `json:"workers,omitempty"` // live ones: each opens a new session
	Hosts   []string `json:"hosts,omitempty"`   // that the answering worker does nothing to until then
}

// Joiner is a worker that a FleetPlan adds: a new one, or one that is drained now.
type Joiner struct {
	ID     string `json:"id"`
	Zone   string `json:"zone,omitempty"`
	Weight int    `json:"weight,omitempty"` // 0: its own, of a new one 1
}

// String is W, W:zone or W:zone:weight: what ParseJoiner reads.
func (j Joiner) String() string {
	switch {
	case j.Weight > 0:
		return fmt.Sprintf("%s:%s:%d", j.ID, j.Zone, j.Weight)
	case j.Zone != "":
		return j.ID + ":" + j.Zone
	}
	return j.ID
}

// ParseJoiner reads W, W:zone or W:zone:weight; the error is a Problem of the field add.
func ParseJoiner(s string) (Joiner, error) {
	parts := strings.Split(s, ":")
	j := Joiner{ID: parts[0]}
	bad := BadField("add", "%q, allowed is W, W:zone or W:zone:weight with a weight of 1 to 100", s)
	if len(parts) > 3 || j.ID == "" {
		return j, bad
	}
	if len(parts) > 1 {
		j.Zone = parts[1]
	}
	if len(parts) > 2 {
		n, err := strconv.Atoi(parts[2])
		if err != nil || n < 1 || n > 100 {
			return j, bad
		}
		j.Weight = n
	}
	return j, nil
}

// FleetPlan says where slots and hosts would be after a change of the workers.
type FleetPlan struct {
	Without    []string      `json:"without,omitempty"`
	Add        []Joiner      `json:"add,omitempty"`
	Members    []FleetMember `json:"members"`
	Moves      int           `json:"moves"`             // slots that change hands
	HostsMoved int           `json:"hostsMoved"`        // hosts in them
	Least      int           `json:"least"`             // moves that any balanced plan needs
	Orphans    int           `json:"orphans,omitempty"` // slots nobody owns now, taken besides
	Peak       int           `json:"peak"`              // hosts of the fullest worker afterwards
	Mean       float64       `json:"mean"`              // its share of all hosts by weight
	Heaviest   int           `json:"heaviest"`          // hosts in the heaviest slot
	Targets    []SlotMove    `json:"targets"`
	Warnings   []string      `json:"warnings,omitempty"`
}

// FleetMember is one worker in a FleetPlan.
type FleetMember struct {
	ID          string `json:"id"`
	Zone        string `json:"zone,omitempty"`
	Weight      int    `json:"weight"`           // 0: takes nothing
	Frozen      bool   `json:"frozen,omitempty"` // restarting: keeps what it owns
	SlotsBefore int    `json:"slotsBefore"`
	SlotsAfter  int    `json:"slotsAfter"`
	HostsBefore int    `json:"hostsBefore"`
	HostsAfter  int    `json:"hostsAfter"`
}

// SlotMove is one slot that would change hands; From is empty for one that nobody owns.
type SlotMove struct {
	Slot  int    `json:"slot"`
	From  string `json:"from,omitempty"`
	To    string `json:"to"`
	Hosts int    `json:"hosts"`
}

// Incident is one episode of suspicion of one host.
type Incident struct {
	ID      string        `json:"id"`
	Host    string        `json:"host"`
	Opened  time.Time     `json:"opened"`
	Ended   time.Time     `json:"ended,omitzero"`
	State   string        `json:"state"` // of the host, while open
	Cause   string        `json:"cause"`
	Outcome string        `json:"outcome,omitempty"`
	Fell    time.Time     `json:"fell,omitzero"` // when the host fell silent last
	Boot    string        `json:"boot,omitempty"`
	Holds   []Hold        `json:"holds,omitempty"` // while open
	Proof   *Proof        `json:"proof,omitempty"` // that it has come to
	Steps   int           `json:"steps,omitempty"` // decisions recorded for replay, those not kept any more included
	Ledger  []Entry       `json:"ledger,omitempty"`
	Guards  []GuardAnswer `json:"guards,omitempty"` // as last asked
}

// Entry is one line of an incident's story.
type Entry struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	Text string    `json:"text"`
}

// GuardAnswer is what one guard said.
type GuardAnswer struct {
	Guard   string `json:"guard"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Value   string `json:"value,omitempty"`
	Limit   string `json:"limit,omitempty"`
	Clears  string `json:"clears,omitempty"`
}

// Event is one line of the event log, in the order of etcd's revisions.
type Event struct {
	ID        string            `json:"id"`
	Revision  int64             `json:"revision"`
	At        time.Time         `json:"at"`
	Type      string            `json:"type"`
	Severity  string            `json:"severity"` // info, warning, page
	Host      string            `json:"host,omitempty"`
	Partition string            `json:"partition,omitempty"`
	Worker    string            `json:"worker,omitempty"`
	Incident  string            `json:"incident,omitempty"`
	Message   string            `json:"message"`
	Data      map[string]string `json:"data,omitempty"`
	Instances []string          `json:"instances,omitempty"`
}

// Setting is one setting at one scope, or as it is effective there.
type Setting struct {
	Name     string    `json:"name"`
	Scope    string    `json:"scope"` // global, zone/…, pod/…, cluster/…, host/…
	Value    string    `json:"value"`
	Origin   string    `json:"origin"` // scope that the value comes from, "preset fast at zone/z1", or "default"
	Default  string    `json:"default"`
	Allowed  string    `json:"allowed"`
	Effect   string    `json:"effect"`
	Doc      string    `json:"doc"`
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	Revision int64     `json:"revision,omitempty"`
}

// SettingRecord is the value of settings/<scope>/<name> in etcd.
type SettingRecord struct {
	V       int       `json:"v"`
	Value   string    `json:"value"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Reason  string    `json:"reason,omitempty"`
	Expires time.Time `json:"expires,omitzero"` // after it the value counts no more
}

// Switch asks for a change of an administrative switch: HA enable or disable, arm or
// disarm, maintenance.
type Switch struct {
	On     bool   `json:"on"`
	For    string `json:"for,omitempty"` // duration; disarm only
	Reason string `json:"reason,omitempty"`
}

// OrderRequest is an operator's word about one host. Verb is one of on, off, soft,
// reset, cycle, identify, test, retry, confirm-off.
type OrderRequest struct {
	Verb   string `json:"verb"`
	Reason string `json:"reason,omitempty"`
	Second string `json:"second,omitempty"`
}

// OrderResult says what became of an order: the power verbs answer once the order is
// on record, not once it is carried out.
type OrderResult struct {
	ID      string   `json:"id"`
	Host    string   `json:"host"`
	Verb    string   `json:"verb"`
	State   string   `json:"state"` // HA state after the order
	Message string   `json:"message"`
	Steps   []string `json:"steps,omitempty"`  // of a power test
	Failed  bool     `json:"failed,omitempty"` // a power test that was made and did not pass
}

// Plan is what a dangerous verb would do; the answer to ?dryRun=true.
type Plan struct {
	Host      string        `json:"host"`
	Verb      string        `json:"verb"`
	Will      []string      `json:"will"`
	Warnings  []string      `json:"warnings,omitempty"`
	Instances []string      `json:"instances,omitempty"`
	Guards    []GuardAnswer `json:"guards,omitempty"`
	Budgets   []Budget      `json:"budgets,omitempty"`
}

// DryRun is what a change that has nothing to answer would do: its answer to ?dryRun=true.
type DryRun struct {
	Will    []string      `json:"will"`
	Changes []AuditChange `json:"changes,omitempty"` // of records in etcd; secrets are not shown
}

// Explanation answers why, why not, and what next.
type Explanation struct {
	Subject     string        `json:"subject"`
	State       string        `json:"state"`
	Since       time.Time     `json:"since"`
	Why         []string      `json:"why"`
	WhyNot      []string      `json:"whyNot,omitempty"`   // why nothing more is done
	Evidence    []string      `json:"evidence,omitempty"` // what that rests on
	Holds       []Hold        `json:"holds,omitempty"`
	Guards      []GuardAnswer `json:"guards,omitempty"`
	Next        []string      `json:"next,omitempty"`
	WouldChange []string      `json:"wouldChange,omitempty"`
	OperatorMay []string      `json:"operatorMay,omitempty"`
	Story       []Entry       `json:"story,omitempty"`
}

// Candidate is one host in the answer of allocate, best first (ha.md §8).
type Candidate struct {
	Host    string `json:"host"`
	Allowed bool   `json:"allowed"`
	Rank    int    `json:"rank"`
	Reason  string `json:"reason"`
}

// List is a page of things.
type List[T any] struct {
	Items    []T    `json:"items"`
	Next     string `json:"next,omitempty"` // pass as ?after=
	Revision int64  `json:"revision,omitempty"`
}

// SettingRequest asks for a value at a scope.
type SettingRequest struct {
	Value  string `json:"value"`
	Reason string `json:"reason,omitempty"`
	For    string `json:"for,omitempty"` // duration after which it counts no more; empty: for good
}

// ArmRequest asks to arm or disarm HA at a scope: whether automation may act there.
type ArmRequest struct {
	Scope  string `json:"scope"`         // global, zone/…, pod/…, cluster/…, host/…
	For    string `json:"for,omitempty"` // duration; disarm only, empty: until armed again
	Reason string `json:"reason,omitempty"`
}

// Version is what answers.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api"` // v1
	Go      string `json:"go"`
}

// Health is how one worker is.
type Health struct {
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason,omitempty"` // why it is not ready
	Warnings []Warning `json:"warnings,omitempty"`
}

// Warning is one named condition that operators should know of.
type Warning struct {
	Code     string    `json:"code"`
	Severity string    `json:"severity"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
}
