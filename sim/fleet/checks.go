// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/kvm"
)

// readers are the neighbours that can look at a host now, and how many others there are
// that should be able to (worker/effects.go).
func (o *owner) readers() (others int, all []provider.Reader) {
	for _, h := range o.f.members[o.h.Partition] {
		n := h.owner
		if h == o.h || n == nil || n.rec.Excused() {
			continue
		}
		others++
		if n.told.reads() {
			all = append(all, provider.Reader{Host: h.ID, Pools: h.pools, Domain: h.Rack})
		}
	}
	return others, all
}

// askTakes is how long a question and its answer are on their way.
const askTakes = 100 * time.Millisecond

// look is what one neighbour sees of a host when it is asked: each pool and each address by
// itself, from memory where that tells, else for a window from then on (agent/activity.go).
type look struct {
	f        *Fleet
	subject  *host
	reader   *host
	w        *worker
	controls []*host // the reader first
	disks    []string
	window   time.Duration
	failed   bool // the question did not arrive
	answer   agentpb.ActivityAnswer
	open     int // looks under way
	done     func()
}

// newLook prepares a look of one reader. Controls are hosts whose stamps should move.
func (o *owner) newLook(reader string, controls []provider.Reader) *look {
	l := &look{f: o.f, subject: o.h, reader: o.f.byID[reader], w: o.w, window: o.policy.CheckWindow, disks: o.rec.Instances}
	l.controls = append(l.controls, l.reader)
	for _, r := range controls {
		if r.Host != reader {
			l.controls = append(l.controls, o.f.byID[r.Host])
		}
	}
	return l
}

// reachable: the worker gets the question there and the answer back.
func (l *look) reachable() bool {
	return l.reader.works() && l.reader.agent && l.reader.onNet(mgmt) && !l.w.isolated
}

// begin asks, and calls done when the answer is there or will not come before the deadline.
// What was seen after heard counts; zero: only what is seen from now on.
func (l *look) begin(heard, deadline time.Time, done func()) {
	if !l.reachable() || l.window < 2*l.reader.stampsEvery() { // agent/activity.go refuses such a window
		l.failed = true
		l.f.after(max(l.window+askTakes, deadline.Sub(l.f.now)-200*time.Millisecond), done)
		return
	}
	var known *watch
	if !heard.IsZero() {
		known = l.reader.watching(l.subject)
	}
	l.done = done
	probes := l.subject.probes()
	l.answer.Pools, l.answer.Probes = make([]*agentpb.PoolAnswer, len(l.subject.pools)), make([]*agentpb.ProbeAnswer, len(probes))
	if l.open = len(l.subject.pools) + len(probes); l.open == 0 {
		l.f.after(l.window+askTakes, done)
		return
	}
	for i := range l.subject.pools {
		l.lookAt(known, i, heard)
	}
	for n, p := range probes {
		address, _ := provider.Network(p)
		l.answer.Probes[n] = &agentpb.ProbeAnswer{Address: address, Answer: agentpb.Seen_SEEN_STILL}
		l.probe(known, network(n), heard)
	}
}

func (l *look) end() {
	if l.open--; l.open == 0 {
		l.done()
	}
}

// lookAt looks at one pool of the host.
func (l *look) lookAt(known *watch, i int, heard time.Time) {
	if known != nil && slices.Equal(known.disks, l.disks) {
		if first, ok := known.firstLook(l.reader, l.subject, i, heard); ok {
			l.f.after(max(0, l.window-l.f.now.Sub(first))+askTakes, func() {
				a := l.compare(i, known.controls, first, true)
				if l.reader.watches[l.subject] != known || !tells(a, l.disksOn(i)) {
					l.lookAt(nil, i, heard)
					return
				}
				l.answer.Pools[i] = a
				l.end()
			})
			return
		}
	}
	first, readable := l.f.now, l.reads(i)
	l.f.after(l.window+askTakes, func() {
		l.answer.Pools[i] = l.compare(i, l.controls, first, readable)
		l.end()
	})
}

// reads: the reader can read one of the host's pools now.
func (l *look) reads(i int) bool {
	p := l.subject.pools[i]
	return slices.Contains(l.reader.pools, p) && l.reader.readable(p)
}

func (l *look) disksOn(i int) int {
	if i == 0 {
		return len(l.disks)
	}
	return 0
}

// compare is what two samples of a pool show, the first one taken at first (agent/sample.go).
func (l *look) compare(i int, controls []*host, first time.Time, readable bool) *agentpb.PoolAnswer {
	p, now := l.subject.pools[i], l.f.now
	a := &agentpb.PoolAnswer{Pool: p}
	if !readable || !l.reads(i) {
		if a.Detail = "a read hangs"; !slices.Contains(l.reader.pools, p) {
			a.Detail = "pool is not configured on this host"
		}
		return a
	}
	a.Control = agentpb.Seen_SEEN_STILL
	still := agentpb.Seen_SEEN_UNKNOWN
	for _, c := range controls {
		if k := slices.Index(c.pools, p); k >= 0 && c.stamps[k].lastAt(now).After(first) {
			a.Control, still = agentpb.Seen_SEEN_MOVED, agentpb.Seen_SEEN_STILL
			break
		}
	}
	if a.Stamp = still; l.subject.stamps[i].lastAt(now).After(first) {
		a.Stamp = agentpb.Seen_SEEN_MOVED
	}
	if l.disksOn(i) > 0 {
		if a.Disks = still; l.subject.writes[i].lastAt(now).After(first) {
			a.Disks, a.MovedDisks = agentpb.Seen_SEEN_MOVED, l.disks[:1]
		}
	}
	return a
}

// probe asks one address of the host.
func (l *look) probe(known *watch, n network, heard time.Time) {
	asked, takes := l.f.now, l.window
	answered := l.subject.answers(l.reader, n)
	if known != nil {
		switch first, ok := known.firstProbe(l.reader, n, heard); {
		case answered:
			takes = 0
		case ok:
			wait := known.probeWait()
			takes = max(0, first.Add(max(l.window, l.window/wait*wait)).Sub(asked))
		}
	}
	l.f.after(takes+askTakes, func() {
		answered = answered || l.subject.answers(l.reader, n) || known != nil && known.answered[n].After(asked)
		if l.answer.Probes[n].Answer = agentpb.Seen_SEEN_STILL; answered {
			l.answer.Probes[n].Answer = agentpb.Seen_SEEN_MOVED
		}
		l.end()
	})
}

// result is the answer as it arrives at the worker.
func (l *look) result() (*agentpb.ActivityAnswer, error) {
	if l.failed || !l.reachable() {
		return nil, errors.New("could not ask: no answer before its deadline")
	}
	return &l.answer, nil
}

// subjectFacts: what its last report said it runs is what is looked for.
func (o *owner) subjectFacts() provider.Facts {
	f := o.facts()
	f.Instances = nil
	for _, id := range o.rec.Instances {
		f.Instances = append(f.Instances, &agentpb.Instance{Id: id, Disks: []*agentpb.Disk{{Pool: o.h.home(), Path: id + ".img"}}})
	}
	return f
}

// startCheck asks neighbours, within a place of the activity pool and the deadline.
func (o *owner) startCheck(e ha.Effect) {
	asked, subject := o.wall(), o.subjectFacts()
	if o.checks != 0 {
		o.post(func() {
			o.step(ha.Event{Kind: ha.EvActivity, Check: &ha.Check{ID: e.ID, Asked: asked, Done: o.wall(), Reason: "an earlier check has not come back yet"}})
		})
		return
	}
	o.checks = 1
	deadline := o.real(e.Deadline)
	var heard time.Time // zero: this owner never heard it, or may not count what was seen before
	if e.Memory {
		heard = o.lastPing()
	}
	patience := o.hearing.Adopted.Add(o.policy.Grace())
	if latest := deadline.Add(-2*o.policy.CheckWindow - time.Second); patience.After(latest) {
		patience = latest
	}
	wanted := min(2, len(o.f.members[o.h.Partition])-1)
	var try func()
	try = func() {
		if o.over {
			return
		}
		others, readers := o.readers()
		if len(readers) < wanted && o.f.now.Before(patience) {
			o.f.after(100*time.Millisecond, try)
			return
		}
		q := provider.Question{ID: e.ID, Asked: asked, Subject: subject, Readers: readers, Others: others, Max: o.eff.Int("ha.activity.checkers"), Heard: heard}
		o.w.activity.acquire(func() { o.runCheck(q, deadline) })
	}
	try()
}

func (o *owner) runCheck(q provider.Question, deadline time.Time) {
	var looks []*look
	for _, r := range kvm.Chosen(q) {
		looks = append(looks, o.newLook(r.Host, q.Readers))
	}
	finish := func() {
		o.w.activity.release()
		if o.over {
			return
		}
		var rs []kvm.Reading
		for _, l := range looks {
			a, err := l.result()
			rs = append(rs, kvm.Reading{Reader: l.reader.ID, Answer: a, Err: err})
		}
		c := ha.Check{ID: q.ID, Asked: q.Asked, Done: o.wall()}
		c.Verdict, c.Reason, c.Votes, c.Signals = kvm.Judge(q.Subject, rs, kvm.Needed(q))
		if c.Verdict == ha.Unknown && len(c.Votes) == 0 {
			c.Reason += fmt.Sprintf(": none of the %d other hosts is linked and healthy", q.Others)
		}
		o.post(func() { o.onCheck(c) })
	}
	if len(looks) == 0 {
		o.f.after(time.Millisecond, finish)
		return
	}
	o.ask(looks, q.Heard, deadline, finish)
}

// ask has all readers look at once and calls done when the last one has answered.
func (o *owner) ask(looks []*look, heard, deadline time.Time, done func()) {
	open := len(looks)
	for _, l := range looks {
		l.begin(heard, deadline, func() {
			if open--; open == 0 {
				done()
			}
		})
	}
}

// onCheck hands a finished check to the machine; a ping since outvotes every reader.
func (o *owner) onCheck(c ha.Check) {
	o.checks = 0
	last := o.lastPing()
	if !last.IsZero() {
		last = o.w.wallAt(last)
	}
	if c.Verdict != ha.Active && o.alive() && last.After(c.Asked) {
		c.Verdict, c.Reason = ha.Active, "its agent's pings arrive"
		c.Signals.Agent = guard.FamilyAlive
	}
	o.f.rules.checked(o, c)
	o.step(ha.Event{Kind: ha.EvActivity, Check: &c, Life: last})
	o.examine(c.Votes)
}

// examine asks checkers that could not look how they are themselves; their answers go to
// their owners, as pings do.
func (o *owner) examine(votes []ha.Vote) {
	for _, v := range votes {
		h := o.f.byID[v.Reader]
		if v.Verdict != ha.Unknown || h == nil || h.owner == nil || h.owner.w != o.w || !h.link.up {
			continue
		}
		n := h.owner
		o.f.after(exchange, func() {
			if h.owner == n && h.canLink() {
				n.post(n.onPing)
			}
		})
	}
}

// curious: a look at the healthy host brings something new.
func (o *owner) curious() bool {
	return o.policy.Memory || !(o.rec.SeenDisks && o.rec.SeenProbe)
}

// baselineDue begins the looks at a healthy host, unless they go on.
func (o *owner) baselineDue() {
	if o.rec.State == ha.Available && o.baselineAt.IsZero() && o.renewed.IsZero() && !o.looking && o.curious() {
		o.baselineAt = o.f.now
	}
}

// baselineEvery is how often a healthy host is looked at.
func (o *owner) baselineEvery() time.Duration {
	every := o.eff.Duration("ha.baseline.interval")
	if !o.rec.SeenDisks && !o.rec.SeenProbe {
		every = min(every, o.policy.CheckInitial)
	}
	return every
}

// takeBaseline looks once at a healthy host, to know which signals it gives while it is
// alive, and so that neighbours remember it (worker/effects.go). Once all are known, looks
// that only renew that memory cost nothing until something changes.
func (o *owner) takeBaseline() {
	o.baselineAt = time.Time{}
	if o.rec.State != ha.Available || o.looking || !o.curious() {
		return
	}
	asked, every := o.f.now, o.baselineEvery()
	_, readers := o.readers()
	q := provider.Question{Subject: o.facts(), Readers: readers, Max: 1}
	if o.policy.Memory {
		q.Max = o.eff.Int("ha.activity.checkers")
	}
	picked := kvm.Chosen(q)
	if len(picked) == 0 {
		o.baselineAt = asked.Add(every)
		return
	}
	boot, subject := o.rec.Boot.ID, o.subjectFacts()
	var looks []*look
	for _, r := range picked {
		controls := readers
		if o.policy.Memory {
			controls = picked
		}
		looks = append(looks, o.newLook(r.Host, controls))
	}
	o.looking = true
	o.w.activity.acquire(func() {
		if o.policy.Memory {
			for _, l := range looks {
				if l.reachable() {
					l.reader.remember(o.h, &watch{window: l.window, disks: l.disks, controls: l.controls}, o.remember(every))
				}
			}
		}
		o.ask(looks, time.Time{}, o.f.now, func() {
			o.w.activity.release()
			o.post(func() { o.onBaseline(boot, subject, looks, asked, every) })
		})
	})
}

// remember is for how long readers keep looking after they were asked to.
func (o *owner) remember(every time.Duration) time.Duration {
	return min(3*every+o.policy.CheckTimeout, maxRemember)
}

func (o *owner) onBaseline(boot string, subject provider.Facts, looks []*look, asked time.Time, every time.Duration) {
	o.looking = false
	var seen provider.Baseline
	failed := false
	for _, l := range looks {
		a, err := l.result()
		if err != nil {
			failed = true
			continue
		}
		s := kvm.Look(subject, a)
		seen.Disks, seen.Probe = seen.Disks || s.Disks, seen.Probe || s.Probe
	}
	before := o.rec
	if boot == o.rec.Boot.ID {
		o.step(ha.Event{Kind: ha.EvSeen, Boot: boot, SeenDisks: seen.Disks, SeenProbe: seen.Probe})
	}
	could := len(o.rec.Instances) > 0 && !o.h.quiet && !o.rec.SeenDisks || !o.h.NoProbes && !o.rec.SeenProbe
	next := asked.Add(every)
	if !o.policy.Memory {
		next = o.f.now.Add(every)
	}
	switch {
	case failed || could || before.SeenDisks != o.rec.SeenDisks || before.SeenProbe != o.rec.SeenProbe:
		o.baselineAt = later(next, o.f.now)
	case o.policy.Memory && o.rec.State == ha.Available:
		o.renewed = asked
	}
}

// renew: something has changed, and looks at a healthy host that only renewed what its
// neighbours remember are made again one by one, as if they had been all the time.
func (o *owner) renew() {
	if o.renewed.IsZero() {
		return
	}
	every := o.baselineEvery()
	last := o.renewed.Add(o.f.now.Sub(o.renewed) / every * every)
	for _, reader := range o.h.watchers {
		if w := reader.watches[o.h]; w != nil {
			w.until = last.Add(o.remember(every))
		}
	}
	o.renewed = time.Time{}
	o.baselineAt = last.Add(every)
}
