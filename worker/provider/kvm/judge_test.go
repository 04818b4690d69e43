// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

const (
	unknown = agentpb.Seen_SEEN_UNKNOWN
	moved   = agentpb.Seen_SEEN_MOVED
	still   = agentpb.Seen_SEEN_STILL
)

// sees is one reader's answer about a host with one pool and one probe address.
func sees(reader string, stamp, disks, control, probe agentpb.Seen) Reading {
	return Reading{Reader: reader, Answer: &agentpb.ActivityAnswer{
		Pools:  []*agentpb.PoolAnswer{{Pool: "p1", Stamp: stamp, Disks: disks, Control: control, MovedDisks: []string{"i1.img"}}},
		Probes: []*agentpb.ProbeAnswer{{Address: "icmp://10.0.0.7", Answer: probe}},
	}}
}

func subject(disks, probe bool) provider.Facts {
	return provider.Facts{
		Host: "h1", Pools: []string{"p1"}, Probes: []string{"icmp://10.0.0.7"}, Baseline: provider.Baseline{Disks: disks, Probe: probe},
		Instances: []*agentpb.Instance{{Id: "i1", Disks: []*agentpb.Disk{{Pool: "p1", Path: "i1.img"}}}},
	}
}

// TestJudge proves the evidence rules of ha.md §5, one row each.
func TestJudge(t *testing.T) {
	dead := func(r string) Reading { return sees(r, still, still, moved, still) }
	unreachable := Reading{Reader: "h9", Err: errors.New("could not ask")}
	for _, c := range []struct {
		name     string
		facts    provider.Facts
		readings []Reading
		needed   int
		want     ha.Verdict
		why      string
		sig      guard.SignalFacts
	}{
		{"two readers see nothing move", subject(true, true), []Reading{dead("h2"), dead("h3")}, 2, ha.Idle, "h2 and h3",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"a moved stamp is active", subject(true, true), []Reading{dead("h2"), sees("h3", moved, still, moved, still)}, 2, ha.Active, "stamp on p1 moved",
			guard.SignalFacts{Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"a moved disk is active: the agent died, the host lives", subject(true, true), []Reading{sees("h2", still, moved, moved, still), dead("h3")}, 2, ha.Active, "instances write",
			guard.SignalFacts{Disks: guard.FamilyAlive, Network: guard.FamilyDead}},
		{"an answered probe is active", subject(true, true), []Reading{dead("h2"), sees("h3", still, still, moved, moved)}, 2, ha.Active, "answered",
			guard.SignalFacts{Disks: guard.FamilyDead, Network: guard.FamilyAlive}},
		{"a frozen pool is unknown, whatever it shows", subject(true, true), []Reading{sees("h2", still, still, still, still), sees("h3", still, still, unknown, still)}, 2, ha.Unknown, "frozen",
			guard.SignalFacts{Network: guard.FamilyDead}},
		{"an unread stamp is unknown", subject(true, true), []Reading{dead("h2"), sees("h3", unknown, still, moved, still)}, 2, ha.Unknown, "could not be read",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"an unread disk is unknown", subject(true, true), []Reading{dead("h2"), sees("h3", still, unknown, moved, still)}, 2, ha.Unknown, "disks on p1 could not be read",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"one reader is not enough where there could be two", subject(true, true), []Reading{dead("h2")}, 2, ha.Unknown, "1 of 2",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"one reader is enough where there is no second", subject(true, true), []Reading{dead("h2")}, 1, ha.Idle, "h2",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"a third reader that could not look does not outvote two that could", subject(true, true), []Reading{dead("h2"), dead("h3"), unreachable}, 2, ha.Idle, "h2 and h3",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"a reader that cannot be asked is unknown", subject(true, true), []Reading{dead("h2"), unreachable}, 2, ha.Unknown, "could not ask",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}},
		{"probe-blind: neither family was ever alive", subject(false, false), []Reading{dead("h2"), dead("h3")}, 2, ha.Unknown, "probe-blind",
			guard.SignalFacts{Agent: guard.FamilyDead}},
		{"disks alone suffice as second family", subject(true, false), []Reading{dead("h2"), dead("h3")}, 2, ha.Idle, "disk writes stopped",
			guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead}},
		{"the network alone suffices as second family", subject(false, true), []Reading{dead("h2"), dead("h3")}, 2, ha.Idle, "network silent",
			guard.SignalFacts{Agent: guard.FamilyDead, Network: guard.FamilyDead}},
		{"nobody to ask", subject(true, true), nil, 2, ha.Unknown, "no second reader", guard.SignalFacts{}},
		{"a pool that was not read", provider.Facts{Host: "h1", Pools: []string{"p1", "p2"}, Baseline: provider.Baseline{Disks: true}}, []Reading{dead("h2"), dead("h3")}, 2, ha.Unknown, "p2 was not read",
			guard.SignalFacts{Disks: guard.FamilyUnknown}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why, votes, sig := Judge(c.facts, c.readings, c.needed)
			if got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("verdict %q because %q, want %q because …%s…", got, why, c.want, c.why)
			}
			if len(votes) != len(c.readings) {
				t.Errorf("%d votes of %d readers", len(votes), len(c.readings))
			}
			if sig != c.sig {
				t.Errorf("signals %+v, want %+v", sig, c.sig)
			}
		})
	}
}

// TestPingsAreActive: a ping received since the check began is a sign of life.
func TestPingsAreActive(t *testing.T) {
	f := subject(true, true)
	f.LinkAlive = true
	got, _, _, sig := Judge(f, []Reading{sees("h2", still, still, moved, still), sees("h3", still, still, moved, still)}, 2)
	if got != ha.Active || sig.Agent != guard.FamilyAlive {
		t.Errorf("verdict %q, agent family %q: a linked agent must read active", got, sig.Agent)
	}
}

// TestHealth: what an agent's own report says of its host.
func TestHealth(t *testing.T) {
	report := func(ok bool, s agentpb.PoolReport_State) *agentpb.Report {
		return &agentpb.Report{HypervisorOk: ok, Pools: []*agentpb.PoolReport{{Id: "p1", State: s}}}
	}
	f := provider.Facts{Host: "h1", Pools: []string{"p1"}}
	for _, c := range []struct {
		r    *agentpb.Report
		want ha.Verdict
	}{
		{nil, ha.Unknown},
		{report(true, agentpb.PoolReport_OK), ha.Pass},
		{report(false, agentpb.PoolReport_OK), ha.Fail},
		{report(true, agentpb.PoolReport_FAILED), ha.Fail},
		{report(true, agentpb.PoolReport_HUNG), ha.Fail},
		{report(true, agentpb.PoolReport_UNKNOWN), ha.Unknown},
		{&agentpb.Report{HypervisorOk: true}, ha.Fail},
	} {
		if got, why := new(Provider).Health(f, c.r); got != c.want {
			t.Errorf("report %v: %q (%s), want %q", c.r, got, why, c.want)
		}
	}
}

// TestEligible: a host nobody could watch or prove off is not protected.
func TestEligible(t *testing.T) {
	good := provider.Facts{Host: "h1", Pools: []string{"p1"}, PowerTested: true}
	noPool, noPower := good, good
	noPool.Pools = nil
	noPower.PowerTested, noPower.PowerWhy = false, "the power test of device bmc failed"
	if v, _ := new(Provider).Eligible(good); v != ha.Pass {
		t.Errorf("a host with pool and tested power: %q", v)
	}
	for _, f := range []provider.Facts{noPool, noPower} {
		if v, why := new(Provider).Eligible(f); v != ha.Fail || why == "" {
			t.Errorf("%+v: %q because %q", f, v, why)
		}
	}
}

// TestReadersOfDifferentRacksFirst: votes from different failure domains are preferred.
func TestReadersOfDifferentRacksFirst(t *testing.T) {
	var hosts []string
	for _, r := range choose([]provider.Reader{{Host: "a", Domain: "r1"}, {Host: "b", Domain: "r1"}, {Host: "c", Domain: "r2"}, {Host: "d"}}, 3) {
		hosts = append(hosts, r.Host)
	}
	if got := strings.Join(hosts, " "); got != "a c b" {
		t.Errorf("asked %s, want a c b", got)
	}
}

type asker map[string]*agentpb.ActivityAnswer

func (a asker) Ask(_ context.Context, host string, r *agentpb.Request) (*agentpb.Answer, error) {
	if r.GetActivity().Host != "h1" || len(r.GetActivity().Pools) != 1 || r.GetActivity().Pools[0].Disks[0] != "i1.img" {
		return nil, errors.New("asked something else")
	}
	return &agentpb.Answer{Body: &agentpb.Answer_Activity{Activity: a[host]}}, nil
}

// TestActivityAsksAndBaselineRemembers walks a question through both calls.
func TestActivityAsksAndBaselineRemembers(t *testing.T) {
	alive := sees("", moved, moved, moved, moved).Answer
	p := New(asker{"h2": alive, "h3": alive}, func(string) *agentpb.Epoch { return nil })
	q := provider.Question{ID: "c1", Asked: time.Unix(1, 0), Subject: subject(false, false), Readers: []provider.Reader{{Host: "h2"}, {Host: "h3"}}, Window: time.Second, Max: 3}
	if c := p.Activity(t.Context(), q); c.Verdict != ha.Active || c.ID != "c1" || len(c.Votes) != 2 {
		t.Errorf("check %+v", c)
	}
	if b := p.Baseline(t.Context(), q); !b.Disks || !b.Probe {
		t.Errorf("baseline %+v: both families were seen alive", b)
	}
}

// TestRequestsTellWhatMayCount: how long ago the host was heard, for memory; and whoever is
// to remember reads few controls, again and again.
func TestRequestsTellWhatMayCount(t *testing.T) {
	p := New(nil, func(string) *agentpb.Epoch { return nil })
	var all []provider.Reader
	for _, h := range []string{"h2", "h3", "h4", "h5", "h6"} {
		all = append(all, provider.Reader{Host: h, Pools: []string{"p1"}})
	}
	q := provider.Question{Subject: subject(true, true), Readers: all, Max: 3, Window: 2 * time.Second}
	ask := func() *agentpb.ActivityRequest { return p.request(q, all[0], Chosen(q)).GetActivity() }
	if r := ask(); r.QuietMs != 0 || r.RememberMs != 0 || len(r.Pools[0].Controls) != 4 {
		t.Errorf("a check without memory: %v", r)
	}
	q.Heard = time.Now().Add(-3 * time.Second)
	if r := ask(); r.QuietMs < 3000 {
		t.Errorf("heard 3s ago: %v", r)
	}
	q.Heard, q.Remember = time.Time{}, time.Minute
	if r := ask(); r.QuietMs != 0 || r.RememberMs != 60_000 || len(r.Pools[0].Controls) != 2 {
		t.Errorf("to be remembered: %v", r)
	}
}
