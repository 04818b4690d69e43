// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ha.md §2: what makes a cluster ACTIVE, and how little makes it leave.
func TestPartition(t *testing.T) {
	off := []string{"HA is disabled at z1/p1"}
	for _, c := range []struct {
		name  string
		from  PartitionState
		facts PartitionFacts
		want  PartitionState
	}{
		{"two fit hosts", PartitionNone, PartitionFacts{Members: 2, Eligible: 2, Fit: 2}, PartitionActive},
		{"one fit, one with an incident", PartitionInactive, PartitionFacts{Members: 2, Eligible: 2, Fit: 1, Open: 1}, PartitionActive},
		{"one fit, the other neither", PartitionInactive, PartitionFacts{Members: 2, Eligible: 2, Fit: 1}, PartitionInactive},
		{"none fit", PartitionInactive, PartitionFacts{Members: 2, Eligible: 2, Open: 2}, PartitionInactive},
		{"one eligible", PartitionNone, PartitionFacts{Members: 3, Eligible: 1, Fit: 1}, PartitionInactive},
		{"a suspicion never disarms a two-host cluster", PartitionActive, PartitionFacts{Members: 2, Eligible: 2, Fit: 1, Open: 1}, PartitionActive},
		{"nor do two", PartitionActive, PartitionFacts{Members: 2, Eligible: 2, Open: 2}, PartitionActive},
		{"fewer than two eligible", PartitionActive, PartitionFacts{Members: 2, Eligible: 1, Fit: 1}, PartitionInactive},
		{"one is enough where the provider says so", PartitionNone, PartitionFacts{Needed: Needed{Members: 1}, Members: 1, Eligible: 1, Fit: 1}, PartitionActive},
		{"and its suspicion does not disarm it", PartitionActive, PartitionFacts{Needed: Needed{Members: 1}, Members: 1, Eligible: 1, Open: 1}, PartitionActive},
		{"three where one says three", PartitionActive, PartitionFacts{Needed: Needed{Members: 1}.With(Needed{Members: 3}).With(Needed{Members: 2}), Members: 2, Eligible: 2, Fit: 2}, PartitionInactive},
		{"disabled above", PartitionActive, PartitionFacts{Disabled: off, Members: 2, Eligible: 2, Fit: 2}, PartitionNone},
		{"disabled and short of hosts", PartitionInactive, PartitionFacts{Disabled: off}, PartitionNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewPartition("z1/p1/c1", epoch)
			r.State = c.from
			at := epoch.Add(time.Minute)
			if c.facts.Needed == (Needed{}) {
				c.facts.Needed = Needed{2, "one to fail and one to see it"}
			}
			next, effects := StepPartition(r, c.facts, at)
			if next.State != c.want || next.Reason == "" {
				t.Fatalf("%s (%s), want %s", next.State, next.Reason, c.want)
			}
			if changed := c.from != c.want; changed != (len(effects) == 1) || changed != next.Since.Equal(at) {
				t.Errorf("changed %v: since %s, %d events", changed, next.Since, len(effects))
			}
			again, effects := StepPartition(next, c.facts, at.Add(time.Minute))
			if diff := cmp.Diff(next, again); diff != "" || len(effects) > 0 {
				t.Errorf("the same facts change something: %s, %d events", diff, len(effects))
			}
		})
	}
}

// ha.md §8: only AVAILABLE hosts take work that needs HA; other work prefers hosts
// outside HA partitions; every host gets a reason.
func TestRank(t *testing.T) {
	hosts := []Candidate{
		{Host: "a", State: Available, Partition: PartitionActive, Health: Pass},
		{Host: "b", State: Suspect, Partition: PartitionActive, Health: Fail},
		{Host: "c", State: None, Partition: PartitionNone, Health: Pass},
		{Host: "d", State: Ineligible, Partition: PartitionActive, Admin: Admin{Excluded: true}, Health: Pass},
		{Host: "e", State: Ineligible, Partition: PartitionActive, Admin: Admin{Maintenance: true}, Health: Pass},
		{Host: "f", State: Initializing, Partition: PartitionActive},
		{Host: "g", State: None, Partition: PartitionNone, Health: Fail},
		{Host: "h", State: Unsupported, Partition: PartitionActive, Health: Pass},
		{Host: "i", State: None, Admin: Admin{Disabled: true}, Health: Pass},
	}
	order := func(needHA bool) (fits, not string) {
		for k, r := range Rank(hosts, needHA) {
			if r.Reason == "" {
				t.Errorf("%s without a reason", r.Host)
			}
			if r.Fits {
				fits += r.Host
				if r.Rank != k+1 {
					t.Errorf("%s: rank %d at place %d", r.Host, r.Rank, k+1)
				}
			} else {
				not += r.Host
			}
		}
		return fits, not
	}
	if fits, not := order(true); fits != "a" || not != "bcdefghi" {
		t.Errorf("needs HA: %s | %s", fits, not)
	}
	if fits, not := order(false); fits != "cadfg" || not != "behi" {
		t.Errorf("needs none: %s | %s", fits, not)
	}
}
