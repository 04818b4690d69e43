// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Census counts hosts by the areas they are in, so that a question about one host costs
// as much as the suspects around it and not as much as the fleet. It knows no clock; the
// same facts in any order make the same census. It is not safe for concurrent use.
type Census struct {
	labels []string
	hosts  map[string]entry
	areas  map[string]*tally
}

type entry struct {
	fact  HostFact
	areas []string
}

// tally is one area.
type tally struct {
	hosts     map[string]bool // all of it
	counted   int             // that are not in maintenance
	unhealthy int
	suspects  map[string]time.Time
	live      int                  // pools: hosts that report
	lost      map[string]time.Time // pools: hosts that report to have lost it
}

// NewCensus makes an empty census; labels are those whose values name a failure domain.
func NewCensus(labels []string) *Census {
	return &Census{labels: slices.Clone(labels), hosts: map[string]entry{}, areas: map[string]*tally{}}
}

// Labels are the labels that it was made with.
func (c *Census) Labels() []string { return slices.Clone(c.labels) }

// Put takes over what is known of one host now and returns the areas whose counts may
// have changed by it. The caller leaves the fact's maps as they are.
func (c *Census) Put(f HostFact) []string {
	was, had := c.hosts[f.Host]
	is := entry{fact: f, areas: was.areas}
	if !had || was.fact.Partition != f.Partition || !maps.Equal(was.fact.Labels, f.Labels) || !slices.Equal(was.fact.Pools, f.Pools) {
		is.areas = f.Areas(c.labels)
	} else if was.fact.same(f) {
		return nil
	}
	touched := c.remove(f.Host)
	c.hosts[f.Host] = is
	for _, a := range is.areas {
		t := c.areas[a]
		if t == nil {
			t = &tally{hosts: map[string]bool{}, suspects: map[string]time.Time{}, lost: map[string]time.Time{}}
			c.areas[a] = t
		}
		t.count(a, f, 1)
		if !slices.Contains(touched, a) {
			touched = append(touched, a)
		}
	}
	return touched
}

// Remove forgets a host and returns the areas it was in.
func (c *Census) Remove(host string) []string {
	touched := c.remove(host)
	delete(c.hosts, host)
	return touched
}

func (c *Census) remove(host string) []string {
	was, ok := c.hosts[host]
	if !ok {
		return nil
	}
	for _, a := range was.areas {
		t := c.areas[a]
		if t.count(a, was.fact, -1); len(t.hosts) == 0 {
			delete(c.areas, a)
		}
	}
	return slices.Clone(was.areas)
}

// count adds a host to its area, or takes it out.
func (t *tally) count(area string, f HostFact, n int) {
	delete(t.hosts, f.Host)
	delete(t.suspects, f.Host)
	delete(t.lost, f.Host)
	if n > 0 {
		t.hosts[f.Host] = true
	}
	if !f.Out {
		t.counted += n
		if f.Unhealthy {
			t.unhealthy += n
		}
		if n > 0 && !f.Suspect.IsZero() {
			t.suspects[f.Host] = f.Suspect
		}
	}
	if pool, is := strings.CutPrefix(area, string(AreaPool)+areaSeparator); is && f.Live {
		t.live += n
		if since, lost := f.Lost[pool]; n > 0 && lost {
			t.lost[f.Host] = since
		}
	}
}

// same reports whether the facts count the same.
func (f HostFact) same(g HostFact) bool {
	return f.Out == g.Out && f.Unhealthy == g.Unhealthy && f.Live == g.Live && f.Suspect.Equal(g.Suspect) && maps.EqualFunc(f.Lost, g.Lost, time.Time.Equal)
}

// Host is what was put last of a host.
func (c *Census) Host(host string) (HostFact, bool) {
	e, ok := c.hosts[host]
	return e.fact, ok
}

// AreasOf are the names of the areas that a host is in.
func (c *Census) AreasOf(host string) []string { return slices.Clone(c.hosts[host].areas) }

// Members are the hosts of an area, by name.
func (c *Census) Members(area string) []string {
	if t := c.areas[area]; t != nil {
		return slices.Sorted(maps.Keys(t.hosts))
	}
	return nil
}

// Question is about one host at one moment.
type Question struct {
	At       time.Time
	Host     string
	Since    time.Time                         // when it fell silent, or was found OFF
	Share    map[string]int                    // limit in per cent by level, e.g. cluster/z1/p1/c1
	Cooldown time.Duration                     // after a storm
	Round    time.Duration                     // by then all that fell with one host are seen to have fallen
	Age      time.Duration                     // of the facts; negative: not known
	MaxAge   time.Duration                     // of facts that count
	Heard    func(host string) time.Time       // last sign of life; zero: not known here
	Storms   func(area string) (AreaNow, bool) // area incidents on record
}

// AreaNow is an area incident as it is on record.
type AreaNow struct {
	Open  bool
	Ended time.Time
}

// Survey answers what the guards of one host must know of all others.
func (c *Census) Survey(q Question) AreaFacts {
	e, ok := c.hosts[q.Host]
	out := AreaFacts{Known: ok && q.Age >= 0, Age: max(0, q.Age), MaxAge: q.MaxAge}
	for _, area := range e.areas {
		t := c.areas[area]
		kind := KindOf(area)
		switch {
		case kind.Level():
			l := t.share(area, q.Share[area])
			if kind == AreaCluster { // all of it has one owner, who hears it
				l.Silent, l.Waiting, l.Left = c.silent(t, q)
			}
			if !l.undecided() {
				l.Silent, l.Waiting, l.Left = 0, nil, 0
			}
			out.Levels = append(out.Levels, l)
		default:
			out.Causes = append(out.Causes, c.cause(area, t, q))
		}
		if kind == AreaPool {
			out.Pools = append(out.Pools, t.loss(area))
		}
		if q.Storms == nil {
			continue
		}
		if now, ok := q.Storms(area); ok && (now.Open || q.At.Sub(now.Ended) < q.Cooldown) {
			s := Storm{Area: area, Open: now.Open, Cooldown: q.Cooldown}
			if !now.Open {
				s.Ended = q.At.Sub(now.Ended)
			}
			out.Storms = append(out.Storms, s)
		}
	}
	return out
}

// Survey is Census.Survey over a list of facts, for who asks once.
func Survey(facts []HostFact, labels []string, q Question) AreaFacts {
	c := NewCensus(labels)
	for _, f := range facts {
		c.Put(f)
	}
	return c.Survey(q)
}

func (t *tally) share(area string, limit int) LevelShare {
	return LevelShare{Area: area, Hosts: t.counted, Unhealthy: t.unhealthy, Limit: limit}
}

func (t *tally) loss(area string) PoolLoss {
	who := together(t.lost, lossWindow)
	return PoolLoss{Pool: strings.TrimPrefix(area, string(AreaPool)+areaSeparator), Reporting: t.live, Lost: len(who), Who: firstNames(who)}
}

// cause counts who fell together with the host, and who may have. One whose pings come to
// another worker shows on its record when the round is over.
func (c *Census) cause(area string, t *tally, q Question) Cause {
	who := together(t.suspects, causeWindow)
	out := Cause{Area: area, Suspects: len(who), Who: firstNames(who)}
	if !out.storm() {
		out.Silent, out.Waiting, out.Left = c.silent(t, q)
	}
	return out
}

// silent counts siblings of an area that may have fallen with the host: they were well, and
// were not heard since. It also names some, and says how much is left of the round.
func (c *Census) silent(t *tally, q Question) (n int, names []string, left time.Duration) {
	if q.Heard == nil || q.Since.IsZero() {
		return 0, nil, 0
	}
	left = q.Since.Add(q.Round).Sub(q.At)
	var silent []string
	for host := range t.hosts {
		f := c.hosts[host].fact
		if host == q.Host || f.Out || !f.Live || !f.Suspect.IsZero() {
			continue
		}
		if heard := q.Heard(host); heard.IsZero() && left <= 0 || heard.After(q.Since) {
			continue
		}
		silent = append(silent, host)
	}
	if len(silent) == 0 {
		return 0, nil, 0
	}
	slices.Sort(silent)
	return len(silent), firstNames(silent), max(0, left)
}

// together finds the largest group of times that lie within a window of each other, the
// newest one where there are several.
func together(at map[string]time.Time, window time.Duration) []string {
	if len(at) == 0 {
		return nil
	}
	type moment struct {
		host string
		at   time.Time
	}
	all := make([]moment, 0, len(at))
	for h, t := range at {
		all = append(all, moment{h, t})
	}
	slices.SortFunc(all, func(a, b moment) int {
		if d := a.at.Compare(b.at); d != 0 {
			return d
		}
		return strings.Compare(a.host, b.host)
	})
	var best []moment
	for from, to := 0, 0; to < len(all); to++ {
		for all[to].at.Sub(all[from].at) > window {
			from++
		}
		if to-from+1 >= len(best) {
			best = all[from : to+1]
		}
	}
	out := make([]string, 0, len(best))
	for _, m := range best {
		out = append(out, m.host)
	}
	slices.Sort(out)
	return out
}

func firstNames(all []string) []string { return all[:min(len(all), maxNames):min(len(all), maxNames)] }
