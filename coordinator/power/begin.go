// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Begin makes a transaction and asks for its first exchange. Verb matters for GoalVerb
// only. A goal, verb or ladder that cannot be worked with gives a finished transaction
// whose verdict says so; no packet is asked for.
func Begin(id string, goal Goal, verb Verb, boot string, ladder []Level, at time.Time, l Limits) (Txn, []TxnEffect) {
	l = l.WithDefaults()
	r := &run{at: at, l: l, Txn: Txn{
		ID: id, Goal: goal, Boot: boot, Ladder: slices.Clone(ladder),
		Begun: at, Deadline: at.Add(l.TotalDeadline),
	}}
	if goal == GoalVerb {
		r.Verb = verb
	}
	switch {
	case !slices.Contains([]Goal{GoalOff, GoalCycle, GoalOn, GoalVerb}, goal):
		r.end(Verdict{Reason: fmt.Sprintf("goal %q: allowed are off, cycle, on, verb", goal)})
	case goal == GoalVerb && !slices.Contains([]Verb{SoftOff, Reset, Cycle, Identify}, verb):
		r.end(Verdict{Reason: fmt.Sprintf("verb %q: allowed are soft, reset, cycle, identify", verb)})
	case goal == GoalOn:
		if !r.rise(r.stages()) {
			r.unproven()
		}
		r.next()
	default:
		r.enter(0)
		r.next()
	}
	return r.Txn, r.effects
}

// run is one Step under way: the transaction being changed, its time and its effects.
type run struct {
	Txn
	at      time.Time
	l       Limits
	effects []TxnEffect
}

// enter begins the first level from rung on that has devices, or ends the transaction.
func (r *run) enter(rung int) {
	p := &r.Progress
	for ; rung < len(r.Ladder); rung++ {
		lv := r.Ladder[rung]
		if !r.at.Before(r.Deadline) {
			r.fail(fmt.Sprintf("level %d was not tried: the time of all levels is over", lv.N))
			break
		}
		if lv.Human {
			if r.Goal == GoalVerb {
				continue
			}
			r.fail(fmt.Sprintf("level %d waits for an operator", lv.N))
			p.Rung, p.Human = rung, true
			break
		}
		if len(lv.Devices) == 0 {
			r.fail(noDevice(lv))
			continue
		}
		p.Rung, p.Phase = rung, PhaseIdentify
		p.Devices = make([]DeviceProgress, len(lv.Devices))
		for i, name := range lv.Devices {
			p.Devices[i] = DeviceProgress{Name: name, Phase: PhaseIdentify, Due: r.at}
		}
		p.LevelBegun, p.LevelEnds = r.at, r.at
		r.extend(r.levelTime())
		return
	}
	r.unproven()
}

func noDevice(lv Level) string { return fmt.Sprintf("level %d has no device", lv.N) }

// extend lets the present level last at least d from its begin, within the total.
func (r *run) extend(d time.Duration) {
	p := &r.Progress
	p.LevelEnds = earlier(later(p.LevelEnds, p.LevelBegun.Add(d)), r.Deadline)
}

// proven records the verdict of a level whose devices are all settled. A cycle goes on
// to its pause, and only with the devices that were switched off. What is weaker than the
// level must give is kept, and the next level is tried.
func (r *run) proven() {
	p := &r.Progress
	v := Verdict{Level: r.level().N}
	var how, names []string
	p.Devices = slices.DeleteFunc(p.Devices, func(d DeviceProgress) bool { return !r.settled(d) })
	for _, d := range p.Devices {
		v.OffSince = later(v.OffSince, d.Run.First)
		names = append(names, d.Name)
		how = append(how, fmt.Sprintf("%s read OFF %d times over %s", d.Name, d.Run.Count, brief(d.Run.Last.Sub(d.Run.First))))
	}
	v.Assurance = r.level().Proves(names...)
	v.Reason = strings.Join(how, " and ") + " after a hard off"
	if least := r.level().Min; v.Assurance < least {
		p.Answered = true
		v.At = r.at
		if p.Weak == nil || p.Weak.Assurance < v.Assurance {
			p.Weak = &v
		}
		r.fail(fmt.Sprintf("level %d: %s, which proves %s and no more; %s is asked for", v.Level, v.Reason, v.Assurance, least))
		r.enter(p.Rung + 1)
		return
	}
	r.note("", "OFF is proven: "+v.Reason)
	if r.Goal != GoalCycle {
		r.end(v)
		return
	}
	v.At = r.at
	r.Verdict, p.Phase = &v, PhasePause
}

// unproven ends a transaction that ran out of levels. With a proof on record only the
// ON has failed.
func (r *run) unproven() {
	p := &r.Progress
	why := strings.Join(p.Failed, "; ")
	if why == "" {
		why = "no power level is configured"
	}
	switch r.Goal {
	case GoalOff, GoalCycle:
		v := Verdict{Silent: r.silent()}
		if p.Weak != nil {
			v = *p.Weak
		}
		v.Human, v.Reason = p.Human, "OFF could not be proven: "+why
		r.end(v)
	case GoalOn:
		v := Verdict{Silent: r.silent(), On: r.lastState(), Reason: "the host was not switched on: " + why}
		switch {
		case r.unseen():
			v.On, v.Reason = On, "what feeds it is ON, and nobody could read the chassis: "+why
		case v.On == Unknown && r.OnSent():
			v.Reason = "nobody could read whether the host came on: " + why
		}
		r.end(v)
	default:
		r.end(Verdict{Silent: r.silent(), On: r.lastState(), Reason: fmt.Sprintf("%s was not carried out: %s", r.Verb, why)})
	}
}

// silent reports whether the devices did nothing but not talk to us: every error was of
// a silent kind, and none read ON after, or refused, a hard off.
func (r *run) silent() bool {
	for k := range r.Progress.Errors {
		if !k.Silent() {
			return false
		}
	}
	return len(r.Progress.Errors) > 0 && !r.Progress.Answered
}

// end closes the transaction with its verdict.
func (r *run) end(v Verdict) {
	p := &r.Progress
	v.At = r.at
	r.Verdict, r.Done = &v, true
	p.Phase, p.Out, p.Wake = PhaseEnd, nil, time.Time{}
	r.note("", v.Reason)
	p.Seq++
	r.effects = append(r.effects, TxnEffect{Txn: r.ID, Seq: p.Seq, Do: DoEnd})
}

func (r *run) level() Level { return r.Ladder[r.Progress.Rung] }

// levelTime is how long the present level may take.
func (r *run) levelTime() time.Duration {
	l := r.l
	if own := r.level().Deadline; own > 0 {
		l.LevelDeadline = own
	}
	return l.levelTime()
}

// lastState is what the host was last read as. Outlets that are on say nothing of a chassis
// that comes after them.
func (r *run) lastState() State {
	var d DeviceProgress
	if r.Progress.Feeding && len(r.rest()) > 0 {
		return Unknown
	}
	for _, e := range r.Progress.Devices {
		if !e.LastAt.Before(d.LastAt) {
			d = e
		}
	}
	return d.Last
}

// fail records why a level or device was given up.
func (r *run) fail(why string) {
	r.Progress.Failed = append(r.Progress.Failed, why)
	r.note("", why)
}

// note adds a line of evidence and drops the oldest beyond MaxEvidence.
func (r *run) note(device, text string) {
	p := &r.Progress
	e := Evidence{At: r.at, Device: device, Text: text}
	if p.Rung < len(r.Ladder) {
		e.Level = r.level().N
	}
	p.Evidence = append(p.Evidence, e)
	if n := len(p.Evidence) - MaxEvidence; n > 0 {
		p.Evidence = slices.Delete(p.Evidence, 0, n)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// brief writes a duration as people say it.
func brief(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
