// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"strings"
	"time"
)

// PartitionRecord is the HA state of a partition: the value of partitions/<path>/state.
type PartitionRecord struct {
	V      int            `json:"v"`
	Path   string         `json:"path"`
	State  PartitionState `json:"state"`
	Since  time.Time      `json:"since"`
	Reason string         `json:"reason"`

	// The counts behind the state, for people.
	Members  int `json:"members"`
	Eligible int `json:"eligible"`
}

// PartitionFacts are what the state of a partition follows from (ha.md §2).
type PartitionFacts struct {
	Disabled []string // why HA is not wanted here: levels that are disabled, or where HA is
	Needed   Needed   // what its providers ask for
	Members  int      // hosts of the partition
	Eligible int      // of those, eligible (ha.md §5) and not kept out by an administrator
	Fit      int      // of the eligible: last health check passed
	Open     int      // not fit, with an open incident
}

// Needed is how many eligible members HA needs, as a provider says of the partitions it
// works on; the zero value asks for one.
type Needed struct {
	Members int
	Why     string // for people
}

// With is what two providers in one partition ask for together: the most.
func (n Needed) With(o Needed) Needed {
	if o.Members > n.Members {
		return o
	}
	return n
}

// Count adds one member. Healthy: its owner hears it, and its last health check passed; a
// host whose owner is not there yet is not.
func (f *PartitionFacts) Count(r Record, healthy bool) {
	f.Members++
	if r.Eligible != Pass || r.Admin.Forbids() {
		return
	}
	f.Eligible++
	if healthy {
		f.Fit++
	} else if r.open() {
		f.Open++
	}
}

// NewPartition is the record of a partition nobody has looked at.
func NewPartition(path string, at time.Time) PartitionRecord {
	return PartitionRecord{V: Version, Path: path, State: PartitionNone, Since: utc(at), Reason: "new partition"}
}

func (n Needed) words(needed int) string {
	out := fmt.Sprintf("%d are needed", needed)
	if needed == 1 {
		out = "1 is needed"
	}
	if n.Why != "" {
		out += ": " + n.Why
	}
	return out
}

// StepPartition returns the partition's next record and the events of a change. It is
// pure; facts that change nothing return the same record and no effects.
//
// A suspicion or a dead BMC never makes a partition INACTIVE: to become ACTIVE it needs
// one fit host and, of those that are fit or have an incident, as many as are needed; to
// stay ACTIVE that many eligible ones.
func StepPartition(r PartitionRecord, f PartitionFacts, at time.Time) (PartitionRecord, []Effect) {
	needed := max(f.Needed.Members, 1)
	state, why := r.State, ""
	switch {
	case len(f.Disabled) > 0:
		state, why = PartitionNone, strings.Join(f.Disabled, "; ")
	case f.Eligible < needed:
		state = PartitionInactive
		why = fmt.Sprintf("%d of %d hosts eligible, %s", f.Eligible, f.Members, f.Needed.words(needed))
	case r.State == PartitionActive:
		why = fmt.Sprintf("%d of %d hosts eligible", f.Eligible, f.Members)
	case f.Fit >= 1 && f.Fit+f.Open >= needed:
		state = PartitionActive
		why = fmt.Sprintf("%d of %d hosts eligible", f.Eligible, f.Members)
	default:
		state = PartitionInactive
		why = fmt.Sprintf("%d of %d hosts eligible, %d of them healthy, %d with an open incident: %s, of which one is healthy", f.Eligible, f.Members, f.Fit, f.Open, f.Needed.words(needed))
	}
	next := r
	next.State, next.Reason, next.Members, next.Eligible = state, why, f.Members, f.Eligible
	if state == r.State {
		return next, nil
	}
	next.Since = utc(at)
	severity := Info
	if r.State == PartitionActive {
		severity = Warning
	}
	return next, []Effect{{Kind: Announce, Type: "partition." + strings.ToLower(string(state)), Severity: severity,
		Reason: fmt.Sprintf("HA of %s: %s → %s: %s", r.Path, r.State, state, why)}}
}
