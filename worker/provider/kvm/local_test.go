// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// local is a host without shared pools, probed on two networks.
func local(change ...func(*provider.Facts)) provider.Facts {
	f := provider.Facts{Host: "h1", Local: true, PowerOn: true, PowerTested: true, Probes: []string{"icmp://10.0.0.7", "icmp://10.1.0.7#storage"}, Baseline: provider.Baseline{Probe: true}}
	for _, c := range change {
		c(&f)
	}
	return f
}

func probes(reader string, answers ...agentpb.Seen) Reading {
	a := &agentpb.ActivityAnswer{}
	for _, s := range answers {
		a.Probes = append(a.Probes, &agentpb.ProbeAnswer{Address: "icmp://10.0.0.7", Answer: s})
	}
	return Reading{Reader: reader, Answer: a}
}

// TestLocalOnly: "idle needs two neighbours' failed network probes and the agent link and
// a power level that reads ON" (ha.md §5).
func TestLocalOnly(t *testing.T) {
	silent := []Reading{probes("h2", still, still), probes("h3", still, still)}
	for _, c := range []struct {
		name     string
		facts    provider.Facts
		readings []Reading
		want     ha.Verdict
		why      string
	}{
		{"two neighbours find it silent", local(), silent, ha.Idle, "power reads ON"},
		{"one neighbour", local(), silent[:1], ha.Unknown, "1 of 2"},
		{"one network answers", local(), []Reading{silent[0], probes("h3", still, moved)}, ha.Active, "answered"},
		{"one network was not probed", local(), []Reading{silent[0], probes("h3", still, unknown)}, ha.Unknown, "could not be probed"},
		{"one network was not even tried", local(), []Reading{silent[0], probes("h3", still)}, ha.Unknown, "silent"},
		{"its agent pings", local(func(f *provider.Facts) { f.LinkAlive = true }), silent, ha.Active, "pings"},
		{"its power is not known", local(func(f *provider.Facts) { f.PowerOn = false }), silent, ha.Unknown, "no power level reads ON"},
		{"no probe ever answered", local(func(f *provider.Facts) { f.Baseline.Probe = false }), silent, ha.Unknown, "probe-blind"},
		{"not asked for", local(func(f *provider.Facts) { f.Local = false }), silent, ha.Unknown, "silent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why, _, sig := Judge(c.facts, c.readings, 2)
			if got != c.want || !strings.Contains(why, c.why) {
				t.Errorf("%q because %q, want %q because …%s…", got, why, c.want, c.why)
			}
			if got == ha.Idle && sig != (guard.SignalFacts{Agent: guard.FamilyDead, Network: guard.FamilyDead}) {
				t.Errorf("signals %+v", sig)
			}
		})
	}
	if _, _, _, sig := Judge(local(func(f *provider.Facts) { f.Probes = f.Probes[:1] }), []Reading{probes("h2", still), probes("h3", still)}, 2); !sig.OnlyManagement {
		t.Error("only the management network says so, and that is not told")
	}
}

// TestLocalEligible: a host with pools of its own alone is protected where it is asked for,
// and only if more than one network can tell of its life.
func TestLocalEligible(t *testing.T) {
	for _, c := range []struct {
		facts provider.Facts
		want  ha.Verdict
		why   string
	}{
		{local(), ha.Pass, ""},
		{local(func(f *provider.Facts) { f.Local = false }), ha.Fail, "ha.kvm.local"},
		{local(func(f *provider.Facts) { f.Probes = []string{"icmp://10.0.0.7", "icmp://10.0.0.8#management"} }), ha.Fail, "another network"},
		{local(func(f *provider.Facts) { f.PowerTested, f.PowerWhy = false, "no test" }), ha.Fail, "no test"},
	} {
		if got, why := new(Provider).Eligible(c.facts); got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %q because %q", c.facts, got, why)
		}
	}
}

// TestReadersMountThePools: who cannot read a pool does not take the place of one who can.
func TestReadersMountThePools(t *testing.T) {
	q := provider.Question{Subject: provider.Facts{Pools: []string{"p1", "p2"}}, Readers: []provider.Reader{{Host: "a", Pools: []string{"p1"}}, {Host: "b", Pools: []string{"p2", "p1"}}, {Host: "c"}}}
	if got := able(q); len(got) != 1 || got[0].Host != "b" {
		t.Errorf("able: %+v", got)
	}
	q.Readers = q.Readers[:1]
	if got := able(q); len(got) != 1 {
		t.Errorf("none is able, so all are asked: %+v", got)
	}
}
