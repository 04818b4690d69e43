// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"strings"
	"testing"
	"time"
)

// TestOnlyTheFirstCheckMayRemember: what neighbours saw before they were asked counts for the
// silence that opened the incident. Every later check is asked because of something that has
// happened since (an answer, an action, a hold), and must not see what was before (ha.md §3:
// "no old verdict arms anything", "a check asked after the attempt").
func TestOnlyTheFirstCheckMayRemember(t *testing.T) {
	for _, how := range []string{"no-boot crash", "agent-killed", "link-lost", "storage-lost", "bmc-lies crash"} {
		for _, memory := range []bool{true, false} {
			p := testPolicy("fast")
			p.Memory = memory
			w := newWorld(p)
			w.quietLogs = true
			w.feed(Event{Kind: EvPartition, Partition: PartitionActive})
			w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
			w.feed(Event{Kind: EvEligible, Verdict: Pass})
			w.advance(time.Minute)
			first, seen := map[string]bool{}, 0
			w.check = func(r Record, ev Event, s *step) {
				for _, e := range s.out {
					if e.Kind != StartCheck {
						continue
					}
					seen++
					id := s.r.Incident.ID
					if want := memory && !first[id]; e.Memory != want {
						t.Errorf("%s: check %s of %s: memory is %v, want %v", how, e.ID, id, e.Memory, want)
					}
					first[id] = true
				}
			}
			for _, what := range strings.Fields(how) {
				if err := w.breakHow(what); err != nil {
					t.Fatal(err)
				}
			}
			w.advance(45 * time.Minute)
			if seen < 2 {
				t.Errorf("%s: it was checked %d times only", how, seen)
			}
		}
	}
}
