// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"fmt"
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

// look is one neighbour's two samples of a host.
type look struct {
	f        *Fleet
	subject  *host
	reader   *host
	w        *worker
	controls []*host
	before   map[*host][]time.Time // last stamps by pool, of subject and controls
	writes   []time.Time
	readable []bool  // by pool of the subject
	probed   [2]bool // management, storage
}

func (o *owner) newLook(reader string, readers []provider.Reader) *look {
	l := &look{f: o.f, subject: o.h, reader: o.f.byID[reader], w: o.w, before: map[*host][]time.Time{}}
	l.controls = append(l.controls, l.reader)
	for _, r := range readers {
		if r.Host != reader {
			l.controls = append(l.controls, o.f.byID[r.Host])
		}
	}
	for _, h := range append(l.controls, l.subject) {
		l.before[h] = stampsOf(h)
	}
	for i := range l.subject.writes {
		l.writes = append(l.writes, l.subject.writes[i].lastAt(o.f.now))
	}
	l.sample()
	return l
}

func stampsOf(h *host) (out []time.Time) {
	for i := range h.stamps {
		out = append(out, h.stamps[i].lastAt(h.f.now))
	}
	return out
}

// sample notes which pools the reader can read now.
func (l *look) sample() {
	if l.readable == nil {
		l.readable = make([]bool, len(l.subject.pools))
		for i := range l.readable {
			l.readable[i] = true
		}
	}
	for i, p := range l.subject.pools {
		mode := l.reader.poolFor(p)
		l.readable[i] = l.readable[i] && contains(l.reader.pools, p) && (mode == poolOK || mode == poolReadOnly || mode == poolSlow)
	}
	for n := range l.probed {
		l.probed[n] = l.probed[n] || l.subject.works() && !l.subject.NoProbes && l.reader.reaches(l.subject, network(n))
	}
}

// reachable: the worker gets the question there and the answer back.
func (l *look) reachable() bool {
	return l.reader.works() && l.reader.agent && l.reader.onNet(mgmt) && !l.w.isolated
}

// answer compares the two samples as an agent does (agent/sample.go).
func (l *look) answer() (*agentpb.ActivityAnswer, error) {
	if !l.reachable() {
		return nil, errors.New("could not ask: no answer before its deadline")
	}
	l.sample()
	now := l.f.now
	out := &agentpb.ActivityAnswer{}
	for i, p := range l.subject.pools {
		a := &agentpb.PoolAnswer{Pool: p}
		out.Pools = append(out.Pools, a)
		if !l.readable[i] {
			if a.Detail = "a read hangs"; !contains(l.reader.pools, p) {
				a.Detail = "pool is not configured on this host"
			}
			continue
		}
		a.Control = agentpb.Seen_SEEN_STILL
		for _, c := range l.controls {
			for k, cp := range c.pools {
				if cp == p && c.stamps[k].lastAt(now).After(l.before[c][k]) {
					a.Control = agentpb.Seen_SEEN_MOVED
				}
			}
		}
		still := agentpb.Seen_SEEN_STILL
		if a.Control != agentpb.Seen_SEEN_MOVED {
			still = agentpb.Seen_SEEN_UNKNOWN
		}
		if a.Stamp = still; l.subject.stamps[i].lastAt(now).After(l.before[l.subject][i]) {
			a.Stamp = agentpb.Seen_SEEN_MOVED
		}
		if i == 0 && len(l.subject.owner.rec.Instances) > 0 {
			if a.Disks = still; l.subject.writes[i].lastAt(now).After(l.writes[i]) {
				a.Disks, a.MovedDisks = agentpb.Seen_SEEN_MOVED, l.subject.owner.rec.Instances[:1]
			}
		}
	}
	for n, p := range l.subject.probes() {
		address, _ := provider.Network(p)
		x := &agentpb.ProbeAnswer{Address: address, Answer: agentpb.Seen_SEEN_STILL}
		if l.probed[n] {
			x.Answer = agentpb.Seen_SEEN_MOVED
		}
		out.Probes = append(out.Probes, x)
	}
	return out, nil
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
		q := provider.Question{ID: e.ID, Asked: asked, Subject: subject, Readers: readers, Others: others, Max: o.eff.Int("ha.activity.checkers")}
		o.w.activity.acquire(func() { o.runCheck(q, deadline) })
	}
	try()
}

func (o *owner) runCheck(q provider.Question, deadline time.Time) {
	var looks []*look
	for _, r := range kvm.Chosen(q) {
		looks = append(looks, o.newLook(r.Host, q.Readers))
	}
	takes := o.policy.CheckWindow + 100*time.Millisecond
	silent := false
	for _, l := range looks {
		silent = silent || !l.reachable()
	}
	finish := func() {
		o.w.activity.release()
		if o.over {
			return
		}
		var rs []kvm.Reading
		for _, l := range looks {
			a, err := l.answer()
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
		takes = time.Millisecond
	}
	if silent { // a reader that has died since is waited for until the deadline
		takes = max(takes, deadline.Sub(o.f.now)-200*time.Millisecond)
	}
	o.f.after(takes, finish)
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

// takeBaseline looks once at a healthy host, to know which signals it gives while it is
// alive. Once all are known it costs nothing more.
func (o *owner) takeBaseline() {
	o.baselineAt = time.Time{}
	if o.rec.State != ha.Available || o.looking || o.rec.SeenDisks && o.rec.SeenProbe {
		return
	}
	every := o.eff.Duration("ha.baseline.interval")
	if !o.rec.SeenDisks && !o.rec.SeenProbe {
		every = min(every, o.policy.CheckInitial)
	}
	_, readers := o.readers()
	picked := kvm.Chosen(provider.Question{Subject: o.facts(), Readers: readers, Max: 1})
	if len(picked) == 0 {
		o.baselineAt = o.f.now.Add(every)
		return
	}
	boot, subject, l := o.rec.Boot.ID, o.subjectFacts(), o.newLook(picked[0].Host, readers)
	o.looking = true
	o.w.activity.acquire(func() {
		o.f.after(o.policy.CheckWindow+100*time.Millisecond, func() {
			o.w.activity.release()
			o.post(func() { o.onBaseline(boot, subject, l, every) })
		})
	})
}

func (o *owner) onBaseline(boot string, subject provider.Facts, l *look, every time.Duration) {
	o.looking = false
	a, err := l.answer()
	if err != nil {
		o.baselineAt = o.f.now.Add(every)
		return
	}
	seen := kvm.Look(subject, a)
	before := o.rec
	if boot == o.rec.Boot.ID {
		o.step(ha.Event{Kind: ha.EvSeen, Boot: boot, SeenDisks: seen.Disks, SeenProbe: seen.Probe})
	}
	could := len(o.rec.Instances) > 0 && !o.h.quiet && !o.rec.SeenDisks || !o.h.NoProbes && !o.rec.SeenProbe
	if could || before.SeenDisks != o.rec.SeenDisks || before.SeenProbe != o.rec.SeenProbe {
		o.baselineAt = o.f.now.Add(every)
	}
}
