// SPDX-License-Identifier: Apache-2.0

package command

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(seconds int) time.Time {
	return time.Date(2026, 11, 21, 14, 28, seconds, 0, time.UTC)
}

var policy = Policy{Enabled: true, Interval: time.Minute, MaxAttempts: 5}

var answers = []Answer{Absent, Present, CouldNotLook, ""}

func drawFile(t *rapid.T) FileSight {
	s := FileSight{Answer: rapid.SampledFrom(answers).Draw(t, "answer")}
	if s.Answer == Present && rapid.Bool().Draw(t, "used") {
		s.Users = []string{"process/7"}
	}
	if s.Answer == Present && rapid.Bool().Draw(t, "users unknown") {
		s.Unknown = "no answer"
	}
	return s
}

func drawEvidence(t *rapid.T) Evidence {
	e := Evidence{Hosts: map[string]HostEvidence{}, Over: map[string]string{}}
	for _, host := range []string{"h1", "h2"} {
		h := HostEvidence{Host: host, Answered: rapid.Bool().Draw(t, "answered"), Working: rapid.IntRange(0, 9).Draw(t, "working") == 0, Files: map[string]FileSight{}}
		if !h.Answered && rapid.Bool().Draw(t, "over") {
			e.Over[host] = "fence"
		}
		h.Instance = InstanceSight{Answer: rapid.SampledFrom(answers).Draw(t, "instance")}
		if h.Instance.Answer == Present {
			h.Instance.State = rapid.SampledFrom([]string{Running, Paused, Stopped}).Draw(t, "state")
			h.Instance.Disks = []Ref{rapid.SampledFrom([]Ref{{"a", "old"}, {"b", "new"}, {"c", "other"}}).Draw(t, "disk")}
			if rapid.IntRange(0, 3).Draw(t, "elsewhere") == 0 {
				h.Instance.Elsewhere = []string{"/dev/sdb"}
			}
		}
		h.Job = JobSight{Answer: rapid.SampledFrom(answers).Draw(t, "job"), To: Ref{"b", "new"}}
		for _, f := range []string{"a:old", "b:new", "b:.new.part"} {
			h.Files[f] = drawFile(t)
		}
		e.Hosts[host] = h
	}
	return e
}

func drawSpec(t *rapid.T) Spec {
	names := sorted(specs)
	return specs[rapid.SampledFrom(names).Draw(t, "spec")]
}

// "A destructive step needs positive proof that the other side is complete and in use, or
// that nobody uses the thing deleted": whatever is seen, in any combination.
func TestNothingIsDeletedOnAGuess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, e := drawSpec(t), drawEvidence(t)
		j := Judge(New("id", "h1", "op", "", spec, nil, at(0), at(0)), e)
		if j.Verdict != IsCompleted && j.Verdict != IsFailed && len(j.Left) > 0 {
			t.Fatalf("%s leaves %v", j.Verdict, j.Left)
		}
		for _, a := range j.Left {
			if a.Deed != Delete || a.Not != "" {
				continue
			}
			key := a.File.String()
			for host, h := range e.Hosts {
				if h.Answered && (len(h.Files[key].Users) > 0 || h.Files[key].Unknown != "" && h.Files[key].Answer == Present) {
					t.Fatalf("%v although %s sees %+v", a, host, h.Files[key])
				}
				if h.Answered && h.Instance.State == Running && h.Instance.uses(a.File) && spec.Instance != "" {
					t.Fatalf("%v although the instance runs with it on %s", a, host)
				}
			}
			item := spec.Items[0]
			if a.File == item.From {
				if j.Verdict != IsCompleted {
					t.Fatalf("the source is deleted after %s", j.Verdict)
				}
				if s := e.file(item.To); s.Answer != Present {
					t.Fatalf("the source is deleted, the destination is %s", s.Answer)
				}
			}
			if a.File == item.To && j.Verdict != IsFailed {
				t.Fatalf("the destination is deleted after %s", j.Verdict)
			}
		}
	})
}

// "Absent and could not look are different answers": evidence that lacks an answer never
// turns one determinate verdict into the other.
func TestLessEvidenceNeverTellsTheOpposite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, e := drawSpec(t), drawEvidence(t)
		r := New("id", "h1", "op", "", spec, nil, at(0), at(0))
		full := Judge(r, e)
		less := Evidence{Hosts: map[string]HostEvidence{}, Over: map[string]string{}}
		for _, host := range slices.Sorted(maps.Keys(e.Hosts)) {
			h := e.Hosts[host]
			switch rapid.IntRange(0, 3).Draw(t, "loses") {
			case 0:
				h.Answered = false
			case 1:
				h.Instance = InstanceSight{Answer: CouldNotLook}
			case 2:
				h.Files = map[string]FileSight{}
			}
			less.Hosts[host] = h
		}
		part := Judge(r, less)
		if full.Verdict == IsCompleted && part.Verdict == IsFailed || full.Verdict == IsFailed && part.Verdict == IsCompleted {
			t.Fatalf("%s (%s) became %s (%s)", full.Verdict, full.Why, part.Verdict, part.Why)
		}
	})
}

// "Contradicting looks of two hosts at one thing are undetermined": a file that decides
// tells nothing where one host sees it and another says that it is not there, and with
// nothing but such looks an operator is asked.
func TestContradictingLooksTellNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, e := specs[rapid.SampledFrom([]string{"copy", "migrate-volume", "migrate-volume-stopped"}).Draw(t, "spec")], drawEvidence(t)
		for n, host := range []string{"h1", "h2"} {
			h := e.Hosts[host]
			h.Answered, h.Working = true, false
			h.Instance = InstanceSight{Answer: Present, State: Stopped, Disks: []Ref{{"a", "old"}}}
			h.Files["b:new"] = FileSight{Answer: answers[n]}
			e.Hosts[host] = h
		}
		r := New("id", "h1", "op", "", spec, nil, at(0), time.Time{})
		if j := Judge(r, e); j.Verdict != Undetermined || len(j.Left) > 0 {
			t.Fatalf("%s: %s, leaves %v", j.Verdict, j.Why, j.Left)
		}
		r, _ = Step(r, Event{Kind: EvStep, At: at(0), Step: &JournalStep{Seq: 1, State: Interrupted}}, policy)
		for now := at(0); r.State != NeedsOperator; now = now.Add(2 * time.Minute) {
			if r.Attempts > policy.MaxAttempts {
				t.Fatalf("still %s after %d attempts", r.State, r.Attempts)
			}
			r, _ = Step(r, Event{Kind: EvTick, At: now}, policy)
			r, _ = Step(r, Event{Kind: EvEvidence, At: now, Evidence: &e}, policy)
		}
	})
}

func drawEvent(t *rapid.T, now time.Time, seq int) Event {
	ev := Event{Kind: rapid.SampledFrom(EventKinds).Draw(t, "event"), At: now, By: "op"}
	switch ev.Kind {
	case EvSent, EvPrepared:
		ev.Reply = rapid.SampledFrom([]Reply{Accepted, Refused, NoReply}).Draw(t, "reply")
	case EvStep:
		ev.Step = &JournalStep{Seq: rapid.IntRange(1, seq+2).Draw(t, "seq"), State: rapid.SampledFrom([]State{Started, Processing, Backend, Completed, Failed, Interrupted, Dangling}).Draw(t, "step")}
	case EvEvidence:
		e := drawEvidence(t)
		ev.Evidence = &e
	case EvTidied:
		ev.Tidied = []Action{{Deed: Delete, Done: rapid.Bool().Draw(t, "done"), Not: "x"}}
	case EvOperator:
		ev.Verb = rapid.SampledFrom([]Verb{VerbCancel, VerbReconcile, VerbDone, VerbNotDone}).Draw(t, "verb")
	}
	return ev
}

// Step is pure and total over any history; an outcome never changes by itself, nothing
// ended comes to life again, resources are released once, and only with an outcome.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New("id", "h1", "op", "", drawSpec(t), []string{"volumes/v"}, at(0), at(100))
		now := at(0)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			ev := drawEvent(t, now, r.Seq)
			was := clone(r)
			next, effects := Step(r, ev, policy)
			if !reflect.DeepEqual(r, was) {
				t.Fatalf("%v changed its argument", ev)
			}
			again, effects2 := Step(r, ev, policy)
			if !reflect.DeepEqual(next, again) || !reflect.DeepEqual(effects, effects2) {
				t.Fatalf("%v: two calls differ", ev)
			}
			if was.Outcome != nil && (next.Outcome == nil || next.Outcome.Done != was.Outcome.Done) && ev.Kind != EvOperator {
				t.Fatalf("%s %v: outcome %+v became %+v", was.State, ev, was.Outcome, next.Outcome)
			}
			if was.Released && (!next.Released || next.State != was.State) {
				t.Fatalf("%s, released, became %s", was.State, next.State)
			}
			if next.Released && (next.Outcome == nil || len(next.Left) > 0) {
				t.Fatalf("released without an outcome, or with %v left", next.Left)
			}
			if slices.Contains(judged, was.State) && slices.Contains(active, next.State) {
				t.Fatalf("%s flips back to %s", was.State, next.State)
			}
			if next.Seq < was.Seq {
				t.Fatalf("journal went back from %d to %d", was.Seq, next.Seq)
			}
			for _, e := range effects {
				if e.Kind == Send && next.State != Sent {
					t.Fatalf("sent in %s", next.State)
				}
				if e.Kind == Tidy && next.Outcome == nil {
					t.Fatal("tidied without an outcome on record")
				}
			}
			if due := next.Due(); !due.IsZero() && !due.After(now) && ev.Kind == EvTick && reflect.DeepEqual(next, r) {
				t.Fatalf("%s: a tick that is due changes nothing: the deadline stands still", next.State)
			}
			r = next
		}
	})
}

func clone(r Record) Record {
	if r.Outcome != nil {
		o := *r.Outcome
		r.Outcome = &o
	}
	if r.Cancel != nil {
		c := *r.Cancel
		r.Cancel = &c
	}
	r.Left = slices.Clone(r.Left)
	return r
}

// With evidence that is certain every interrupted command ends, within its attempts: in
// an outcome or with an operator.
func TestAttemptsEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := New("id", "h1", "op", "", drawSpec(t), nil, at(0), time.Time{})
		now := at(0)
		r, _ = Step(r, Event{Kind: EvStep, At: now, Step: &JournalStep{Seq: 1, State: Interrupted}}, policy)
		looks := 0
		for r.State == Interrupted || r.State == Reconciling {
			now = now.Add(2 * time.Minute)
			var effects []Effect
			r, effects = Step(r, Event{Kind: EvTick, At: now}, policy)
			if slices.ContainsFunc(effects, func(e Effect) bool { return e.Kind == Gather }) {
				e := drawEvidence(t)
				for host, h := range e.Hosts { // nobody is at work: that is no attempt
					h.Answered, h.Working = h.Answered || host == "h1", false
					e.Hosts[host] = h
				}
				r, _ = Step(r, Event{Kind: EvEvidence, At: now, Evidence: &e}, policy)
				looks++
			}
			if looks > policy.MaxAttempts {
				t.Fatalf("still %s after %d looks", r.State, looks)
			}
		}
	})
}

// A migration that failed at its very end leaves its definition at the target: it is looked at
// and undefined before the command is over.
func TestAFailedMigrationLeavesNothing(t *testing.T) {
	r := New("id", "h1", "op", "", specs["migrate"], nil, at(0), time.Time{})
	r, effects := Step(r, Event{Kind: EvStep, At: at(1), Step: &JournalStep{Seq: 1, State: Failed, What: "cont: it runs here", Ran: Running}}, policy)
	look := func(text string) {
		t.Helper()
		if r.Released || len(effects) == 0 || !slices.ContainsFunc(effects, func(e Effect) bool { return e.Kind == Gather }) {
			t.Fatalf("%s, released %v: %v", r.State, r.Released, effects)
		}
		e := parseEvidence(t, text)
		r, effects = Step(r, Event{Kind: EvEvidence, At: at(2), Evidence: &e}, policy)
	}
	look("h1: i3=running/a:old job=absent\nh2: i3=stopped/a:old")
	want := Action{Deed: Undefine, Host: "h2", Why: "it is on h1"}
	if len(effects) != 1 || effects[0].Kind != Tidy || !slices.Equal(effects[0].Actions, []Action{want}) {
		t.Fatalf("effects %v, want %v", effects, want)
	}
	r, effects = Step(r, Event{Kind: EvTidied, At: at(3), Tidied: []Action{{Deed: Undefine, Host: "h2", Done: true}}}, policy)
	look("h1: i3=running/a:old job=absent\nh2: i3=absent")
	if !r.Released || r.State != Failed || r.Outcome.Done {
		t.Errorf("%s, released %v, outcome %+v", r.State, r.Released, r.Outcome)
	}
}

// The hosts of one look are not asked in the same moment: that an instance runs on both counts
// when two looks in a row saw it.
func TestRunningTwiceIsSeenTwice(t *testing.T) {
	r := New("id", "h1", "op", "", specs["migrate"], nil, at(0), time.Time{})
	r, _ = Step(r, Event{Kind: EvStep, At: at(1), Step: &JournalStep{Seq: 1, State: Dangling}}, policy)
	r, _ = Step(r, Event{Kind: EvTick, At: at(1)}, policy)
	look := func(second int, text string, want State) {
		t.Helper()
		e := parseEvidence(t, text)
		r, _ = Step(r, Event{Kind: EvEvidence, At: at(second), Evidence: &e}, policy)
		if r.State != want {
			t.Fatalf("after %q: %s, want %s", text, r.State, want)
		}
	}
	both, moved := "h1: i3=running/a:old job=absent\nh2: i3=running/a:old", "h1: i3=paused/a:old job=absent\nh2: i3=running/a:old"
	look(2, both, Reconciling)
	if r.Next.After(at(4)) {
		t.Errorf("looked at again at %v", r.Next)
	}
	look(3, moved, Reconciling)
	look(4, both, Reconciling)
	look(5, both, NeedsOperator)
}
