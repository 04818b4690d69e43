// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Explanation answers why a host is as it is, what comes next and when, what would
// change that, and what an operator may do. Its sentences are for people.
type Explanation struct {
	State       State          `json:"state"`
	Since       time.Time      `json:"since"`
	Why         string         `json:"why"`
	WhyNot      []string       `json:"whyNot,omitempty"`   // why nothing more is done
	Evidence    []string       `json:"evidence,omitempty"` // what the verdict rests on
	Holds       []Hold         `json:"holds,omitempty"`
	Guards      []guard.Answer `json:"guards,omitempty"` // all answers of the last evaluation
	Next        []string       `json:"next"`             // what comes next, and when
	WouldChange []string       `json:"wouldChange,omitempty"`
	Flips       []string       `json:"flips,omitempty"` // the nearest change of the guards that would let HA act
	OperatorMay []string       `json:"operatorMay,omitempty"`
}

// Explain reads the record as a colleague would tell it.
func Explain(r Record, p Policy, now time.Time) Explanation {
	e := &explainer{r: r, p: p, now: utc(now), out: Explanation{State: r.State, Since: r.Since, Why: r.Reason, Holds: r.Holds()}}
	if i := r.Incident; i != nil && i.Guards != nil {
		e.out.Guards = slices.Clone(i.Guards.Answers)
	}
	e.heldFirst()
	e.state()
	e.common()
	e.whyNot()
	e.evidence()
	for _, h := range e.out.Holds {
		if h.Clears != "" {
			e.change("%s holds until: %s", h.By, h.Clears)
		}
	}
	return e.out
}

type explainer struct {
	r   Record
	p   Policy
	now time.Time
	out Explanation
}

// heldFirst says first what holds a suspect, where its reason tells only of what is under way:
// a check that runs or a place that is waited for changes nothing as long as that holds.
func (e *explainer) heldFirst() {
	if !slices.Contains([]State{Suspect, Checking, Degraded}, e.r.State) {
		return
	}
	var held []string
	for _, h := range e.out.Holds {
		if strings.Contains(e.r.Reason, h.Reason) {
			return
		}
		held = append(held, h.By+": "+h.Reason)
	}
	if len(held) > 0 {
		e.out.Why = fmt.Sprintf("held by %s; %s", strings.Join(held, "; "), e.r.Reason)
	}
}

func (e *explainer) next(format string, args ...any) {
	e.out.Next = append(e.out.Next, fmt.Sprintf(format, args...))
}

func (e *explainer) change(format string, args ...any) {
	e.out.WouldChange = append(e.out.WouldChange, fmt.Sprintf(format, args...))
}

func (e *explainer) may(format string, args ...any) {
	e.out.OperatorMay = append(e.out.OperatorMay, fmt.Sprintf(format, args...))
}

// when says how far away a moment is.
func (e *explainer) when(t time.Time) string {
	if !t.After(e.now) {
		return "now"
	}
	return fmt.Sprintf("in %s (at %s)", span(max(time.Second, t.Sub(e.now))), clock(t))
}

func (e *explainer) state() {
	switch e.r.State {
	case None:
		e.next("nothing: HA does not look after this host while its partition is not ACTIVE")
		e.change("the partition becomes ACTIVE: HA enabled for zone, pod and cluster, and enough eligible hosts")
	case Initializing:
		e.initializing()
	case Available:
		if e.r.Unheard != nil {
			break
		}
		e.next("nothing, as long as it answers; after %d missed pings (%s) it becomes SUSPECT", e.p.HealthFailures, span(e.p.silence()))
		e.change("maintenance, a dead BMC or a failed health check")
	case Ineligible:
		e.next("nothing, until the administrative condition ends")
		e.may("`holdfast host maintenance off %s`, `holdfast ha enable host/%s`, or enable the host, whichever it is", e.r.Host, e.r.Host)
	case Unsupported:
		e.unsupported()
	case Suspect, Checking, Degraded:
		e.suspicion()
	case Recovering, Fencing:
		e.acting()
	case Fenced:
		e.proof()
		e.next("nothing by itself: the host stays off until somebody switches it on; with a new boot it comes back through INITIALIZING")
		e.may("`holdfast power on %s` once it is repaired", e.r.Host)
	case Failed:
		e.next("nothing by itself: automation is at its end and a human was paged; its instances are not released")
		e.change("a health pass, a Hello with a new boot, or its power found OFF and confirmed")
		e.may("`holdfast host confirm-off %s` after making sure that it is off; `holdfast ha retry %s` to try again", e.r.Host, e.r.Host)
	}
}

func (e *explainer) initializing() {
	if e.r.Health == Fail && e.r.QuietUntil.After(e.now) {
		e.next("its failing health counts only after the quiet period, which ends %s", e.when(e.r.QuietUntil))
	}
	e.next("AVAILABLE is still missing: %s", waitingFor(e.r))
	if g := e.r.Gate; g != nil && !g.Confirmed && len(g.MustNotRun) > 0 {
		e.next("its agent is told to confirm that these do not run there: %s", strings.Join(g.MustNotRun, ", "))
	}
}

func (e *explainer) unsupported() {
	switch {
	case e.r.OrderedOff:
		e.next("nothing: an operator ordered it off, and no suspicion follows")
		e.may("`holdfast power on %s`", e.r.Host)
	case !e.r.PowerTold:
		e.next("its power is read every few seconds; INITIALIZING as soon as some level reads ON")
		if e.r.Protected {
			e.next("if its health fails meanwhile it becomes SUSPECT and is held: without a readable power level nothing can be proven")
		}
		e.may("repair the BMC or its network; `holdfast power test %s`", e.r.Host)
	case e.r.Eligible == Fail:
		e.next("INITIALIZING once the provider says it is eligible")
		if e.r.Protected {
			e.next("if its health fails meanwhile it becomes SUSPECT and is held")
		}
	case e.r.Power == power.Off:
		e.next("INITIALIZING once it is switched on")
		e.may("`holdfast power on %s`", e.r.Host)
	default:
		e.next("INITIALIZING once its agent says Hello, the provider says it is eligible and some power level reads ON")
	}
}

func (e *explainer) suspicion() {
	i := e.r.Incident
	if i == nil {
		return
	}
	switch {
	case i.CheckID != "":
		e.next("neighbours are looking whether it still writes or answers; the answer counts until %s", clock(i.CheckBy))
	case i.Waiting != "" && len(e.out.Holds) > 0:
		e.next("all guards are asked again once there is a place to %s; nothing is sent while one holds", i.Waiting)
	case i.Waiting != "":
		e.next("it waits for a place to %s; then all guards are asked", i.Waiting)
	case !i.CheckAt.IsZero():
		e.next("neighbours look again %s", e.when(i.CheckAt))
	}
	idle := "power cycle it"
	if e.p.Mode == "fence" || i.Attempts >= e.p.RecoveryAttempts && i.Attempts > 0 {
		idle = "power it off"
	}
	switch {
	case e.r.Off != nil:
		e.next("it is not power cycled while its power reads OFF")
	case e.r.Eligible == Fail:
		e.next("if they find it idle, nothing is sent: it is not eligible (%s)", orNone(e.r.EligibleWhy))
	case e.p.Mode == "observe":
		e.next("if they find it idle, nothing is sent: policy is observe, it would be held by armed")
	case e.p.Disarmed != "":
		e.next("if they find it idle, nothing is sent: HA is disarmed (%s)", e.p.Disarmed)
	default:
		e.next("if they find it idle and all guards allow, HA will %s", idle)
	}
	if i.Last != nil && i.Last.Verdict == Active {
		e.next("while they find it active no power command is sent")
	}
	if i.Flapping {
		e.change("%s of passes without a failure, because it flaps", span(flapPasses))
	} else {
		e.change("two pings in a row: it is AVAILABLE again")
	}
	e.may("`holdfast host confirm-off %s` if it is certainly off: its instances are released; `holdfast power cycle %s`", e.r.Host, e.r.Host)
}

func (e *explainer) acting() {
	i := e.r.Incident
	if i == nil {
		return
	}
	by := "HA"
	if i.By != "" {
		by = i.By
	}
	e.proof()
	switch {
	case !i.AgentBy.IsZero():
		e.next("INITIALIZING when its agent says Hello with a new boot; it has until %s", clock(i.AgentBy))
	case i.CheckID != "":
		e.next("the attempt failed; neighbours look once more before anything else is tried")
	case i.Waiting != "" || e.r.Off != nil:
		e.next("a place is waited for; then all guards are asked again")
	case !e.r.SoftBy.IsZero():
		e.next("the host was asked to shut down and has until %s", clock(e.r.SoftBy))
	case e.r.State == Recovering:
		l := e.p.Fence.WithDefaults()
		if a := i.Action; a != nil && a.Verdict != nil {
			e.next("%s switches it on %s after the proof and waits up to %s for its agent", by, span(l.OffToOn), span(e.p.RecoveryWait))
		} else {
			e.next("%s proves it off, waits %s, switches it on and waits up to %s for its agent", by, span(l.OffToOn), span(e.p.RecoveryWait))
		}
	default:
		e.next("%s switches it off and reads OFF until it is settled; then it is FENCED", by)
	}
	if a := i.Action; a != nil && !a.Done {
		e.next("the power transaction ends by %s at the latest", clock(a.Deadline))
		if a.OffSent() {
			e.change("a Hello with a new boot; or pings of the old boot later than %s after the hard off, which would convict the device", span(e.p.silence()))
		} else {
			e.change("a ping now: nothing irreversible was sent, the action would be cancelled")
		}
	}
	e.may("`holdfast host confirm-off %s` if it is certainly off", e.r.Host)
}

func (e *explainer) proof() {
	p := e.r.Proof
	if p == nil {
		return
	}
	switch {
	case p.Revoked != "":
		e.next("its proof was revoked: %s; nothing more is released", p.Revoked)
	case p.Ended:
		e.next("boot %s is proven over (%s, %s); no new releases since it was switched on again", orNone(p.Boot), p.Assurance, p.How)
	default:
		e.next("boot %s is proven over (%s, %s): its %d instances may be restarted elsewhere%s", orNone(p.Boot), p.Assurance, p.How, len(p.Instances), staying(p.Local))
	}
}

// common is what matters in any state.
func (e *explainer) common() {
	if e.p.Frozen != "" {
		e.next("nothing is done to it: %s", e.p.Frozen)
		e.change("`holdfast etcd raise-generation`, see docs/etcd-restore.md")
	}
	if u := e.r.Unheard; u != nil {
		e.next("its health is unknown since %s: %s; its agent links to another worker meanwhile, and only if it has had the time and did not, its silence counts", clock(u.Since), u.Reason)
	}
	if o := e.r.Off; o != nil && e.r.State != Recovering {
		if o.Waiting {
			e.next("its power was found OFF at %s; a place to confirm that is waited for", clock(o.Seen))
		} else {
			e.next("its power was found OFF at %s and nobody ordered it: confirmed %s", clock(o.Seen), e.when(o.ConfirmAt))
		}
		e.change("an ON reading or a sign of life ends the confirmation")
	}
	if e.r.QuietUntil.After(e.now) && e.r.State != Initializing {
		e.next("its quiet period ends %s; until then automation does not touch its power", e.when(e.r.QuietUntil))
	}
	if len(e.r.Contradicted) > 0 {
		e.next("what %s says of its power is not believed: the host lived after its OFF", strings.Join(e.r.Contradicted, ", "))
		switch e.r.State { // of a FAILED host a retry does it
		case Available, Initializing, Unsupported, None:
			e.change("`holdfast host maintenance on %[1]s`, and `off` after somebody has looked at %[2]s: it is believed again; until then automation does not touch the host through it", e.r.Host, strings.Join(e.r.Contradicted, ", "))
		}
	}
	if t := e.r.OrderTxn; running(t) {
		e.next("the power order of %s is being carried out, until %s at the latest", orNone(e.r.OrderBy), clock(t.Deadline))
	}
}
