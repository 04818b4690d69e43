// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/link"
	"github.com/holdfast-ha/holdfast/worker/provider"
	"github.com/holdfast-ha/holdfast/worker/provider/execprovider"
)

// liveFacts is what only the present owner knows of a host: nothing here is needed to
// go on after a takeover.
type liveFacts struct {
	adopted  time.Time
	linked   bool
	boot     string
	lastPing time.Time // when the last ping or Hello arrived; zero: none since adoption
	report   *agentpb.Report
	deaf     time.Time // this worker itself stood still before: misses count from then
	cut      time.Time // the worker that carries the link could not be reached then, and nothing was heard since: nothing is known of the host
	carrier  string    // that worker
	unheard  bool      // that this is so was told to the machine
	told     ha.Pace   // with the last answer to its agent, which may not have arrived
	before   ha.Pace   // with the one before that, which has; zero: none by this owner
	missing  bool      // pings are overdue, as last told to the machine
	toldMiss time.Time // when that was told last

	baselineAt time.Time // next look
	powerAt    time.Time // next ordinary power reading
	askAt      time.Time // what is held may be let go then
	powerSeen  bool      // some device was asked since adoption
	hostile    map[string]hostileCount
	eligible   ha.Verdict
	eligWhy    string

	// Of a provider that looks for itself (look.go).
	lookAt  time.Time // next look
	sightBy string    // provider and program that looks; empty: agents ping
	sight   provider.Sight
	fails   int // looks in a row without a pass that said fail
	blinds  int // and those that could not tell
}

func newLiveFacts(now time.Time) liveFacts {
	return liveFacts{adopted: now, powerAt: now}
}

func (l *liveFacts) hearing() ha.Hearing {
	return ha.Hearing{Adopted: l.adopted, Last: l.lastPing, Deaf: l.deaf, Missing: l.missing, Told: l.toldMiss}
}

// relinkTime is what an agent needs beside a new owner's grace until it is linked to another
// worker, when the one that carries its link loses the owner: that one has to notice, to try
// again, and to have had patience.
const relinkTime = 2*link.RelaySilence + ownerPatience

// judged is what silence is judged by. When the worker that carries the host's link cannot be
// reached it may ping all the time: it has to have had time to link elsewhere.
func (l *liveFacts) judged(p ha.Policy) ha.Hearing {
	h := l.hearing()
	if l.cut.IsZero() || l.missing {
		return h
	}
	relinked := h
	relinked.Adopted, relinked.Last = l.cut.Add(relinkTime), time.Time{}
	if relinked.MissAt(p).After(h.MissAt(p)) {
		return relinked
	}
	return h
}

// missAt is when the host's pings are overdue, or to be called overdue again.
func (l *liveFacts) missAt(p ha.Policy) time.Time { return l.judged(p).MissAt(p) }

// unheardAt is when pings would be overdue were it not for the carrier, which cannot be
// reached: from then on nothing is known of the host. Zero: not so, or told.
func (l *liveFacts) unheardAt(p ha.Policy) time.Time {
	if l.cut.IsZero() || l.missing || l.unheard {
		return time.Time{}
	}
	if at := l.hearing().MissAt(p); at.Before(l.missAt(p)) {
		return at
	}
	return time.Time{}
}

// cutOff notes that the worker that carries the host's link cannot be reached.
func (l *liveFacts) cutOff(at time.Time, carrier string) {
	l.cut, l.carrier, l.unheard = at, carrier, false
}

// cannotHear tells the machine that nothing is known of the host.
func (o *owner) cannotHear(ctx context.Context, now time.Time) {
	o.live.unheard = true
	o.step(ctx, ha.Event{Kind: ha.EvHealth, At: now, Reason: fmt.Sprintf("worker %s, which carries its link, cannot be reached from worker %s", o.live.carrier, o.w.o.ID)})
}

// missAt is liveFacts.missAt, or zero where nobody pings.
func (o *owner) missAt() time.Time {
	if o.live.sightBy != "" {
		return time.Time{}
	}
	return o.live.missAt(o.policy)
}

// alive reports whether pings arrive in time.
func (l *liveFacts) alive() bool { return l.hearing().Alive() }

// lastLife is when the host was last heard; of one not heard since the takeover nothing
// later than that is known.
func (l *liveFacts) lastLife() time.Time {
	if l.lastPing.IsZero() {
		return l.adopted
	}
	return l.lastPing
}

// laterStandstill is when the later of two standstills ended, this worker's own and that of
// the one that carries the host's link: pings wait with either. False: neither stood still.
func laterStandstill(own, carrier func() (time.Time, bool)) (woke time.Time, stood bool) {
	woke, stood = own()
	if back, silent := carrier(); silent && (!stood || back.After(woke)) {
		return back, true
	}
	return woke, stood
}

// missed tells the machine that pings are overdue.
func (o *owner) missed(ctx context.Context, now time.Time) {
	if why, _ := o.w.frozen(o.host); why != "" {
		o.live.deaf = now // it may be silent because it refuses us: that says nothing of it
		return
	}
	if !o.live.missing {
		o.live.missing = true
		o.w.lostAgents.add(o.host, now)
	}
	o.live.toldMiss = now
	o.publish()
	why := "no ping since this worker took the host over"
	if !o.live.lastPing.IsZero() {
		why = fmt.Sprintf("no ping for %v", now.Sub(o.live.lastPing).Round(100*time.Millisecond))
	}
	if o.live.carrier != "" {
		why += fmt.Sprintf("; worker %s, which carried its link, cannot be reached since %v, and its agent has not come by another one", o.live.carrier, now.Sub(o.live.cut).Round(100*time.Millisecond))
	}
	o.step(ctx, ha.Event{Kind: ha.EvHealth, At: now, Verdict: ha.Fail, Reason: why, Life: ha.HeardBy(o.live.lastPing, now)})
}

func (o *owner) onHello(ctx context.Context, m helloMsg) {
	o.live.linked = !m.refused
	if o.looker() != nil { // its provider alone tells of its boots
		return
	}
	o.heard(m.at, m.hello.BootId)
	if !m.refused {
		o.answered(ctx, m.told)
	}
	o.live.report = m.hello.Report
	was, _ := o.w.frozen(o.host)
	o.judgeEpoch(ctx, m.hello.HighestEpoch)
	if is, _ := o.w.frozen(o.host); is != was {
		o.tellPolicy(ctx)
	}
	o.step(ctx, ha.Event{Kind: ha.EvHello, At: m.at, Boot: m.hello.BootId, Instances: instanceIDs(m.hello.Report, o.rec.Instances), Local: localIDs(m.hello.Report, o.spec.Val.Pools)})
	o.tellEligible(ctx)
}

func (o *owner) onPing(ctx context.Context, m pingMsg) {
	o.live.linked = true
	if o.looker() != nil {
		return
	}
	if last := o.live.lastPing; !last.IsZero() {
		o.w.metrics.heartbeat.Observe(max(0, m.at.Sub(last)-o.policy.PingInterval).Seconds())
	}
	o.hear(m.at, m.boot)
	o.answered(ctx, m.told)
	o.live.report = m.report
	f := o.facts() // once: thousands of hosts ping
	verdict, why := o.provider().Health(f, m.report)
	o.show(verdict == ha.Pass)
	instances, local := instanceIDs(m.report, o.rec.Instances), localIDs(m.report, o.spec.Val.Pools)
	if o.rec.Boot.ID != m.boot { // the Hello came to an earlier owner, or was lost with it
		o.step(ctx, ha.Event{Kind: ha.EvHello, At: m.at, Boot: m.boot, Instances: instances, Local: local})
		f = o.facts()
	}
	if g := o.rec.Gate; g != nil && !g.Confirmed && m.gate == g.Generation {
		o.step(ctx, ha.Event{Kind: ha.EvGate, At: m.at, ID: m.gate})
		f = o.facts()
	}
	o.judgeEligible(ctx, f)
	o.step(ctx, ha.Event{Kind: ha.EvHealth, At: m.at, Verdict: verdict, Reason: why, Boot: m.boot, Life: m.at, Instances: instances, Local: local, Lost: lostPools(m.report, o.spec.Val.Pools)})
	if o.rec.State == ha.Available && o.live.baselineAt.IsZero() {
		o.live.baselineAt = o.now()
	}
}

// heard notes a sign of life, and publishes it.
func (o *owner) heard(at time.Time, boot string) {
	o.hear(at, boot)
	o.publish()
}

func (o *owner) hear(at time.Time, boot string) {
	if o.live.missing {
		o.w.lostAgents.back(o.host)
	}
	o.live.lastPing, o.live.boot, o.live.missing = at, boot, false
	o.live.cut, o.live.carrier, o.live.unheard = time.Time{}, "", false
}

// answered notes the pace that the agent was answered with. What it was told before counts
// until it has pinged again: one that is cut off goes by that for as long as it is.
func (o *owner) answered(ctx context.Context, s *agentpb.Settings) {
	if s == nil {
		return
	}
	p := ha.Pace{Ping: time.Duration(s.PingIntervalMs) * time.Millisecond, Stamp: time.Duration(s.StampIntervalMs) * time.Millisecond}
	was := o.live.pace()
	o.live.before, o.live.told = o.live.told, p
	if o.live.pace() == was {
		return
	}
	o.refreshPolicy()
	o.step(ctx, ha.Event{Kind: ha.EvPolicy})
}

// pace is what the agent goes by at the slowest.
func (l *liveFacts) pace() ha.Pace { return l.told.Slower(l.before) }

// instanceIDs are those of a report; where they are as known, as nearly always, known itself.
func instanceIDs(r *agentpb.Report, known []string) []string {
	all := r.GetInstances()
	if slices.EqualFunc(all, known, func(i *agentpb.Instance, id string) bool { return i.Id == id }) {
		return known
	}
	out := make([]string, 0, len(all))
	for _, i := range all {
		out = append(out, i.Id)
	}
	return out
}

// localIDs are the instances with a disk that is on none of the shared pools: they return
// with their host, never elsewhere (ha.md §5).
func localIDs(r *agentpb.Report, shared []string) []string {
	var out []string
	for _, i := range r.GetInstances() {
		if slices.ContainsFunc(i.Disks, func(d *agentpb.Disk) bool { return !slices.Contains(shared, d.Pool) }) {
			out = append(out, i.Id)
		}
	}
	return out
}

// lostPools are the shared pools that a host's own report says it cannot use.
func lostPools(r *agentpb.Report, shared []string) []string {
	var out []string
	for _, p := range r.GetPools() {
		if (p.State == agentpb.PoolReport_FAILED || p.State == agentpb.PoolReport_HUNG) && slices.Contains(shared, p.Id) {
			out = append(out, p.Id)
		}
	}
	return out
}

// facts are what the provider is told of this host.
func (o *owner) facts() provider.Facts {
	ok, why := o.powerOnceTested()
	f := provider.Facts{
		Host: o.host, Partition: o.spec.Val.Partition, Labels: o.spec.Val.Labels, Program: o.eff.String(settingProgram), Sight: o.live.sight,
		Pools: o.spec.Val.Pools, Probes: o.spec.Val.Probes, Instances: o.live.report.GetInstances(),
		Local: o.eff.Bool("ha.kvm.local"), PowerOn: o.rec.PowerTold && o.rec.Power == power.On,
		PowerTested: ok, PowerWhy: why, LinkAlive: o.live.alive(), Baseline: provider.Baseline{Disks: o.rec.SeenDisks, Probe: o.rec.SeenProbe},
	}
	if g := o.rec.Gate; g != nil && !g.Confirmed {
		f.Gate, f.MustNotRun = g.Generation, slices.Clone(g.MustNotRun)
	}
	return f
}

// settingProgram is the program of provider exec, and of power devices of driver provider.
const settingProgram = execprovider.Setting

// tellPolicy resolves settings and administrative facts afresh and tells the machine
// what changed.
func (o *owner) tellPolicy(ctx context.Context) {
	o.refreshPolicy()
	o.tellLooker()
	o.testChanged()
	spec := o.spec.Val
	a := ha.Admin{Maintenance: spec.Maintenance, Excluded: spec.HADisabled, Disabled: spec.Disabled, Why: spec.Why}
	o.step(ctx, ha.Event{Kind: ha.EvAdmin, Admin: &a})
	o.tellPartition(ctx)
	o.tellEligible(ctx)
	o.step(ctx, ha.Event{Kind: ha.EvPolicy})
	o.publish()
}

// tellPartition tells the machine the partition's state as it is on record.
func (o *owner) tellPartition(ctx context.Context) {
	state := ha.PartitionNone
	if p, ok := o.w.partitionState(o.spec.Val.Partition); ok {
		state = p.State
	}
	o.step(ctx, ha.Event{Kind: ha.EvPartition, Partition: state})
}

// tellEligible asks the provider and tells the machine when the answer changed. Until a
// new owner has asked the power devices itself the last answer stands: how old the test
// on record is says only how long nothing changed.
func (o *owner) tellEligible(ctx context.Context) { o.judgeEligible(ctx, o.facts()) }

// judgeEligible is tellEligible with the facts as they are now.
func (o *owner) judgeEligible(ctx context.Context, f provider.Facts) {
	if !o.live.powerSeen && slices.ContainsFunc(o.devices, func(d device) bool { return !d.human }) {
		return
	}
	v, why := o.provider().Eligible(f)
	if v == o.live.eligible && why == o.live.eligWhy {
		return
	}
	o.live.eligible, o.live.eligWhy = v, why
	o.step(ctx, ha.Event{Kind: ha.EvEligible, Verdict: v, Reason: why})
	o.w.memberChanged(o.spec.Val.Partition)
}

// published is what other goroutines may know of an owner: links answer agents from
// it, partitions count members, neighbours are chosen by it. Replaced as a whole.
type published struct {
	owner    *owner
	epoch    *agentpb.Epoch
	settings *agentpb.Settings
	gate     *agentpb.Gate
	record   *ha.Record
	alive    bool // pings arrive in time
	healthy  bool // and its own report is in order
	linked   bool
	looked   bool   // its provider looks for itself, there is no agent
	blind    bool   // and cannot tell whether it is healthy
	provider string // its kind
	lastPing time.Time
	pools    []string
	rack     string
	boot     string
	report   *agentpb.Report
	power    powerRecord // with the latest readings, not only those worth a write
}

// publish tells the others how things are, the host's health as its last report shows it.
func (o *owner) publish() {
	healthy := false
	if o.live.alive() {
		v, _ := o.provider().Health(o.facts(), o.live.report)
		healthy = v == ha.Pass
	}
	o.show(healthy)
}

// show is publish for a host whose health is judged already. Every ping comes by here: what
// it does not change is shared with what was published before.
func (o *owner) show(healthy bool) {
	if o.told == nil || !o.told.Same(&o.rec) {
		r := o.rec
		o.told = &r
	}
	p := &published{
		owner: o, epoch: o.epoch, settings: o.settings, record: o.told, healthy: healthy, alive: o.live.alive(), linked: o.live.linked,
		looked: o.live.sightBy != "", blind: o.live.blinds >= o.policy.HealthFailures, provider: o.provider().Describe().Kind, lastPing: o.live.lastPing, pools: o.spec.Val.Pools, rack: o.spec.Val.Labels["rack"], boot: o.live.boot, report: o.live.report, power: o.pow,
	}
	if g := o.rec.Gate; g != nil && !g.Confirmed {
		p.gate = &agentpb.Gate{Generation: g.Generation, MustNotRun: g.MustNotRun}
	}
	if o.listed {
		o.w.publish(o.host, p)
	}
}

func (o *owner) wireSettings() *agentpb.Settings {
	return &agentpb.Settings{
		PingIntervalMs:  o.eff.Duration("agent.ping.interval").Milliseconds(),
		StampIntervalMs: o.eff.Duration("ha.stamp.interval").Milliseconds(),
		HelloRetryMs:    o.eff.Duration("agent.hello.retry").Milliseconds(),
	}
}
