// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/kvm"
)

// kvmProvider answers what needs no neighbour.
var kvmProvider = kvm.New(nil, nil)

func (o *owner) hearingNow() ha.Hearing {
	h := o.hearing
	h.Last = o.lastPing()
	return h
}

func (o *owner) alive() bool { return o.hearingNow().Alive() }

// missAt is when pings are overdue; zero while they arrive.
func (o *owner) missAt() time.Time {
	h := o.hearingNow()
	switch l := &o.h.link; {
	case l.up && l.to == o && l.pings.on && !h.Missing && !o.deafened:
		return time.Time{}
	case h.Missing && o.calm:
		return time.Time{} // it was told, and telling again brings nothing new
	}
	return h.MissAt(o.policy)
}

// overdue: pings are missed, or this worker has not listened.
func (o *owner) overdue() {
	deaf, missed := o.hearingNow().Overdue(o.f.now, o.w.woke, !o.w.woke.IsZero(), o.policy)
	if o.hearing.Deaf = deaf; !missed {
		return
	}
	now := o.f.now
	if !o.hearing.Missing {
		o.hearing.Missing = true
		o.w.lost[o.h.ID] = now
	}
	o.hearing.Told = now
	o.publish()
	last := o.lastPing()
	why := "no ping since this worker took the host over"
	if !last.IsZero() {
		why = fmt.Sprintf("no ping for %v", now.Sub(last).Round(100*time.Millisecond))
		last = o.w.wallAt(last)
	}
	before := o.f.rules.commits
	o.step(ha.Event{Kind: ha.EvHealth, Verdict: ha.Fail, Reason: why, Life: last})
	o.calm = before == o.f.rules.commits && restful(o.rec.State)
}

// restful states wait for something else than the next ping.
func restful(s ha.State) bool {
	switch s {
	case ha.None, ha.Available, ha.Ineligible, ha.Unsupported, ha.Fenced, ha.Failed:
		return true
	}
	return false
}

func (o *owner) heard() {
	if o.hearing.Missing { // its pings bring something new
		o.calm = false
	}
	o.heardAt, o.hearing.Missing = o.f.now, false
	delete(o.w.lost, o.h.ID)
	o.publish()
}

// local are the instances on a pool of the host's own.
func (o *owner) local() []string {
	if len(o.h.pools) > 0 {
		return nil
	}
	return o.running()
}

// lostPools are the shared pools that a host's own report says it cannot use.
func lostPools(r *agentpb.Report) (out []string) {
	for _, p := range r.GetPools() {
		if p.State == agentpb.PoolReport_FAILED || p.State == agentpb.PoolReport_HUNG {
			out = append(out, p.Id)
		}
	}
	return out
}

func (o *owner) running() []string { return append([]string(nil), o.h.runs...) }

func (o *owner) onHello() {
	o.heard()
	o.step(ha.Event{Kind: ha.EvHello, Boot: o.h.boot(), Instances: o.running(), Local: o.local()})
	o.tellEligible()
	o.f.rules.lived(o)
}

// onPing takes one ping of the host's present boot.
func (o *owner) onPing() {
	if !o.h.works() || !o.h.agent { // it was sent, and its sender has died since
		return
	}
	before := o.f.rules.commits
	o.heard()
	boot, runs := o.h.boot(), o.running()
	if o.rec.Boot.ID != boot {
		o.step(ha.Event{Kind: ha.EvHello, Boot: boot, Instances: runs, Local: o.local()})
	}
	if g := o.rec.Gate; g != nil && !g.Confirmed && o.h.link.confirmed == g.Generation {
		o.step(ha.Event{Kind: ha.EvGate, ID: g.Generation})
	}
	o.tellEligible()
	report := o.h.report()
	verdict, why := kvmProvider.Health(o.facts(), report)
	o.step(ha.Event{Kind: ha.EvHealth, Verdict: verdict, Reason: why, Boot: boot, Life: o.wall(), Instances: runs, Local: o.local(), Lost: lostPools(report)})
	o.f.rules.lived(o)
	o.baselineDue()
	o.confirmGate()
	gated := o.rec.Gate != nil && !o.rec.Gate.Confirmed
	o.calm = before == o.f.rules.commits && restful(o.rec.State) && !gated
}

// confirmGate: the pong carried the gate; the agent looks whether it obeys.
func (o *owner) confirmGate() {
	g, h := o.rec.Gate, o.h
	if g == nil || g.Confirmed || h.deaf {
		return
	}
	for _, id := range g.MustNotRun {
		if slices.Contains(h.runs, id) {
			h.runs = without(h.runs, id) // the hypervisor refuses it
		}
	}
	h.link.confirmed = g.Generation
}

func without(all []string, x string) (out []string) {
	for _, s := range all {
		if s != x {
			out = append(out, s)
		}
	}
	return out
}

// lastLife is when the host was last heard; of one not heard since the takeover nothing
// later than that is known.
func (o *owner) lastLife() time.Time {
	last := o.lastPing()
	if last.IsZero() {
		last = o.hearing.Adopted
	}
	return last.Add(o.w.skew)
}

// facts are what the provider is told of this host.
func (o *owner) facts() provider.Facts {
	ok, why := o.powerOnceTested()
	return provider.Facts{
		Host: o.h.ID, Pools: o.h.pools, Probes: o.h.probes(), Instances: o.h.instances(), PowerTested: ok, PowerWhy: why,
		Local: o.eff.Bool("ha.kvm.local"), PowerOn: o.rec.PowerTold && o.rec.Power == power.On,
		LinkAlive: o.alive(), Baseline: provider.Baseline{Disks: o.rec.SeenDisks, Probe: o.rec.SeenProbe},
	}
}

// tellEligible asks the provider and tells the machine when the answer changed.
func (o *owner) tellEligible() {
	if !o.powerSeen && len(o.policy.Ladder) > 0 && !o.policy.Ladder[0].Human {
		return
	}
	v, why := kvmProvider.Eligible(o.facts())
	if v == o.eligible && why == o.eligWhy {
		return
	}
	o.eligible, o.eligWhy = v, why
	o.step(ha.Event{Kind: ha.EvEligible, Verdict: v, Reason: why})
	o.f.parts[o.h.Partition].wake()
}

// publish tells partition and neighbours what changed about the host's health.
func (o *owner) publish() {
	p := shown{alive: o.alive(), linked: o.h.link.up && o.h.link.to == o}
	if p.alive {
		v, _ := kvmProvider.Health(o.facts(), o.h.report())
		p.healthy = v == ha.Pass
	}
	was := o.told
	o.told = p
	if was.healthy != p.healthy {
		o.f.parts[o.h.Partition].wake()
	}
	if was.reads() != p.reads() {
		o.readersMayHaveChanged()
	}
}

// readersMayHaveChanged: what is held for want of readers is asked again.
func (o *owner) readersMayHaveChanged() {
	for _, h := range o.f.members[o.h.Partition] {
		n := h.owner
		if n != nil && !n.renewed.IsZero() && h.asks(o.h, n.eff.Int("ha.activity.checkers")) { // others may be asked from the next look on
			n.renew()
			n.arm()
		}
		if n != nil && n != o && len(n.rec.Holds()) > 0 && !n.nudged {
			n.nudged = true
			o.f.after(0, func() {
				n.nudged = false
				n.post(func() { n.step(ha.Event{Kind: ha.EvPolicy}) })
			})
		}
	}
}
