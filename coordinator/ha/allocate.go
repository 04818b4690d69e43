// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strings"
)

// Candidate is what placement looks at of one host (ha.md §8).
type Candidate struct {
	Host      string
	State     State
	Partition PartitionState
	Admin     Admin
	Health    Verdict // last verdict
}

// Ranked is one host of an allocation answer.
type Ranked struct {
	Host   string
	Fits   bool
	Rank   int // from 1, 0: does not fit
	Reason string
}

// Rank orders hosts for new work, best first, and says why each stands where it does.
// Work that needs HA goes to AVAILABLE hosts only; other work prefers hosts outside HA
// partitions. The answer is the same for the same hosts in any order.
func Rank(hosts []Candidate, needHA bool) []Ranked {
	type scored struct {
		Ranked
		score int // less is better
	}
	all := make([]scored, 0, len(hosts))
	for _, h := range hosts {
		score, reason := fit(h, needHA)
		all = append(all, scored{Ranked{Host: h.Host, Fits: score > 0, Reason: reason}, score})
	}
	slices.SortFunc(all, func(a, b scored) int {
		if a.Fits != b.Fits {
			if a.Fits {
				return -1
			}
			return 1
		}
		if a.score != b.score {
			return a.score - b.score
		}
		return strings.Compare(a.Host, b.Host)
	})
	out := make([]Ranked, len(all))
	for k, s := range all {
		if s.Fits {
			s.Rank = k + 1
		}
		out[k] = s.Ranked
	}
	return out
}

// fit scores a host: 0 does not fit, 1 is best.
func fit(h Candidate, needHA bool) (int, string) {
	switch {
	case h.Admin.Disabled:
		return 0, "the host is disabled"
	case h.Admin.Maintenance:
		return 0, "the host is in maintenance"
	case needHA && h.State == Available:
		return 1, "AVAILABLE: protected by HA"
	case needHA:
		return 0, fmt.Sprintf("%s: the work needs HA, only AVAILABLE hosts are protected", h.State)
	}
	switch h.State {
	case None, Ineligible, Initializing, Available:
	default:
		return 0, fmt.Sprintf("%s: new work would be at risk", h.State)
	}
	switch {
	case h.Health == Fail:
		return 4, fmt.Sprintf("%s, and its last health check failed", h.State)
	case h.Partition != PartitionActive:
		return 1, fmt.Sprintf("%s, outside HA: keeps protected hosts free for work that needs them", h.State)
	case h.State == Initializing:
		return 3, "INITIALIZING: it may still turn out unhealthy"
	}
	return 2, fmt.Sprintf("%s, in an HA partition: preferred for work that needs HA", h.State)
}
