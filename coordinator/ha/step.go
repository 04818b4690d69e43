// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Version of the record as it is stored.
const Version = 1

// maxPast bounds Record.Past: enough to know a late agent of an earlier boot.
const maxPast = 8

// New is the record of a host that was just added: nothing is known of it.
func New(host string, at time.Time) Record {
	return Record{V: Version, Host: host, State: None, Since: utc(at), Reason: "new host"}
}

// Step takes one event and returns the next record and the effects to start once it is
// committed. It is pure and total: the argument is never changed, not even through its
// pointers and slices; an event that changes nothing returns the same record and no
// effects, and then there is nothing to commit (Ignored tells the reason).
func Step(r Record, ev Event, p Policy) (Record, []Effect) {
	s := steps.Get().(*step)
	s.was, s.r, s.ev, s.p, s.now = r, r, ev, p, utc(ev.At)
	s.run()
	next, effects := s.r, s.out
	*s = step{rows: s.rows[:0]} // nothing of this host is kept, or seen by another
	steps.Put(s)
	return next, effects
}

// steps are those at rest: 10,000 hosts ping, and each ping is at work for a microsecond.
var steps = sync.Pool{New: func() any { return new(step) }}

func (s *step) run() {
	tick := s.ev
	s.repair()
	s.setClock()
	s.observe()
	s.decide(s.ev.Kind)
	s.facts()
	// One tick serves every deadline that has come.
	for range maxDeadlines {
		if tick.Kind != EvTick || !past(s.r.NextDeadline(), s.now) {
			return
		}
		s.ev = tick
		s.due()
		if !s.decide(s.ev.Kind) {
			return
		}
		s.facts()
	}
}

// maxDeadlines is more than a record has deadlines, maxFacts longer than the longest
// chain of facts (NONE, INITIALIZING, UNSUPPORTED, SUSPECT, found OFF).
const maxDeadlines, maxFacts = 8, 6

func (s *step) facts() {
	for range maxFacts {
		if !s.decide(evFacts) {
			return
		}
	}
}

// step is one call of Step at work.
type step struct {
	was Record // the argument
	r   Record // the result so far
	ev  Event
	p   Policy
	now time.Time
	out []Effect

	rows    []*Row    // that were applied
	own     bool      // r.Incident is our own copy
	ledger  string    // the incident whose ledger is our own copy
	why     string    // reason of the row that is being applied
	outcome string    // the row ends the incident with it
	report  *answered // EvPlace: the guards' answers
	life    time.Time // newest sign of life known now
	hello   helloKind
}

type helloKind uint8

const (
	helloNone helloKind = iota
	helloSame           // the boot on record
	helloNew            // a boot never seen
	helloPast           // a boot that is over
)

// decide applies the first row of the present state whose condition holds.
func (s *step) decide(k Kind) bool {
	for _, row := range index[s.r.State][k] {
		if row.cond == nil || row.cond(s) {
			s.apply(row)
			return true
		}
	}
	return false
}

func (s *step) apply(row *Row) {
	from, first := s.r.State, len(s.out)
	s.rows = append(s.rows, row)
	s.why, s.outcome = "", ""
	if row.Do != nil {
		row.Do(s)
	}
	to := row.To
	if to == "" {
		to = from
	}
	if s.why == "" && to != from {
		s.why = row.When
	}
	if to != from {
		s.r.State, s.r.Since = to, s.now
	}
	if s.why != "" {
		s.r.Reason = s.why
	}
	if row.Event != "" && row.Event != holdPlaced {
		s.out = slices.Insert(s.out, first, Effect{Kind: Announce, Type: row.Event, Severity: severity[row.Event], Reason: s.why, Boot: s.r.Boot.ID})
	}
	if to != from && s.r.open() {
		s.write("state", string(from)+" → "+string(to)+": "+s.why)
	}
	if s.outcome != "" && s.r.open() {
		s.close(to)
	}
}

// close ends the incident. FENCED and FAILED keep showing it, as does a host that
// comes back from them until it is AVAILABLE.
func (s *step) close(to State) {
	i := s.inc()
	i.Ended, i.Outcome = s.now, s.outcome
	i.Holds, i.Waiting, i.CheckAt, i.CheckID, i.CheckBy, i.AgentBy = nil, "", time.Time{}, "", time.Time{}, time.Time{}
	if i.Proof = s.r.Proof; i.Proof == nil { // gone with the return of the host in this very step
		i.Proof = s.was.Proof
	}
	if i.Proof != nil && i.Proof.At.Before(i.Opened) {
		i.Proof = nil // of an earlier incident
	}
	s.effect(Effect{Kind: CloseIncident, ID: i.ID, Reason: i.Outcome, Incident: i})
	s.own = false // the effect holds this copy now
	if to != Fenced && to != Failed {
		s.r.Incident = nil
	}
}

// repair keeps Step total over a record that lost its incident.
func (s *step) repair() {
	switch s.r.State {
	case Suspect, Checking, Degraded, Recovering, Fencing:
		if !s.r.open() {
			s.newIncident("its incident was missing from the record")
		}
	}
}

// observe writes what the event tells into the record, before any row decides.
func (s *step) observe() {
	s.due()
	s.seeLife()
	switch ev := s.ev; ev.Kind {
	case EvAdopted:
		s.heard()
		s.adopt()
	case EvPartition:
		s.r.Partition = ev.Partition
	case EvAdmin:
		if ev.Admin != nil {
			s.r.Admin = *ev.Admin
		}
	case EvEligible:
		if ev.Verdict == Pass || ev.Verdict == Fail {
			s.r.Eligible, s.r.EligibleWhy = ev.Verdict, ev.Reason
		}
	case EvHello:
		s.heard()
		s.seeHello()
	case EvHealth:
		if ev.Verdict != Unknown {
			s.heard()
		}
		s.seeHealth()
	case EvGate:
		if g := s.r.Gate; g != nil && !g.Confirmed && g.Generation == ev.ID {
			c := *g
			c.Confirmed = true
			s.r.Gate = &c
			s.note("seen", "boot %s confirmed its gate %s", s.r.Boot.ID, ev.ID)
		}
	case EvPower:
		s.seePower()
	case EvPlace:
		s.evaluate()
	case EvPolicy:
		if s.r.open() && s.r.Incident.Pace != s.p.Told {
			s.inc().Pace = s.p.Told // the next owner has not told it anything
		}
	case EvSeen:
		if ev.Boot == s.r.Boot.ID {
			s.r.SeenDisks, s.r.SeenProbe = s.r.SeenDisks || ev.SeenDisks, s.r.SeenProbe || ev.SeenProbe
		}
	}
}

// due turns a tick into the answer that time gives: a check nobody answered is unknown,
// a transaction that waits is stepped.
func (s *step) due() {
	if s.ev.Kind != EvTick {
		return
	}
	if i := s.r.Incident; s.r.open() {
		switch {
		case i.CheckID != "" && past(i.CheckBy, s.now):
			s.ev.Kind = EvActivity
			s.ev.Check = &Check{ID: i.CheckID, Asked: i.CheckBy.Add(-s.p.CheckTimeout), Done: s.now, Verdict: Unknown, Reason: "no answer before its deadline"}
			return
		case running(i.Action) && past(i.Action.NextDeadline(), s.now):
			s.ev.Kind, s.ev.Txn = EvTxn, &power.TxnEvent{Txn: i.Action.ID, At: s.now, Tick: true}
			return
		}
	}
	if t := s.r.OrderTxn; running(t) && past(t.NextDeadline(), s.now) {
		s.ev.Kind, s.ev.Txn = EvTxn, &power.TxnEvent{Txn: t.ID, At: s.now, Tick: true}
	}
}

// seeLife takes the newest sign of life of the newest boot. It is written down where
// it matters to a decision, so that a healthy host costs no commit a ping.
func (s *step) seeLife() {
	s.life = s.r.LastLife
	t := utc(s.ev.Life)
	if s.ev.Kind == EvGoodbye {
		t = s.now
	}
	if !t.After(s.life) || s.otherBoot() || s.ev.Kind == EvOperator { // until when it may have lived is no sign of life
		return
	}
	s.life = t
	turned := s.ev.Kind == EvHealth && s.ev.Verdict == Fail && s.r.Health != Fail
	watched := s.r.Unhealthy() || s.r.State == Fenced
	stale := s.r.LastLife.IsZero() || t.Sub(s.r.LastLife) >= s.p.silence()
	if turned || s.r.Off != nil || s.ev.Kind == EvGoodbye || watched && stale {
		s.r.LastLife = t
	}
}

// otherBoot: the ping came through the session of a boot that is not the newest.
func (s *step) otherBoot() bool {
	return s.ev.Boot != "" && s.ev.Boot != s.r.Boot.ID && s.ev.Kind != EvHello
}

func (s *step) seeHealth() {
	ev := s.ev
	if s.otherBoot() {
		return
	}
	switch own := ev.Boot != ""; {
	case ev.Verdict == Pass:
		s.r.Health, s.r.HealthWhy, s.r.HealthOwn = Pass, "", false
	case ev.Verdict == Fail && (s.r.Health != Fail || own != s.r.HealthOwn || own && ev.Reason != s.r.HealthWhy):
		// Missed pings say how long it was: only the first one is written down.
		s.r.Health, s.r.HealthWhy, s.r.HealthOwn = Fail, ev.Reason, own
	}
	// A ping carries its boot and all instances; a missed one neither.
	if ev.Boot != "" {
		s.seeInstances()
		s.seeLost()
	}
}

// seeInstances takes over what runs there, as the host reports it.
func (s *step) seeInstances() {
	if !slices.Equal(s.ev.Instances, s.r.Instances) {
		s.r.Instances = slices.Clone(s.ev.Instances)
	}
	if !slices.Equal(s.ev.Local, s.r.Local) {
		s.r.Local = slices.Clone(s.ev.Local)
	}
}

// seeLost keeps since when the host cannot use which pools: other hosts' guards want to
// know who lost one together (ha.md §6, guard storage).
func (s *step) seeLost() {
	same := len(s.ev.Lost) == len(s.r.Lost)
	for i := range s.r.Lost {
		same = same && slices.Contains(s.ev.Lost, s.r.Lost[i].Pool)
	}
	if same {
		return
	}
	var lost []LostPool
	for _, p := range s.ev.Lost {
		x := LostPool{Pool: p, Since: s.now}
		if i := slices.IndexFunc(s.r.Lost, func(l LostPool) bool { return l.Pool == p }); i >= 0 {
			x = s.r.Lost[i]
		}
		lost = append(lost, x)
	}
	slices.SortFunc(lost, func(a, b LostPool) int { return strings.Compare(a.Pool, b.Pool) })
	s.r.Lost = lost
}

func (s *step) unknownHealth() {
	s.r.Health, s.r.HealthWhy, s.r.HealthOwn = Unknown, "", false
}

// adopt: persisted deadlines are clamped to [0, original length] (ha.md §7); what the
// predecessor heard of health is not ours to act on.
func (s *step) adopt() {
	if s.r.Health == Fail {
		s.unknownHealth()
	}
	s.r.Passes = 0
	s.clampDeadlines()
}

// inc is the incident, copied before the first change.
func (s *step) inc() *Incident {
	if !s.own {
		c := *s.r.Incident
		s.r.Incident, s.own = &c, true
	}
	return s.r.Incident
}

// off is the found OFF, copied.
func (s *step) off() *OffFound {
	c := *s.r.Off
	s.r.Off = &c
	return s.r.Off
}

func (s *step) effect(e Effect) {
	if s.out == nil {
		s.out = make([]Effect, 0, 4) // what an action begins with
	}
	s.out = append(s.out, e)
}

func (s *step) because(format string, args ...any) { s.why = fmt.Sprintf(format, args...) }

func (s *step) announce(kind string, format string, args ...any) {
	s.raise(kind, fmt.Sprintf(format, args...))
}

// raise is announce in words that are made already.
func (s *step) raise(kind, text string) {
	s.effect(Effect{Kind: Announce, Type: kind, Severity: severity[kind], Reason: text, Boot: s.r.Boot.ID})
}

// note adds one line to the story of the incident, if one is open.
func (s *step) note(what, format string, args ...any) {
	if s.r.open() {
		s.write(what, fmt.Sprintf(format, args...))
	}
}

// write is note in words that are made already, of an incident that is open.
func (s *step) write(what, text string) {
	i := s.inc()
	l := i.Ledger
	if len(l) >= MaxLedger {
		l = l[len(l)-MaxLedger+1:]
	}
	if s.ledger != i.ID { // the first line of this step: the argument keeps its own
		l, s.ledger = append(make([]Entry, 0, len(l)+4), l...), i.ID
	}
	i.Ledger = append(l, Entry{At: s.now, What: what, Text: text})
}

// id names an incident (i), check (c), transaction (t) or gate (g) of this host. The
// counter is part of the record, the time keeps a re-added host from repeating names.
func (s *step) id(kind string) string {
	s.r.Seq++
	b := append(append(make([]byte, 0, 64), s.r.Host...), '.')
	b = append(append(s.now.AppendFormat(b, "20060102T150405"), '.'), kind...)
	return string(strconv.AppendInt(b, int64(s.r.Seq), 10))
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}

func past(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

func running(t *power.Txn) bool { return t != nil && !t.Done }
