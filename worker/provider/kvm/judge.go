// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// seen is what one reader's answer says of the host in question, before votes are
// counted.
type seen struct {
	stamp, disks, probe agentpb.Seen
	unprobed            bool     // some probe address was not tried
	life                []string // signs of life
	why                 []string // everything else that was seen, or could not be
}

// read turns one answer into what it shows. A pool counts only if in the same two
// samples some live host's stamp moved, otherwise the pool itself is frozen for this
// reader (ha.md §5).
func read(f provider.Facts, a *agentpb.ActivityAnswer) seen {
	const (
		unknown = agentpb.Seen_SEEN_UNKNOWN
		moved   = agentpb.Seen_SEEN_MOVED
		still   = agentpb.Seen_SEEN_STILL
	)
	s := seen{stamp: still, disks: unknown, probe: unknown}
	if len(f.Pools) == 0 {
		s.stamp = unknown
	}
	got := map[string]*agentpb.PoolAnswer{}
	for _, p := range a.GetPools() {
		got[p.Pool] = p
	}
	for _, id := range f.Pools {
		p := got[id]
		switch {
		case p == nil:
			s.stamp = worse(s.stamp, unknown)
			s.why = append(s.why, fmt.Sprintf("pool %s was not read", id))
			continue
		case p.Stamp == moved:
			s.stamp = moved
			s.life = append(s.life, fmt.Sprintf("its stamp on %s moved", id))
		case p.Control != moved:
			s.stamp = worse(s.stamp, unknown)
			s.why = append(s.why, fmt.Sprintf("pool %s is frozen for this reader: no live host's stamp moved%s", id, detail(p.Detail)))
		case p.Stamp == still:
			s.why = append(s.why, fmt.Sprintf("its stamp on %s stood still", id))
		default:
			s.stamp = worse(s.stamp, unknown)
			s.why = append(s.why, fmt.Sprintf("its stamp on %s could not be read%s", id, detail(p.Detail)))
		}
		switch {
		case p.Disks == moved:
			s.disks = moved
			s.life = append(s.life, fmt.Sprintf("its instances write: %s", strings.Join(p.MovedDisks, ", ")))
		case len(disksOn(f, id)) == 0:
		case p.Disks == unknown:
			s.stamp = worse(s.stamp, unknown) // an unread disk makes idle as impossible as an unread pool
			s.why = append(s.why, fmt.Sprintf("its disks on %s could not be read%s", id, detail(p.Detail)))
		case p.Control == moved && s.disks == unknown:
			s.disks = still
		}
	}
	s.unprobed = len(a.GetProbes()) < len(f.Probes)
	for _, p := range a.GetProbes() {
		s.unprobed = s.unprobed || p.Answer == unknown
		switch {
		case p.Answer == moved:
			s.probe = moved
			s.life = append(s.life, fmt.Sprintf("%s answered", p.Address))
		case p.Answer == still && s.probe == unknown:
			s.probe = still
			s.why = append(s.why, fmt.Sprintf("%s is silent", p.Address))
		case p.Answer == unknown:
			s.why = append(s.why, fmt.Sprintf("%s could not be probed%s", p.Address, detail(p.Detail)))
		}
	}
	return s
}

// disksOn lists the disks of the host's instances on one pool.
func disksOn(f provider.Facts, pool string) (out []string) {
	for _, in := range f.Instances {
		for _, d := range in.Disks {
			if d.Pool == pool {
				out = append(out, d.Path)
			}
		}
	}
	return out
}

func detail(d string) string {
	if d == "" {
		return ""
	}
	return " (" + d + ")"
}

// worse keeps moved, and lets unknown win over still: one unread pool makes idle
// impossible.
func worse(have, now agentpb.Seen) agentpb.Seen {
	if have == agentpb.Seen_SEEN_MOVED {
		return have
	}
	return now
}

// vote is one reader's verdict. Any movement or answer is active; idle needs stamps
// still on every pool, no disk that moved and no probe that answered. Of a host with
// pools of its own alone only probes tell, all of them.
func vote(f provider.Facts, s seen) ha.Verdict {
	switch {
	case s.stamp == agentpb.Seen_SEEN_MOVED, s.disks == agentpb.Seen_SEEN_MOVED, s.probe == agentpb.Seen_SEEN_MOVED:
		return ha.Active
	case s.stamp == agentpb.Seen_SEEN_STILL, len(f.Pools) == 0 && f.Local && s.probe == agentpb.Seen_SEEN_STILL && !s.unprobed:
		return ha.Idle
	}
	return ha.Unknown
}

// Reading is one reader's answer, or why there is none.
type Reading struct {
	Reader string
	Answer *agentpb.ActivityAnswer
	Err    error
}

// Needed is how many readers must say idle (ha.md §5): one only where exactly one other
// host should be able to look, and at more than the network.
func Needed(q provider.Question) int {
	if q.Others == 1 && len(q.Subject.Pools) > 0 {
		return 1
	}
	return 2
}

// Look is what one answer shows of a healthy host.
func Look(f provider.Facts, a *agentpb.ActivityAnswer) provider.Baseline {
	s := read(f, a)
	return provider.Baseline{Disks: s.disks == agentpb.Seen_SEEN_MOVED, Probe: s.probe == agentpb.Seen_SEEN_MOVED}
}

// Judge counts the votes (ha.md §5). It is pure: the same answers give the same
// verdict. Needed is how many readers must say idle.
func Judge(f provider.Facts, readings []Reading, needed int) (ha.Verdict, string, []ha.Vote, guard.SignalFacts) {
	var votes []ha.Vote
	var active, idle []string
	disks, probe := agentpb.Seen_SEEN_UNKNOWN, agentpb.Seen_SEEN_UNKNOWN
	var unknown []string
	for _, r := range readings {
		if r.Err != nil {
			votes = append(votes, ha.Vote{Reader: r.Reader, Verdict: ha.Unknown, Reason: r.Err.Error()})
			unknown = append(unknown, r.Reader+": "+r.Err.Error())
			continue
		}
		s := read(f, r.Answer)
		v := vote(f, s)
		why := strings.Join(append(s.life, s.why...), "; ")
		votes = append(votes, ha.Vote{Reader: r.Reader, Verdict: v, Reason: why})
		disks, probe = merge(disks, s.disks), merge(probe, s.probe)
		switch v {
		case ha.Active:
			active = append(active, r.Reader+": "+strings.Join(s.life, "; "))
		case ha.Idle:
			idle = append(idle, r.Reader)
		default:
			unknown = append(unknown, r.Reader+": "+why)
		}
	}
	sig := guard.SignalFacts{Disks: family(disks, f.Baseline.Disks), Network: family(probe, f.Baseline.Probe), OnlyManagement: len(f.Pools) == 0 && onlyManagement(f)}
	switch {
	case len(active) > 0:
		sig.Agent = guard.FamilyUnknown
		return ha.Active, active[0], votes, sig
	case f.LinkAlive:
		sig.Agent = guard.FamilyAlive
		return ha.Active, "its agent's pings arrive", votes, sig
	}
	if len(idle) > 0 {
		sig.Agent = guard.FamilyDead // the link is silent and so is the stamp
	}
	switch {
	case len(unknown) > 0:
		// A reader that could not look is not a reader that saw nothing.
		if len(idle) < needed {
			return ha.Unknown, unknown[0], votes, sig
		}
	case len(readings) == 0:
		return ha.Unknown, "no second reader", votes, sig
	}
	if len(idle) < needed {
		return ha.Unknown, fmt.Sprintf("no second reader: %d of %d needed readers could look", len(idle), needed), votes, sig
	}
	if sig.Disks != guard.FamilyDead && sig.Network != guard.FamilyDead {
		return ha.Unknown, "probe-blind: neither its disk writes nor a network probe was ever seen alive while it was AVAILABLE, so their silence proves nothing", votes, sig
	}
	if len(f.Pools) == 0 {
		if !f.PowerOn {
			return ha.Unknown, "it has no shared pool, and no power level reads ON: silence alone proves nothing", votes, sig
		}
		return ha.Idle, fmt.Sprintf("%s found it silent on every network, and its power reads ON", strings.Join(idle, " and ")), votes, sig
	}
	return ha.Idle, fmt.Sprintf("%s saw its stamps still on every pool%s", strings.Join(idle, " and "), silence(sig)), votes, sig
}

// onlyManagement: nothing but the management network could tell of its life.
func onlyManagement(f provider.Facts) bool {
	return !slices.ContainsFunc(f.Probes, func(p string) bool {
		_, network := provider.Network(p)
		return network != provider.Management
	})
}

func silence(s guard.SignalFacts) string {
	var w []string
	if s.Disks == guard.FamilyDead {
		w = append(w, "its disk writes stopped")
	}
	if s.Network == guard.FamilyDead {
		w = append(w, "its network silent")
	}
	return ", " + strings.Join(w, ", ")
}

func merge(have, now agentpb.Seen) agentpb.Seen {
	if have == agentpb.Seen_SEEN_MOVED || now == agentpb.Seen_SEEN_UNKNOWN {
		return have
	}
	return now
}

func family(s agentpb.Seen, wasAlive bool) guard.Family {
	switch {
	case s == agentpb.Seen_SEEN_MOVED:
		return guard.FamilyAlive
	case s == agentpb.Seen_SEEN_STILL && wasAlive:
		return guard.FamilyDead
	}
	return guard.FamilyUnknown
}
