// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"strings"
	"time"
)

// Rules about many hosts at once (ha.md §6, guards storage, share and common cause).
const (
	shareHosts    = 3 // a level with fewer hosts has no share: a two-host site must be able to fence
	causeHosts    = 3 // suspects under one ancestor within causeWindow
	causeWindow   = 90 * time.Second
	lossHosts     = 3 // users that lost a pool within lossWindow, or lossShare of them and lossShareMin
	lossShare     = 20
	lossShareMin  = 2
	lossWindow    = time.Minute
	maxNames      = 8 // hosts named in an answer; the counts tell of all
	areaSeparator = "/"
)

// HostFact is what the guards of other hosts may know of one host. It is made of the
// host's declaration and its HA record alone, so that every worker that has a copy of
// them, and a replay, makes the same one (ha.Record.Fact).
type HostFact struct {
	Host      string
	Partition string // zone, zone/pod or zone/pod/cluster
	Labels    map[string]string
	Pools     []string // shared pools that it mounts

	Out       bool                 // in maintenance, excluded or disabled: it does not count
	Unhealthy bool                 // SUSPECT, CHECKING, DEGRADED, RECOVERING, FENCING or FAILED
	Suspect   time.Time            // when its open incident began; zero: none is open
	Live      bool                 // it reports of itself: healthy, or its own complaint
	Lost      map[string]time.Time // pools that it reports to have lost, and since when
}

// AreaKind is what the hosts of an area have in common.
type AreaKind string

const (
	AreaZone    AreaKind = "zone"
	AreaPod     AreaKind = "pod"
	AreaCluster AreaKind = "cluster"
	AreaPool    AreaKind = "pool"
	// Other kinds are the names of labels: rack, switch, pdu.
)

var levelKinds = [...]AreaKind{AreaZone, AreaPod, AreaCluster}

// Level reports whether the area is a zone, pod or cluster: those have a share, all
// others may be a common cause.
func (k AreaKind) Level() bool { return slices.Contains(levelKinds[:], k) }

// KindOf is the kind of an area by its name.
func KindOf(area string) AreaKind {
	kind, _, _ := strings.Cut(area, areaSeparator)
	return AreaKind(kind)
}

// Levels are the areas of a partition path, widest first: zone/z1, pod/z1/p1,
// cluster/z1/p1/c1.
func Levels(partition string) []string {
	var out []string
	parts := strings.Split(partition, areaSeparator)
	for i := range min(len(parts), len(levelKinds)) {
		if parts[i] == "" {
			break
		}
		out = append(out, string(levelKinds[i])+areaSeparator+strings.Join(parts[:i+1], areaSeparator))
	}
	return out
}

// Areas are all areas that a host is in: the levels of its partition, each label of
// labels, however written (several values, as two PDUs, are separated by commas), within
// its zone, and its pools. Racks of the same name in two zones are two racks; a pool is one.
func (f HostFact) Areas(labels []string) []string {
	out := Levels(f.Partition)
	zone, _, _ := strings.Cut(f.Partition, areaSeparator)
	if zone != "" {
		for name, value := range f.Labels {
			i := slices.IndexFunc(labels, func(l string) bool { return strings.EqualFold(l, name) })
			if i < 0 {
				continue
			}
			for v := range strings.SplitSeq(value, ",") {
				if v = strings.TrimSpace(v); v != "" {
					out = append(out, labels[i]+areaSeparator+zone+areaSeparator+word63(v))
				}
			}
		}
	}
	for _, p := range f.Pools {
		out = append(out, string(AreaPool)+areaSeparator+p)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// word63 makes a label's value part of a name: 1 to 63 letters, digits, '.', '_' or '-',
// the first of them a letter or digit.
func word63(v string) string {
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, v)
	if c := out[0]; c == '.' || c == '_' || c == '-' {
		out = "x" + out
	}
	return out[:min(len(out), 63)]
}

// AreaFacts are what the guards storage, share, common cause and cooldown look at: other
// hosts, as of one moment.
type AreaFacts struct {
	Known  bool          `json:"known,omitempty"`  // the host and its neighbours are on record here
	Age    time.Duration `json:"age,omitempty"`    // of this worker's copy of their records
	MaxAge time.Duration `json:"maxAge,omitempty"` // no older copy counts
	Levels []LevelShare  `json:"levels,omitempty"`
	Pools  []PoolLoss    `json:"pools,omitempty"`
	Causes []Cause       `json:"causes,omitempty"`
	Storms []Storm       `json:"storms,omitempty"` // under way, or ended less than the cooldown ago
}

// LevelShare is how many hosts of a zone, pod or cluster are unhealthy. Hosts in
// maintenance do not count; the host in question does.
type LevelShare struct {
	Area      string `json:"area"`
	Hosts     int    `json:"hosts"`
	Unhealthy int    `json:"unhealthy"`
	Limit     int    `json:"limit"` // per cent; 0: not known
	// Set where they decide: siblings in the cluster not heard since this host fell silent.
	Silent  int           `json:"silent,omitempty"`
	Waiting []string      `json:"waiting,omitempty"`
	Left    time.Duration `json:"left,omitempty"` // of the round that shows who fell with it
}

// PoolLoss is how many of the hosts that report on a pool cannot use it any more.
type PoolLoss struct {
	Pool      string   `json:"pool"`
	Reporting int      `json:"reporting"`
	Lost      int      `json:"lost"` // most that lost it within a minute, and have not got it back
	Who       []string `json:"who,omitempty"`
}

// Cause is one ancestor that the host shares with others.
type Cause struct {
	Area     string        `json:"area"`
	Suspects int           `json:"suspects"` // most that fell within the window, this one included
	Who      []string      `json:"who,omitempty"`
	Silent   int           `json:"silent,omitempty"` // siblings not heard since this host fell silent
	Waiting  []string      `json:"waiting,omitempty"`
	Left     time.Duration `json:"left,omitempty"` // of the round that shows who fell with it
}

// Storm is an area incident that is under way, or ended lately.
type Storm struct {
	Area     string        `json:"area"`
	Open     bool          `json:"open,omitempty"`
	Ended    time.Duration `json:"ended,omitempty"` // ago
	Cooldown time.Duration `json:"cooldown,omitempty"`
}

// storm says why the pool is suspect and not the hosts that lost it; "": it is not.
func (p PoolLoss) storm() string {
	switch {
	case p.Lost == 0:
		return ""
	case p.Lost >= p.Reporting:
		return "all its live users lost it"
	case p.Lost >= lossHosts:
		return count(lossHosts, "user") + " and more lost it"
	case p.Lost >= lossShareMin && p.Lost*100 >= p.Reporting*lossShare:
		return "a fifth of its users lost it"
	}
	return ""
}

func (l LevelShare) storm() bool {
	return l.Hosts >= shareHosts && l.Limit > 0 && l.Unhealthy*100 >= l.Limit*l.Hosts
}

// undecided: with those that may have fallen with this host it would be a storm, and it is
// too early to see.
func (l LevelShare) undecided() bool {
	with := l
	with.Unhealthy += l.Silent
	return l.Silent > 0 && with.storm() && !l.storm()
}

func (c Cause) storm() bool { return c.Suspects >= causeHosts }

// undecided: others may have fallen with this host, and it is too early to see.
func (c Cause) undecided() bool { return c.Silent > 0 && c.Suspects+c.Silent >= causeHosts }

// ParseLabels reads a list of labels whose values name failure domains: words of small
// letters, digits and '-' that begin with a letter, separated by commas. What is no such word, or would be taken
// for another kind of area, is left out.
func ParseLabels(list string) []string {
	var out []string
	for l := range strings.SplitSeq(list, ",") {
		l = strings.TrimSpace(l)
		odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
		if l == "" || l[0] < 'a' || l[0] > 'z' || strings.ContainsFunc(l, odd) || AreaKind(l).Level() || l == string(AreaPool) || slices.Contains(out, l) {
			continue
		}
		out = append(out, l)
	}
	return out
}

// Undecided reports whether it is too early to say who fell together with the host.
func (f AreaFacts) Undecided() bool {
	return slices.ContainsFunc(f.Causes, Cause.undecided) || slices.ContainsFunc(f.Levels, LevelShare.undecided)
}
