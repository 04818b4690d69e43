// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"strings"
	"time"
)

// The guards about other hosts (ha.md §6). They hold a confirmation too (ha.md §3.1).

// unseen holds where the facts about other hosts are missing or old.
func (f AreaFacts) unseen() (Answer, bool) {
	const clears = "a copy of all hosts' records that has caught up with etcd"
	switch {
	case !f.Known:
		return hold("what is on record of the hosts around it is not known", clears), true
	case f.MaxAge <= 0:
		return hold("how old a copy of the hosts' records may be is not known", clears), true
	case f.Age > f.MaxAge:
		return hold(fmt.Sprintf("what is known of other hosts is %s old", span(f.Age)), clears).compared(span(f.Age), span(f.MaxAge)), true
	}
	return Answer{}, false
}

func storage(s *Snapshot) Answer {
	if a, unseen := s.Area.unseen(); unseen {
		return a
	}
	var held []Answer
	well := make([]byte, 0, 128)
	well = append(well, "pools as its neighbours report them: "...)
	for i, p := range s.Area.Pools {
		why := p.storm()
		switch {
		case p.Reporting == 0:
			held = append(held, hold(fmt.Sprintf("no live host reports on pool %s", p.Pool), "a host that reports on it"))
		case why != "":
			held = append(held, hold(fmt.Sprintf("pool %s is suspect, not the hosts: %s, %d of %d that report, within %s%s", p.Pool, why, p.Lost, p.Reporting, span(lossWindow), named(p.Who, p.Lost)),
				"hosts that can use the pool again").compared(fmt.Sprint(p.Lost), fmt.Sprintf("%d, or %d and %d%%, or all", lossHosts, lossShareMin, lossShare)))
		default:
			if i > 0 {
				well = append(well, ", "...)
			}
			well = appendOf(append(append(well, p.Pool...), " lost by "...), p.Lost, p.Reporting)
		}
	}
	switch {
	case len(held) > 0:
		return all(held)
	case len(s.Area.Pools) == 0:
		return said("it mounts no shared pool")
	}
	return said(string(well))
}

// String tells the share in words.
func (l LevelShare) String() string {
	return fmt.Sprintf("%d of %d hosts of %s are unhealthy", l.Unhealthy, l.Hosts, l.Area)
}

func share(s *Snapshot) Answer {
	if a, unseen := s.Area.unseen(); unseen {
		return a
	}
	if len(s.Area.Levels) == 0 {
		return hold("its partition is not known", "a partition in the host's declaration")
	}
	var held []Answer
	well := make([]byte, 0, 128)
	well = append(well, "unhealthy: "...)
	for i, l := range s.Area.Levels {
		if i > 0 {
			well = append(well, ", "...)
		}
		switch {
		case l.Hosts < shareHosts:
			well = append(append(append(well, l.Area...), " has fewer than "...), count(shareHosts, "host")...)
		case l.Limit <= 0:
			held = append(held, hold(l.String()+", how many may be is not known", "a valid setting guard.unhealthy.share"))
		case l.storm():
			held = append(held, hold(l.String(), "hosts that answer again, or are proven off").compared(fmt.Sprintf("%d%%", l.Unhealthy*100/l.Hosts), fmt.Sprintf("%d%%", l.Limit)))
		case l.undecided():
			held = append(held, hold(fmt.Sprintf("%s, and %d others were not heard since it fell silent%s", l, l.Silent, named(l.Waiting, l.Silent)), awaited(l.Left)).
				compared(fmt.Sprintf("%d%%", (l.Unhealthy+l.Silent)*100/l.Hosts), fmt.Sprintf("%d%%", l.Limit)))
		default:
			well = append(append(appendOf(well, l.Unhealthy, l.Hosts), " in "...), l.Area...)
		}
	}
	if len(held) > 0 {
		return all(held)
	}
	return said(string(well))
}

func commonCause(s *Snapshot) Answer {
	if a, unseen := s.Area.unseen(); unseen {
		return a
	}
	var held []Answer
	for _, c := range s.Area.Causes {
		switch {
		case c.storm():
			held = append(held, hold(fmt.Sprintf("%d hosts under %s fell within %s%s: it may be what failed", c.Suspects, c.Area, span(causeWindow), named(c.Who, c.Suspects)),
				"hosts under it that answer again, or are proven off by hand").compared(fmt.Sprint(c.Suspects), fmt.Sprint(causeHosts)))
		case c.undecided():
			held = append(held, hold(fmt.Sprintf("%d others under %s were not heard since it fell silent%s", c.Silent, c.Area, named(c.Waiting, c.Silent)), awaited(c.Left)).compared(fmt.Sprint(c.Suspects+c.Silent), fmt.Sprint(causeHosts)))
		}
	}
	if len(held) > 0 {
		return all(held)
	}
	return said("fewer than 3 hosts fell under each of " + count(len(s.Area.Causes), "shared ancestor"))
}

// awaited clears what rests on siblings that may have fallen, too.
func awaited(left time.Duration) string {
	if left > 0 {
		return "their next sign of life, or the end of the round in " + span(left)
	}
	return "their next sign of life, or their own suspicion"
}

func cooldown(s *Snapshot) Answer {
	if a, unseen := s.Area.unseen(); unseen {
		return a
	}
	var held []Answer
	for _, x := range s.Area.Storms {
		switch left := x.Cooldown - x.Ended; {
		case x.Open:
			held = append(held, hold("a storm is under way in "+x.Area, "its end (holdfast describe area "+x.Area+")"))
		case left > 0:
			held = append(held, hold(fmt.Sprintf("a storm in %s ended %s ago", x.Area, span(x.Ended)), "the end of the cooldown in "+span(left)).compared(span(x.Ended), span(x.Cooldown)))
		}
	}
	if len(held) > 0 {
		return all(held)
	}
	return said("no storm lately")
}

// Cooldown is the time until the last cooldown that was found is over; 0: none runs.
func (f AreaFacts) Cooldown() (left time.Duration) {
	for _, x := range f.Storms {
		if !x.Open {
			left = max(left, x.Cooldown-x.Ended)
		}
	}
	return left
}

// all puts several answers of one guard together; the first one's figures are shown.
func all(held []Answer) Answer {
	a := held[0]
	for _, h := range held[1:] {
		a.Reason += "; " + h.Reason
		if !strings.Contains(a.Clears, h.Clears) {
			a.Clears += "; " + h.Clears
		}
		if h.Verdict == NeedHuman {
			a.Verdict = NeedHuman
		}
	}
	return a
}

// named lists hosts in brackets, of how many there are.
func named(who []string, of int) string {
	switch {
	case len(who) == 0:
		return ""
	case of > len(who):
		return fmt.Sprintf(" (%s and %d more)", strings.Join(who, ", "), of-len(who))
	}
	return " (" + strings.Join(who, ", ") + ")"
}
