// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// owner owns one host: the only goroutine that changes the host's records. Everything
// that happens to the host comes through its mailbox; everything that is done about it
// starts after a commit. Nothing here decides, see coordinator/ha.
type owner struct {
	w      *Worker
	s      *leases.Session
	claim  leases.Claim
	host   string
	listed bool   // others may find it; touched by its own goroutine only
	home   string // partition at adoption: a host that moves gets another slot and so another owner
	log    *slog.Logger
	in     *mailbox

	spec   versioned[v1.HostSpec]
	rec    ha.Record
	stored ha.Record  // as etcd has it
	next   ha.Record  // as the present step decides: here, so that a ping allocates none
	told   *ha.Record // the record as it was published last; nil: never
	recRev int64      // 0: not on record yet
	pow    powerRecord
	powRev int64
	eff    effective
	policy ha.Policy

	// What agents are answered with; made when what it is made of changes, not for each ping.
	epoch    *agentpb.Epoch
	settings *agentpb.Settings

	recorder replay.Recorder // of the open incident's steps

	devices []device      // effective
	ordered []budgetState // as they were before the last operator's order

	onNotBefore time.Time // until then a packet of an earlier owner may still come
	sessions    time.Time // until then it may have a session open on a BMC

	live     liveFacts
	jobs     jobs
	commands *commander
	txn      *txnRunner
	place    place
}

// Messages of the mailbox beside ha.Event.
type (
	specChanged    struct{}
	policyChanged  struct{}
	readersChanged struct{}
	helloMsg       struct {
		hello   *agentpb.Hello
		told    *agentpb.Settings // it was welcomed with
		at      time.Time
		refused bool // there is no link
	}
	pingMsg struct {
		boot   string
		report *agentpb.Report
		gate   string
		at     time.Time
		told   *agentpb.Settings // it was answered with; nil: it did not ping by itself
	}
	goneMsg struct {
		at   time.Time
		lost string // not the agent, but this worker, which carried its link, is known to be gone
	}
	hostileMsg struct {
		device string
		count  int
	}
	// callMsg runs fn on the owner's goroutine and answers on done; operators' reads
	// and orders come this way. Whoever sets taken first decides: the owner runs it, or
	// the caller has gone and it never runs.
	callMsg struct {
		fn    func(ctx context.Context)
		taken *atomic.Bool
		done  chan struct{}
	}
)

func newOwner(w *Worker, s *leases.Session, c leases.Claim, host string) *owner {
	o := &owner{w: w, s: s, claim: c, host: host, in: newMailbox(), log: w.log.With("host", host), epoch: wireEpoch(s, c.Epoch)}
	o.commands = newCommander(o)
	return o
}

// run owns the host until ctx ends: on a lost lease, a lost slot or a deleted host.
func (o *owner) run(ctx context.Context) {
	ctx, stop := context.WithCancelCause(ctx)
	o.jobs.init(ctx, stop)
	defer o.endPlace()
	defer o.jobs.wait()
	defer o.commands.close()
	defer stop(nil)
	// Owners of thousands of hosts start at once when a worker dies; those that found
	// etcd full of the others' first writes would time out, and its lease with them.
	leave, ok := o.w.adopting.enter(ctx, o.w.view.underWay(o.host))
	if !ok {
		return
	}
	if err := o.load(ctx); err != nil {
		leave()
		if ctx.Err() == nil {
			o.log.Error("adopt host", "cause", err)
		}
		return
	}
	o.commands.open()
	o.w.enlist(o)
	defer o.w.delist(o)
	timer := time.NewTimer(0)
	defer timer.Stop()
	o.adopt(ctx)
	leave()
	for ctx.Err() == nil {
		timer.Reset(o.untilNext())
		select {
		case <-ctx.Done():
		case <-timer.C:
			o.drain(ctx) // what has arrived counts before what is overdue
			o.onTime(ctx, o.now())
		case <-o.in.ready:
			o.drain(ctx)
		}
	}
	o.log.Debug("owner ended", "cause", context.Cause(ctx))
}

// adopting lets so many owners at once take their host over, and no more in a second than
// leave the cores to others for half of the time: etcd's members may share them, and stopped
// everybody's writes while the owners of a large worker's hosts began all at once. A new owner
// has two pings' time before it counts a missed one; hosts about which something is under way
// do not wait.
type adopting struct {
	queue chan struct{} // of those that wait for the pace: what one that gives up has reserved is lost to the next
	turns chan struct{}
	pace  *rate.Limiter
}

const (
	adoptAtOnce = 64
	adoptRate   = 3000 // a second and core; one takes about 0.1 ms of a core
	adoptBurst  = 1000
)

func newAdopting() adopting {
	return adopting{make(chan struct{}, adoptAtOnce), make(chan struct{}, adoptAtOnce), rate.NewLimiter(rate.Limit(adoptRate*runtime.GOMAXPROCS(0)), adoptBurst)}
}

// enter waits for a turn, which leave gives back; urgent hosts have theirs at once. False when ctx
// ended first.
func (a adopting) enter(ctx context.Context, urgent bool) (leave func(), ok bool) {
	if urgent {
		return func() {}, true
	}
	select {
	case a.queue <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	err := a.pace.Wait(ctx)
	<-a.queue
	if err != nil {
		return nil, false
	}
	select {
	case a.turns <- struct{}{}:
		return func() { <-a.turns }, true
	case <-ctx.Done():
		return nil, false
	}
}

func (o *owner) drain(ctx context.Context) {
	for msg, ok := o.in.take(); ok && ctx.Err() == nil; msg, ok = o.in.take() {
		o.handle(ctx, msg)
	}
}

func (o *owner) now() time.Time { return time.Now().UTC() }

// load takes the host's records from the mirror, which has come to this owner's epoch: what
// is written under a slot compares its epoch, so earlier owners have written nothing later
// than that, and thousands of hosts are taken over without a read (leases.md §1). Should an
// owner of this very epoch have ended by itself and written something that the mirror does
// not show yet, then the next commit fails, which compares the record, before any effect.
func (o *owner) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if err := o.loadSpec(o.recall); err != nil {
		return err
	}
	o.home = o.spec.Val.Partition
	var err error
	if o.recRev, err = o.recall(leases.HostHAKey(o.host), &o.rec); err != nil {
		return err
	}
	if o.recRev == 0 {
		o.rec = ha.New(o.host, o.now())
	}
	o.stored = o.rec
	if o.powRev, err = o.recall(leases.HostPowerKey(o.host), &o.pow); err != nil {
		return err
	}
	o.live = newLiveFacts(o.now())
	if i := o.rec.Incident; i != nil {
		o.live.before = i.Pace
	}
	o.refreshPolicy()
	left, err := o.strayTime(ctx)
	if err != nil {
		return err
	}
	if left.packet > 0 {
		o.onNotBefore = o.live.adopted.Add(left.packet)
	}
	if left.session > 0 {
		o.sessions = o.live.adopted.Add(left.session)
	}
	if left != (stray{}) {
		o.refreshPolicy()
	}
	return nil
}

func (o *owner) loadSpec(read func(key string, into any) (int64, error)) error {
	var spec v1.HostSpec
	rev, err := read(leases.HostSpecKey(o.host), &spec)
	if err != nil {
		return err
	}
	if rev == 0 || o.w.slotOf(spec.Partition, o.host) != o.claim.Slot {
		return errRemoved // or moved: the mirror is behind
	}
	o.spec = versioned[v1.HostSpec]{Rev: rev, Val: spec}
	return nil
}

// recall takes one key from the mirror and decodes it; revision 0 means that there is none.
func (o *owner) recall(key string, into any) (int64, error) {
	kv, ok := o.w.mirror.Get(key)
	if !ok {
		return 0, nil
	}
	return decode(kv, into)
}

// fetch reads and decodes one key, linearizable; revision 0 means that there is none.
func (o *owner) fetch(ctx context.Context, key string, into any) (int64, error) {
	kv, err := o.w.client.Get(ctx, key)
	if errors.Is(err, leases.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return decode(kv, into)
}

func decode(kv leases.KV, into any) (int64, error) {
	if err := kv.Decode(into); err != nil {
		return 0, fmt.Errorf("at revision %d: %w", kv.ModRevision, err)
	}
	return kv.ModRevision, nil
}

// adopt tells the machine that a new owner is here, and of everything it missed.
func (o *owner) adopt(ctx context.Context) {
	// Its agent may be linked to a worker that this one cannot reach.
	if l, ok := get(o.w.view, o.w.view.links, o.host); ok && l.Val.Worker != o.w.o.ID {
		if _, lives := o.w.view.worker(l.Val.Worker); lives {
			o.live.cutOff(o.live.adopted, l.Val.Worker)
		}
	}
	o.step(ctx, ha.Event{Kind: ha.EvAdopted})
	o.tellPolicy(ctx)
	o.tellPower(ctx)
	o.readPower(false)
}

// handle takes one message of the mailbox.
func (o *owner) handle(ctx context.Context, msg any) {
	switch m := msg.(type) {
	case ha.Event:
		o.step(ctx, m)
	case helloMsg:
		o.onHello(ctx, m)
	case pingMsg:
		o.onPing(ctx, m)
	case goneMsg: // a newer session may have come meanwhile
		if o.live.linked = o.w.door.Session(o.host) != nil; !o.live.linked && m.lost != "" {
			o.live.cutOff(m.at, m.lost)
			o.log.Info("carrier of the link lost, misses count later", "carrier", m.lost, "from", o.live.missAt(o.policy))
		}
		o.publish()
	case specChanged:
		v, ok := o.w.view.spec(o.host)
		switch {
		case !ok || v.Rev <= o.spec.Rev:
		case v.Val.Partition != o.home:
			o.jobs.stop(errRemoved) // it belongs to another slot now
		default:
			o.spec = v
			o.tellPolicy(ctx)
		}
	case policyChanged:
		o.tellPolicy(ctx)
	case readersChanged:
		o.step(ctx, ha.Event{Kind: ha.EvPolicy})
	case secretChanged:
		o.tellPolicy(ctx) // its devices are others now
	case powerDone:
		o.onPower(ctx, m)
	case hostileMsg:
		o.onHostile(ctx, m)
	case placeReady:
		o.onPlace(ctx, m)
	case checkDone:
		o.onCheck(ctx, m.check)
	case baselineDone:
		o.onBaseline(ctx, m)
	case lookSoon:
		o.look()
	case lookDone:
		o.onLook(ctx, m)
	case examineDone:
		o.jobs.end(jobExamine)
	case repairDone:
		o.jobs.end(jobRepair)
		o.step(ctx, ha.Event{Kind: ha.EvRepaired, Reason: m.why})
	case callMsg:
		if m.taken.CompareAndSwap(false, true) {
			m.fn(ctx)
			close(m.done)
		}
	}
}

// step is the loop of architecture.md §4.2: decide, commit, then act.
// It returns the effects of the step, and whether the host's record is as decided.
func (o *owner) step(ctx context.Context, ev ha.Event) ([]ha.Effect, bool) {
	if ev.At.IsZero() {
		ev.At = o.now()
	}
	began := time.Now()
	var effects []ha.Effect
	o.next, effects = ha.Step(o.rec, ev, o.policy)
	o.w.metrics.stepTime[ev.Kind].Observe(time.Since(began).Seconds())
	if len(effects) == 0 && (o.next.Same(&o.rec) || reflect.DeepEqual(&o.next, &o.rec)) {
		return nil, true
	}
	if len(effects) == 0 && o.unworthy(ev) {
		o.rec = o.next
		o.recorder.Break()
		return nil, true
	}
	from := o.rec
	if !o.commit(ctx, ev, o.next, effects) {
		return nil, false
	}
	o.committed(from, ev)
	for _, e := range effects {
		o.start(ctx, e)
	}
	o.leaveIdle()
	return effects, true
}

// unworthy: what a step without effects has made of the record need not be written. What
// adoption takes back, the next owner would take back as well; and it often comes out
// again as it is stored. Thousands of hosts are adopted at once when a worker dies.
func (o *owner) unworthy(ev ha.Event) bool {
	return o.recRev != 0 && (ev.Kind == ha.EvAdopted || reflect.DeepEqual(&o.next, &o.stored))
}

// committed is everything that follows a commit without being an effect.
func (o *owner) committed(from ha.Record, ev ha.Event) {
	if from.State != o.rec.State {
		o.log.Info("state", "from", from.State, "to", o.rec.State, "cause", o.rec.Reason, "epoch", o.claim.Epoch)
		o.w.metrics.transition(from.State, o.rec.State, o.rec.Since.Sub(from.Since))
	}
	o.w.metrics.held(from.Holds(), o.rec.Holds())
	if from.State != o.rec.State || from.Admin != o.rec.Admin || from.Eligible != o.rec.Eligible || (from.Incident == nil) != (o.rec.Incident == nil) {
		o.w.memberChanged(o.spec.Val.Partition)
	}
	if p := o.rec.Proof; p != nil && (from.Proof == nil || from.Proof.Boot != p.Boot) {
		o.commands.over(p.Boot, o.rec.Reason)
		o.w.peerCame(o.host)
		o.w.tellAsking(o.host)
	}
	o.publish()
}

// untilNext is the time until something is due without any message.
func (o *owner) untilNext() time.Duration {
	next := o.rec.NextDeadline()
	for _, t := range []time.Time{o.live.unheardAt(o.policy), o.missAt(), o.live.lookAt, o.live.powerAt, o.live.baselineAt, o.live.askAt} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if next.IsZero() {
		return time.Hour
	}
	return max(time.Millisecond, time.Until(next))
}

// onTime feeds what is due at now.
func (o *owner) onTime(ctx context.Context, now time.Time) {
	if d := o.rec.NextDeadline(); !d.IsZero() && !d.After(now) {
		o.step(ctx, ha.Event{Kind: ha.EvTick, At: now})
		if d2 := o.rec.NextDeadline(); d2.Equal(d) {
			// A deadline that a tick does not move would spin; it is a defect of the
			// table, made visible and harmless here.
			o.log.Error("deadline stands still", "state", o.rec.State, "deadline", d)
			o.w.metrics.stuckDeadlines.Inc()
			pause(ctx, 100*time.Millisecond)
		}
	}
	if at := o.live.unheardAt(o.policy); !at.IsZero() && !at.After(now) {
		o.cannotHear(ctx, now)
	}
	if at := o.missAt(); !at.IsZero() && !at.After(now) {
		woke, stood := laterStandstill(o.w.still.ended, func() (time.Time, bool) { return o.w.door.CarrierStood(o.host) })
		deaf, missed := o.live.judged(o.policy).Overdue(now, woke, stood, o.policy)
		if o.live.deaf = deaf; missed {
			o.missed(ctx, now)
		}
	}
	if at := o.live.lookAt; !at.IsZero() && !at.After(now) {
		o.look()
	}
	switch at := o.live.powerAt; {
	case at.IsZero() || at.After(now):
	case o.txn != nil: // it holds the devices' sessions, and reads them itself
		o.live.powerAt = now.Add(o.readLimits().ConfirmAfter)
	default:
		o.readPower(false)
	}
	if at := o.live.askAt; !at.IsZero() && !at.After(now) {
		o.live.askAt = time.Time{}
		o.tellPolicy(ctx) // settings with an expiry change by themselves
	}
	if !o.live.baselineAt.IsZero() && !o.live.baselineAt.After(now) {
		o.takeBaseline()
	}
}

// call runs fn on the owner's goroutine and waits for it. Error: the owner has ended,
// or ctx has; then fn has not run and never will. Once it runs it is waited for: what it
// writes for its caller must not change behind the caller's back, and no order is carried
// out after its giver was told that it was not.
func (o *owner) call(ctx context.Context, fn func(ctx context.Context)) error {
	return callThrough(ctx, o, func(m callMsg) { o.in.put("", m) }, fn)
}

// callThrough is call by way of either of an owner's mailboxes.
func callThrough(ctx context.Context, o *owner, put func(callMsg), fn func(ctx context.Context)) error {
	m := callMsg{fn: fn, taken: new(atomic.Bool), done: make(chan struct{})}
	put(m)
	var err error
	select {
	case <-m.done:
		return nil
	case <-o.jobs.ctx.Done():
		err = fmt.Errorf("host %s: this worker does not own it any more", o.host)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if m.taken.CompareAndSwap(false, true) {
		return err
	}
	<-m.done
	return nil
}
