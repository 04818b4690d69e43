// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	// helloAgain is how often at least a hello is said again on one stream while nobody is said
	// to own the host, before another worker is asked: this one may be cut off from etcd.
	// Agents that ping seldom ask on for the time of a ping: theirs may have been a large worker,
	// whose hosts are still being taken over, and another stream would cost a handshake.
	helloAgain = 3
	// standbyRetry is after how long a standby that could not be had is tried again.
	standbyRetry = 5 * time.Second
	// leaveWithin is how long a link that was replaced may take with the frame it is sending.
	leaveWithin = 200 * time.Millisecond
	// shunFor is how long others are preferred to a worker that could not stand by.
	shunFor = 30 * time.Second
	// raceAfter failures in a row two workers are tried at once; once, because when all are
	// busy twice the handshakes would be no help.
	raceAfter = 2
	// raceWithin is after how long at most the second of two workers is dialled that are tried
	// at once.
	raceWithin = 200 * time.Millisecond
	// rankLooks is how many times it is looked, about, until the best worker stands by, where another
	// one does so: when all agents move at once, this is what can wait.
	rankLooks = 10
	// promoteWithin bounds the time over which the agents of a lost worker come to the others.
	promoteWithin = time.Second
)

// links are the streams of this host: the active one, and one that stands by. One
// goroutine uses them, linkLoop's; it opens one stream at a time beside the active one.
type links struct {
	agent   *Agent
	active  *session
	ever    bool // there was one
	standby *session
	beating chan struct{} // closed when nothing of the active session is left
	route   route
	said    map[string]string    // why each worker was no good, since the last session
	shunned map[string]time.Time // addresses that could not stand by, until then

	dialling bool
	moving   bool // what is being opened is to become the active one
	spared   bool // the owner has dropped the active session for what is being opened
	opened   chan opening
}

// opening is how an attempt to open a stream beside the active one ended; without a session it failed.
type opening struct {
	s       *session
	to      purpose
	end     ending
	address string
	kept    bool // the stream was there: the one that was left
}

// up makes some stream the active one: the standby without a handshake, else the next
// worker's. It is one attempt; false when it failed, after a wait.
func (l *links) up(ctx context.Context) bool {
	a := l.agent
	l.show()
	select {
	case o := <-l.opened: // it was opened beside the session that has ended
		l.dialling, l.moving = false, false
		switch {
		case o.s == nil:
		case l.standby == nil:
			l.standby = o.s
			l.standby.standsBy()
		default:
			o.s.close(errors.New("another worker stands by"))
		}
	default:
	}
	s := l.standby
	var end ending
	ok := false
	list := a.workers.addresses()
	within := l.route.patience(a.settings.get().halfOpen(), len(list))
	if s != nil && (l.route.owner == "" || l.route.owner == s.address) {
		l.standby = nil
		sleep(ctx, time.Duration(rand.Float64()*float64(min(promoteWithin, a.settings.get().ping/2))))
		l.route.last, l.route.owner = s.address, ""
		end, ok = s.hello(ctx, toUse, within)
	} else if l.route.failures == raceAfter && l.route.owner == "" && len(list) > 1 && !l.dialling {
		if s, end = l.race(ctx, list, within); s != nil {
			end, ok = s.hello(ctx, toUse, within)
		}
	} else {
		s, end = a.dial(ctx, l.route.next(list, l.shuns), toUse, within)
		ok = end.welcomed
	}
	asking := time.Now()
	for again := 0; !ok && s != nil && s.waits(end) && end.refusal.GetReason() == agentpb.Refusal_NO_OWNER && ctx.Err() == nil; again++ {
		if again >= helloAgain && time.Since(asking) > a.settings.get().ping {
			break
		}
		l.say(end, 0)
		sleep(ctx, l.jittered(a.settings.get().retry))
		end, ok = s.hello(ctx, toUse, within)
	}
	if ok {
		l.use(ctx, s)
		return true
	}
	if s != nil {
		s.close(errors.New("not welcome"))
	}
	if ctx.Err() == nil {
		l.rest(ctx, end)
	}
	return false
}

// race opens silent streams to the next two workers at once, because those before have
// failed, and returns the first that is there; the other one stands by. Only one is said an
// active Hello: of two the newer would win, whichever of them is in use.
func (l *links) race(ctx context.Context, list []string, within time.Duration) (*session, ending) {
	a := l.agent
	results := make(chan opening, 2)
	for i := range 2 {
		address := l.route.next(list, l.shuns)
		a.working.Go(func() {
			if i > 0 {
				sleep(ctx, time.Duration(rand.Float64()*float64(raceWithin)))
			}
			s, end := a.dial(ctx, address, toStandBy, within)
			results <- opening{s: s, to: toStandBy, end: end, address: address}
		})
	}
	first := <-results
	if first.s != nil {
		l.dialling = true
		a.working.Go(func() { l.opened <- <-results })
	} else {
		l.route.last = first.address
		l.say(first.end, 0)
		first = <-results
	}
	l.route.last = first.address
	return first.s, first.end
}

// rest waits until the next attempt is due.
func (l *links) rest(ctx context.Context, end ending) {
	wait := l.route.after(end, l.agent.settings.get().retry, rand.Float64())
	l.say(end, wait)
	sleep(ctx, wait)
}

// say tells once why the worker dialled last is no good.
func (l *links) say(end ending, wait time.Duration) {
	l.agent.metrics.failed(end)
	if cause := end.cause(); l.said[l.route.last] != cause {
		l.agent.opts.Logger.Warn("not linked", "worker", l.route.last, "cause", cause, "retry_in", wait)
		l.said[l.route.last] = cause
	}
}

// use makes a welcome session the active one and lets the one before it go, or stand by where that
// is the best to do so: to come back to it, or to go on there when this one is lost, takes no
// handshake.
func (l *links) use(ctx context.Context, s *session) {
	a := l.agent
	var late []*agentpb.Answer
	old := l.active
	if old != nil {
		old.keep = l.better(old)
		close(old.leave)
		stuck := time.AfterFunc(leaveWithin, func() { old.cancel(errors.New("another link has taken its place")) })
		<-old.left // it sends nothing more
		stuck.Stop()
		late = a.asked.late()
	}
	if l.ever {
		a.metrics.reconnects.WithLabelValues(l.how(s)).Inc()
	}
	l.ever = true
	l.active, l.beating = s, make(chan struct{})
	l.route.last, l.route.tried = s.address, 0
	clear(l.said)
	a.opts.Logger.Info("linked", "worker", s.worker, "address", s.address, "epoch", a.epochs.highest().GetRevision())
	s.activate()
	done := l.beating
	a.working.Go(func() {
		defer close(done)
		s.run(ctx)
	})
	for _, answer := range late {
		a.working.Go(func() { a.post(ctx, answer) })
	}
	l.spared = false
	if old != nil && old.keep && !old.over() {
		old.rests()
		l.open(opening{to: toStandBy, address: old.address, kept: true}, func() (*session, ending) {
			end, ok := old.hello(ctx, toStandBy, maxWelcomeLimit)
			if !ok {
				old.close(errors.New("it may not stand by"))
				return nil, end
			}
			return old, end
		})
	}
}

// better: this worker is to stand by rather than the one that does so now.
func (l *links) better(s *session) bool {
	list, _ := l.agent.workers.watch()
	rank := slices.Index(list.addresses, s.address)
	return rank >= 0 && (l.standby == nil || rank < slices.Index(list.addresses, l.standby.address))
}

// how says how a session comes to be the active one; called before it is.
func (l *links) how(s *session) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case l.active != nil:
		return byMove
	case s.silent != nil:
		return byStandby
	}
	return byDial
}

// hold keeps the active session until it ends without another in its place: beside it, it
// keeps one that stands by, and moves to the preferred worker where that is another.
func (l *links) hold(ctx context.Context) {
	a := l.agent
	list, changed := a.workers.watch()
	check := time.NewTimer(l.untilCheck(list))
	defer check.Stop()
	standby := time.NewTimer(0)
	defer standby.Stop()
	move := time.NewTimer(time.Hour)
	defer move.Stop()
	move.Stop()
	quiet := time.NewTimer(l.quietly())
	defer quiet.Stop()
	spare := time.NewTimer(time.Hour)
	defer spare.Stop()
	var asked *agentpb.Move
	var strayed time.Time // when it was last tried to leave a worker that is blind
	for {
		l.show()
		var lost <-chan struct{}
		if l.standby != nil {
			lost = l.standby.ended
		}
		select {
		case <-ctx.Done():
			<-l.beating // it says goodbye
			return
		case <-l.active.ended:
			end := l.active.end
			end.welcomed = true
			if l.moving { // the newest session wins, and the older may hear of that first
				if o := l.settle(min(welcomeLimit, a.settings.get().ping)); o.s != nil {
					l.use(ctx, o.s)
					standby.Reset(0)
					continue
				}
			}
			<-l.beating
			l.active = nil
			l.show()
			if ctx.Err() == nil && (l.standby == nil || end.refusal.GetReason() == agentpb.Refusal_REPLACED) {
				l.rest(ctx, end)
			}
			return
		case <-quiet.C:
			if l.standby != nil {
				l.standby.quietPing()
			}
			quiet.Reset(l.quietly())
		case <-a.blind:
			if to := l.away(list, false); to != "" && time.Since(strayed) > standbyRetry && l.moveTo(ctx, to) {
				strayed = time.Now()
			}
		case <-lost:
			l.shun(l.standby.address)
			l.standby.close(nil)
			l.standby = nil
			standby.Reset(l.jittered(a.settings.get().retry))
		case <-l.active.spared:
			if l.spared = l.moving; l.spared {
				spare.Reset(a.settings.get().ping) // the welcome is on its way, or lost
			} else {
				signal(l.active.again)
			}
		case <-spare.C:
			if l.spared {
				l.spared = false
				signal(l.active.again)
			}
		case o := <-l.opened:
			standby.Reset(l.took(ctx, o))
		case <-standby.C:
			l.standBy(ctx, list, false)
		case <-check.C:
			if len(list.addresses) > 0 && l.active.address != list.addresses[0] {
				l.moveTo(ctx, list.addresses[0])
			} else {
				l.standBy(ctx, list, rand.N(rankLooks) == 0)
			}
			check.Reset(l.untilCheck(list))
		case <-changed:
			list, changed = a.workers.watch()
			check.Reset(l.untilCheck(list))
			standby.Reset(0)
		case asked = <-a.moves:
			within := time.Duration(min(max(asked.GetWithinMs(), 0), 600_000)) * time.Millisecond
			move.Reset(time.Duration(rand.Float64() * float64(within)))
		case <-move.C:
			if to := l.away(list, asked.GetCheck()); to != "" && !l.moveTo(ctx, to) {
				move.Reset(l.jittered(a.settings.get().retry))
			}
		}
	}
}

// took takes what was opened beside the active session into use, or as what stands by. It returns
// after how long it is to be seen whether something does.
func (l *links) took(ctx context.Context, o opening) time.Duration {
	l.dialling, l.moving = false, false
	why := o.end.refusal.GetReason()
	switch {
	case o.s == nil && o.kept && (why == agentpb.Refusal_BAD_HELLO || why == agentpb.Refusal_REPLACED):
		return 0 // an older worker, which knows no kept streams
	case o.s == nil && o.to == toStandBy:
		l.shun(o.address)
		return l.jittered(standbyRetry)
	case o.s == nil:
		l.agent.opts.Logger.Info("move put off", "cause", o.end.cause())
		if l.spared { // the worker had said welcome, and that was lost
			l.spared = false
			signal(l.active.again)
		}
		return l.jittered(standbyRetry)
	case o.s.over(): // a newer session was quicker, or the worker has gone
		o.s.close(nil)
		return l.jittered(l.agent.settings.get().retry)
	case o.to == toStandBy:
		if l.standby != nil {
			l.standby.close(errors.New("another worker stands by"))
		}
		l.standby = o.s
		l.standby.standsBy()
	default:
		l.use(ctx, o.s)
	}
	return 0 // the active one may be another meanwhile
}

// jittered is about d.
func (l *links) jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// quietly is the time between two pings on a silent stream: with time enough for the answer
// before the stream would be given up as half-open.
func (l *links) quietly() time.Duration { return l.agent.settings.get().ping * 3 / 2 }

// shun lets another worker stand by for a while.
func (l *links) shun(address string) { l.shunned[address] = time.Now().Add(shunFor) }

// shuns: it could not stand by a moment ago, so it is no worker to lose time with.
func (l *links) shuns(address string) bool { return time.Now().Before(l.shunned[address]) }

// untilCheck is the time until it is looked whether another worker is preferred; jittered,
// and never longer than the interval: after two of them every link is where it should be.
func (l *links) untilCheck(list workerSet) time.Duration {
	if list.check <= 0 {
		return 24 * time.Hour
	}
	return time.Duration(float64(list.check) * (0.6 + 0.3*rand.Float64()))
}

// away is where an agent goes that is asked to move: to the best of its list that is not
// the worker it is linked to; with check nowhere when that is the preferred one.
func (l *links) away(list workerSet, check bool) string {
	for i, address := range list.addresses {
		switch {
		case address != l.active.address:
			return address
		case check && i == 0:
			return ""
		}
	}
	return ""
}

// standBy opens a silent stream to the best worker that is not the active one's. While another
// one of the list stands by that is as good as any until it is needed; where rank is asked for,
// the best one takes its place, the new stream first.
func (l *links) standBy(ctx context.Context, list workerSet, rank bool) {
	others := slices.DeleteFunc(slices.Clone(list.addresses), func(address string) bool { return address == l.active.address })
	want := ""
	if len(others) > 0 {
		i := slices.IndexFunc(others, func(address string) bool { return !l.shuns(address) })
		want = others[max(i, 0)]
	}
	if l.standby != nil && !slices.Contains(others, l.standby.address) {
		l.standby.close(errors.New("it is not on the list any more"))
		l.standby = nil
	}
	if want != "" && (l.standby == nil || rank && l.standby.address != want) {
		l.open(opening{to: toStandBy, address: want}, func() (*session, ending) { return l.agent.dial(ctx, want, toStandBy, maxWelcomeLimit) })
	}
}

// moveTo opens the link to another worker while the active one goes on, however long that takes;
// false when another stream is being opened just now. The owner leaves the active one to the
// agent: the welcome that comes over the other one may get lost.
func (l *links) moveTo(ctx context.Context, address string) bool {
	if l.dialling {
		return false
	}
	promoted := l.standby
	if promoted == nil || promoted.address != address {
		promoted = nil
	} else {
		l.standby = nil
	}
	l.open(opening{to: toMove, address: address}, func() (*session, ending) {
		s := promoted
		var end ending
		if s != nil {
			end, _ = s.hello(ctx, toMove, maxWelcomeLimit)
		} else {
			s, end = l.agent.dial(ctx, address, toMove, maxWelcomeLimit)
		}
		if s != nil && !end.welcomed {
			s.close(errors.New("not welcome"))
			s = nil
		}
		return s, end
	})
	return true
}

// open lets do run beside the active session, one at a time, and tells how o came out.
func (l *links) open(o opening, do func() (*session, ending)) {
	if l.dialling {
		return // looked at again when that is done
	}
	l.dialling, l.moving = true, o.to != toStandBy
	l.agent.working.Go(func() {
		o.s, o.end = do()
		l.opened <- o
	})
}

// settle waits for a stream that is being opened, for a while; what comes later is taken later.
func (l *links) settle(within time.Duration) (o opening) {
	if !l.dialling {
		return o
	}
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case o = <-l.opened:
		l.dialling, l.moving = false, false
	case <-late.C:
	}
	return o
}

// end leaves nothing open.
func (l *links) end() {
	defer l.agent.linked.Store(&linkNow{})
	for _, s := range []*session{l.settle(2 * maxWelcomeLimit).s, l.standby} { // it ends with the agent's context
		if s != nil {
			s.close(errors.New("agent stops"))
		}
	}
}
