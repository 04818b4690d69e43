// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"strings"
	"time"
)

func prepare(s *step) {
	s.r.Prepared = true
	s.r.Next = s.now.Add(s.p.Interval)
	s.because("asking %s for its pools and volumes", s.r.Spec.Target)
	s.effect(Prepare)
}

func tryLater(s *step) {
	s.r.Next = s.now.Add(s.p.Interval)
	s.because("%s did not say whether it is prepared: %s", s.r.Spec.Target, s.ev.Reason)
}

func prepared(s *step) {
	s.r.Spec.Paths = s.ev.Paths
	send(s)
}

func send(s *step) {
	s.r.Sends++
	s.r.Next = time.Time{}
	s.because("sent to %s", s.r.Host)
	s.effect(Send)
}

func sendAgain(s *step) {
	send(s)
	s.because("it did not arrive at %s: sent again", s.r.Host)
}

// outcome is set once.
func (s *step) outcome(done bool, by, ran, why string) {
	if s.r.Outcome == nil {
		s.r.Outcome = &Outcome{Done: done, Why: why, By: by, At: s.now, Ran: ran}
	}
	s.because("%s", why)
	s.r.Attempts = 0
}

// settle goes from the outcome to the end: at once where nothing can be left, otherwise
// after a look.
func (s *step) settle(leaves bool) {
	if !leaves {
		s.end()
		return
	}
	s.r.Next = s.now.Add(lookLimit)
	s.effect(Gather)
}

// made: the target may have made volumes.
func (s *step) made() bool { return s.r.Prepared && len(s.r.Spec.Items) > 0 }

func (s *step) end() {
	s.r.Released, s.r.Ended, s.r.Left, s.r.Next = true, s.now, nil, time.Time{}
	if s.r.Seq == 0 && s.r.Sends == 0 { // its agent has nothing to forget
		s.r.Acked = true
	}
}

func neverSent(why string) func(*step) {
	return func(s *step) {
		s.outcome(false, "deadline", "", why)
		s.settle(s.made())
	}
}

func cancelUnsent(s *step) {
	s.outcome(false, s.ev.By, "", "cancelled before it was sent"+reasonOf(s.ev.Reason))
	s.settle(s.made())
}

func notPrepared(s *step) {
	s.outcome(false, "agent", "", fmt.Sprintf("%s cannot take it: %s", s.r.Spec.Target, s.ev.Reason))
	s.settle(s.made())
}

func refusedByAgent(s *step) {
	s.outcome(false, "agent", "", "refused by the agent of "+s.r.Host+": "+s.ev.Reason)
	s.settle(s.made())
}

func neverArrived(s *step) {
	why := "its deadline passed before it reached the agent"
	if c := s.r.Cancel; c != nil {
		why = "cancelled before it reached the agent" + reasonOf(c.Reason)
	}
	s.outcome(false, "evidence", "", why)
	s.settle(s.made())
}

func reasonOf(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (s *step) takeStep() {
	st := s.ev.Step
	s.r.Seq, s.r.Boot, s.r.Process = st.Seq, st.Boot, st.Process
}

func works(s *step) {
	s.takeStep()
	s.r.Next = time.Time{}
	s.because("%s", s.ev.Step.What)
	if s.r.Cancel != nil { // the word may have come before the agent knew the command
		s.effect(Abort)
	}
}

func broken(s *step) {
	s.takeStep()
	s.r.Next, s.r.Attempts = s.now, 0
	s.because("%s", s.ev.Step.What)
}

func journalLost(s *step) {
	s.r.Next, s.r.Attempts = s.now, 0
	s.because("the journal of %s does not know it any more", s.r.Host)
}

func bootOver(s *step) {
	s.r.Next, s.r.Attempts = s.now, 0
	s.because("%s", s.ev.Reason)
}

func didIt(s *step) {
	s.takeStep()
	s.outcome(true, "agent", s.ev.Step.Ran, s.ev.Step.What)
	s.settle(s.r.Kind != Copy)
}

func didNot(s *step) {
	s.takeStep()
	s.outcome(false, "agent", s.ev.Step.Ran, s.ev.Step.What)
	s.settle(s.r.Kind == Migrate || len(s.r.Spec.Items) > 0) // a migration that failed at its end leaves its definition at the target
}

// stale: the outcome stands.
func stale(s *step) {
	s.takeStep()
	if s.ev.Step.Terminal() {
		s.out = append(s.out, Effect{Kind: Announce, Type: "command.stale-answer", Severity: Info,
			Reason: fmt.Sprintf("%s after the outcome was on record: %s", s.ev.Step.State, s.ev.Step.What)})
	}
	s.r.Acked = false // its journal has it after all
}

func acked(s *step) { s.r.Acked = true }

func gather(s *step) {
	s.r.Next = s.now.Add(lookLimit)
	s.effect(Gather)
}

func gatherAnew(s *step) {
	s.r.Attempts = 0
	s.because("%s asked to look again%s", s.ev.By, reasonOf(s.ev.Reason))
	gather(s)
}

func (s *step) keepEvidence() {
	s.r.Evidence, s.r.Verdict = s.ev.Evidence, s.judgement.Verdict
}

func (s *step) found(done bool) {
	s.keepEvidence()
	s.outcome(done, "evidence", s.judgement.Ran, s.judgement.Why)
	if len(s.judgement.Left) == 0 {
		s.end()
		return
	}
	tidy(s)
	s.because("%s", s.judgement.Why)
}

func foundDone(s *step)    { s.found(true) }
func foundNotDone(s *step) { s.found(false) }

func reattach(s *step) {
	s.keepEvidence()
	s.r.Attempts, s.r.Next = 0, time.Time{}
	s.because("%s", s.judgement.Why)
	s.effect(Reattach)
}

func goesOn(s *step) {
	s.keepEvidence()
	s.r.Attempts, s.r.Next = 0, s.now.Add(s.p.Interval)
	s.because("%s", s.judgement.Why)
}

func handOver(s *step) {
	s.keepEvidence()
	s.r.Left, s.r.Next = s.judgement.Left, time.Time{}
	why := s.judgement.Why
	if not := obstacles(s.r.Left); s.same() && not != "" {
		why = not
	}
	if o := s.r.Outcome; o != nil && !s.same() && s.judgement.Verdict != Undetermined {
		why = fmt.Sprintf("on record as %s, but now: %s", doneWord(o.Done), why)
	}
	s.because("%s", why)
}

// lookAgain: soon at first, because most of what is in the way (a writer that is just
// ending) is gone in a moment; later once an interval.
func lookAgain(s *step) {
	s.keepEvidence()
	wait := s.p.Interval
	if s.counts() {
		if quick := lookSoon << min(s.r.Attempts, 16); quick < wait {
			wait = quick
		}
		s.r.Attempts++
	}
	s.r.Left, s.r.Next = s.judgement.Left, s.now.Add(wait)
	why := s.judgement.Why
	if not := obstacles(s.r.Left); not != "" {
		why += "; still to tidy: " + not
	}
	if s.r.Outcome == nil || len(s.r.Left) > 0 {
		s.because("%s", why)
	}
}

// tidy asks for all that may be done now; what may not is looked at again.
func tidy(s *step) {
	s.keepEvidence()
	s.r.Left, s.r.Next = s.judgement.Left, s.now.Add(lookLimit)
	var do []Action
	for _, a := range s.judgement.Left {
		if allowed(a) {
			do = append(do, a)
		}
	}
	if len(do) == 0 {
		s.r.Next = s.now.Add(lookSoon)
		return
	}
	s.out = append(s.out, Effect{Kind: Tidy, Actions: do})
}

// afterTidy looks once more, and the look decides: who says that it deleted a file may
// have lost its pool in the same moment.
func afterTidy(s *step) {
	var why []string
	for _, a := range s.ev.Tidied {
		if !a.Done {
			why = append(why, a.Not)
		}
	}
	if len(why) == 0 {
		gather(s)
		return
	}
	s.r.Attempts++
	wait := min(s.p.Interval, lookSoon<<min(s.r.Attempts, 16))
	s.r.Next = s.now.Add(wait)
	s.because("still to tidy: %s", strings.Join(why, "; "))
}

func release(s *step) {
	s.keepEvidence()
	s.end()
}

func cancel(s *step) {
	s.r.Cancel = &Word{By: s.ev.By, Reason: s.ev.Reason, At: s.now}
	s.effect(Abort)
}

func abort(s *step) { s.effect(Abort) }

func cancelLate(s *step) {
	s.r.Cancel = &Word{By: "deadline", Reason: "its deadline passed", At: s.now}
	s.effect(Abort)
}

func resolve(s *step) {
	done := s.ev.Verb == VerbDone
	why := s.ev.By + " resolved it as " + doneWord(done) + reasonOf(s.ev.Reason)
	if o := s.r.Outcome; o != nil && o.Done != done {
		s.r.Outcome = nil // a human has looked, and corrects what automation put on record
	}
	s.outcome(done, s.ev.By, "", why)
	s.end()
}

func doneWord(done bool) string {
	if done {
		return "completed"
	}
	return "failed"
}

func obstacles(left []Action) string {
	var out []string
	for _, a := range left {
		if a.Not != "" {
			out = append(out, a.Not)
		}
	}
	return strings.Join(out, "; ")
}
