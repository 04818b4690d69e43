// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Look is one area in a storm: so many of its hosts are unhealthy, fell together or lost
// their pool that it is the suspect, not they.
type Look struct {
	Area  string
	Hosts int      // that count
	Hit   []string // of those, unhealthy or without the pool
	Why   string
	Under string // another area in a storm that explains most of this one better; "": none

	told bool // its hosts say so themselves: they report the pool lost
}

// Storms lists the areas in a storm now, by name; limit is the share in per cent from
// which on a zone, pod or cluster is. Where one failure shows in several areas the one it
// describes best (most hosts, and most of its hosts) is on top, and those that it explains
// are under it: a dead rack explains what is wrong with its pools, clusters and zone.
func (c *Census) Storms(limit func(level string) int) []Look {
	var out []Look
	for area, t := range c.areas {
		if t.unhealthy == 0 && len(t.suspects) == 0 && len(t.lost) == 0 {
			continue
		}
		if why, told := t.storm(area, limit); why != "" {
			out = append(out, Look{Area: area, Hosts: t.counted, Hit: c.hit(area, t), Why: why, told: told})
		}
	}
	slices.SortFunc(out, func(a, b Look) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), cmp.Compare(a.rank(), b.rank()), strings.Compare(a.Area, b.Area))
	})
	var top []Look // explained by none before them
	explained := map[string]bool{}
	for i := range out {
		x := &out[i]
		known, best := 0, 0
		for _, h := range x.Hit {
			if explained[h] {
				known++
			}
		}
		if 2*known > len(x.Hit) {
			for _, y := range top {
				if n := y.shares(*x); n > best {
					best, x.Under = n, y.Area
				}
			}
			continue
		}
		top = append(top, *x)
		for _, h := range x.Hit {
			explained[h] = true
		}
	}
	slices.SortFunc(out, func(a, b Look) int { return strings.Compare(a.Area, b.Area) })
	return out
}

// shares counts the hosts that are hit in both.
func (l Look) shares(x Look) (n int) {
	for _, h := range x.Hit {
		if _, in := slices.BinarySearch(l.Hit, h); in {
			n++
		}
	}
	return n
}

// weight is how well an area describes what was hit: how many hosts, times their part of it.
func (l Look) weight() float64 {
	return float64(len(l.Hit)) * float64(len(l.Hit)) / float64(max(l.Hosts, 1))
}

// rank of areas that describe it equally well: the pool that its hosts say they lost
// before all that merely fell together, then what stands in one place before what is
// spread, hardware before levels.
func (l Look) rank() int {
	if l.told {
		return -1
	}
	return 1 + slices.Index([]AreaKind{AreaPool, AreaCluster, AreaPod, AreaZone}, KindOf(l.Area))
}

// storm says why the area is in a storm, and whether its hosts told so; "": it is not. A
// pool that only one host reports to have lost is that host's own trouble.
func (t *tally) storm(area string, limit func(string) int) (why string, told bool) {
	kind := KindOf(area)
	if kind.Level() {
		if s := t.share(area, limit(area)); s.storm() {
			return fmt.Sprintf("%d of %d hosts are unhealthy, from %d%% on nothing is switched off", s.Unhealthy, s.Hosts, s.Limit), false
		}
		return "", false
	}
	if kind == AreaPool && len(t.lost) > 1 {
		if p := t.loss(area); p.storm() != "" {
			return fmt.Sprintf("%d of %d hosts that report on it lost it within %s", p.Lost, p.Reporting, span(lossWindow)), true
		}
	}
	if n := len(together(t.suspects, causeWindow)); n >= causeHosts {
		return fmt.Sprintf("%d hosts under it fell within %s", n, span(causeWindow)), false
	}
	return "", false
}

// hit are the hosts of an area that something is wrong with.
func (c *Census) hit(area string, t *tally) []string {
	pool, _ := strings.CutPrefix(area, string(AreaPool)+areaSeparator)
	var out []string
	for h := range t.hosts {
		f := c.hosts[h].fact
		_, lost := f.Lost[pool]
		if !f.Out && (f.Unhealthy || !f.Suspect.IsZero() || lost) {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out
}
