// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testPolicy(preset string) Policy {
	p := Policy{
		Mode: "recover", PingInterval: 5 * time.Second, HealthFailures: 3,
		CheckInitial: 10 * time.Second, CheckMax: 250 * time.Second, CheckWindow: 6 * time.Second, CheckTimeout: 30 * time.Second,
		ActivityAttempts: 5, DegradedAfter: 3, RecoveryAttempts: 2, RecoveryWait: 600 * time.Second,
		OffConfirmDelay: 30 * time.Second, ConfirmSilence: 60 * time.Second, QuietPeriod: 180 * time.Second, SoftGrace: 180 * time.Second,
		ProofMin: power.A3, Ladder: []power.Level{{N: 1, Devices: []string{"bmc"}, All: true}}, CanSwitchOn: true,
	}
	if preset == "fast" {
		p.PingInterval, p.CheckWindow, p.CheckInitial, p.FirstCheckAtOnce = time.Second, 2*time.Second, 5*time.Second, true
		p.OffConfirmDelay, p.ConfirmSilence = 5*time.Second, 10*time.Second
	}
	return p
}

// world is one simulated host, its BMC, its neighbours and its owner, on a virtual
// clock. It feeds Step as an owner does and writes down what happens.
type world struct {
	now time.Time
	rec Record
	p   Policy

	chassis, os, agent, link bool   // chassis has power, kernel runs, agent runs, agent reaches workers
	pool, cluster            bool   // its pool answers, the cluster's pool answers
	bmc                      string // ok, dead, lies (accepts everything, does nothing)
	bootNo                   int
	bootTakes                time.Duration // 0: does not boot
	softTakes                time.Duration
	instances                []string
	local                    []string // of the instances: on pools of this host alone

	agents   []timed // future events, sorted by time
	lastPing time.Time
	nextPing time.Time
	nextRead time.Time
	seen     power.State // power machine: debounced state
	told     bool
	first    time.Time
	fresh    power.State
	equal    int
	fails    int

	disarmed   string
	budget     string // why the budget holds
	blind      bool
	storm      int // other hosts of the rack that are suspects
	poolLost   int // other hosts that cannot use the pool
	stormEnded time.Time
	txnSeq     map[string]bool
	out        strings.Builder
	visited    map[*Row]bool
	packets    []power.Verb
	quietLogs  bool
	fed        int
	events     int  // fed so far
	deaf       bool // its agent does not confirm gates
	jumped     bool // the clock was set
	check      func(before Record, ev Event, s *step)
}

type timed struct {
	at    time.Time
	do    func()
	owner bool // lost when another worker takes over
}

func newWorld(p Policy) *world {
	w := &world{now: epoch, p: p, chassis: true, os: true, agent: true, link: true, pool: true, cluster: true, bmc: "ok", bootNo: 1,
		bootTakes: 30 * time.Second, softTakes: 10 * time.Second, instances: []string{"i-1", "i-2"}, visited: map[*Row]bool{}, txnSeq: map[string]bool{}}
	w.rec = New("h1", w.now)
	w.nextPing, w.nextRead, w.lastPing = w.now, w.now, w.now
	return w
}

func (w *world) boot() string { return fmt.Sprintf("b%d", w.bootNo) }

// later is something that the world does, job something that the owner has started.
func (w *world) later(d time.Duration, do func()) { w.plan(timed{w.now.Add(d), do, false}) }

func (w *world) job(d time.Duration, do func()) { w.plan(timed{w.now.Add(d), do, true}) }

func (w *world) plan(t timed) {
	w.agents = append(w.agents, t)
	slices.SortStableFunc(w.agents, func(a, b timed) int { return a.at.Compare(b.at) })
}

// adopt: another worker takes over; what the last one had started is lost with it.
func (w *world) adopt() {
	w.agents = slices.DeleteFunc(w.agents, func(t timed) bool { return t.owner })
	w.feed(Event{Kind: EvAdopted})
}

func (w *world) logf(format string, args ...any) {
	if w.quietLogs {
		return
	}
	d := w.now.Sub(epoch)
	fmt.Fprintf(&w.out, "%02d:%04.1f %s\n", int(d.Minutes()), (d % time.Minute).Seconds(), fmt.Sprintf(format, args...))
}

// feed is the owner's loop: step, commit, start the effects.
func (w *world) feed(ev Event) {
	ev.At = w.now
	before := w.rec
	s := &step{was: w.rec, r: w.rec, ev: ev, p: w.p, now: utc(ev.At)}
	s.run()
	for _, r := range s.rows {
		w.visited[r] = true
	}
	if w.check != nil {
		w.check(before, ev, s)
	}
	w.rec = s.r
	w.events++
	if before.State != w.rec.State {
		w.logf("%s → %s: %s", before.State, w.rec.State, w.rec.Reason)
	}
	for _, e := range s.out {
		w.start(e)
	}
}

func (w *world) start(e Effect) {
	switch e.Kind {
	case Announce:
		text := e.Type
		if e.Severity == Page {
			text += " PAGE"
		}
		if len(e.Instances) > 0 {
			text += fmt.Sprintf(" boot %s %v", e.Boot, e.Instances)
		}
		if len(e.Local) > 0 {
			text += fmt.Sprintf(" with the host %v", e.Local)
		}
		switch e.Type {
		case "ha.hold-placed", "ha.hold-cleared", "power.contradicted", "ha.order", "ha.order-refused", "power.order-done", "power.order-failed", "ha.proof-revoked":
			text += ": " + e.Reason
		}
		w.logf("  event %s", text)
	case StartCheck:
		w.logf("  neighbours are asked")
		asked := w.now
		w.job(w.p.CheckWindow, func() {
			v, why, sig := w.activity(asked)
			w.feed(Event{Kind: EvActivity, Check: &Check{ID: e.ID, Asked: asked, Done: w.now, Verdict: v, Reason: why, Signals: sig}})
		})
	case TakePlace:
		w.job(100*time.Millisecond, func() {
			snap := w.snapshot(e.Purpose)
			w.feed(Event{Kind: EvPlace, Snapshot: &snap})
			if left := snap.Area.Cooldown(); left > 0 { // as an owner asks again then
				w.job(left, func() { w.feed(Event{Kind: EvPolicy}) })
			}
		})
	case ReadPower:
		w.nextRead = w.now
	case TxnDo:
		w.exchange(*e.Txn)
	case Spend:
		w.logf("  one slot of every budget spent")
	case Repair:
		w.logf("  repair command")
		w.job(time.Second, func() { w.feed(Event{Kind: EvRepaired, Reason: "exit 1"}) })
	case PushGate:
		w.logf("  gate: must not run %v", w.rec.Gate.MustNotRun)
		if !w.deaf {
			w.job(100*time.Millisecond, func() { w.feed(Event{Kind: EvGate, ID: e.ID}) })
		}
	case CloseIncident:
		w.logf("  incident closed: %s", e.Incident.Outcome)
	}
}

// activity is what neighbours can see.
func (w *world) activity(asked time.Time) (Verdict, string, guard.SignalFacts) {
	dead := guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}
	switch {
	case w.lastPing.After(asked) && !w.pool:
		return Active, "a ping arrived since: its own pool is unreadable", guard.SignalFacts{}
	case w.lastPing.After(asked):
		return Active, "a ping arrived since", guard.SignalFacts{}
	case !w.cluster:
		return Unknown, "pool frozen: no live host's stamp moves", guard.SignalFacts{}
	case w.os:
		return Active, "its instances' disks move", guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyAlive}
	}
	return Idle, "stamp and disks still on every pool, no probe answered", dead
}

func (w *world) snapshot(p guard.Purpose) guard.Snapshot {
	s := guard.Snapshot{At: w.now, Purpose: p, Host: w.rec.Host, Gathered: true}
	s.Claim = guard.ClaimFacts{Epoch: "1/7", ValidFor: 4 * time.Second, NeededFor: 2 * time.Second}
	s.State = guard.StateFacts{VerdictMaxAge: w.p.CheckWindow + w.p.CheckTimeout, RevisionAsked: 3, RevisionPresent: 3, LastSignOfLife: w.lastPing}
	if i := w.rec.Incident; i != nil && i.Last != nil {
		s.State.VerdictAsked, s.Signals = i.Last.Asked, i.Last.Signals
	}
	if p == guard.Confirm && s.Signals == (guard.SignalFacts{}) {
		s.Signals = guard.SignalFacts{Agent: guard.FamilyDead, Disks: guard.FamilyDead, Network: guard.FamilyDead}
	}
	s.Armed = guard.ArmedFacts{Policy: w.p.Mode, Partition: string(w.rec.Partition)}
	if w.disarmed != "" {
		s.Armed.Disarmed = []string{w.disarmed}
	}
	s.Self = guard.SelfFacts{Agents: 3, ReadAgeLimit: 5 * time.Second}
	if w.blind {
		s.Self.WarmupRoundsLeft = 2
	}
	b := guard.BudgetFacts{Scope: "cluster/z/p/c", Limit: 3, Window: time.Hour, Known: true, Spent: w.rec.Incident != nil && w.rec.Incident.Budgeted}
	if w.budget != "" {
		b.Used, b.Latched = 3, true
	}
	s.Budgets = []guard.BudgetFacts{b}
	s.Quiet = guard.QuietFacts{Until: w.rec.QuietUntil, MinGap: 180 * time.Second, Known: true}
	s.Area = w.area()
	l := guard.LevelFacts{Level: 1, State: w.read().String(), MaxAge: 10 * time.Second, Tested: true, CanSwitchOn: true, Contradicted: len(w.rec.Contradicted) > 0}
	if w.bmc == "dead" {
		l.State, l.Reason = "UNKNOWN", "bmc: Timeout"
	}
	s.Power = guard.PowerFacts{Levels: []guard.LevelFacts{l}}
	return s
}

// area is a cluster of ten hosts around this one, as scripts say that it is.
func (w *world) area() guard.AreaFacts {
	var facts []guard.HostFact
	own := w.rec.Fact("z/p/c", map[string]string{"rack": "7"}, []string{"p1"})
	for n := range 10 {
		f := guard.HostFact{Host: fmt.Sprintf("n%d", n), Partition: "z/p/c", Labels: map[string]string{"rack": "8"}, Pools: []string{"p1"}, Live: true}
		if n < 4 {
			f.Labels = own.Labels
		}
		if n < w.storm {
			f.Unhealthy, f.Live, f.Suspect = true, false, w.now.Add(-30*time.Second)
		}
		if n < w.poolLost {
			f.Lost = map[string]time.Time{"p1": w.now.Add(-20 * time.Second)}
		}
		facts = append(facts, f)
	}
	q := guard.Question{At: w.now, Host: w.rec.Host, Since: w.rec.Silent(), MaxAge: 5 * time.Second, Round: w.p.PingInterval + time.Second, Cooldown: 10 * time.Minute,
		Share: map[string]int{"zone/z": 34, "pod/z/p": 34, "cluster/z/p/c": 34},
		Storms: func(area string) (guard.AreaNow, bool) {
			return guard.AreaNow{Open: false, Ended: w.stormEnded}, area == "rack/z/7" && !w.stormEnded.IsZero()
		}}
	return guard.Survey(append(facts, own), []string{"rack"}, q)
}

func (w *world) read() power.State {
	switch {
	case w.bmc == "dead":
		return power.Unknown
	case w.chassis:
		return power.On
	}
	return power.Off
}

// exchange is the worker's side of a power transaction, with this BMC at the other end.
func (w *world) exchange(e power.TxnEffect) {
	if e.Do == power.DoEnd {
		return
	}
	d := 50 * time.Millisecond
	if e.NotBefore.After(w.now) {
		d += e.NotBefore.Sub(w.now)
	}
	w.job(d, func() {
		key := fmt.Sprint(e.Txn, e.Seq)
		if w.txnSeq[key] {
			return
		}
		w.txnSeq[key] = true
		ev := power.TxnEvent{Txn: e.Txn, Seq: e.Seq, At: w.now}
		switch {
		case w.bmc == "dead":
			ev.Err = power.Unreachable
		case e.Do == power.DoIdentity:
			ev.Matched, ev.Identity = true, power.Identity{SystemUUID: "u1"}
		case e.Do == power.DoRead:
			ev.Reading = power.Reading{State: w.read(), Authentic: true, At: w.now}
		default:
			w.logf("  packet: %s", e.Verb)
			w.packets = append(w.packets, e.Verb)
			ev.Sent, ev.Outcome = true, power.Accepted
			if w.bmc != "lies" {
				w.act(e.Verb)
			}
		}
		w.feed(Event{Kind: EvTxn, Txn: &ev})
	})
}

func (w *world) act(v power.Verb) {
	switch v {
	case power.HardOff:
		w.later(time.Second, func() { w.die(true) })
	case power.SoftOff:
		w.later(w.softTakes, func() {
			if w.os {
				w.die(true)
			}
		})
	case power.HardOn:
		if !w.chassis {
			w.chassis = true
			w.startBoot()
		}
	case power.Reset, power.Cycle:
		w.die(false)
		w.startBoot()
	}
}

func (w *world) die(off bool) {
	w.os, w.agent = false, false
	if off {
		w.chassis = false
	}
}

func (w *world) startBoot() {
	if w.bootTakes == 0 {
		return
	}
	w.later(w.bootTakes, func() {
		if !w.chassis || w.os {
			return
		}
		w.os, w.agent, w.link, w.pool = true, true, true, true
		w.bootNo++
		w.lastPing = w.now
		w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: nil})
		w.instances, w.local, w.nextPing = nil, nil, w.now.Add(w.p.PingInterval)
	})
}

// advance runs the world until a moment.
func (w *world) advance(d time.Duration) {
	end := w.now.Add(d)
	for range 100000 {
		next := end
		first := func(t time.Time) {
			if !t.IsZero() && t.Before(next) {
				next = t
			}
		}
		if len(w.agents) > 0 {
			first(w.agents[0].at)
		}
		dl := w.rec.NextDeadline()
		first(dl)
		first(w.nextPing)
		first(w.nextRead)
		if !next.Before(end) {
			break
		}
		if next.After(w.now) {
			w.now = next
		}
		switch {
		case len(w.agents) > 0 && !w.agents[0].at.After(w.now):
			a := w.agents[0]
			w.agents = w.agents[1:]
			a.do()
		case past(dl, w.now):
			w.feed(Event{Kind: EvTick})
			if again := w.rec.NextDeadline(); past(again, w.now) {
				w.logf("DEADLINE STANDS STILL in %s", w.rec.State)
				return
			}
		case !w.nextPing.After(w.now):
			w.ping()
		case !w.nextRead.After(w.now):
			w.readPower()
		}
	}
	w.now = end
}

func (w *world) ping() {
	w.nextPing = w.now.Add(w.p.PingInterval)
	if w.os && w.agent && w.link {
		w.lastPing = w.now
		v, why := Pass, ""
		var lost []string
		if !w.pool || !w.cluster {
			v, why, lost = Fail, "pool p1 is unreadable", []string{"p1"}
		}
		w.feed(Event{Kind: EvHealth, Verdict: v, Reason: why, Boot: w.boot(), Life: w.now, Instances: w.instances, Local: w.local, Lost: lost})
		return
	}
	if silent := w.now.Sub(w.lastPing); silent >= w.p.silence() {
		w.feed(Event{Kind: EvHealth, Verdict: Fail, Reason: fmt.Sprintf("no ping for %s", silent), Life: w.lastPing})
	}
}

// readPower is a small power machine: two equal readings change it, three failed ones
// make it unknown; the owner tells what differs from the record.
func (w *world) readPower() {
	w.nextRead = w.now.Add(time.Minute)
	switch w.rec.State {
	case Suspect, Checking, Degraded, Unsupported, Failed, Initializing:
		w.nextRead = w.now.Add(10 * time.Second)
	}
	got := w.read()
	if got == power.Unknown {
		w.equal, w.fresh = 0, power.Unknown
		w.fails++
		if w.fails == 3 {
			w.seen, w.told, w.first = power.Unknown, false, w.now
		} else if w.fails < 3 {
			w.nextRead = w.now.Add(2 * time.Second)
		}
	} else {
		w.fails = 0
		if got != w.fresh {
			w.fresh, w.equal, w.first = got, 0, w.now
		}
		w.equal++
		if w.equal >= 2 {
			w.seen, w.told = got, true
		} else {
			w.nextRead = w.now.Add(2 * time.Second)
		}
	}
	if w.seen != w.rec.Power || w.told != w.rec.PowerTold {
		ours := w.rec.OrderedOff || w.rec.Incident != nil && w.rec.Incident.Action != nil
		w.feed(Event{Kind: EvPower, Power: w.seen, PowerTold: w.told, PowerFirst: w.first, PowerWhy: "bmc: Timeout", Ordered: ours})
		w.feed(Event{Kind: EvPolicy})
	}
}

// breakHow does to the host what `holdfast dev break` does.
func (w *world) breakHow(how string) error {
	switch how {
	case "crash", "hang":
		w.die(false)
	case "agent-killed":
		w.agent = false
	case "link-lost":
		w.link = false
	case "storage-lost":
		w.pool = false
	case "storage-lost-cluster":
		w.cluster = false
	case "reboot": // quicker than anybody looks at it
		w.die(false)
		w.bootTakes = 3 * time.Second
		w.startBoot()
	case "power-off":
		w.die(true)
	case "mains-lost":
		w.die(true)
		w.bmc = "dead"
	case "bmc-dead":
		w.bmc = "dead"
	case "bmc-lies":
		w.die(false)
		w.bmc = "lies"
	case "thaw": // whatever stood still goes on, the same boot
		w.os, w.agent, w.link, w.nextPing = true, true, true, w.now
	case "bmc-says-off": // chassis off for the BMC only: the host runs on
		w.chassis = false
	case "soft-slow": // stops its instances first
		w.softTakes = time.Minute
	case "gate-deaf":
		w.deaf = true
	case "no-boot":
		w.bootTakes = 0
	default:
		return fmt.Errorf("break %q is not known", how)
	}
	return nil
}

// setClock moves the owner's clock; nothing else in the world notices.
func (w *world) setClock(by time.Duration) {
	w.jumped = true
	for _, t := range []*time.Time{&w.now, &w.lastPing, &w.nextPing, &w.nextRead, &w.first} {
		*t = t.Add(by)
	}
	for k := range w.agents {
		w.agents[k].at = w.agents[k].at.Add(by)
	}
}

func (w *world) repair() {
	w.bmc, w.cluster, w.pool, w.link, w.bootTakes, w.deaf = "ok", true, true, true, 30*time.Second, false
	if !w.chassis && w.os {
		w.chassis = true
	}
	if w.os && !w.agent {
		w.agent = true
		w.feed(Event{Kind: EvHello, Boot: w.boot(), Instances: w.instances})
	}
	if !w.os {
		w.chassis = true
		w.startBoot()
	}
}
