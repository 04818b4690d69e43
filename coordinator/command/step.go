// SPDX-License-Identifier: Apache-2.0

package command

import (
	"fmt"
	"slices"
	"time"
)

// Times that are no settings.
const (
	// lookLimit is how long one look of all hosts may take.
	lookLimit = 30 * time.Second
	// lookSoon is the time to the second look; it doubles up to reconcile.interval.
	lookSoon = 200 * time.Millisecond
)

// Step takes one event and returns the next record and the effects to start once it is
// committed. It is pure and total: the argument is never changed; an event that changes
// nothing returns the same record and no effects, and then there is nothing to commit.
func Step(r Record, ev Event, p Policy) (Record, []Effect) {
	s := &step{r: r, ev: ev, p: p, now: utc(ev.At)}
	if ev.Kind == EvEvidence && ev.Evidence != nil {
		s.judgement = Judge(r, *ev.Evidence)
	}
	for _, row := range index[r.State][ev.Kind] {
		if row.cond == nil || row.cond(s) {
			s.apply(row)
			break
		}
	}
	return s.r, s.out
}

// step is one call of Step at work.
type step struct {
	r         Record
	ev        Event
	p         Policy
	now       time.Time
	judgement Judgement
	why       string
	out       []Effect
}

func (s *step) apply(row *Row) {
	if row.Do != nil {
		row.Do(s)
	}
	if s.why == "" && row.To != "" {
		s.why = row.When
	}
	if row.To != "" && row.To != s.r.State {
		s.r.State, s.r.Since = row.To, s.now
	}
	if s.why != "" {
		s.r.Reason = s.why
	}
	if row.Event != "" {
		sev := severity[row.Event]
		if o := s.r.Outcome; row.Event == "command.reconciled" && o != nil && !o.Done {
			sev = Warning
		}
		s.out = append(s.out, Effect{Kind: Announce, Type: row.Event, Severity: sev, Reason: s.r.Reason})
	}
}

func (s *step) because(format string, args ...any) { s.why = fmt.Sprintf(format, args...) }

func (s *step) effect(k EffectKind) { s.out = append(s.out, Effect{Kind: k}) }

// Conditions.

func due(s *step) bool           { return past(s.r.Next, s.now) }
func late(s *step) bool          { return past(s.r.Deadline, s.now) }
func unprepared(s *step) bool    { return s.r.Spec.prepares() }
func dueUnprepared(s *step) bool { return due(s) && unprepared(s) }
func enabled(s *step) bool       { return s.p.Enabled }
func dueEnabled(s *step) bool    { return due(s) && enabled(s) }
func unreleased(s *step) bool    { return !s.r.Released }
func dueUnreleased(s *step) bool { return due(s) && unreleased(s) }
func unacked(s *step) bool       { return s.r.Released && !s.r.Acked }
func unwanted(s *step) bool      { return s.r.Cancel != nil || late(s) }
func runsAlone(s *step) bool     { return s.judgement.Verdict == InProgress && s.judgement.Reattach }

// split: two looks in a row saw the instance run on both hosts. The hosts of one look are not
// asked in the same moment, and a migration may end in between.
func split(s *step) bool {
	return s.judgement.Split && s.r.Evidence != nil && Judge(s.r, *s.r.Evidence).Split
}

func cancelled(s *step) bool { return s.r.Cancel != nil }

func lateUncancelled(s *step) bool { return late(s) && s.r.Cancel == nil }

func reply(want Reply) func(*step) bool { return func(s *step) bool { return s.ev.Reply == want } }
func verb(want Verb) func(*step) bool   { return func(s *step) bool { return s.ev.Verb == want } }

func newer(s *step) bool { return s.ev.Step != nil && s.ev.Step.Seq > s.r.Seq }

func news(want State) func(*step) bool {
	return func(s *step) bool { return newer(s) && s.ev.Step.State == want }
}

func lateNews(want State) func(*step) bool {
	return func(s *step) bool { return s.r.Outcome == nil && news(want)(s) }
}

func verdict(want Verdict) func(*step) bool {
	return func(s *step) bool { return s.judgement.Verdict == want }
}

// counts: the look was an attempt. One that could not ask the source because it is not
// there was none; it is looked again when it comes.
func (s *step) counts() bool {
	return s.ev.Evidence != nil && s.ev.Evidence.certain(s.r.Host)
}

func usedUp(s *step) bool { return s.counts() && s.r.Attempts+1 >= s.p.MaxAttempts }

func usedUpUnreleased(s *step) bool { return unreleased(s) && usedUp(s) }

// same: the evidence says what the outcome says.
func (s *step) same() bool {
	v := s.judgement.Verdict
	return s.r.Outcome != nil && (v == IsCompleted && s.r.Outcome.Done || v == IsFailed && !s.r.Outcome.Done)
}

func clean(s *step) bool { return unreleased(s) && s.same() && len(s.judgement.Left) == 0 }

func mayTidy(s *step) bool {
	return unreleased(s) && s.same() && slices.ContainsFunc(s.judgement.Left, allowed)
}

func allowed(a Action) bool { return a.Not == "" }

func contradicts(s *step) bool {
	v := s.judgement.Verdict
	return unreleased(s) && !s.same() && (v == IsCompleted || v == IsFailed || v == InProgress && s.judgement.Reattach || split(s))
}

func firstCancel(s *step) bool { return s.ev.Verb == VerbCancel && s.r.Cancel == nil }
func retryOpen(s *step) bool   { return s.ev.Verb == VerbReconcile && s.r.Outcome == nil }
func retryLeft(s *step) bool {
	return s.ev.Verb == VerbReconcile && s.r.Outcome != nil && !s.r.Released
}

// resolves: an operator's word is taken where no outcome is on record that it would flip.
func resolves(s *step) bool {
	return (s.ev.Verb == VerbDone || s.ev.Verb == VerbNotDone) && !s.r.Released &&
		(s.r.Outcome == nil || s.r.State == NeedsOperator)
}

func resolvesLeft(s *step) bool {
	return !s.r.Released && s.r.Outcome != nil && (s.ev.Verb == VerbDone && s.r.Outcome.Done || s.ev.Verb == VerbNotDone && !s.r.Outcome.Done)
}
