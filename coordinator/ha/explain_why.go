// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// whyNot says why nothing more is done than what is done: why the host is not power cycled,
// not fenced, not released, not protected.
func (e *explainer) whyNot() {
	r := e.r
	switch r.State {
	case Available:
		e.not("it is not suspected: its last health check passed")
	case None, Unsupported:
		e.not("it is not protected: %s", orNone(r.Reason))
	case Ineligible:
		e.not("it is not protected: %s", orNone(r.Reason))
		e.flip("the end of maintenance, of its exclusion or of its being disabled: INITIALIZING, and its health counts again")
	case Initializing:
		e.not("it is not AVAILABLE: still missing is %s", waitingFor(r))
		e.flip("%s: AVAILABLE", waitingFor(r))
		e.flip("health that fails after the quiet period: SUSPECT, with an incident")
	case Suspect, Checking, Degraded:
		e.whyNotActed()
	case Recovering, Fencing:
		e.whyNotProven()
	case Failed:
		e.not("it is not FENCED: there is no proof of at least %s that it is off", e.p.ProofMin)
		e.not("its instances are not released: without a proof they might run twice")
	case Fenced:
		e.flip("a Hello with a new boot: INITIALIZING; one with the boot that was proven over: FAILED, the proof is revoked and a human is paged")
		e.not("it is not switched on: nobody knows yet why it died, and automation that fenced it does not wake it")
	}
}

func (e *explainer) not(format string, args ...any) {
	e.out.WhyNot = append(e.out.WhyNot, fmt.Sprintf(format, args...))
}

// whyNotActed: a suspect's power is touched only after an idle verdict of its neighbours,
// with all guards allowing (ha.md §§5, 6).
func (e *explainer) whyNotActed() {
	i := e.r.Incident
	if i == nil {
		return
	}
	idle := false
	switch {
	case i.Last == nil:
		e.not("no activity check has answered yet: without neighbours that find it idle its power is not touched")
	case i.Last.Verdict == Active:
		e.not("it is alive: check %d found it active: %s", i.lastNo(), i.Last.Reason)
	case i.Last.Verdict == Idle:
		idle = true
	default:
		e.not("what neighbours saw is not enough (%d of %d such answers): %s", i.Unknowns, e.p.ActivityAttempts, i.Last.Reason)
	}
	if e.r.Eligible == Fail {
		e.not("it is not eligible: %s", orNone(e.r.EligibleWhy))
	}
	if !e.r.PowerTold {
		e.not("no power level of it can be read: without one nothing can be proven")
	}
	g := i.Guards
	if g == nil || g.Allowed() || len(e.out.Holds) == 0 {
		switch {
		case e.p.Mode == "observe":
			e.not("the policy is observe: everything is decided, nothing is sent")
		case e.p.Disarmed != "":
			e.not("HA is disarmed: %s", e.p.Disarmed)
		}
		return
	}
	var names, human []string
	for _, a := range g.Holding() {
		line := fmt.Sprintf("guard %s holds: %s", a.Guard, a.Reason)
		if a.Value != "" && a.Limit != "" {
			line += fmt.Sprintf(" (%s, limit %s)", a.Value, a.Limit)
		}
		e.not("%s", line)
		names = append(names, a.Guard)
		if a.Verdict == guard.NeedHuman {
			human = append(human, a.Guard)
		}
	}
	switch {
	case len(names) == 1 && idle:
		e.flip("nothing but %s held when the guards were asked at %s: once it is cleared, and neighbours find it idle again, HA acts", names[0], clock(g.At))
	case len(names) > 1:
		e.flip("all of %s held when the guards were asked at %s: each has to be cleared", strings.Join(names, ", "), clock(g.At))
	}
	if len(human) > 0 {
		e.flip("time alone does not clear %s: a human has to", strings.Join(human, ", "))
	}
}

// whyNotProven: a running action has not come to a proof yet.
func (e *explainer) whyNotProven() {
	i := e.r.Incident
	if i == nil {
		return
	}
	p := e.r.Proof
	switch {
	case p != nil && p.Revoked != "":
		e.not("its instances are not released: the proof was revoked: %s", p.Revoked)
	case p != nil && p.Ended:
		e.not("no new release of its instances: it was switched on again")
	case p != nil:
	case i.Action == nil:
		e.not("its instances are not released: nothing was sent yet")
	default:
		e.not("its instances are not released: %s", unproven(*i.Action, e.p.Fence.WithDefaults().SettleReads))
	}
}

// unproven says how far a transaction is from its proof.
func unproven(t power.Txn, reads int) string {
	if t.Done {
		return "the attempt ended without a proof"
	}
	if len(t.Progress.Devices) == 0 {
		return "nothing was read yet"
	}
	var parts []string
	for _, d := range t.Progress.Devices {
		switch {
		case d.Over != "":
			parts = append(parts, fmt.Sprintf("%s was given up: %s", d.Name, d.Over))
		case d.Run.Count > 0:
			parts = append(parts, fmt.Sprintf("%s reads OFF, %d of at least %d readings in a row so far", d.Name, d.Run.Count, reads))
		case !d.LastAt.IsZero():
			parts = append(parts, fmt.Sprintf("%s reads %s", d.Name, d.Last))
		default:
			parts = append(parts, d.Name+" has not answered yet")
		}
	}
	return strings.Join(parts, "; ")
}

// lastNo is the number of the last check that was answered.
func (i *Incident) lastNo() int {
	if i.CheckID != "" {
		return i.CheckNo - 1
	}
	return i.CheckNo
}

// flip adds to what would change it, before the holds one by one.
func (e *explainer) flip(format string, args ...any) {
	e.out.Flips = append(e.out.Flips, fmt.Sprintf(format, args...))
}

// evidence is what the present verdict rests on.
func (e *explainer) evidence() {
	r := e.r
	add := func(format string, args ...any) {
		e.out.Evidence = append(e.out.Evidence, fmt.Sprintf(format, args...))
	}
	if r.HealthWhy != "" && r.Health == Fail {
		add("health fails: %s", r.HealthWhy)
	}
	if !r.LastLife.IsZero() {
		add("last sign of life that counted: %s", clock(r.LastLife))
	}
	if r.PowerTold {
		add("power reads %s since %s", r.Power, clock(r.PowerSince))
	} else {
		add("no power level can be read")
	}
	if i := r.Incident; i != nil && i.Last != nil {
		c := i.Last
		add("check %d, asked %s, answered %s: %s: %s", i.lastNo(), clock(c.Asked), clock(c.Done), verdictWord(c.Verdict), orNone(c.Reason))
		votes := slices.Clone(c.Votes)
		slices.SortFunc(votes, func(a, b Vote) int { return strings.Compare(a.Reader, b.Reader) })
		for _, v := range votes {
			add("%s sees: %s: %s", v.Reader, verdictWord(v.Verdict), orNone(v.Reason))
		}
	}
}

func verdictWord(v Verdict) string {
	if v == Unknown {
		return "unknown"
	}
	return string(v)
}
