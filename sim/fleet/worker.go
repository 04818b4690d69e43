// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
)

// Figures of the leases (leases.md §2; worker/options.go).
const (
	slotCount   = 1024
	leaseTTL    = 5 * time.Second
	leaseMargin = 500 * time.Millisecond
	renewEvery  = leaseTTL / 5
	renewTakes  = 100 * time.Millisecond // after a time without, until the answer is there
	reapTakes   = 50 * time.Millisecond
	joinTakes   = 500 * time.Millisecond
)

// ending is how a session ended, as others know it.
type ending string

const (
	released ending = "released"
	reaped   ending = "reaped"
	expired  ending = "expired"
)

// slot is who holds a bucket of partitions, and under which epoch.
type slot struct {
	w       *worker
	session int
	epoch   int64
}

// worker is one member of the control plane.
type worker struct {
	f        *Fleet
	id       string
	alive    bool
	paused   bool
	isolated bool // from hosts and BMCs
	noEtcd   bool // from etcd
	skew     time.Duration
	jumped   time.Time     // the clock was set then, and
	before   time.Duration // what it showed before

	session int // 0: none
	ends    map[int]ending
	began   time.Time // of the session
	cutOff  time.Time // renewals are not answered since
	woke    time.Time // end of the last standstill
	touched time.Time // last change of what could make it deaf
	owners  map[string]*owner
	lost    map[string]time.Time // hosts whose pings stopped lately
	areas   map[string]ha.AreaRecord
	// When storms ended: no clock of this worker, but how long ago it was.
	areaEnds map[string]time.Time
	resume   []func()

	recovery, activity limiter
}

func newWorker(f *Fleet, id string) *worker {
	w := &worker{f: f, id: id, ends: map[int]ending{}, owners: map[string]*owner{}, lost: map[string]time.Time{}, areas: map[string]ha.AreaRecord{}, areaEnds: map[string]time.Time{}}
	return w
}

// limiter is a bounded pool; those who wait get a place in the order they came.
type limiter struct {
	n, held int
	queue   []*turn
}

type turn struct {
	got  func()
	gone bool
}

// acquire calls got once there is a place, maybe at once; the turn can be given up.
func (l *limiter) acquire(got func()) *turn {
	t := &turn{got: got}
	l.queue = append(l.queue, t)
	l.hand()
	return t
}

func (l *limiter) release() {
	l.held--
	l.hand()
}

func (l *limiter) hand() {
	for l.held < l.n && len(l.queue) > 0 {
		t := l.queue[0]
		l.queue = l.queue[1:]
		if !t.gone {
			l.held++
			t.got()
		}
	}
}

// start lets the worker's process begin; it joins once it has a lease.
func (w *worker) start() {
	w.alive, w.paused = true, false
	w.f.after(joinTakes+w.f.jitter(200*time.Millisecond), w.join)
}

func (w *worker) join() {
	f := w.f
	if !w.alive || w.paused || w.session != 0 {
		return
	}
	if !f.etcdUp || w.noEtcd {
		f.after(joinTakes, w.join)
		return
	}
	f.epochNo++
	w.session, w.began, w.cutOff = int(f.epochNo), f.now, time.Time{}
	e := f.effectiveOf("", "")
	w.recovery.n, w.activity.n = e.Int("worker.recovery.concurrency"), e.Int("worker.activity.concurrency")
	f.replan(false)
	f.after(e.Duration("worker.rebalance.quiet"), func() { f.replan(true) })
}

// leaseEnds is until when the lease is certain.
func (w *worker) leaseEnds() time.Time {
	if w.session == 0 {
		return time.Time{}
	}
	at := w.f.now
	if !w.cutOff.IsZero() {
		at = w.cutOff
	}
	sent := w.began.Add(at.Sub(w.began) / renewEvery * renewEvery)
	return sent.Add(leaseTTL - leaseMargin)
}

func (w *worker) validFor() time.Duration { return w.leaseEnds().Sub(w.f.now) }

// cut begins a time without renewals: the session is lost when its certainty ends, and
// its slots become others' when the lease does, if etcd is there to see it.
func (w *worker) cut() {
	if w.session == 0 || !w.cutOff.IsZero() {
		return
	}
	w.cutOff = w.f.now
	session, ends := w.session, w.leaseEnds()
	w.f.at(ends, func() {
		if w.session == session && !w.cutOff.IsZero() && w.alive && !w.paused {
			w.lose()
		}
	})
	w.f.at(ends.Add(leaseMargin+200*time.Millisecond), func() {
		if w.f.etcdUp && (w.session == session && !w.cutOff.IsZero() || w.ends[session] == "" && w.session != session) {
			w.f.expire(w, session)
		}
	})
}

// uncut: renewals are answered again.
func (w *worker) uncut() {
	switch {
	case w.noEtcd || !w.f.etcdUp || w.paused || !w.alive:
	case w.session != 0 && !w.cutOff.IsZero() && w.leaseEnds().After(w.f.now) && w.ends[w.session] == "":
		session := w.session
		w.f.after(renewTakes, func() {
			if w.session != session || w.noEtcd || !w.f.etcdUp || w.paused || !w.leaseEnds().After(w.f.now) {
				return
			}
			w.cutOff = time.Time{}
			for _, o := range w.sorted() {
				o.unblock()
			}
		})
	default:
		w.lose()
		w.f.after(joinTakes, w.join)
	}
}

// lose ends all that runs under the session. What it held is given back as soon as etcd
// can be told.
func (w *worker) lose() {
	session := w.session
	w.session, w.cutOff = 0, time.Time{}
	for _, o := range w.sorted() {
		o.end()
	}
	if session == 0 {
		return
	}
	var give func()
	give = func() {
		switch {
		case w.ends[session] != "":
		case w.f.etcdUp && !w.alive:
			w.f.after(leaseTTL, func() { w.f.expire(w, session) })
		case !w.f.etcdUp || w.noEtcd || w.paused:
			w.f.after(joinTakes, give)
		default:
			w.f.freed(session, w, released)
			w.f.after(joinTakes, w.join)
		}
	}
	give()
}

func (w *worker) sorted() []*owner {
	var out []*owner
	for _, h := range w.f.hosts {
		if o := w.owners[h.ID]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

// kill ends the process; its parent reaps it and frees its slots at once.
func (w *worker) kill() {
	session := w.session
	w.down()
	w.f.after(reapTakes, func() { w.f.freed(session, w, reaped) })
}

// crash ends the machine under it; its lease has to run out.
func (w *worker) crash() {
	session, ends := w.session, w.leaseEnds()
	w.down()
	w.f.at(ends.Add(leaseMargin+200*time.Millisecond), func() { w.f.expire(w, session) })
}

func (w *worker) down() {
	w.alive, w.session, w.cutOff = false, 0, time.Time{}
	w.recovery, w.activity = limiter{}, limiter{}
	clear(w.areas)
	clear(w.areaEnds)
	for _, o := range w.sorted() {
		o.end()
	}
	w.f.refreshAll()
}

// pause stops the process without ending it (SIGSTOP, a starved machine).
func (w *worker) pause(d time.Duration) {
	if w.paused || !w.alive {
		return
	}
	for _, o := range w.owners {
		o.heardAt, o.deafened = o.lastPing(), true
	}
	w.cut()
	w.paused = true
	w.f.after(d, func() {
		if !w.alive || !w.paused {
			return
		}
		w.paused, w.woke = false, w.f.now
		for _, o := range w.owners {
			o.deafened = false
		}
		w.uncut()
		for _, o := range w.sorted() {
			o.wake()
		}
		again := w.resume
		w.resume = nil
		for _, do := range again {
			do()
		}
	})
}

func (w *worker) onResume(do func()) { w.resume = append(w.resume, do) }

// expire: etcd has let the lease of a session run out.
func (f *Fleet) expire(w *worker, session int) {
	if !f.etcdUp {
		f.after(leaseTTL, func() { f.expire(w, session) }) // who comes back with etcd finds leases whole again
		return
	}
	if w.session == session && w.cutOff.IsZero() {
		return
	}
	f.freed(session, w, expired)
}

// freed: the slots of a session have no owner any more.
func (f *Fleet) freed(session int, w *worker, how ending) {
	if session == 0 || w.ends[session] != "" {
		return
	}
	w.ends[session] = how
	for n, s := range f.slots {
		if s.w == w && s.session == session {
			delete(f.slots, n)
		}
	}
	f.replan(false)
}

// setEtcd takes etcd away from everybody or brings it back.
func (f *Fleet) setEtcd(up bool) {
	if f.etcdUp == up {
		return
	}
	f.etcdUp = up
	if f.etcdDown = f.now; !up {
		for _, w := range f.workers {
			w.cut()
		}
		return
	}
	for _, w := range f.workers {
		w.uncut()
	}
	for _, path := range f.paths() {
		f.parts[path].wake()
	}
}

// replan gives orphans to whom the ring says; with moves also what balance asks for.
func (f *Fleet) replan(moves bool) {
	if !f.etcdUp {
		return
	}
	in := ring.Input{Slots: slotCount, Owner: make(map[int]string, len(f.slots))}
	byID := map[string]*worker{}
	for _, w := range f.workers {
		byID[w.id] = w
		if w.session != 0 && w.ends[w.session] == "" {
			in.Members = append(in.Members, ring.Member{ID: w.id, Weight: 1})
		}
	}
	for n, s := range f.slots {
		in.Owner[n] = s.w.id
	}
	byslot := map[int][]string{}
	for _, path := range f.paths() {
		n := ring.SlotOf(path, slotCount)
		byslot[n] = append(byslot[n], path)
	}
	for _, t := range ring.Plan(in) {
		to := byID[t.To]
		if to == nil || t.From == t.To || t.From != "" && !moves || !to.alive || to.paused || to.noEtcd {
			continue
		}
		if _, held := f.slots[t.Slot]; held && t.From == "" {
			continue
		}
		f.epochNo++
		f.slots[t.Slot] = slot{w: to, session: to.session, epoch: f.epochNo}
		for _, path := range byslot[t.Slot] {
			f.move(path, to, f.epochNo)
		}
	}
}

// move gives a partition and its hosts to another worker.
func (f *Fleet) move(path string, to *worker, epoch int64) {
	for _, h := range f.members[path] {
		if h.owner != nil {
			h.owner.end()
		}
	}
	p := f.parts[path]
	p.w = to
	f.after(10*time.Millisecond, func() {
		if s := f.slots[ring.SlotOf(path, slotCount)]; s.epoch != epoch || to.session != s.session || !to.alive {
			return
		}
		f.log.control(f.now, to.id, "owns "+path)
		for _, h := range f.members[path] {
			newOwner(to, h, epoch).adopt()
		}
		p.wake()
	})
}

func (f *Fleet) paths() []string {
	var out []string
	for p := range f.parts {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// warmupLeft counts the rounds of pings before the worker may judge anybody.
func (w *worker) warmupLeft() int {
	e := w.f.effectiveOf("", "")
	rounds, interval := e.Int("worker.warmup"), e.Duration("agent.ping.interval")
	return max(0, rounds-int(w.f.now.Sub(w.began)/interval))
}

// lossSpan is how long an agent that was lost counts (worker/pools.go).
const lossSpan = time.Minute

func (w *worker) lostAgents() (n int) {
	for h, at := range w.lost {
		if w.f.now.Sub(at) > lossSpan {
			delete(w.lost, h)
			continue
		}
		n++
	}
	return n
}

// wallAt is a moment of the past by the worker's clock: what it showed then, and no later
// than its age says by the clock as it is now (ha.HeardBy).
func (w *worker) wallAt(t time.Time) time.Time {
	if t.Before(w.jumped) {
		return t.Add(min(w.before, w.skew))
	}
	return t.Add(w.skew)
}
