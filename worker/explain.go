// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// minEligible is how many eligible hosts an ACTIVE partition has (ha.md §2).
const minEligible = 2

// partitionOutlook adds to the explanation of a partition why it is not ACTIVE, how far it
// is from another state, what holds automation there, and what is under way.
func (b *backend) partitionOutlook(x *v1.Explanation, p v1.Partition) {
	path := p.Spec.Path
	rec, known := get(b.view, b.view.states, path)
	disabled := len(b.view.disabled(path)) > 0
	switch r := rec.Val; {
	case !known || disabled:
	case r.State == ha.PartitionActive:
		x.WouldChange = append(x.WouldChange, fmt.Sprintf("it becomes INACTIVE when fewer than %d of its hosts are eligible: %d are, so that it can spare %d", minEligible, r.Eligible, max(0, r.Eligible-minEligible)))
		x.Next = append(x.Next, "it is looked at again whenever a member changes; a suspicion or a dead BMC takes it out of nothing")
	case r.Eligible < minEligible:
		x.WhyNot = append(x.WhyNot, fmt.Sprintf("it is not ACTIVE: %d of its %d hosts are eligible, %d are needed: one to fail and one to see it", r.Eligible, r.Members, minEligible))
		x.WouldChange = append(x.WouldChange, fmt.Sprintf("%d more eligible hosts; the hosts below say what each lacks", minEligible-r.Eligible))
		x.Next = append(x.Next, "ACTIVE as soon as that is so; its hosts are then INITIALIZING until their first health pass")
	default:
		x.WhyNot = append(x.WhyNot, "it is not ACTIVE: "+r.Reason)
		x.WouldChange = append(x.WouldChange, "one healthy eligible host, and a second one that is healthy or has an open incident")
		x.Next = append(x.Next, "ACTIVE as soon as that is so")
	}
	b.partitionStorms(x, path)
	b.partitionIncidents(x, path)
	if q := p.Budget; q != nil {
		switch {
		case q.Latched:
			x.WhyNot = append(x.WhyNot, fmt.Sprintf("no host here is switched off by automation: budget %s is latched (%d of %d in %s)", q.Scope, q.Used, q.Limit, q.Window))
			x.OperatorMay = append(x.OperatorMay, fmt.Sprintf("`holdfast ha budget reset %s` or `holdfast ha budget grant %s`, with a reason", q.Scope, q.Scope))
		case q.Used >= q.Limit:
			next := ""
			if q.Next != "" {
				next = "; the next slot is free in " + q.Next
			}
			x.WhyNot = append(x.WhyNot, fmt.Sprintf("no further host here is switched off by automation: budget %s is used up (%d of %d in %s)%s", q.Scope, q.Used, q.Limit, q.Window, next))
		default:
			x.Evidence = append(x.Evidence, fmt.Sprintf("budget %s: %d of %d power-downs used in the last %s", q.Scope, q.Used, q.Limit, q.Window))
		}
	}
}

func (b *backend) partitionStorms(x *v1.Explanation, path string) {
	for _, level := range guard.Levels(path) {
		a, ok := get(b.view, b.view.areas, level)
		switch {
		case !ok:
		case a.Val.Open:
			x.WhyNot = append(x.WhyNot, fmt.Sprintf("nothing is switched off in %s: it is in a storm since %s: %s", level, a.Val.Began.UTC().Format(time.RFC3339), a.Val.Why))
		case !a.Val.Ended.IsZero():
			cooldown := b.view.effective(path, "", time.Now()).Duration("guard.storm.cooldown")
			if until := a.Val.Ended.Add(cooldown); until.After(time.Now()) {
				x.WhyNot = append(x.WhyNot, fmt.Sprintf("nothing is switched off in %s before %s: a storm ended there", level, until.UTC().Format(time.RFC3339)))
			}
		}
	}
}

// partitionIncidents lists what is under way, and what each waits for.
func (b *backend) partitionIncidents(x *v1.Explanation, path string) {
	var lines []string
	for id, s := range b.view.hosts() {
		r, ok := get(b.view, b.view.ha, id)
		if !ok || !within(s.Val.Partition, path) || !r.Val.Unhealthy() {
			continue
		}
		line := fmt.Sprintf("host %s is %s: %s", id, r.Val.State, r.Val.Reason)
		var held []string
		for _, h := range r.Val.Holds() {
			held = append(held, h.By)
		}
		if len(held) > 0 {
			line += "; held by " + strings.Join(held, ", ")
		}
		lines = append(lines, line+"; holdfast explain host "+id)
	}
	slices.Sort(lines)
	const most = 20
	if n := len(lines) - most; n > 0 {
		lines = append(lines[:most], fmt.Sprintf("and %d more hosts", n))
	}
	x.Next = append(x.Next, lines...)
}
