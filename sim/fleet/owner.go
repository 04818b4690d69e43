// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// owner is what worker/owner.go is: it alone changes a host's records, everything that
// happens comes through post, everything that is done starts after a commit.
type owner struct {
	f     *Fleet
	w     *worker
	h     *host
	epoch int64
	over  bool

	rec    ha.Record
	policy ha.Policy
	eff    cached
	pace   ha.Pace // that the agent was told last, as far as this owner knows

	hearing   ha.Hearing // Last is lastPing()
	heardAt   time.Time
	deafened  bool // the worker stands still: pings wait unread
	calm      bool // pings bring nothing new
	pingArmed bool
	told      shown
	powerSeen bool
	eligible  ha.Verdict
	eligWhy   string

	baselineAt, powerAt time.Time
	renewed             time.Time // looks only renew what neighbours remember since, each like the one then
	askAt               time.Time // what a cooldown holds may be let go then
	powerPaused         time.Time // last ordinary reading of a host whose readings bring nothing new
	onNotBefore         time.Time

	place   place
	checks  int // activity check under way, by number
	reading bool
	stirs   int // how often the world moved, and at the last reading
	askedAt int
	looking bool
	txn     string

	mail    []func()
	busy    bool
	blocked func() // a commit that waits for etcd
	timerAt time.Time
	nudged  bool // told to look at its holds again
}

// shown is what partitions and neighbours know of an owner.
type shown struct{ alive, healthy, linked bool }

func (s shown) reads() bool { return s.alive && s.healthy && s.linked }

// intent is what may be on the wire to the host's devices.
type intent struct {
	session     int
	worker      *worker
	onNotBefore time.Time
}

func newOwner(w *worker, h *host, epoch int64) *owner {
	o := &owner{f: w.f, w: w, h: h, epoch: epoch, rec: h.rec}
	if !h.onRec {
		o.rec = ha.New(h.ID, o.wall())
	}
	o.hearing.Adopted, o.powerAt = o.f.now, o.f.now
	if o.rec.Incident != nil {
		o.pace = o.rec.Incident.Pace
	}
	h.owner, w.owners[h.ID] = o, o
	o.refreshPolicy()
	if wait := o.strayTime(); wait > 0 {
		o.onNotBefore = o.wall().Add(wait)
		o.policy.Fence.OnNotBefore = o.onNotBefore
	}
	return o
}

// wall is the time as the worker's clock shows it.
func (o *owner) wall() time.Time { return o.f.now.Add(o.w.skew) }

// real is when the worker's clock shows a time.
func (o *owner) real(t time.Time) time.Time { return t.Add(-o.w.skew) }

func (o *owner) epochText() string { return fmt.Sprintf("1/%d", o.epoch) }

// strayTime is how long a packet of an earlier owner may still come (worker/policy.go).
func (o *owner) strayTime() time.Duration {
	op := o.h.op
	if op == nil {
		return 0
	}
	command := o.eff.Duration("power.command.deadline")
	before := min(max(0, op.onNotBefore.Sub(o.wall())), leaseTTL+command)
	if op.session == o.w.session && op.worker == o.w {
		return before
	}
	switch op.worker.ends[op.session] {
	case released, reaped:
		return before
	case expired:
		return max(before, command)
	}
	if op.worker.session == op.session { // handed over by one that lives
		return before
	}
	return leaseTTL + command
}

func (o *owner) adopt() {
	o.post(func() {
		o.step(ha.Event{Kind: ha.EvAdopted})
		o.tellPolicy()
		o.tellPower()
		o.readPower()
	})
	o.h.relink()
}

// end stops everything; what was under way reports to nobody.
func (o *owner) end() {
	if o.over {
		return
	}
	o.renew()
	o.over = true
	o.leavePlace()
	if o.w.owners[o.h.ID] == o {
		delete(o.w.owners, o.h.ID)
	}
	delete(o.w.lost, o.h.ID)
	if o.h.owner == o {
		o.h.owner = nil
	}
	o.h.relink()
	o.f.parts[o.h.Partition].wake()
}

// post is the mailbox.
func (o *owner) post(do func()) {
	if o.over {
		return
	}
	if o.busy || o.blocked != nil || o.w.paused {
		o.mail = append(o.mail, do)
		return
	}
	o.busy = true
	do()
	for !o.over && o.blocked == nil && len(o.mail) > 0 {
		next := o.mail[0]
		o.mail = o.mail[1:]
		next()
	}
	o.busy = false
	if !o.over {
		o.publish()
		o.arm()
	}
}

// wake goes on with what has waited.
func (o *owner) wake() { o.post(func() {}) }

// stir: the world moved; what was quiet is looked at again.
func (o *owner) stir() {
	o.stirs++
	o.calm = false
	if !o.powerPaused.IsZero() {
		// It was read all along at its pace; the next time is the one that comes now.
		every := o.readCadence()
		gone := o.f.now.Sub(o.powerPaused)
		o.powerAt = o.powerPaused.Add((gone/every + 1) * every)
		for d, t := range o.h.tests {
			if age := o.f.now.Sub(t.at); t.ok && age > testEvery {
				t.at = t.at.Add(age / testEvery * testEvery)
				o.h.tests[d] = t
			}
		}
		o.powerPaused = time.Time{}
	}
	o.renew()
	o.baselineDue()
	o.arm()
}

// step decides, commits and then acts; false: it is not as decided (yet).
func (o *owner) step(ev ha.Event) ([]ha.Effect, bool) {
	if o.over {
		return nil, false
	}
	if o.blocked != nil {
		o.mail = append(o.mail, func() { o.step(ev) })
		return nil, false
	}
	if ev.At.IsZero() {
		ev.At = o.wall()
	}
	next, effects := ha.Step(o.rec, ev, o.policy)
	o.f.rules.steps++
	if len(effects) == 0 && reflect.DeepEqual(next, o.rec) {
		return nil, true
	}
	policy := o.policy
	if !o.f.etcdUp || o.w.noEtcd {
		o.blocked = func() { o.commit(ev, policy, next, effects) }
		return nil, false
	}
	o.commit(ev, policy, next, effects)
	return effects, true
}

// unblock: etcd takes writes again.
func (o *owner) unblock() {
	if o.blocked == nil || o.over {
		return
	}
	do := o.blocked
	o.blocked = nil
	o.post(do)
}

func (o *owner) commit(ev ha.Event, policy ha.Policy, next ha.Record, effects []ha.Effect) {
	from := o.rec
	o.renew()
	if o.f.Committed != nil {
		o.f.Committed(ev, policy, from, next, effects)
	}
	for _, e := range effects {
		switch {
		case e.Kind == ha.Spend:
			o.spend(ev)
		case e.Kind == ha.TxnDo && e.Txn.Do == power.DoSend:
			o.h.op = &intent{session: o.w.session, worker: o.w, onNotBefore: o.onNotBefore}
		case e.Kind == ha.TxnDo && e.Txn.Do == power.DoEnd:
			o.h.op = nil
		}
	}
	o.rec, o.h.rec, o.h.onRec, o.calm = next, next, true, false
	o.f.count(o.h)
	o.f.log.committed(o, ev, from, effects)
	o.f.rules.committed(o, ev, from, effects)
	if from.State != next.State || from.Admin != next.Admin || from.Eligible != next.Eligible || (from.Incident == nil) != (next.Incident == nil) {
		o.f.parts[o.h.Partition].wake()
		o.f.triggered(o.h)
	}
	for _, e := range effects {
		o.start(e)
	}
	o.leaveIdle()
	o.f.restart(o, from, effects)
}

// start begins one effect of a committed step.
func (o *owner) start(e ha.Effect) {
	switch e.Kind {
	case ha.StartCheck:
		o.startCheck(e)
	case ha.TakePlace:
		o.takePlace(e.Purpose)
	case ha.LeavePlace:
		o.leavePlace()
	case ha.ReadPower:
		o.readPower()
	case ha.TxnDo:
		o.doTxn(*e.Txn)
	case ha.Repair:
		o.f.after(2*time.Second, func() { o.post(func() { o.step(ha.Event{Kind: ha.EvRepaired, Reason: "it ended well"}) }) })
	}
}

// arm asks for the next moment at which something is due without any message.
func (o *owner) arm() {
	if o.over || o.w.paused || o.blocked != nil {
		return
	}
	o.armPing()
	var next time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if d := o.rec.NextDeadline(); !d.IsZero() {
		at(o.real(d))
	}
	if m := o.missAt(); !m.IsZero() {
		at(m)
	}
	at(o.powerAt)
	at(o.baselineAt)
	at(o.askAt)
	if next.IsZero() || !o.timerAt.IsZero() && !next.Before(o.timerAt) {
		return
	}
	if next.Before(o.f.now) {
		next = o.f.now
	}
	o.timerAt = next
	o.f.at(next, func() {
		if !o.timerAt.Equal(next) || o.over {
			return
		}
		o.timerAt = time.Time{}
		o.post(o.onTime)
	})
}

// onTime feeds what is due.
func (o *owner) onTime() {
	now := o.f.now
	if d := o.rec.NextDeadline(); !d.IsZero() && !o.real(d).After(now) {
		o.step(ha.Event{Kind: ha.EvTick})
		if again := o.rec.NextDeadline(); again.Equal(d) && o.blocked == nil {
			o.f.rules.broken(o.h, "deadline", fmt.Sprintf("a deadline stands still in %s at %s", o.rec.State, d.Format(time.TimeOnly)))
		}
	}
	if m := o.missAt(); !m.IsZero() && !m.After(now) {
		o.overdue()
	}
	switch {
	case o.powerAt.IsZero() || o.powerAt.After(now):
	case o.txn != "":
		o.powerAt = now.Add(2 * time.Second)
	default:
		o.readPower()
	}
	if !o.askAt.IsZero() && !o.askAt.After(now) {
		o.askAt = time.Time{}
		o.tellPolicy() // settings with an expiry change by themselves
	}
	if !o.baselineAt.IsZero() && !o.baselineAt.After(now) {
		o.takeBaseline()
	}
}

// refreshPolicy resolves the settings that are effective now.
func (o *owner) refreshPolicy() {
	o.renew()
	o.eff = o.f.effective(o.h)
	o.policy = o.eff.policy.Paced(o.pace).ReadBy(o.h.readersStamps())
	o.policy.Fence.OnNotBefore = o.onNotBefore
	o.policy.Disarmed = strings.Join(o.f.disarmed(o.h), "; ")
	o.tellPace()
}

func (o *owner) acting() bool { return o.rec.State == ha.Recovering || o.rec.State == ha.Fencing }

// place is this owner's place in the recovery pool.
type place struct {
	waiting guard.Purpose
	seq     int
	held    bool
	turn    *turn
	running bool
	budgets []budgetState
}

// takePlace waits for a place, then reads every power level freshly (worker/place.go).
func (o *owner) takePlace(p guard.Purpose) {
	o.place.waiting = p
	o.place.seq++
	if o.place.running {
		return // an earlier asking still runs: its stale answer asks again
	}
	o.askPlace()
}

func (o *owner) askPlace() {
	seq := o.place.seq
	o.place.running = true
	ready := func() {
		o.round(func(answered map[string]time.Time) {
			o.readDevices(func(rs []deviceReading) { o.onPlace(seq, rs, answered) })
		})
	}
	if o.place.held {
		ready()
		return
	}
	o.place.turn = o.w.recovery.acquire(func() {
		o.place.held, o.place.turn = true, nil
		if o.over {
			o.leavePlace()
			return
		}
		ready()
	})
}

func (o *owner) onPlace(seq int, rs []deviceReading, answered map[string]time.Time) {
	o.place.running = false
	switch {
	case o.place.waiting == "":
		o.leaveIdle()
		return
	case !o.place.held || seq != o.place.seq:
		o.askPlace()
		return
	}
	o.absorb(rs)
	if o.over || o.place.waiting == "" || seq != o.place.seq {
		return
	}
	snap := o.snapshot(o.place.waiting, rs, answered)
	o.place.waiting = ""
	o.step(ha.Event{Kind: ha.EvPlace, At: snap.At, Snapshot: &snap})
	o.latch(snap.At)
	if len(o.rec.Holds()) > 0 {
		if o.askAt = o.f.rearmed(o.h); snap.Area.Cooldown() > 0 {
			o.askAt = later(o.askAt, o.f.now.Add(snap.Area.Cooldown()))
		}
	}
	o.leaveIdle()
}

func (o *owner) leavePlace() {
	p := &o.place
	p.waiting = ""
	if p.turn != nil {
		p.turn.gone, p.turn, p.running = true, nil, false
	}
	if p.held {
		p.held = false
		o.w.recovery.release()
	}
}

func (o *owner) leaveIdle() {
	if o.place.held && o.place.waiting == "" && !o.acting() {
		o.leavePlace()
	}
}

// tellPartition tells the machine the partition's state as it is on record.
func (o *owner) tellPartition() {
	o.step(ha.Event{Kind: ha.EvPartition, Partition: o.f.parts[o.h.Partition].rec.State})
}

// tellPolicy tells the machine what administrators and settings say now.
func (o *owner) tellPolicy() {
	o.refreshPolicy()
	h := o.h
	a := ha.Admin{Maintenance: h.Maintenance, Excluded: h.HADisabled, Disabled: h.Disabled}
	o.step(ha.Event{Kind: ha.EvAdmin, Admin: &a})
	o.tellPartition()
	o.tellEligible()
	o.step(ha.Event{Kind: ha.EvPolicy})
}

// order is an operator's word.
func (o *owner) order(ord ha.Order) {
	o.post(func() {
		kept := o.place.budgets
		o.place.budgets = o.readBudgets()
		o.step(ha.Event{Kind: ha.EvOperator, Order: &ord, Life: o.lastLife()})
		o.place.budgets = kept
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
