// SPDX-License-Identifier: Apache-2.0

// Package providertest is the contract of providers as a test: what the HA engine relies
// on, whatever the resource is (ha.md §§1, 5). Each provider's tests run it over a world
// that can be put into any of the Truths.
package providertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
)

// Truth is how things are with the resource and with those who look at it.
type Truth string

const (
	Healthy Truth = "healthy" // it runs and answers
	Sick    Truth = "sick"    // it runs, and does not answer as it should
	Dead    Truth = "dead"    // it runs no more, and all who look can see that
	Blind   Truth = "blind"   // nobody can tell
	Garbled Truth = "garbled" // whoever is asked answers nonsense
	Mute    Truth = "mute"    // whoever is asked never answers
	Torn    Truth = "torn"    // one who looks sees it dead, another alive
)

// Truths lists them all.
var Truths = []Truth{Healthy, Sick, Dead, Blind, Garbled, Mute, Torn}

// World is one resource and its provider.
type World struct {
	Provider provider.Provider
	Facts    provider.Facts    // of the resource: declared well, its power tested, all families seen alive before
	Readers  []provider.Reader // its neighbours, as many as the provider may want
	Set      func(Truth)
	// Report is what its agent reports in a truth; nil where the provider is a Looker.
	Report func(Truth) *agentpb.Report
}

// soon bounds calls that shall be cut off, long all others. No test waits for long.
const (
	soon = 300 * time.Millisecond
	long = 30 * time.Second
)

// Run runs the contract; open makes a world of its own for each test.
func Run(t *testing.T, open func(t *testing.T) World) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"it says what it is", (*suite).describes},
		{"nothing known is unknown", (*suite).nothingKnown},
		{"no tested power is not eligible", (*suite).needsPower},
		{"health has three values", (*suite).health},
		{"activity has three values", (*suite).activity},
		{"idle names two dead families", (*suite).idle},
		{"whoever gives a sign of life is not idle", (*suite).life},
		{"a check ends with its context", (*suite).bounded},
		{"a cancelled check is unknown", (*suite).cancelled},
		{"the same world gives the same answer, also to many at once", (*suite).concurrent},
		{"what is alive now is seen", (*suite).baseline},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&suite{t, open(t)}) })
	}
}

type suite struct {
	*testing.T
	World
}

func (s *suite) question() provider.Question {
	return provider.Question{ID: "c-7", Asked: time.Now().UTC(), Subject: s.Facts, Readers: slices.Clone(s.Readers), Others: len(s.Readers), Window: 200 * time.Millisecond, Max: 3}
}

func (s *suite) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	s.Cleanup(cancel)
	return ctx
}

// look brings the facts up to date, as an owner does.
func (s *suite) look(in Truth, ctx context.Context) (provider.Facts, *agentpb.Report) {
	f := s.Facts
	if l, ok := s.Provider.(provider.Looker); ok {
		f.Sight = l.Look(ctx, f)
		return f, nil
	}
	return f, s.Report(in)
}

func (s *suite) describes() {
	d := s.Provider.Describe()
	if d.Kind == "" || d.Resource == "" || len(d.Partitions) == 0 || d.Needed.Members < 1 || d.Needed.Members > 1 && d.Needed.Why == "" {
		s.Errorf("descriptor %+v", d)
	}
	for _, p := range d.Partitions {
		if !slices.Contains(provider.PartitionKinds, p) {
			s.Errorf("partition kind %q, allowed are %v", p, provider.PartitionKinds)
		}
	}
	if again := s.Provider.Describe(); fmt.Sprint(again) != fmt.Sprint(d) {
		s.Errorf("%+v, and then %+v", d, again)
	}
	if c, ok := s.Provider.(provider.Checker); ok {
		if err := c.Check(s.Facts); err != nil {
			s.Errorf("its own world is declared wrongly: %v", err)
		}
	}
}

func (s *suite) nothingKnown() {
	if v, why := s.Provider.Health(s.Facts, nil); v != ha.Unknown || why == "" {
		s.Errorf("health %q because %q", v, why)
	}
}

func (s *suite) needsPower() {
	s.Set(Healthy)
	f, _ := s.look(Healthy, s.within(long))
	if v, why := s.Provider.Eligible(f); v != ha.Pass {
		s.Fatalf("%q because %q, want pass", v, why)
	}
	f.PowerTested, f.PowerWhy = false, "the power test of device bmc failed"
	if v, why := s.Provider.Eligible(f); v != ha.Fail || why != f.PowerWhy {
		s.Errorf("without tested power: %q because %q", v, why)
	}
}

func (s *suite) health() {
	for truth, want := range map[Truth]ha.Verdict{Healthy: ha.Pass, Sick: ha.Fail, Blind: ha.Unknown} {
		s.Set(truth)
		f, r := s.look(truth, s.within(long))
		v, why := s.Provider.Health(f, r)
		if v != want || why == "" {
			s.Errorf("%s: %q because %q, want %q and a reason", truth, v, why, want)
		}
		if again, _ := s.Provider.Health(f, r); again != v {
			s.Errorf("%s: judged %q, and then %q", truth, v, again)
		}
	}
	if _, ok := s.Provider.(provider.Looker); !ok {
		return
	}
	for truth, d := range map[Truth]time.Duration{Garbled: long, Mute: soon} {
		s.Set(truth)
		f, r := s.look(truth, s.within(d))
		if v, why := s.Provider.Health(f, r); v != ha.Unknown || why == "" {
			s.Errorf("%s: %q because %q, want unknown and a reason", truth, v, why)
		}
	}
}

func (s *suite) activity() {
	for truth, want := range map[Truth]ha.Verdict{Healthy: ha.Active, Sick: ha.Active, Dead: ha.Idle, Blind: ha.Unknown, Garbled: ha.Unknown} {
		s.Set(truth)
		q := s.question()
		c := s.Provider.Activity(s.within(long), q)
		if c.Verdict != want || c.Reason == "" {
			s.Errorf("%s: %q because %q, want %q and a reason", truth, c.Verdict, c.Reason, want)
		}
		if c.ID != q.ID || !c.Asked.Equal(q.Asked) || c.Done.Before(q.Asked) {
			s.Errorf("%s: check %+v answers another question", truth, c)
		}
	}
}

func (s *suite) idle() {
	s.Set(Dead)
	c := s.Provider.Activity(s.within(long), s.question())
	g := c.Signals
	if c.Verdict != ha.Idle || g.Agent != guard.FamilyDead || g.Disks != guard.FamilyDead && g.Network != guard.FamilyDead {
		s.Errorf("%q with signals %+v: guard signals would hold for ever", c.Verdict, g)
	}
	if slices.ContainsFunc(c.Votes, func(v ha.Vote) bool { return v.Verdict == ha.Active }) {
		s.Errorf("idle over %+v", c.Votes)
	}
}

func (s *suite) life() {
	s.Set(Torn)
	if c := s.Provider.Activity(s.within(long), s.question()); c.Verdict == ha.Idle {
		s.Errorf("one saw it alive, and it is idle: %+v", c)
	}
	s.Set(Dead)
	q := s.question()
	q.Subject.LinkAlive = true
	if c := s.Provider.Activity(s.within(long), q); c.Verdict != ha.Active || c.Signals.Agent != guard.FamilyAlive {
		s.Errorf("its pings arrive, and it is %q with signals %+v", c.Verdict, c.Signals)
	}
}

func (s *suite) bounded() {
	s.Set(Mute)
	done := make(chan ha.Check, 1)
	go func() { done <- s.Provider.Activity(s.within(soon), s.question()) }()
	select {
	case c := <-done:
		if c.Verdict != ha.Unknown || c.Reason == "" {
			s.Errorf("%q because %q, want unknown and a reason", c.Verdict, c.Reason)
		}
	case <-time.After(long):
		s.Fatal("the check outlives its context")
	}
}

func (s *suite) cancelled() {
	s.Set(Dead)
	ctx, cancel := context.WithCancel(s.within(long))
	cancel()
	if c := s.Provider.Activity(ctx, s.question()); c.Verdict != ha.Unknown {
		s.Errorf("%q because %q", c.Verdict, c.Reason)
	}
}

func (s *suite) concurrent() {
	s.Set(Dead)
	var wg sync.WaitGroup
	got := make([]ha.Check, 4)
	for i := range got {
		wg.Go(func() { got[i] = s.Provider.Activity(s.within(long), s.question()) })
	}
	wg.Wait()
	for _, c := range got {
		if c.Verdict != got[0].Verdict || c.Verdict != ha.Idle {
			s.Errorf("%q because %q", c.Verdict, c.Reason)
		}
	}
}

func (s *suite) baseline() {
	p, ok := s.Provider.(provider.Sampler)
	if !ok {
		return // its idle does not rest on what was alive before
	}
	s.Set(Healthy)
	if b := p.Baseline(s.within(long), s.question()); b == (provider.Baseline{}) {
		s.Error("nothing was seen of a healthy resource")
	}
	s.Set(Blind)
	if b := p.Baseline(s.within(long), s.question()); b != (provider.Baseline{}) {
		s.Errorf("nobody could look, and %+v was seen", b)
	}
}
