// SPDX-License-Identifier: Apache-2.0

package command

import "fmt"

// Explanation answers why a command is as it is, and what comes next.
type Explanation struct {
	Why, Next, OperatorMay []string
}

// Explain says what is so, what happens next by itself, and what an operator may do.
func Explain(r Record, p Policy) Explanation {
	x := Explanation{Why: []string{r.Reason}}
	if e := r.Evidence; e != nil {
		x.Why = append(x.Why, e.Lines()...)
	}
	for _, a := range r.Left {
		line := fmt.Sprintf("still to tidy: %s", a)
		if a.Not != "" {
			line += ", not now: " + a.Not
		}
		x.Why = append(x.Why, line)
	}
	switch {
	case r.State == NeedsOperator:
		x.Next = []string{"nothing by itself: its resources take no other command until it is resolved"}
		x.OperatorMay = []string{"look again: holdfast command reconcile " + r.ID, "say what is so: holdfast command resolve " + r.ID + " --completed or --failed"}
		return x
	case r.Released:
		x.Next = []string{"nothing: it has ended"}
		return x
	case r.Outcome != nil:
		x.Next = []string{"what is left is tidied; then its resources take the next command"}
	case r.State == Interrupted || r.State == Dangling || r.State == Reconciling:
		x.Next = []string{fmt.Sprintf("all its hosts are asked what they see, attempt %d of %d", r.Attempts+1, p.MaxAttempts)}
		if !p.Enabled {
			x.Next = []string{"nothing: reconcile.enabled is false"}
		}
		x.OperatorMay = []string{"look again: holdfast command reconcile " + r.ID, "say what is so: holdfast command resolve " + r.ID + " --completed or --failed"}
		return x
	case r.State == Sent || r.State == Pending:
		x.Next = []string{"it is worked on as soon as the agent of " + r.Host + " is linked"}
	default:
		x.Next = []string{"the agent of " + r.Host + " works on it, linked or not; its answer or its next start tells how it went"}
	}
	if r.Cancel == nil && r.Outcome == nil {
		x.OperatorMay = []string{"holdfast command cancel " + r.ID}
	}
	return x
}

// Lines are the evidence in words.
func (e Evidence) Lines() []string {
	var out []string
	for _, host := range sorted(e.Hosts) {
		h := e.Hosts[host]
		if !h.Answered {
			line := host + " has not answered: " + h.Why
			if how := e.Over[host]; how != "" {
				line = host + " is over: " + how
			}
			out = append(out, line)
			continue
		}
		if h.Working {
			out = append(out, host+" is at work on it")
		}
		if h.Instance.Answer != "" {
			line := host + " sees the instance " + seen(h.Instance)
			if len(h.Instance.Disks) > 0 || len(h.Instance.Elsewhere) > 0 {
				line += " on " + h.Instance.disks()
			}
			out = append(out, line)
		}
		if h.Job.Answer != "" {
			out = append(out, fmt.Sprintf("%s sees its job %s, %d of %d bytes", host, h.Job.Answer, h.Job.Done, h.Job.Total))
		}
		for _, f := range sorted(h.Files) {
			s := h.Files[f]
			line := fmt.Sprintf("%s sees %s %s", host, f, s.Answer)
			switch {
			case s.Answer == Present:
				line += fmt.Sprintf(", %d bytes, users %v", s.Size, s.Users)
			case s.Why != "":
				line += ": " + s.Why
			}
			out = append(out, line)
		}
	}
	return out
}

func (a Action) String() string {
	if a.Deed == Delete {
		return fmt.Sprintf("delete %s from %s (%s)", a.File, a.Host, a.Why)
	}
	return fmt.Sprintf("%s the instance on %s (%s)", a.Deed, a.Host, a.Why)
}
