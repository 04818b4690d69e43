// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
)

const (
	slotCount      = 1024
	packetDeadline = 2 * time.Second // leases.md §3.2
	// onTheWay is how long a packet may lie in the socket of a simulated BMC.
	onTheWay = 500 * time.Millisecond
	// missTime is how long after a break its last suspicion may come: missed pings at the
	// preset fast, a reconnect and its jitter, and a boot.
	missTime = 15 * time.Second
)

// observed is all that is known of a run. Checks are pure functions of it.
type observed struct {
	changes   []change
	marks     []mark
	audit     map[int64]transaction
	senders   map[netip.Addr]string // who calls from where
	packets   []bmc.Entry           // of all BMCs, in the order of time
	partition map[string]string     // of each host
	broken    []span                // hosts, and links of workers
	dead      map[string]bool       // hosts that power commands may reach
	stalls    []span
	ordered   bool // operators switched hosts: nothing follows from power and suspicions
}

// owner is who holds a slot, or is registered as a worker.
type owner struct {
	Worker string `json:"worker"`
	Boot   string `json:"boot"`
	From   string `json:"from"`
}

func ownerOf(c change) (o owner) {
	_ = json.Unmarshal(c.Val, &o) // an unreadable owner is nobody, which the checks tell
	return o
}

// checker walks through the history once, with the state as of each revision.
type checker struct {
	observed
	found  []string
	counts map[string]int

	slots   map[int]change
	workers map[string]change
	leaseOf map[int64]string  // worker/boot that was ever registered under a lease
	states  map[string]string // of hosts
	intents map[string][]intent
	writers map[string]string // of each slot and epoch, by what records name
	ends    map[string]change // of boots that have certainly ended
	// carriers of each host's link that are not its owner, and until when they were; zero: now
	carriers map[string]map[string]time.Time
}

// intent is one content of ops/<host>.
type intent struct {
	Verb, Worker, Boot, Epoch string
	rev                       int64
	after, before             time.Time // of its commit
	ended                     time.Time // seen gone or replaced; zero: never
}

// check returns what is wrong, and how much was looked at.
func check(o observed) ([]string, map[string]int) {
	c := &checker{
		observed: o, counts: map[string]int{}, slots: map[int]change{}, workers: map[string]change{}, leaseOf: map[int64]string{},
		states: map[string]string{}, intents: map[string][]intent{}, writers: map[string]string{},
		ends: map[string]change{}, carriers: map[string]map[string]time.Time{},
	}
	for rest := o.changes; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Rev == rest[0].Rev {
			n++
		}
		c.revision(rest[:n])
		rest = rest[n:]
	}
	c.counts["transactions on record"] = len(c.audit)
	c.power()
	return c.found, c.counts
}

func (c *checker) wrong(rule, format string, args ...any) {
	c.found = append(c.found, rule+": "+fmt.Sprintf(format, args...))
}

func (c *checker) count(what string) { c.counts[what]++ }

// revision checks all changes of one revision against the state before it, then applies
// them.
func (c *checker) revision(all []change) {
	c.count("revisions")
	for _, x := range all {
		switch {
		case strings.HasPrefix(x.Key, leases.SlotsPrefix):
			c.slot(x, all)
		case fencedBy(x.Key) != "":
			c.fenced(x)
		case strings.HasPrefix(x.Key, leases.EventsPrefix) && !x.Del:
			c.event(x)
		case strings.HasPrefix(x.Key, leases.EndsPrefix) && !x.Del:
			c.end(x)
		}
	}
	for _, x := range all {
		if n, ok := leases.SplitSlotKey(x.Key); ok {
			apply(c.slots, n, x)
		}
		if host, ok := strings.CutPrefix(x.Key, leases.LinksPrefix); ok {
			c.carrier(host, x)
		}
		if id, ok := strings.CutPrefix(x.Key, leases.WorkersPrefix); ok {
			apply(c.workers, id, x)
			if !x.Del {
				c.leaseOf[x.Lease] = id + "/" + ownerOf(x).Boot
			}
		}
	}
}

func apply[K comparable](m map[K]change, k K, x change) {
	if x.Del {
		delete(m, k)
	} else {
		m[k] = x
	}
}

// slot: "one writer per epoch: each slot key's owner changes only by lease end, release
// or hand-over, epochs rise".
func (c *checker) slot(x change, all []change) {
	n, _ := leases.SplitSlotKey(x.Key)
	before, owned := c.slots[n]
	was, is := ownerOf(before), ownerOf(x)
	txn, audited := c.audit[x.Rev]
	sender := c.senders[txn.From]
	switch {
	case x.Del && !owned:
		c.wrong("one writer", "slot %04d vanished at revision %d without having had an owner", n, x.Rev)
	case x.Del && audited:
		c.count("slots released")
		if txn.Mod[x.Key] != before.Rev || sender != was.Worker {
			c.wrong("one writer", "slot %04d of %s (epoch %d) was deleted at revision %d by %s, comparing %d", n, was.Worker, before.Rev, x.Rev, sender, txn.Mod[x.Key])
		}
	case x.Del:
		c.count("slots lost with their lease")
		// The lease takes all of its keys with it: a registration that stays had another.
		gone := slices.ContainsFunc(all, func(y change) bool { return y.Key == leases.WorkerKey(was.Worker) && y.Del })
		if w, there := c.workers[was.Worker]; !gone && there && w.Lease == before.Lease {
			c.wrong("one writer", "slot %04d of %s vanished at revision %d although its lease lives", n, was.Worker, x.Rev)
		}
	default:
		if x.Lease == 0 || c.leaseOf[x.Lease] != is.Worker+"/"+is.Boot {
			c.wrong("one writer", "slot %04d was put for %s boot %s at revision %d under lease %x of %q", n, is.Worker, is.Boot, x.Rev, x.Lease, c.leaseOf[x.Lease])
		}
		if owned {
			// Its owner gives a slot away; what is certainly dead is inherited.
			_, dead := c.ends[was.Boot]
			switch {
			case sender == was.Worker:
				c.count("slots handed over")
			case dead && sender == is.Worker:
				c.count("slots inherited")
			case audited:
				c.wrong("one writer", "slot %04d of %s was put at revision %d by %s, and its owner has not certainly ended", n, was.Worker, x.Rev, sender)
			}
			if is.From != was.Boot {
				c.wrong("one writer", "slot %04d went from %s boot %s to %s boot %s at revision %d without being given (from %q)", n, was.Worker, was.Boot, is.Worker, is.Boot, x.Rev, is.From)
			}
			if audited && txn.Mod[x.Key] != before.Rev {
				c.wrong("one writer", "slot %04d of %s (epoch %d) was put at revision %d by %s, comparing %d", n, was.Worker, before.Rev, x.Rev, sender, txn.Mod[x.Key])
			}
			break
		}
		c.count("slots claimed")
		if rev, compared := txn.Create[x.Key]; audited && (!compared || rev != 0 || sender != is.Worker) {
			c.wrong("one writer", "slot %04d was claimed for %s at revision %d by %s without comparing that nobody has it", n, is.Worker, x.Rev, sender)
		}
	}
}

// fencedBy is what a key belongs to whose writers compare a slot: a host or a partition.
func fencedBy(key string) string {
	if host, part, ok := leases.SplitHostKey(key); ok && part != "spec" {
		return host
	}
	if path, part, ok := leases.SplitPartitionKey(key); ok && part == "state" {
		return path
	}
	if host, ok := strings.CutPrefix(key, leases.OpsPrefix); ok {
		return host
	}
	if rest, ok := strings.CutPrefix(key, leases.IncidentsPrefix); ok {
		host, _, _ := strings.Cut(rest, "/")
		return host
	}
	return ""
}

func (c *checker) slotOf(what string) int {
	if p := c.partition[what]; p != "" {
		what = p
	}
	return ring.SlotOf(what, slotCount)
}

// fenced: "every mutation of hosts/<h>/ha and ops/<h> carries the epoch of the slot's
// owner at that revision".
func (c *checker) fenced(x change) {
	what := fencedBy(x.Key)
	n := c.slotOf(what)
	slot, owned := c.slots[n]
	c.count("fenced writes")
	if !owned {
		c.wrong("no stale write", "%s was written at revision %d while slot %04d had no owner", x.Key, x.Rev, n)
	}
	if txn, ok := c.audit[x.Rev]; ok {
		c.count("fenced writes with their comparison on record")
		if rev, compared := txn.Mod[leases.SlotKey(n)]; !compared || rev != slot.Rev {
			c.wrong("no stale write", "%s was written at revision %d comparing slot %04d with %d (compared: %v), its epoch is %d", x.Key, x.Rev, n, rev, compared, slot.Rev)
		}
		if by := c.senders[txn.From]; by != ownerOf(slot).Worker {
			c.wrong("no stale write", "%s was written at revision %d by %s (%s), slot %04d is owned by %s", x.Key, x.Rev, by, txn.From, n, ownerOf(slot).Worker)
		}
	}
	switch {
	case strings.HasPrefix(x.Key, leases.OpsPrefix):
		c.intent(what, x, n)
	case x.Key == leases.HostHAKey(what) && !x.Del:
		c.state(what, x, ownerOf(slot).Worker)
	}
}

// named checks a record that names its epoch and its writer.
func (c *checker) named(x change, n int, epoch, worker string) {
	slot := c.slots[n]
	c.count("records that name their epoch")
	e, err := leases.ParseEpoch(epoch)
	if err != nil || e.Revision != slot.Rev || worker != ownerOf(slot).Worker {
		c.wrong("no stale write", "%s at revision %d names epoch %s of %s, slot %04d is owned by %s in epoch %d", x.Key, x.Rev, epoch, worker, n, ownerOf(slot).Worker, slot.Rev)
	}
	key := fmt.Sprintf("%04d %s", n, epoch)
	if other, ok := c.writers[key]; ok && other != worker {
		c.wrong("one writer", "epoch %s of slot %04d has two writers, %s and %s", epoch, n, other, worker)
	}
	c.writers[key] = worker
}

func (c *checker) event(x change) {
	var e struct {
		Host, Partition, Worker string
		Data                    map[string]string
	}
	if err := json.Unmarshal(x.Val, &e); err != nil {
		c.wrong("history", "%s at revision %d: %v", x.Key, x.Rev, err)
		return
	}
	what := e.Host
	if what == "" {
		what = e.Partition
	}
	if what == "" || e.Data["epoch"] == "" {
		return
	}
	c.named(x, c.slotOf(what), e.Data["epoch"], e.Worker)
}

// end: "certain death": who is recorded as reaped or released does nothing any more, and
// the record is there before the lease goes (leases.md §§2.9, 3.5).
func (c *checker) end(x change) {
	rest := strings.TrimPrefix(x.Key, leases.EndsPrefix)
	id, boot, _ := strings.Cut(rest, "/")
	var e struct{ How string }
	_ = json.Unmarshal(x.Val, &e) // an end that says nothing is not certain
	c.count("ends recorded as " + e.How)
	if e.How != "reaped" && e.How != "released" {
		return
	}
	c.ends[boot] = x
	if _, owned := c.workers[id]; !owned && e.How == "reaped" {
		c.count("ends recorded after the lease had run out")
	}
}

func (c *checker) intent(host string, x change, n int) {
	all := c.intents[host]
	if last := len(all) - 1; last >= 0 && all[last].ended.IsZero() {
		all[last].ended = x.Seen
	}
	if x.Del {
		return
	}
	c.count("intents")
	in := intent{rev: x.Rev, after: notBefore(c.marks, x.Rev), before: x.Seen}
	if err := json.Unmarshal(x.Val, &in); err != nil {
		c.wrong("history", "%s at revision %d: %v", x.Key, x.Rev, err)
		return
	}
	c.named(x, n, in.Epoch, in.Worker)
	if e, over := c.ends[in.Boot]; over && in.Boot != "" {
		c.wrong("the dead are silent", "%s wrote %s at revision %d, its end is on record since revision %d", in.Worker, x.Key, x.Rev, e.Rev)
	}
	c.intents[host] = append(all, in)
}

// carrier takes note of who carries a host's link where that is not its owner.
func (c *checker) carrier(host string, x change) {
	all := c.carriers[host]
	if all == nil {
		all = map[string]time.Time{}
		c.carriers[host] = all
	}
	for id, until := range all {
		if until.IsZero() {
			all[id] = x.Seen
		}
	}
	if id := ownerOf(x).Worker; id != "" && !x.Del {
		all[id] = time.Time{}
	}
}

// carried: a worker was what the owner heard the host by, a moment ago at least.
func (c *checker) carried(host, worker string, at time.Time) bool {
	until, ok := c.carriers[host][worker]
	return ok && (until.IsZero() || at.Sub(until) <= missTime)
}

// state: "no host became SUSPECT because of a hand-off or an etcd trouble: a SUSPECT needs
// a host that was really broken or cut", from every worker, from the one that suspects, or
// from the one that carries its link.
func (c *checker) state(host string, x change, by string) {
	was, is := c.states[host], stateOf(x.Val)
	c.states[host] = is
	if is == was {
		return
	}
	c.count("changes of host states")
	if is != "SUSPECT" || was != "AVAILABLE" && was != "INITIALIZING" && was != "UNSUPPORTED" {
		return
	}
	c.count("suspicions")
	for _, s := range c.broken {
		if (s.who == host || s.who == by || c.carried(host, s.who, x.Seen)) && s.has(x.Seen, missTime) {
			return
		}
	}
	for _, s := range c.stalls {
		if s.has(x.Seen, missTime) {
			c.count("suspicions while the machine stood still")
			return
		}
	}
	if !c.ordered {
		c.wrong("no false suspect", "%s became SUSPECT at revision %d by %s, and nothing was wrong with it or its link: %.300s", host, x.Rev, by, reasonOf(x.Val))
	}
}

func reasonOf(record []byte) string {
	var r struct {
		Reason    string `json:"reason"`
		HealthWhy string `json:"healthWhy"`
	}
	_ = json.Unmarshal(record, &r) // for people
	return r.Reason + " (" + r.HealthWhy + ")"
}

// power checks the packets: only to dead hosts, each under an open intent, and no verb of
// an older epoch after the opposite one of a newer.
func (c *checker) power() {
	type sent struct {
		bmc.Entry
		epoch leases.Epoch
	}
	last := map[string][]sent{}
	for _, p := range c.packets {
		if !slices.Contains([]bmc.Verb{bmc.VerbOff, bmc.VerbOn, bmc.VerbCycle, bmc.VerbReset, bmc.VerbSoft, bmc.VerbDiag}, p.Verb) {
			continue
		}
		c.count("power commands")
		if !c.ordered && !c.dead[p.BMC] {
			c.wrong("no power to the innocent", "%s got %s from %s, and was never broken so that it may be powered", p.BMC, p.Verb, p.User)
		}
		in, ok := c.intentOf(p)
		if !ok {
			continue
		}
		if end, over := c.ends[in.Boot]; over && in.Boot != "" && p.At.After(end.Seen.Add(onTheWay)) {
			c.wrong("the dead are silent", "%s got %s from %s %v after the end of its boot %s was on record", p.BMC, p.Verb, p.User, p.At.Sub(end.Seen), in.Boot)
		}
		e, err := leases.ParseEpoch(in.Epoch)
		if err != nil {
			continue // named has told
		}
		for _, q := range last[p.BMC] {
			if e.Compare(q.epoch) < 0 && p.Verb != q.Verb {
				c.wrong("no stray opposite verb", "%s got %s from %s in epoch %s after %s from %s in epoch %s", p.BMC, p.Verb, p.User, e, q.Verb, q.User, q.epoch)
			}
		}
		last[p.BMC] = append(last[p.BMC], sent{p, e})
	}
}

// intentOf finds the intent of a packet: the newest that allows it.
func (c *checker) intentOf(p bmc.Entry) (intent, bool) {
	all := c.intents[p.BMC]
	for i := len(all) - 1; i >= 0; i-- {
		in := all[i]
		if in.after.After(p.At) || in.Verb != string(p.Verb) || in.Worker != p.User {
			continue
		}
		if in.ended.IsZero() || !p.At.After(in.ended.Add(packetDeadline)) {
			return in, true
		}
		break
	}
	c.wrong("no packet without intent", "%s got %s from %s at %s without an open intent; intents: %s", p.BMC, p.Verb, p.User, p.At.Format("15:04:05.000"), describe(all))
	return intent{}, false
}

func describe(all []intent) string {
	var b strings.Builder
	for _, in := range all {
		fmt.Fprintf(&b, "\n    %s by %s epoch %s at revision %d, %s to %s, gone %s", in.Verb, in.Worker, in.Epoch, in.rev,
			in.after.Format("15:04:05.000"), in.before.Format("15:04:05.000"), in.ended.Format("15:04:05.000"))
	}
	return b.String()
}

// tally renders counts for people.
func tally(counts map[string]int) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "\n  %7d %s", counts[k], k)
	}
	return b.String()
}
