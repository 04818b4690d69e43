// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Verdict is what one decision came to, without words for people.
type Verdict struct {
	State   ha.State  `json:"state"`
	Outcome string    `json:"outcome,omitempty"` // of an incident that it ended
	Holds   []string  `json:"holds,omitempty"`   // guards and rules that hold
	Guards  []string  `json:"guards,omitempty"`  // every guard that was asked, with its answer
	Proof   string    `json:"proof,omitempty"`
	Next    time.Time `json:"next,omitzero"` // when something is due without any event
	Effects []string  `json:"effects,omitempty"`
}

// Line is one step, then and now.
type Line struct {
	N       int       `json:"n"`
	At      time.Time `json:"at"`
	Event   string    `json:"event"`
	Then    Verdict   `json:"then"`
	Now     Verdict   `json:"now"`
	Why     string    `json:"why"`               // reason on record after it
	WhyNow  string    `json:"whyNow,omitempty"`  // today's, where that is another
	Differs []string  `json:"differs,omitempty"` // what of the verdict is another
	Also    []string  `json:"also,omitempty"`    // fields of the record that are others beside the verdict
	Missing string    `json:"missing,omitempty"` // why nothing can be said of it
}

// Report is what a replay came to.
type Report struct {
	Host     string `json:"host"`
	Incident string `json:"incident"`
	Software string `json:"software,omitempty"` // of the worker that exported the file
	Lines    []Line `json:"lines"`
	Judged   int    `json:"judged"`
	Differ   int    `json:"differ"`  // lines whose verdict is another
	Missing  int    `json:"missing"` // lines, and gaps between them, that could not be judged
}

// Run makes each recorded decision again, on the record as it was then. It ends for every
// File that Parse has returned.
func Run(f File) Report {
	rep := Report{Host: f.Host, Incident: f.Incident, Software: f.Software}
	var tree map[string]any // record before the step; nil: not known
	var policy *ha.Policy
	for k, s := range f.Steps {
		if k == 0 && s.N > 0 || k > 0 && s.N != f.Steps[k-1].N+1 {
			tree, policy = nil, nil
			if s.Base == nil {
				rep.Missing++
			}
		}
		l, next, p := one(s, tree, policy)
		tree, policy = next, p
		switch {
		case l.Missing != "":
			rep.Missing++
		case len(l.Differs) > 0:
			rep.Judged, rep.Differ = rep.Judged+1, rep.Differ+1
		default:
			rep.Judged++
		}
		rep.Lines = append(rep.Lines, l)
	}
	return rep
}

// one judges a step and returns the record and the policy after it, as they were.
func one(s Step, tree map[string]any, policy *ha.Policy) (l Line, next map[string]any, p *ha.Policy) {
	l = Line{N: s.N, At: s.at(), Event: eventWords(s.Event)}
	if s.Left != "" {
		l.Missing = "its inputs were not kept: " + s.Left
		return l, nil, nil
	}
	if s.Base != nil {
		t, err := treeOf(bare(*s.Base))
		if err != nil {
			l.Missing = err.Error()
			return l, nil, nil
		}
		tree = t
	}
	if s.Policy != nil {
		policy = s.Policy
	}
	if tree == nil || policy == nil {
		l.Missing = "what was on record before it is not in the file"
		return l, nil, nil
	}
	var change map[string]any
	if err := decode(s.Change, &change); err != nil {
		l.Missing = "change: " + err.Error()
		return l, nil, nil
	}
	next = merge(tree, change)
	before, err := recordOf(tree)
	if err == nil {
		var then ha.Record
		if then, err = recordOf(next); err == nil {
			err = judge(&l, s, before, then, *policy)
		}
	}
	if err != nil {
		l.Missing = err.Error()
		return l, nil, nil
	}
	return l, next, policy
}

// judge lays today's decision beside the recorded one.
func judge(l *Line, s Step, before, then ha.Record, p ha.Policy) (err error) {
	now, effects, err := decide(before, s.Event, p)
	if err != nil {
		return err
	}
	l.Then, l.Now = verdictOf(then, s.Effects), verdictOf(now, effects)
	l.Why = then.Reason
	if now.Reason != then.Reason {
		l.WhyNow = now.Reason
	}
	l.Differs = differences(l.Then, l.Now)
	a, err := treeOf(bare(then))
	if err != nil {
		return err
	}
	b, err := treeOf(bare(now))
	if err != nil {
		return err
	}
	l.Also = paths("", silent(a), silent(b))
	return nil
}

// decide calls ha.Step. A file may hold a record that no Step has made: where today's code
// breaks off on it, that is said of this line.
func decide(before ha.Record, ev ha.Event, p ha.Policy) (r ha.Record, out []ha.Effect, err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("today's code takes no such record: %v", x)
		}
	}()
	r, out = ha.Step(before, ev, p)
	return r, out, nil
}

func verdictOf(r ha.Record, effects []ha.Effect) Verdict {
	v := Verdict{State: r.State, Next: r.NextDeadline().UTC()}
	for _, h := range r.Holds() {
		v.Holds = append(v.Holds, h.By)
	}
	if i := r.Incident; i != nil {
		v.Outcome = i.Outcome
		if i.Guards != nil {
			for _, a := range i.Guards.Answers {
				v.Guards = append(v.Guards, a.Guard+" "+string(a.Verdict))
			}
		}
	}
	if p := r.Proof; p != nil {
		v.Proof = fmt.Sprintf("%s %s of %s", p.Assurance, p.How, p.Boot)
		if p.Revoked != "" {
			v.Proof += ", revoked"
		}
		if p.Ended {
			v.Proof += ", ended"
		}
	}
	for _, e := range effects {
		v.Effects = append(v.Effects, effectWords(e))
	}
	return v
}

// effectWords names an effect and all of it that is decided.
func effectWords(e ha.Effect) string {
	words := []string{string(e.Kind)}
	for _, w := range []string{e.Type, string(e.Severity), string(e.Purpose)} {
		if w != "" {
			words = append(words, w)
		}
	}
	if e.Kind == ha.CloseIncident {
		words = append(words, e.Reason)
	}
	if t := e.Txn; t != nil {
		words = append(words, string(t.Do))
		for _, w := range []string{string(t.Verb), t.Device} {
			if w != "" {
				words = append(words, w)
			}
		}
	}
	return strings.Join(words, " ")
}

// differences names what of two verdicts is not the same.
func differences(then, now Verdict) (out []string) {
	say := func(what, a, b string) {
		if a != b {
			out = append(out, fmt.Sprintf("%s: %s then, %s now", what, orNone(a), orNone(b)))
		}
	}
	say("state", string(then.State), string(now.State))
	say("outcome", then.Outcome, now.Outcome)
	say("proof", then.Proof, now.Proof)
	if !then.Next.Equal(now.Next) {
		out = append(out, fmt.Sprintf("next deadline: %s then, %s now", moment(then.Next), moment(now.Next)))
	}
	for _, x := range []struct {
		what      string
		then, now []string
	}{{"holds", then.Holds, now.Holds}, {"guards", then.Guards, now.Guards}, {"effects", then.Effects, now.Effects}} {
		gone, come := without(x.then, x.now), without(x.now, x.then)
		switch {
		case len(gone)+len(come) > 0:
			say(x.what, strings.Join(gone, ", "), strings.Join(come, ", "))
		case !slices.Equal(x.then, x.now):
			out = append(out, x.what+": in another order")
		}
	}
	return out
}

// without are the entries of a that b does not have, each as often.
func without(a, b []string) (out []string) {
	left := slices.Clone(b)
	for _, x := range a {
		if i := slices.Index(left, x); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			out = append(out, x)
		}
	}
	return out
}

// words are the fields of a record that are written for people.
var words = map[string]bool{
	"reason": true, "why": true, "healthWhy": true, "eligibleWhy": true, "clears": true, "text": true, "cause": true, "revoked": true,
	"value": true, "limit": true, "failed": true, "unfed": true, "over": true, "evidence": true, "ledger": true,
}

// silent is a record without words.
func silent(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := maps.Clone(x)
		for k, sub := range x {
			if words[k] {
				delete(out, k)
			} else {
				out[k] = silent(sub)
			}
		}
		return out
	case []any:
		out := slices.Clone(x)
		for i := range out {
			out[i] = silent(out[i])
		}
		return out
	}
	return v
}

// maxPaths bounds Line.Also.
const maxPaths = 8

// paths names the fields in which two trees differ.
func paths(at string, a, b any) (out []string) {
	am, one := a.(map[string]any)
	bm, two := b.(map[string]any)
	if !one || !two {
		if !reflect.DeepEqual(a, b) {
			out = append(out, strings.TrimPrefix(at, "."))
		}
		return out
	}
	all := maps.Clone(am)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, bm)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, paths(at+"."+k, am[k], bm[k])...)
		if len(out) > maxPaths {
			return append(out[:maxPaths], "and more")
		}
	}
	return out
}

// eventWords says in short what happened.
func eventWords(ev ha.Event) string {
	w := []string{string(ev.Kind)}
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	if ev.Kind == ha.EvHealth || ev.Kind == ha.EvEligible {
		add("%s", verdictWord(ev.Verdict))
	}
	if c := ev.Check; c != nil {
		add("%s: %s", verdictWord(c.Verdict), clip(c.Reason))
	}
	if s := ev.Snapshot; s != nil {
		add("to %s: the guards are asked", s.Purpose)
	}
	if ev.Kind == ha.EvPower {
		add("reads %s", ev.Power)
	}
	if t := ev.Txn; t != nil {
		add("%s", answerWords(t))
	}
	if o := ev.Order; o != nil {
		add("%s by %s", o.Verb, clip(o.By))
	}
	if ev.Kind == ha.EvPartition {
		add("%s", ev.Partition)
	}
	if ev.Kind == ha.EvHello || ev.Kind == ha.EvSeen {
		add("boot %s", clip(ev.Boot))
	}
	if ev.Reason != "" {
		add("(%s)", clip(ev.Reason))
	}
	return strings.Join(w, " ")
}

// answerWords says what a device has answered.
func answerWords(t *power.TxnEvent) string {
	switch {
	case t.Tick:
		return "time has come"
	case t.Adopted:
		return "a new owner goes on"
	case t.Cancel != "":
		return "cancelled: " + clip(t.Cancel)
	case !t.Life.IsZero():
		return "a sign of life"
	case t.Err != power.NoError:
		return fmt.Sprintf("answer %d: %s", t.Seq, clip(string(t.Err)))
	case t.Outcome != "":
		return fmt.Sprintf("answer %d: %s", t.Seq, clip(string(t.Outcome)))
	case t.Reading.State != power.Unknown:
		return fmt.Sprintf("answer %d: reads %s", t.Seq, t.Reading.State)
	case t.Matched:
		return fmt.Sprintf("answer %d: identity matches", t.Seq)
	}
	return fmt.Sprintf("answer %d", t.Seq)
}

func verdictWord(v ha.Verdict) string {
	if v == ha.Unknown {
		return "unknown"
	}
	return clip(string(v))
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Records are the records after each step as they were, nil where the file does not tell.
// They lack what the recorder leaves out: lines of stories, and the guards' snapshot.
func Records(steps []Step) []*ha.Record {
	out := make([]*ha.Record, len(steps))
	var tree map[string]any
	for k, s := range steps {
		if s.Left != "" || k > 0 && s.N != steps[k-1].N+1 {
			tree = nil
		}
		if s.Base != nil {
			var err error
			if tree, err = treeOf(*s.Base); err != nil {
				tree = nil
			}
		}
		var change map[string]any
		if tree == nil || decode(s.Change, &change) != nil {
			tree = nil
			continue
		}
		tree = merge(tree, change)
		if r, err := recordOf(tree); err == nil {
			out[k] = &r
		}
	}
	return out
}

// Answer says in words what a device has answered to an exchange.
func Answer(t power.TxnEvent) string {
	switch {
	case t.Err != power.NoError && t.Detail != "":
		return string(t.Err) + ": " + t.Detail
	case t.Err != power.NoError:
		return string(t.Err)
	case t.Outcome != "":
		return string(t.Outcome)
	case t.Reading.State != power.Unknown:
		return "reads " + t.Reading.State.String()
	case t.Matched:
		return "the identity is the pinned one"
	}
	return "no state"
}
