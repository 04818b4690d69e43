// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/settings"
)

// Fleet is one simulated fleet at one moment. It is not safe for concurrent use; two
// fleets share nothing.
type Fleet struct {
	top Topology
	now time.Time
	q   queue
	rng *rand.Rand

	// The world as it is.
	hosts    []*host
	byID     map[string]*host
	nets     [networks]bool
	switches map[string]*netSwitch
	pools    map[string]*pool
	racks    map[string]*rack
	pdus     map[string]*pdu

	// What is in etcd.
	etcdUp   bool
	etcdDown time.Time // since then it is away
	settings map[string]map[string]setting
	version  int // of settings and switches
	levels   map[string]Level
	members  map[string][]*host // by partition
	parts    map[string]*partition
	budgets  map[string]budget.Counter
	slots    map[int]slot
	census   *guard.Census
	areas    map[string]ha.AreaRecord
	areasAt  time.Time // next look at them
	cache    map[string]cached

	workers []*worker

	// Committed, if set, is told of each step of a host that went on record, before its
	// effects start.
	Committed func(ev ha.Event, policy ha.Policy, before, after ha.Record, effects []ha.Effect)

	log     *Story
	rules   *rules
	waits   []*waiting // steps of the script that wait for something
	healed  bool       // what still waits does not happen any more
	epochNo int64
	homes   map[string]*host // where an instance was restarted last
	wrong   map[string]bool  // instances that run twice because a human, or a device that always lies, was wrong
}

// setting is one value at one scope, as in etcd.
type setting struct {
	value, reason string
	expires       time.Time
}

// New builds the fleet of a filled topology: every host runs, nobody owns anything yet.
// Run brings it up.
func New(t Topology) *Fleet {
	f := &Fleet{
		top: t, now: Epoch, rng: rand.New(rand.NewPCG(t.Seed, 0x5deece66d)),
		byID: map[string]*host{}, switches: map[string]*netSwitch{}, pools: map[string]*pool{}, racks: map[string]*rack{}, pdus: map[string]*pdu{},
		etcdUp: true, settings: map[string]map[string]setting{}, levels: map[string]Level{}, members: map[string][]*host{},
		parts: map[string]*partition{}, budgets: map[string]budget.Counter{}, slots: map[int]slot{}, areas: map[string]ha.AreaRecord{}, cache: map[string]cached{},
		log: newStory(), homes: map[string]*host{}, wrong: map[string]bool{},
	}
	f.rules = newRules(f)
	for n := range f.nets {
		f.nets[n] = true
	}
	for scope, values := range t.Settings {
		f.settings[scope] = map[string]setting{}
		for name, v := range values {
			f.settings[scope][name] = setting{value: v}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Racks)) {
		r := t.Racks[name]
		f.racks[name] = &rack{mains: true, spec: r}
		for _, sw := range []string{r.Switch, r.Storage, r.OOB} {
			f.switches[sw] = &netSwitch{state: switchUp}
		}
		f.pdus[r.PDU] = &pdu{alive: true}
	}
	for i, spec := range t.Hosts {
		h := f.newHost(i, spec)
		f.hosts = append(f.hosts, h)
		f.byID[spec.ID] = h
		f.members[spec.Partition] = append(f.members[spec.Partition], h)
		for _, p := range spec.pools() {
			if f.pools[p] == nil {
				f.pools[p] = &pool{mode: poolOK}
			}
		}
		for _, p := range settings.Prefixes(spec.Partition) {
			f.levels[p] = t.Levels[p]
		}
	}
	f.census = guard.NewCensus(guard.ParseLabels(f.effectiveOf("", "").String("guard.cause.labels")))
	for scope, b := range t.Budgets {
		f.budgets[scope] = budget.Counter{V: 1, Times: slices.Repeat([]time.Time{Epoch}, b.Used), Latched: b.Latched}
	}
	for path := range f.members {
		f.parts[path] = newPartition(f, path)
	}
	for _, id := range t.Workers {
		f.workers = append(f.workers, newWorker(f, id))
	}
	for _, h := range f.hosts {
		f.refresh(h)
		f.count(h)
	}
	for _, w := range f.workers {
		w.start()
	}
	return f
}

// Now is the fleet's time.
func (f *Fleet) Now() time.Time { return f.now }

// after does something later.
func (f *Fleet) after(d time.Duration, do func()) {
	f.q.push(f.now.Add(d).Sub(Epoch).Nanoseconds(), do)
}

func (f *Fleet) at(t time.Time, do func()) {
	if t.Before(f.now) {
		t = f.now
	}
	f.q.push(t.Sub(Epoch).Nanoseconds(), do)
}

// maxSpins is more than a fleet does in one moment.
const maxSpins = 1 << 20

// Run lets time pass until a moment; it stops early when a rule is broken.
func (f *Fleet) Run(until time.Time) {
	end := until.Sub(Epoch).Nanoseconds()
	for spins := 0; len(f.q.heap) > 0 && f.q.heap[0].at <= end; spins++ {
		e := f.q.pop()
		if now := Epoch.Add(time.Duration(e.at)); now.After(f.now) {
			spins = 0
		} else if spins > maxSpins {
			f.rules.broken(f.hosts[0], "time", "the fleet does something again and again and time stands still")
			return
		}
		f.now = Epoch.Add(time.Duration(e.at))
		e.do()
		if len(f.rules.Broken) > 0 && f.rules.stop {
			return
		}
	}
	f.now = until
}

// Mute makes the fleet tell no story: for searches that look at Broken alone.
func (f *Fleet) Mute() { f.log.mute = true }

// StopAtBroken ends Run at the first rule that is broken.
func (f *Fleet) StopAtBroken() { f.rules.stop = true }

// Broken are the rules of the house that were broken so far.
func (f *Fleet) Broken() []Broken { return f.rules.Broken }

// jitter is a length up to d, by the seed.
func (f *Fleet) jitter(d time.Duration) time.Duration {
	return time.Duration(f.rng.Int64N(int64(d) + 1))
}
