// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
)

// NextDeadline is when the owner must feed the next EvTick if nothing else happens
// before; zero: no time is waited for. A tick that comes early changes nothing.
func (r Record) NextDeadline() time.Time {
	var next time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	at(r.QuietUntil)
	at(r.SoftBy)
	if r.Off != nil && !r.Off.Waiting {
		at(r.Off.ConfirmAt)
	}
	if running(r.OrderTxn) {
		at(r.OrderTxn.NextDeadline())
	}
	if !r.open() {
		return next
	}
	i := r.Incident
	if i.CheckID != "" {
		at(i.CheckBy)
	} else if i.Waiting == "" && (r.State == Suspect || r.State == Degraded) {
		at(i.CheckAt)
	}
	if r.State == Recovering {
		at(i.AgentBy)
	}
	if running(i.Action) {
		at(i.Action.NextDeadline())
	}
	return next
}

// Unhealthy reports whether the host counts into the unhealthy share (ha.md §1).
// FENCED and maintenance do not.
func (r Record) Unhealthy() bool {
	switch r.State {
	case Suspect, Checking, Degraded, Recovering, Fencing, Failed:
		return true
	}
	return false
}

// ReadSoon reports whether the host's power is read often (ha.md §3.1: while it is held,
// suspect or unsupported).
func (r Record) ReadSoon() bool {
	switch r.State {
	case Suspect, Checking, Degraded, Unsupported, Failed, Initializing:
		return true
	}
	return false
}

// PowerOurs reports whether a change of the power that is read now follows from what was
// sent to the host's devices, by automation or an operator: something was sent since the
// present state was read (power.md §1, cause "ours").
func (r Record) PowerOurs() bool { return !r.LastAction.IsZero() && r.LastAction.After(r.PowerSince) }

// Excused reports whether nobody expects the host to look at its neighbours (ha.md §5).
func (r Record) Excused() bool {
	return r.State == Fenced || r.State == Failed || r.Admin.Maintenance
}

// Fact is what the guards of other hosts may know of this one: its declaration, given
// here, and its record, nothing else.
func (r Record) Fact(partition string, labels map[string]string, pools []string) guard.HostFact {
	f := guard.HostFact{
		Host: r.Host, Partition: partition, Labels: labels, Pools: pools,
		Out: r.Admin.Forbids(), Unhealthy: r.Unhealthy(), Suspect: r.Silent(), Live: r.Health == Pass || r.Health == Fail && r.HealthOwn,
	}
	if f.Live && len(r.Lost) > 0 {
		f.Lost = make(map[string]time.Time, len(r.Lost))
		for _, l := range r.Lost {
			f.Lost[l.Pool] = l.Since
		}
	}
	return f
}

// Silent is when the host fell silent, or was found OFF; zero: it is not suspected.
func (r Record) Silent() (t time.Time) {
	if r.Unhealthy() && r.open() {
		if t = r.Incident.Fell; t.IsZero() {
			t = r.Incident.Opened
		}
	}
	if o := r.Off; o != nil && (t.IsZero() || o.Seen.Before(t)) {
		t = o.Seen
	}
	return t
}

// LastOtherAction is the last power action outside the open incident, operators'
// included (ha.md §6, guard quiet); zero: none known.
func (r Record) LastOtherAction() time.Time {
	if r.open() {
		return r.Incident.OtherAction
	}
	return r.LastAction
}

// open reports whether an incident runs.
func (r Record) open() bool { return r.Incident != nil && r.Incident.Ended.IsZero() }

// Holds says why nothing happens to the host now; empty: nothing holds.
func (r Record) Holds() []Hold {
	var out []Hold
	if r.open() {
		out = append(out, r.Incident.Holds...)
	}
	if r.Off != nil {
		out = append(out, r.Off.Holds...)
	}
	if r.Unheard != nil {
		out = append(out, *r.Unheard)
	}
	return out
}
