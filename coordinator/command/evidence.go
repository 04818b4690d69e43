// SPDX-License-Identifier: Apache-2.0

package command

import (
	"slices"
	"time"
)

// Answer is what looking for something found; the empty one is "could not look".
type Answer string

// The answers.
const (
	CouldNotLook Answer = "could-not-look" // with a reason; never read as absent
	Absent       Answer = "absent"
	Present      Answer = "present"
)

// FileSight is what one host saw of one file.
type FileSight struct {
	Answer     Answer   `json:"answer"`
	Why        string   `json:"why,omitempty"`
	Size       int64    `json:"size,omitempty"`
	Allocation int64    `json:"allocation,omitempty"`
	Users      []string `json:"users,omitempty"`        // on the host that looked, such as instance/i3
	Unknown    string   `json:"usersUnknown,omitempty"` // why Users may lack somebody
}

// InstanceSight is what one host saw of the instance.
type InstanceSight struct {
	Answer Answer `json:"answer"`
	Why    string `json:"why,omitempty"`
	State  string `json:"state,omitempty"` // running, paused, stopped
	Disks  []Ref  `json:"disks,omitempty"` // that it writes to, or would if it ran
	// Elsewhere are disks that lie in no pool of the host that looked, as its hypervisor
	// names them: with any, Disks is not all that the instance uses.
	Elsewhere []string `json:"elsewhere,omitempty"`
}

// here is the answer; the zero sight is none.
func (s InstanceSight) here() Answer {
	if s.Answer == "" {
		return CouldNotLook
	}
	return s.Answer
}

func (s InstanceSight) is(state string) bool { return s.Answer == Present && s.State == state }

// gone: it certainly does not run on that host.
func (s InstanceSight) gone() bool { return s.Answer == Absent || s.is(Stopped) }

func (s InstanceSight) uses(r Ref) bool { return slices.Contains(s.Disks, r) }

// mayUse: it does, or it has disks that no pool of its host knows, of which one may be
// the same file under another name.
func (s InstanceSight) mayUse(r Ref) bool {
	return s.uses(r) || s.Answer == Present && len(s.Elsewhere) > 0
}

// States of an instance.
const (
	Running = "running"
	Paused  = "paused"
	Stopped = "stopped"
)

// JobSight is what the source saw of the job that does the work.
type JobSight struct {
	Answer Answer `json:"answer"`
	Why    string `json:"why,omitempty"`
	Ready  bool   `json:"ready,omitempty"`
	To     Ref    `json:"to,omitzero"`
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"`
}

// HostEvidence is what the agent of one host saw.
type HostEvidence struct {
	Host     string        `json:"host"`
	Answered bool          `json:"answered"`
	Why      string        `json:"why,omitempty"` // why not
	Boot     string        `json:"boot,omitempty"`
	Process  string        `json:"process,omitempty"`
	Working  bool          `json:"working,omitempty"` // this process is at work on the command
	Instance InstanceSight `json:"instance,omitzero"`
	Job      JobSight      `json:"job,omitzero"`
	// Files by their Ref's String.
	Files map[string]FileSight `json:"files,omitempty"`
	// Paths of the host's pools.
	Paths map[string]string `json:"-"`
}

// Evidence is one look of all who were asked.
type Evidence struct {
	At    time.Time               `json:"at"`
	Hosts map[string]HostEvidence `json:"hosts"`
	// Over says of hosts how it was proven that the boot which worked on the command cannot
	// run or write any more (ha.md §4: the proof of a fence, or a newer boot).
	Over map[string]string `json:"over,omitempty"`
}

// certain: the host answered, or it is proven that what ran there is over.
func (e Evidence) certain(host string) bool {
	return e.Hosts[host].Answered || e.Over[host] != ""
}

func (e Evidence) instance(host string) InstanceSight {
	h := e.Hosts[host]
	switch {
	case h.Answered:
		return h.Instance
	case e.Over[host] != "":
		return InstanceSight{Answer: Absent, Why: "its boot is over: " + e.Over[host]}
	}
	return InstanceSight{Answer: CouldNotLook, Why: h.Why}
}

// file puts together what all hosts saw of a file. Absent needs one that looked and nobody
// who sees it; where one sees it and another says that it is not there, one of them is wrong
// (a pool that is not mounted, a name that a cache still knows), and nothing follows. Users
// are those of all that looked, and unknown while one of the hosts that may use it has not
// said.
func (e Evidence) file(r Ref, users ...string) FileSight {
	out := FileSight{Answer: CouldNotLook, Why: "nobody could look at " + r.String()}
	var present, absent string // who says so
	for _, host := range sorted(e.Hosts) {
		s, ok := e.Hosts[host].Files[r.String()]
		if !e.Hosts[host].Answered || !ok {
			continue
		}
		switch {
		case s.Answer == Present:
			if present == "" {
				present = host
				out.Answer, out.Why, out.Size, out.Allocation = Present, "", s.Size, s.Allocation
			}
			for _, u := range s.Users {
				out.Users = append(out.Users, u+" on "+host)
			}
			if s.Unknown != "" {
				out.Unknown = host + ": " + s.Unknown
			}
		case s.Answer == Absent:
			if absent = host; out.Answer == CouldNotLook {
				out.Answer, out.Why = Absent, ""
			}
		case out.Answer == CouldNotLook:
			out.Why = host + ": " + s.Why
		}
	}
	if present != "" && absent != "" {
		return FileSight{Answer: CouldNotLook, Why: present + " sees it, " + absent + " says that it is not there"}
	}
	for _, host := range sorted(e.Hosts) { // what runs with it uses it, whatever was seen of the file
		h := e.Hosts[host]
		if i := h.Instance; h.Answered && len(h.Files[r.String()].Users) == 0 && i.Answer == Present && i.State != Stopped && i.uses(r) {
			out.Users = append(out.Users, "the instance on "+host)
		}
	}
	for _, host := range users {
		if !e.certain(host) && out.Unknown == "" {
			out.Unknown = "host " + host + " has not said what it uses"
		}
	}
	return out
}

func sorted[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Question is what a host is asked to look at for a command.
type Question struct {
	V        int    `json:"v"`
	Spec     Spec   `json:"spec"`
	Files    []Ref  `json:"files,omitempty"`
	Instance bool   `json:"instance,omitempty"`
	Job      bool   `json:"job,omitempty"`
	Host     string `json:"host"`
}

// Ask is what a host has to be asked: the source about everything, each about the instance
// and about the files of the pools it has.
func (r Record) Ask(host string, has func(pool string) bool) Question {
	q := Question{V: Version, Spec: r.Spec, Host: host}
	q.Instance = r.Spec.Instance != ""
	q.Job = r.Spec.Live && host == r.Host
	for _, item := range r.Spec.Items {
		for _, f := range []Ref{item.From, item.To, item.Temp()} {
			if f.Path != "" && has(f.Pool) {
				q.Files = append(q.Files, f)
			}
		}
	}
	return q
}

// Chore is what a host is asked to tidy, and what came of it.
type Chore struct {
	V       int      `json:"v"`
	Spec    Spec     `json:"spec"`
	Actions []Action `json:"actions"`
}
