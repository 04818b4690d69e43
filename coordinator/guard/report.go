// SPDX-License-Identifier: Apache-2.0

package guard

import "time"

// Verdict is what one guard answers. Only Allow lets anything happen.
type Verdict string

const (
	Allow     Verdict = "allow"
	Hold      Verdict = "hold"       // evidence or time can clear it
	NeedHuman Verdict = "need-human" // only a human can clear it
)

// Answer is what one guard said, written to be read by people. Value and Limit are what
// was compared, where one figure decided.
type Answer struct {
	Guard   string  `json:"guard"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Value   string  `json:"value,omitempty"`
	Limit   string  `json:"limit,omitempty"`
	Clears  string  `json:"clears,omitempty"` // what would clear it; empty when it allows
}

// Report is one evaluation: every guard's answer, in the order of the table, and the
// snapshot they all looked at. The same snapshot gives the same answers.
type Report struct {
	At       time.Time `json:"at"`
	Purpose  Purpose   `json:"purpose"`
	Answers  []Answer  `json:"answers"`
	Snapshot *Snapshot `json:"snapshot,omitempty"`
}

// Allowed reports whether every guard allowed. A report without answers allows nothing.
func (r Report) Allowed() bool {
	for i := range r.Answers {
		if r.Answers[i].Verdict != Allow {
			return false
		}
	}
	return len(r.Answers) > 0
}

// Holding lists the answers that do not allow, in the order of the table.
func (r Report) Holding() []Answer {
	var out []Answer
	for _, a := range r.Answers {
		if a.Verdict != Allow {
			out = append(out, a)
		}
	}
	return out
}

// Evaluate asks every guard; none short-circuits (ha.md §6).
func Evaluate(s Snapshot) Report {
	r := Report{At: s.At, Purpose: s.Purpose, Snapshot: &s, Answers: make([]Answer, 0, len(Guards))}
	for i := range Guards {
		g := &Guards[i]
		var a Answer
		switch {
		case !s.Gathered:
			a = hold("the facts could not be gathered", "the next evaluation, once etcd and the power devices answer")
		case s.Purpose != Recover && s.Purpose != Fence && s.Purpose != Confirm:
			a = hold("what is to be done is not known: purpose "+quote(string(s.Purpose))+", allowed are recover, fence, confirm", "a new check")
		default:
			a = g.ask(&s)
		}
		a.Guard = g.Name
		r.Answers = append(r.Answers, a)
	}
	return r
}
