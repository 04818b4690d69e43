// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// Broken is one rule of the house that the fleet has broken: a defect, whatever the
// script.
type Broken struct {
	At   time.Duration `json:"at"`
	Host string        `json:"host"`
	Rule string        `json:"rule"`
	Text string        `json:"text"`
}

func (b Broken) String() string {
	return fmt.Sprintf("%s %s: rule %s: %s", stamp(b.At), b.Host, b.Rule, b.Text)
}

// rules look at every commit and every packet, knowing what is true (ARCHITECTURE.md,
// Invariants).
type rules struct {
	f       *Fleet
	Broken  []Broken
	stop    bool // at the first one
	steps   int
	commits int
	packets int
	alive   int // first power-offs of hosts that ran, seen idle by quorum
}

func newRules(f *Fleet) *rules { return &rules{f: f} }

func (r *rules) broken(h *host, rule, text string) {
	b := Broken{At: r.f.now.Sub(Start), Host: h.ID, Rule: rule, Text: text}
	r.Broken = append(r.Broken, b)
	r.f.log.add(Entry{At: b.At, Kind: "broken", Host: h.ID, Text: "RULE BROKEN: " + rule + ": " + text})
}

// committed looks at one commit.
func (r *rules) committed(o *owner, ev ha.Event, from ha.Record, effects []ha.Effect) {
	r.commits++
	next := o.rec
	if i := from.Incident; i != nil && i.Ended.IsZero() {
		same := next.Incident != nil && next.Incident.ID == i.ID && next.Incident.Ended.IsZero()
		closed := slices.ContainsFunc(effects, func(e ha.Effect) bool { return e.Kind == ha.CloseIncident && e.Incident.ID == i.ID })
		if !same && !closed {
			r.broken(o.h, "incidents", fmt.Sprintf("incident %s vanished on %s", i.ID, ev.Kind))
		}
	}
	if p := next.Proof; next.State == ha.Fenced && (p == nil || p.Revoked != "" || from.State != ha.Fenced && p.Assurance < o.policy.ProofMin) {
		r.broken(o.h, "proof", "FENCED without a proof that stands")
	}
	if from.State == ha.Available && next.State == ha.Suspect && ev.Kind == ha.EvHealth && ev.Boot == "" && r.f.undisturbed(o, time.Minute) {
		r.broken(o.h, "suspicion", "a healthy host that pings is suspected: "+ev.Reason)
	}
	for _, e := range effects {
		switch {
		case e.Kind == ha.Announce && e.Type == "ha.safe-to-restart":
			r.released(o, e)
		case e.Kind == ha.Spend && ev.Snapshot != nil && (len(r.f.disarmed(o.h)) > 0 || len(r.f.disabled(o.h.Partition)) > 0 || o.h.Maintenance || o.h.HADisabled):
			r.broken(o.h, "armed", "automation arms where people said not to")
		}
	}
}

// released: no release without proof, and never of a boot that runs.
func (r *rules) released(o *owner, e ha.Effect) {
	p := o.rec.Proof
	switch {
	case p == nil || p.Boot != e.Boot || p.Assurance < o.policy.ProofMin:
		r.broken(o.h, "release", "instances of boot "+e.Boot+" are released without a proof")
	case p.How == "operator" || o.h.liar(): // the word of a human, or of a device that always lies, is all there is
	case o.h.lives() && o.h.boot() == e.Boot:
		r.broken(o.h, "release", "instances of boot "+e.Boot+" are released, and it runs")
	}
}

// packet looks at one command that leaves.
func (r *rules) packet(o *owner, e power.TxnEffect) {
	r.packets++
	i, h := o.rec.Incident, o.h
	if s := r.f.slotOf(h.Partition); s.epoch != o.epoch && r.f.etcdUp {
		r.broken(h, "owner", fmt.Sprintf("a packet of epoch %d, and the slot is at %d", o.epoch, s.epoch))
	}
	if e.Verb == power.HardOn || t(o.rec.OrderTxn) == e.Txn || i == nil || i.By != "" {
		return
	}
	if t(i.Action) != e.Txn || !i.Ended.IsZero() {
		r.broken(h, "intent", fmt.Sprintf("%s of transaction %s that no open incident knows", e.Verb, e.Txn))
		return
	}
	first := i.Action.Progress.OffPackets == 0
	heard := o.w.wallAt(o.lastPing())
	switch {
	case i.Purpose == guard.Confirm:
		if first && heard.After(i.OffSeen) {
			r.broken(h, "kill", "it is confirmed off, and it has pinged since")
		}
	case i.Last == nil || i.Last.Verdict != ha.Idle || h.idleFor != i.ID:
		r.broken(h, "kill", fmt.Sprintf("%s without a verdict of idle in this incident", e.Verb))
	case first && heard.After(i.Last.Asked):
		r.broken(h, "kill", "it is switched off, and it has pinged since it was seen idle")
	case h.works() && h.boot() == i.Boot:
		if first {
			r.alive++
		}
		if asked := o.real(i.Last.Asked); first && slices.ContainsFunc(h.stamps, func(s track) bool { return s.on && s.since.Before(asked) }) {
			r.broken(h, "kill", "it runs and stamps, and was seen idle")
		}
		if idleVotes(i.Last) < 2 && len(r.f.members[h.Partition]) > 2 && r.f.expected(h) > 1 {
			r.broken(h, "kill", "it runs, and fewer than two readers saw it idle")
		}
	}
	if h.works() && h.boot() != i.Boot && o.rec.Boot.ID == h.boot() {
		r.broken(h, "again", "it came back with boot "+h.boot()+" and is cut again for boot "+i.Boot)
	}
}

func t(x *power.Txn) string {
	if x == nil || x.Done {
		return ""
	}
	return x.ID
}

func idleVotes(c *ha.Check) (n int) {
	for _, v := range c.Votes {
		if v.Verdict == ha.Idle {
			n++
		}
	}
	return n
}

// expected counts the others that should be able to look at a host.
func (f *Fleet) expected(h *host) (n int) {
	for _, m := range f.members[h.Partition] {
		if m != h && !m.rec.Excused() {
			n++
		}
	}
	return n
}

// checked: idle is said by enough readers, or not at all.
func (r *rules) checked(o *owner, c ha.Check) {
	if c.Verdict != ha.Idle {
		return
	}
	if idleVotes(&c) == 0 {
		r.broken(o.h, "quorum", "idle, and no reader said so")
	}
	if i := o.rec.Incident; i != nil {
		o.h.idleFor = i.ID
	}
}

// lived: a sign of life of a boot ends what was released of it.
func (r *rules) lived(o *owner) {
	p := o.rec.Proof
	if p != nil && p.Boot == o.h.boot() && p.Revoked == "" && !p.Ended && o.wall().After(p.At) && o.blocked == nil {
		r.broken(o.h, "revoke", fmt.Sprintf("boot %s is proven over, lives, and its instances stay released (state %s)", p.Boot, o.rec.State))
	}
}

// undisturbed: nothing that could make a host silent to its owner has happened for d.
func (f *Fleet) undisturbed(o *owner, d time.Duration) bool {
	h := o.h
	return h.healthy() && f.now.Sub(h.touched) > d && f.now.Sub(o.w.touched) > d && f.now.Sub(o.hearing.Adopted) > d && o.w.alive && !o.w.isolated
}

// restart is what stands above: instances that are released are started elsewhere, unless
// the release ended meanwhile. Nothing must ever run twice.
func (f *Fleet) restart(o *owner, _ ha.Record, effects []ha.Effect) {
	for _, e := range effects {
		if e.Kind != ha.Announce || e.Type != "ha.safe-to-restart" && e.Type != "ha.rebooted" || len(e.Instances) == 0 {
			continue
		}
		h, boot, by := o.h, e.Boot, "operator"
		if p := o.rec.Proof; p != nil {
			by = p.How
		}
		ids := slices.Clone(e.Instances)
		f.after(2*time.Second, func() {
			if p := h.rec.Proof; p != nil && p.Boot == boot && p.Revoked != "" {
				return
			}
			f.place(h, ids, by)
		})
	}
	if o.rec.State == ha.Available && len(o.h.runs) == 0 && o.h.Instances > 0 { // it gets new work
		h, boot := o.h, o.h.bootNo
		f.after(30*time.Second, func() {
			if h.works() && h.bootNo == boot && len(h.runs) == 0 && h.rec.State == ha.Available {
				h.startInstances(h.Instances)
				f.refresh(h)
			}
		})
	}
}

func (f *Fleet) place(from *host, ids []string, by string) {
	var best *host
	ids = slices.DeleteFunc(ids, func(id string) bool { return f.homes[id] != nil && f.homes[id] != from }) // started long ago
	if len(ids) == 0 {
		return
	}
	for _, h := range f.members[from.Partition] {
		if h != from && h.rec.State == ha.Available && h.healthy() && (best == nil || len(h.runs) < len(best.runs)) {
			best = h
		}
	}
	for _, h := range f.hosts {
		for _, id := range ids {
			if !h.lives() || !slices.Contains(h.runs, id) || h == best {
				continue
			}
			if f.wrong[id] {
				continue // somebody was wrong about it before, and has been told
			}
			if h == from && (by == "operator" || h.liar()) {
				f.wrong[id] = true
				f.log.world(f.now, h.ID, "RUNS TWICE: "+id+", as somebody was wrong about its being off")
				continue
			}
			f.rules.broken(h, "twice", "instance "+id+" still runs here while it is started elsewhere")
		}
	}
	if best == nil {
		return
	}
	for _, id := range ids {
		f.homes[id] = best
		best.runs = append(best.runs, id)
	}
	f.log.world(f.now, best.ID, "starts "+list(ids)+" of "+from.ID)
	f.refresh(best)
}
