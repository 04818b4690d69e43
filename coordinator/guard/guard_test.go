// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// good is a snapshot that every guard allows.
func good(p Purpose) Snapshot {
	state := "ON"
	if p == Confirm {
		state = "OFF"
	}
	return Snapshot{
		At: t0, Purpose: p, Host: "h1", Gathered: true,
		Claim:   ClaimFacts{Epoch: "1/812", ValidFor: 4 * time.Second, NeededFor: 2 * time.Second},
		State:   StateFacts{VerdictAsked: t0.Add(-10 * time.Second), VerdictMaxAge: 36 * time.Second, RevisionAsked: 7, RevisionPresent: 7, LastSignOfLife: t0.Add(-time.Minute)},
		Armed:   ArmedFacts{Policy: "recover", Partition: "ACTIVE"},
		Self:    SelfFacts{Agents: 12, AgentsLost: 1, ReadAge: 300 * time.Millisecond, ReadAgeLimit: 5 * time.Second},
		Signals: SignalFacts{Agent: FamilyDead, Disks: FamilyUnknown, Network: FamilyDead},
		Area: AreaFacts{
			Known: true, Age: 300 * time.Millisecond, MaxAge: 5 * time.Second,
			Levels: []LevelShare{{Area: "zone/z1", Hosts: 40, Unhealthy: 2, Limit: 34}, {Area: "cluster/z1/p1/c1", Hosts: 3, Unhealthy: 1, Limit: 34}},
			Pools:  []PoolLoss{{Pool: "nfs1", Reporting: 11}},
			Causes: []Cause{{Area: "pool/nfs1", Suspects: 1}, {Area: "rack/z1/7", Suspects: 1}},
		},
		Budgets: []BudgetFacts{
			{Scope: "host/h1", Used: 0, Limit: 3, Window: 24 * time.Hour, Known: true},
			{Scope: "cluster/z1/p1/c1", Used: 2, Limit: 3, Window: time.Hour, Known: true},
		},
		Quiet: QuietFacts{Known: true, MinGap: 3 * time.Minute},
		Power: PowerFacts{Levels: []LevelFacts{{Level: 1, State: state, ReadAge: time.Second, MaxAge: 10 * time.Second, Tested: true, CanSwitchOn: true}}},
	}
}

func TestAllAllow(t *testing.T) {
	for _, p := range []Purpose{Recover, Fence, Confirm} {
		r := Evaluate(good(p))
		if !r.Allowed() || len(r.Holding()) != 0 {
			t.Errorf("%s: held by %+v", p, r.Holding())
		}
		if len(r.Answers) != len(Guards) || r.Snapshot == nil || !r.At.Equal(t0) {
			t.Errorf("%s: %d answers of %d guards", p, len(r.Answers), len(Guards))
		}
		for _, a := range r.Answers {
			if a.Reason == "" || a.Clears != "" {
				t.Errorf("%s: guard %s allows with reason %q, clears %q", p, a.Guard, a.Reason, a.Clears)
			}
		}
	}
	if (Report{}).Allowed() {
		t.Error("a report without answers allows")
	}
}

// Each guard on its own: one change to a snapshot that all allow makes this guard, and
// no other, hold with the words operators read.
func TestEachGuardHolds(t *testing.T) {
	level := func(change func(*LevelFacts)) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Power.Levels = append([]LevelFacts(nil), s.Power.Levels...)
			change(&s.Power.Levels[0])
		}
	}
	pool := func(change func(*PoolLoss)) func(*Snapshot) { return func(s *Snapshot) { change(&s.Area.Pools[0]) } }
	level1 := func(change func(*LevelShare)) func(*Snapshot) { return func(s *Snapshot) { change(&s.Area.Levels[1]) } }
	rack := func(change func(*Cause)) func(*Snapshot) { return func(s *Snapshot) { change(&s.Area.Causes[1]) } }
	for _, c := range []struct {
		guard   string
		purpose Purpose
		change  func(*Snapshot)
		verdict Verdict
		reason  string
	}{
		{"claim", Recover, func(s *Snapshot) { s.Claim.ValidFor = 1500 * time.Millisecond }, Hold, "the claim is certain for another 1.5s only, one packet may take 2s"},
		{"claim", Confirm, func(s *Snapshot) { s.Claim.Epoch = "" }, Hold, "this worker holds no claim on the host"},
		{"claim", Fence, func(s *Snapshot) { s.Claim.NeededFor = 0 }, Hold, "how long one packet may take is not known"},

		{"state", Recover, func(s *Snapshot) { s.State.RevisionPresent = 8 }, Hold, "the host's record was changed since it was checked"},
		{"state", Confirm, func(s *Snapshot) { s.State.RevisionPresent = 8 }, Hold, "the host's record was changed since it was checked"},
		{"state", Fence, func(s *Snapshot) { s.State.RevisionAsked = 0 }, Hold, "the host's revision is not known"},
		{"state", Recover, func(s *Snapshot) { s.State.VerdictAsked = time.Time{} }, Hold, "no activity check said idle"},
		{"state", Recover, func(s *Snapshot) { s.State.VerdictAsked = t0.Add(-40 * time.Second) }, Hold, "the verdict was asked for 40s ago; no more than 36s may pass"},
		{"state", Recover, func(s *Snapshot) { s.State.VerdictAsked = t0.Add(time.Second) }, Hold, "the verdict was asked for -1s ago; no more than 36s may pass"},
		{"state", Recover, func(s *Snapshot) { s.State.LastSignOfLife = t0.Add(-3 * time.Second) }, Hold, "the host gave a sign of life 3s ago, after the check was asked for"},

		{"armed", Recover, func(s *Snapshot) { s.Armed.Policy = "observe" }, NeedHuman, "the policy is observe: everything is decided, nothing is sent"},
		{"armed", Confirm, func(s *Snapshot) { s.Armed.Policy = "observe" }, NeedHuman, "the policy is observe: everything is decided, nothing is sent"},
		{"armed", Recover, func(s *Snapshot) { s.Armed.Policy = "" }, Hold, "the policy is not known"},
		{"armed", Recover, func(s *Snapshot) { s.Armed.Maintenance = true }, NeedHuman, "the host is in maintenance"},
		{"armed", Confirm, func(s *Snapshot) { s.Armed.Disarmed = []string{"zone/z1 by ann: network work, until 18:00"} }, NeedHuman, "HA is disarmed: zone/z1 by ann: network work, until 18:00"},
		{"armed", Recover, func(s *Snapshot) { s.Armed.Disabled = []string{"cluster/z1/p1/c1"} }, NeedHuman, "HA is disabled: cluster/z1/p1/c1"},
		{"armed", Recover, func(s *Snapshot) { s.Armed.Partition = "INACTIVE" }, Hold, "the partition is INACTIVE, not ACTIVE"},
		{"armed", Recover, func(s *Snapshot) { s.Armed.Partition = "" }, Hold, "the partition is not known, not ACTIVE"},

		{"self", Recover, func(s *Snapshot) { s.Self.WarmupRoundsLeft = 2 }, Hold, "this worker has just started and is warming up"},
		{"self", Recover, func(s *Snapshot) { s.Self.AgentsLost = 3 }, Hold, "I may be blind: 3 of my 12 agents were lost at once"},
		{"self", Confirm, func(s *Snapshot) { s.Self.ReadAge = 6 * time.Second }, Hold, "I am blind: etcd was last read 6s ago"},
		{"self", Recover, func(s *Snapshot) { s.Self.ReadAge = -1 }, Hold, "this worker has not read etcd yet"},
		{"self", Recover, func(s *Snapshot) { s.Self = SelfFacts{} }, Hold, "this worker has not read etcd yet"},

		{"signals", Recover, func(s *Snapshot) { s.Signals.Agent = FamilyUnknown }, Hold, "the agent's link and stamp are not both silent: agent not known"},
		{"signals", Fence, func(s *Snapshot) { s.Signals.Agent = FamilyAlive }, Hold, "the agent's link and stamp are not both silent: agent alive"},
		{"signals", Recover, func(s *Snapshot) { s.Signals.Network = FamilyAlive }, Hold, "only the agent is silent: disks not known, network alive"},
		{"signals", Recover, func(s *Snapshot) { s.Signals.OnlyManagement = true }, Hold, "only the management network says so: it may be the network that is broken"},
		{"signals", Confirm, func(s *Snapshot) { s.Signals.Disks = FamilyAlive }, Hold, "signs of life: disks"},

		{"storage", Recover, pool(func(p *PoolLoss) { p.Lost, p.Who = 3, []string{"h2", "h3", "h4"} }), Hold,
			"pool nfs1 is suspect, not the hosts: 3 users and more lost it, 3 of 11 that report, within 1m (h2, h3, h4)"},
		{"storage", Fence, pool(func(p *PoolLoss) { p.Reporting, p.Lost = 8, 2 }), Hold, "pool nfs1 is suspect, not the hosts: a fifth of its users lost it, 2 of 8 that report, within 1m"},
		{"storage", Confirm, pool(func(p *PoolLoss) { p.Reporting, p.Lost = 1, 1 }), Hold, "pool nfs1 is suspect, not the hosts: all its live users lost it, 1 of 1 that report, within 1m"},
		{"storage", Recover, pool(func(p *PoolLoss) { p.Reporting = 0 }), Hold, "no live host reports on pool nfs1"},

		{"share", Recover, level1(func(l *LevelShare) { l.Unhealthy = 2 }), Hold, "2 of 3 hosts of cluster/z1/p1/c1 are unhealthy"},
		{"share", Confirm, level1(func(l *LevelShare) { l.Hosts, l.Unhealthy = 50, 17 }), Hold, "17 of 50 hosts of cluster/z1/p1/c1 are unhealthy"},
		{"share", Fence, level1(func(l *LevelShare) { l.Limit = 0 }), Hold, "1 of 3 hosts of cluster/z1/p1/c1 are unhealthy, how many may be is not known"},
		{"share", Fence, func(s *Snapshot) { s.Area.Levels = nil }, Hold, "its partition is not known"},

		{"common cause", Recover, rack(func(c *Cause) { c.Suspects, c.Who = 3, []string{"h1", "h2", "h3"} }), Hold, "3 hosts under rack/z1/7 fell within 1m30s (h1, h2, h3): it may be what failed"},
		{"common cause", Confirm, rack(func(c *Cause) { c.Suspects, c.Who = 40, []string{"h1", "h2"} }), Hold, "40 hosts under rack/z1/7 fell within 1m30s (h1, h2 and 38 more): it may be what failed"},
		{"common cause", Recover, rack(func(c *Cause) { c.Silent, c.Waiting, c.Left = 2, []string{"h5", "h6"}, 3*time.Second }), Hold, "2 others under rack/z1/7 were not heard since it fell silent (h5, h6)"},

		{"cooldown", Recover, func(s *Snapshot) { s.Area.Storms = []Storm{{Area: "rack/z1/7", Open: true}} }, Hold, "a storm is under way in rack/z1/7"},
		{"cooldown", Confirm, func(s *Snapshot) {
			s.Area.Storms = []Storm{{Area: "pool/nfs1", Ended: 4 * time.Minute, Cooldown: 10 * time.Minute}}
		}, Hold, "a storm in pool/nfs1 ended 4m ago"},

		{"budget", Recover, func(s *Snapshot) { s.Budgets[1].Used, s.Budgets[1].NextIn = 3, 12*time.Minute }, Hold,
			"budget cluster/z1/p1/c1 is used up: 3 of 3 in the last hour; next slot in 12m"},
		{"budget", Recover, func(s *Snapshot) { s.Budgets[0].Latched = true }, NeedHuman, "budget host/h1 is latched: an incident asked and found none (0 of 3 in the last day)"},
		{"budget", Fence, func(s *Snapshot) { s.Budgets[0].Known = false }, Hold, "budget host/h1 is not known"},
		{"budget", Fence, func(s *Snapshot) { s.Budgets = nil }, Hold, "no budget is known"},

		{"quiet", Recover, func(s *Snapshot) { s.Quiet.Until = t0.Add(90 * time.Second) }, Hold, "the host is in its quiet period for another 1m30s"},
		{"quiet", Recover, func(s *Snapshot) { s.Quiet.LastOtherAction = t0.Add(-time.Minute) }, Hold, "the host's power was acted on 1m ago, outside this incident"},
		{"quiet", Fence, func(s *Snapshot) { s.Quiet.Known = false }, Hold, "when the host was last acted on is not known"},

		{"power", Recover, func(s *Snapshot) { s.Power = PowerFacts{} }, NeedHuman, "no power level is configured"},
		{"power", Recover, level(func(l *LevelFacts) { l.State = "OFF" }), Hold, "level 1 reads OFF, not ON"},
		{"power", Confirm, level(func(l *LevelFacts) { l.State = "ON" }), Hold, "level 1 reads ON, not OFF"},
		{"power", Fence, level(func(l *LevelFacts) { l.State, l.Reason = "UNKNOWN", "device bmc: Unreachable" }), Hold, "level 1 is unreadable (device bmc: Unreachable)"},
		{"power", Fence, level(func(l *LevelFacts) { l.ReadAge = time.Minute }), Hold, "level 1 was last read 1m ago, more than 10s"},
		{"power", Fence, level(func(l *LevelFacts) { l.MaxAge = 0 }), Hold, "level 1 has no limit for the age of a reading"},
		{"power", Fence, level(func(l *LevelFacts) { l.Tested = false }), Hold, "level 1 has no good power test"},
		{"power", Fence, level(func(l *LevelFacts) { l.Contradicted = true }), NeedHuman, "level 1 is contradicted: it read OFF while the host lived"},
		{"power", Recover, level(func(l *LevelFacts) { l.CanSwitchOn = false }), NeedHuman, "level 1 cannot switch the host on again"},

		{"duplicate", Recover, func(s *Snapshot) { s.Running = "t7" }, Hold, "an action for this host is running already: t7"},
	} {
		t.Run(c.guard+"/"+c.reason, func(t *testing.T) {
			s := good(c.purpose)
			c.change(&s)
			r := Evaluate(s)
			h := r.Holding()
			if len(h) != 1 || h[0].Guard != c.guard || r.Allowed() {
				t.Fatalf("held by %+v", h)
			}
			if h[0].Verdict != c.verdict || h[0].Reason != c.reason {
				t.Errorf("answers %s %q,\nwant %s %q", h[0].Verdict, h[0].Reason, c.verdict, c.reason)
			}
			if h[0].Clears == "" {
				t.Error("does not say what would clear it")
			}
		})
	}
}

// What must not hold: each of these looks like a reason and is none.
func TestEachGuardStillAllows(t *testing.T) {
	for name, c := range map[string]struct {
		purpose Purpose
		change  func(*Snapshot)
	}{
		"confirm spends no budget (ha.md §3.1)":             {Confirm, func(s *Snapshot) { s.Budgets[0].Latched = true; s.Budgets[1].Used = 9 }},
		"confirm does not wait for quiet (ha.md §3.1)":      {Confirm, func(s *Snapshot) { s.Quiet = QuietFacts{Until: t0.Add(time.Hour), Known: true} }},
		"confirm needs no activity check":                   {Confirm, func(s *Snapshot) { s.State.VerdictAsked = time.Time{}; s.Signals = SignalFacts{} }},
		"the incident has its slot":                         {Recover, func(s *Snapshot) { s.Budgets[1].Used, s.Budgets[1].Spent = 3, true; s.Budgets[0].Spent = true }},
		"a latch set by others after we spent":              {Recover, func(s *Snapshot) { s.Budgets[1].Latched, s.Budgets[1].Spent = true, true }},
		"a quiet period that is over":                       {Recover, func(s *Snapshot) { s.Quiet.Until = t0 }},
		"an action long ago":                                {Recover, func(s *Snapshot) { s.Quiet.LastOtherAction = t0.Add(-3 * time.Minute) }},
		"two of three agents lost: fewer than three":        {Recover, func(s *Snapshot) { s.Self.Agents, s.Self.AgentsLost = 3, 2 }},
		"three of a hundred agents lost: less than a fifth": {Recover, func(s *Snapshot) { s.Self.Agents, s.Self.AgentsLost = 100, 3 }},
		"disks dead instead of network":                     {Fence, func(s *Snapshot) { s.Signals = SignalFacts{Agent: FamilyDead, Disks: FamilyDead} }},
		"fence without a way to switch on":                  {Fence, func(s *Snapshot) { s.Power.Levels[0].CanSwitchOn = false }},
		"one of two hosts is dead: a two-host site must be able to fence": {Recover, func(s *Snapshot) {
			s.Area.Levels = []LevelShare{{Area: "cluster/z1/p1/c1", Hosts: 2, Unhealthy: 2, Limit: 34}}
		}},
		"a third is less than 34%": {Fence, func(s *Snapshot) {
			s.Area.Levels[0] = LevelShare{Area: "zone/z1", Hosts: 300, Unhealthy: 100, Limit: 34}
		}},
		"two of eleven users lost the pool":      {Recover, func(s *Snapshot) { s.Area.Pools[0].Lost = 2 }},
		"two fell together, the rest was heard":  {Recover, func(s *Snapshot) { s.Area.Causes[1].Suspects = 2 }},
		"one sibling was not heard, nobody else": {Recover, func(s *Snapshot) { s.Area.Causes[1].Silent = 1 }},
		"a storm whose cooldown is over": {Recover, func(s *Snapshot) {
			s.Area.Storms = []Storm{{Area: "rack/z1/7", Ended: 10 * time.Minute, Cooldown: 10 * time.Minute}}
		}},
		"a host without shared pools or ancestors": {Recover, func(s *Snapshot) { s.Area.Pools, s.Area.Causes = nil, nil }},
		"no sign of life ever":                     {Recover, func(s *Snapshot) { s.State.LastSignOfLife = time.Time{} }},
		"the second level can do it": {Recover, func(s *Snapshot) {
			s.Power.Levels = append([]LevelFacts{{Level: 1, State: "UNKNOWN", MaxAge: time.Second, Reason: "Unreachable"}}, s.Power.Levels...)
		}},
	} {
		s := good(c.purpose)
		c.change(&s)
		if h := Evaluate(s).Holding(); len(h) != 0 {
			t.Errorf("%s: held by %+v", name, h)
		}
	}
}

// What is known of other hosts must be there and young: the three guards that look at it
// hold together, and so does cooldown.
func TestOldFactsHold(t *testing.T) {
	for reason, change := range map[string]func(*AreaFacts){
		"what is known of other hosts is 6s old":                   func(a *AreaFacts) { a.Age = 6 * time.Second },
		"what is on record of the hosts around it is not known":    func(a *AreaFacts) { a.Known = false },
		"how old a copy of the hosts' records may be is not known": func(a *AreaFacts) { a.MaxAge = 0 },
	} {
		for _, p := range []Purpose{Recover, Fence, Confirm} {
			s := good(p)
			change(&s.Area)
			var by []string
			for _, a := range Evaluate(s).Holding() {
				if by = append(by, a.Guard); a.Reason != reason || a.Clears == "" {
					t.Errorf("%s: %s holds because %q", p, a.Guard, a.Reason)
				}
			}
			if got := strings.Join(by, " "); got != "storage share common cause cooldown" {
				t.Errorf("%s, %s: held by %s", p, reason, got)
			}
		}
	}
}

// Missing data holds, everywhere (ha.md §6).
func TestZeroSnapshotHolds(t *testing.T) {
	for _, s := range []Snapshot{{}, {Purpose: Recover}, {Gathered: true}, {Gathered: true, Purpose: "reboot"}} {
		if r := Evaluate(s); len(r.Holding()) != len(Guards) {
			t.Errorf("%+v: only %d of %d guards hold", s, len(r.Holding()), len(Guards))
		}
	}
	// Filled by nobody, but said to be gathered: every guard that has data holds.
	for _, p := range []Purpose{Recover, Fence} {
		r := Evaluate(Snapshot{Gathered: true, Purpose: p})
		for _, a := range r.Answers {
			if a.Verdict == Allow && a.Guard != "duplicate" {
				t.Errorf("%s: guard %s allows without data: %s", p, a.Guard, a.Reason)
			}
		}
	}
}

// A replay of the stored snapshot gives the same answers (ha.md §6).
func TestReplay(t *testing.T) {
	s := good(Recover)
	s.Budgets[1].Used = 3
	s.Power.Levels[0].Tested = false
	first := Evaluate(s)
	b, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	var stored Report
	if err := json.Unmarshal(b, &stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, Evaluate(*stored.Snapshot)); diff != "" {
		t.Errorf("the replay answers differently:\n%s", diff)
	}
	if len(first.Holding()) != 2 {
		t.Errorf("one guard hid another: %+v", first.Holding())
	}
}

func TestTableIsComplete(t *testing.T) {
	var names []string
	for _, g := range Guards {
		if !strings.HasPrefix(g.Protects, "from ") {
			t.Errorf("guard %s protects %q", g.Name, g.Protects)
		}
		names = append(names, g.Name)
	}
	if got, want := strings.Join(names, " "), "claim state armed self signals storage share common cause cooldown budget quiet power duplicate"; got != want {
		t.Errorf("guards %s, want %s", got, want)
	}
}
