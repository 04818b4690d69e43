// SPDX-License-Identifier: Apache-2.0

package command

import (
	"slices"
	"strings"
	"time"
)

// Version of records, specs and evidence, as they are stored and sent.
const Version = 1

// State is where a command stands.
type State string

// The states (commands.md). COMPLETED, FAILED and RECONCILED have an outcome.
const (
	Pending       State = "PENDING"               // recorded
	Sent          State = "SENT"                  // given to the agent, or about to be
	Started       State = "STARTED"               // the agent wrote its journal
	Processing    State = "PROCESSING"            // bound to the agent's process
	Backend       State = "PROCESSING_IN_BACKEND" // hypervisor or storage works on; the agent may die
	Completed     State = "COMPLETED"             // the agent did it
	Failed        State = "FAILED"                // the agent, or nobody, did it; the source is as it was
	Interrupted   State = "INTERRUPTED"           // a new process or boot found it processing
	Dangling      State = "DANGLING"              // a new process or boot found it in the backend: the job may still run
	Reconciling   State = "RECONCILING"           // evidence is being gathered
	Reconciled    State = "RECONCILED"            // with the outcome that the evidence shows
	NeedsOperator State = "NEEDS_OPERATOR"        // the attempts are used up, or the evidence contradicts itself
)

// States are all of them, in the order of a command's life.
var States = []State{Pending, Sent, Started, Processing, Backend, Completed, Failed, Interrupted, Dangling, Reconciling, Reconciled, NeedsOperator}

// Kind is what a command does.
type Kind string

// The kinds.
const (
	Copy          Kind = "copy"           // a volume or template to another pool
	Migrate       Kind = "migrate"        // a running instance to another host
	MigrateVolume Kind = "migrate-volume" // a volume to another pool, its instance running or not
)

// Kinds are all of them.
var Kinds = []Kind{Copy, Migrate, MigrateVolume}

// Ref names a file on a pool by its path relative to the pool.
type Ref struct {
	Pool string `json:"pool"`
	Path string `json:"path"`
}

func (r Ref) String() string { return r.Pool + ":" + r.Path }

// Item is one volume that gets another place.
type Item struct {
	Volume string `json:"volume"` // or the template
	Format string `json:"format"`
	Size   int64  `json:"size,omitempty"` // bytes the guest sees
	As     string `json:"as,omitempty"`   // the new volume, of a copy; of a template empty: one more copy of it
	From   Ref    `json:"from"`
	To     Ref    `json:"to"`
	// Temporary is the path on the pool of To under which an offline copy is written until
	// it is complete and durable; empty: written under its final name.
	Temporary string `json:"temporary,omitempty"`
}

// Temp is the temporary as a file of its pool.
func (i Item) Temp() Ref { return Ref{i.To.Pool, i.Temporary} }

// Definition is what the instance is made from (agent/hypervisor.Definition).
type Definition struct {
	MemoryMiB int    `json:"memoryMiB"`
	CPUs      int    `json:"cpus"`
	Disks     []Disk `json:"disks"`
	Kernel    string `json:"kernel,omitempty"`
	Initrd    string `json:"initrd,omitempty"`
	Args      string `json:"args,omitempty"`
}

// Disk is one disk of a Definition.
type Disk struct {
	Ref
	Format string `json:"format"`
}

// Spec is what is to be done. It holds every name that a file will ever have and no secret.
type Spec struct {
	V        int    `json:"v"`
	Kind     Kind   `json:"kind"`
	Live     bool   `json:"live,omitempty"` // its instance runs: the hypervisor moves it
	Instance string `json:"instance,omitempty"`
	Items    []Item `json:"items,omitempty"`
	// Target is the host that a migration goes to, Address how the source's hypervisor
	// reaches the target's, Paths where the target has pools at another path than the source.
	Target  string            `json:"target,omitempty"`
	Address string            `json:"address,omitempty"`
	Paths   map[string]string `json:"paths,omitempty"`
	// Definition of the instance as it is before the command.
	Definition *Definition `json:"definition,omitempty"`
	Rate       int64       `json:"bytesPerSecond,omitempty"` // 0: no bound
}

// Hosts are the source and, of a migration, the target.
func (s Spec) Hosts(source string) []string {
	if s.Target == "" || s.Target == source {
		return []string{source}
	}
	return []string{source, s.Target}
}

// prepares: the target must be asked before the hypervisor moves into it: its volumes have
// to be there, and where it has its pools has to be known.
func (s Spec) prepares() bool { return s.Kind == Migrate }

// After is the definition with the disks where a completed command puts them.
func (s Spec) After() *Definition {
	if s.Definition == nil {
		return nil
	}
	d := *s.Definition
	d.Disks = append([]Disk(nil), d.Disks...)
	for i, disk := range d.Disks {
		for _, item := range s.Items {
			if item.From == disk.Ref {
				d.Disks[i].Ref = item.To
			}
		}
	}
	return &d
}

// Name is the file of a volume written by a command: no other command ever makes it.
func Name(volume, id, format string) string {
	tail := strings.ReplaceAll(id, "-", "")
	return volume + "-" + tail[max(0, len(tail)-12):] + "." + format
}

// Temporary is the name of a file that is not complete yet.
func Temporary(name string) string { return "." + name + ".part" }

// Outcome is what came of a command. It is set once.
type Outcome struct {
	Done bool      `json:"done"` // the resources are where the command was to bring them; false: where they were
	Why  string    `json:"why"`
	By   string    `json:"by"` // agent, evidence, or the operator's name
	At   time.Time `json:"at"`
	// Ran is what the instance was seen to do at the end: running, paused, stopped; empty:
	// not seen, and nothing follows from it.
	Ran string `json:"ran,omitempty"`
}

// Deed is what is done to tidy up.
type Deed string

// The deeds. Each is done by the agent of a host, which looks once more before it acts.
const (
	Delete   Deed = "delete"   // a file
	Define   Deed = "define"   // the stopped instance anew, with its disks where they are now
	Undefine Deed = "undefine" // what is left of the instance on a host it has left
)

// Action is one thing left to tidy.
type Action struct {
	Deed Deed   `json:"deed"`
	Host string `json:"host"`
	File Ref    `json:"file,omitzero"`
	Why  string `json:"why"`            // the proof that allows it
	Not  string `json:"not,omitempty"`  // why it may not be done now
	Done bool   `json:"done,omitempty"` // only in reports of agents
}

// Word is an order of an operator or of the deadline.
type Word struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// Record is the value of commands/<host>/<id>.
type Record struct {
	V       int       `json:"v"`
	ID      string    `json:"id"` // UUIDv7
	Kind    Kind      `json:"kind"`
	Host    string    `json:"host"` // the source: its slot owns the record
	Spec    Spec      `json:"spec"`
	Holds   []string  `json:"holds"`         // records that carry this command's id: volumes/v7, instances/i3
	Key     string    `json:"key,omitempty"` // idempotency key
	By      string    `json:"by"`
	Created time.Time `json:"created"`

	State    State     `json:"state"`
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason"`
	Deadline time.Time `json:"deadline,omitzero"` // it is cancelled then
	Next     time.Time `json:"next,omitzero"`     // when something is due

	Prepared bool   `json:"prepared,omitempty"` // the volumes at the target were asked for
	Sends    int    `json:"sends,omitempty"`
	Boot     string `json:"boot,omitempty"` // of the source, while it was worked on
	Process  string `json:"process,omitempty"`
	Seq      int    `json:"seq,omitempty"` // last step of the agent's journal on record
	Cancel   *Word  `json:"cancel,omitempty"`

	Attempts int       `json:"attempts,omitempty"`
	Verdict  Verdict   `json:"verdict,omitempty"` // of the last look
	Evidence *Evidence `json:"evidence,omitempty"`
	Outcome  *Outcome  `json:"outcome,omitempty"`
	Left     []Action  `json:"left,omitempty"`
	Released bool      `json:"released,omitempty"` // its resources take other commands again
	Acked    bool      `json:"acked,omitempty"`    // the agent has forgotten it, its journal keys are gone
	Ended    time.Time `json:"ended,omitzero"`     // of the release
}

// New is the record of a command that was just asked for.
func New(id, host, by, key string, spec Spec, holds []string, at, deadline time.Time) Record {
	at = utc(at)
	return Record{
		V: Version, ID: id, Kind: spec.Kind, Host: host, Spec: spec, Holds: holds, Key: key, By: by, Created: at,
		State: Pending, Since: at, Reason: "recorded", Deadline: utc(deadline), Next: at,
	}
}

// Due is when a tick is wanted; zero: never.
func (r Record) Due() time.Time {
	t := r.Next
	if waits := r.State == Pending || slices.Contains(active, r.State); waits && r.Cancel == nil && !r.Deadline.IsZero() && (t.IsZero() || r.Deadline.Before(t)) {
		t = r.Deadline
	}
	return t
}

// Open: somebody still has to do something about it.
func (r Record) Open() bool { return !r.Released || !r.Acked }

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}

func past(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }
