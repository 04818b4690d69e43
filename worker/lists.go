// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/lists"
	"github.com/holdfast-ha/holdfast/coordinator/ring"
	"github.com/holdfast-ha/holdfast/leases"
)

const (
	// listsSettle is how long changes are collected before lists are made anew.
	listsSettle = 200 * time.Millisecond
	// listBatch lists are sent at once, and the next after listEvery.
	listBatch = 100
	listEvery = 100 * time.Millisecond
	// drainWithin spreads the moves of the agents of a draining worker; drainRate of them
	// move in a second.
	drainWithin = 500 * time.Millisecond
	drainRate   = 200
)

// listing is what this worker knows of the members that lists are made of. It begins anew with
// each process: the address of a missing worker goes with its registration, so a worker that is
// started while another is missing leaves that one off its lists before the grace is over. Its
// agents may then prefer another worker for that time, and move there make-before-break; nobody
// loses a link, and a record of its own for that would be one more truth to keep.
type listing struct {
	kick chan struct{}

	mu      sync.Mutex
	known   map[string]string    // address of every worker seen since the start, by id
	gone    map[string]time.Time // those that are missing, since when
	members []string             // as lists are made of
}

func newListing() *listing {
	return &listing{kick: make(chan struct{}, 1), known: map[string]string{}, gone: map[string]time.Time{}}
}

// watchLists keeps the lists of the agents of this worker's hosts up to date, gives indices
// to hosts where this worker is the one to do so, and empties this worker of links while it
// is drained, until ctx ends (agents.md "List and algorithms").
func (w *Worker) watchLists(ctx context.Context) error {
	select {
	case <-w.mirror.Synced():
	case <-ctx.Done():
		return nil
	}
	c := clerk{w: w}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var asked time.Time // when agents were last asked to leave
	after := ""         // hosts up to this one have their lists, which were made of
	var members []string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.lists.kick:
			if !pause(ctx, listsSettle) { // more is to come
				return nil
			}
			after = ""
		case <-timer.C:
		}
		now := time.Now()
		wait := time.Hour
		if next := w.lists.look(w.view, now, w.view.effective("", "", now).Duration("agent.lb.membership.grace")); !next.IsZero() {
			wait = min(wait, max(time.Millisecond, time.Until(next)))
		}
		if again := c.tidy(ctx); again {
			wait = min(wait, time.Second)
		}
		if again := c.enrol(ctx); again {
			wait = min(wait, time.Second)
		}
		if is, _ := w.lists.present(); !slices.Equal(is, members) {
			members, after = is, ""
		}
		var more bool
		if after, more = w.sendLists(ctx, after); more {
			wait = min(wait, listEvery)
		}
		if w.drained(w.o.ID) {
			if here := len(w.door.Here()); here > 0 && time.Since(asked) > w.leave(here) {
				asked = now
				w.askToLeave(w.leave(here) - drainWithin/2)
			}
			wait = min(wait, drainWithin)
		}
		timer.Reset(wait)
	}
}

// look takes note of who lives and who is missing; it returns when the next of the missing
// ones is no member any more.
func (l *listing) look(v *view, now time.Time, grace time.Duration) time.Time {
	v.mu.RLock()
	defer v.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var live []string
	for id, m := range v.workers {
		l.known[id] = m.Val.Agents
		delete(l.gone, id)
		if _, drained := v.drains[id]; !drained {
			live = append(live, id)
		}
	}
	for id := range l.known {
		_, lives := v.workers[id]
		_, drained := v.drains[id]
		switch _, missed := l.gone[id]; {
		case drained:
			delete(l.gone, id)
		case !lives && !missed:
			l.gone[id] = endOf(v, id, now)
		}
	}
	var next time.Time
	l.members, next = lists.Members(live, l.gone, now, grace)
	for id, since := range l.gone {
		if !slices.Contains(l.members, id) && now.Sub(since) > time.Hour {
			delete(l.gone, id)
			delete(l.known, id)
		}
	}
	return next
}

// endOf is when a worker that is missing has ended, now if nobody has noted that.
func endOf(v *view, id string, now time.Time) time.Time {
	var last time.Time
	for key, end := range v.ends {
		if worker, _, _ := strings.Cut(key, "/"); worker == id && end.Val.At.After(last) {
			last = end.Val.At
		}
	}
	if last.IsZero() || last.After(now) {
		return now
	}
	return last
}

// present returns the members and the addresses of all that are known.
func (l *listing) present() ([]string, map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.members, maps.Clone(l.known)
}

// listOf is the list of a host as it is now; nil while no worker is known.
func (w *Worker) listOf(host string) *agentpb.List {
	members, addresses := w.lists.present()
	return w.listFrom(host, members, addresses, "", w.view.index(host))
}

// listFrom makes a host's list; algorithm replaces the one that is set, if it is not empty,
// and index is the host's enrolment, or what it would be.
func (w *Worker) listFrom(host string, members []string, addresses map[string]string, algorithm string, index int) *agentpb.List {
	spec, ok := w.view.spec(host)
	if !ok {
		return nil
	}
	eff := w.view.effective(spec.Val.Partition, host, time.Now())
	in := lists.Input{
		Algorithm: lists.Algorithm(cmp.Or(algorithm, eff.String(settingAlgorithm))), Workers: configured(eff.String("agent.workers"), members),
		Host: host, Index: index, Key: cmp.Or(spec.Val.Partition, host),
	}
	if s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host)); held {
		in.Owner = s.Worker
	}
	out := &agentpb.List{Algorithm: string(in.Algorithm), CheckIntervalMs: eff.Duration("agent.lb.check.interval").Milliseconds()}
	for _, id := range lists.For(in) {
		if address := addresses[id]; address != "" {
			out.Workers = append(out.Workers, &agentpb.Worker{Id: id, Address: address})
		}
	}
	if len(out.Workers) == 0 {
		return nil
	}
	return out.Sealed()
}

// configured are the workers of the setting that are members, in its order; all members
// where it names none of them: no agent is cut off by a list of workers that are not there.
func configured(setting string, members []string) []string {
	var out []string
	for id := range strings.SplitSeq(setting, ",") {
		if id = strings.TrimSpace(id); slices.Contains(members, id) {
			out = append(out, id)
		}
	}
	if len(out) == 0 {
		return members
	}
	return out
}

// sendLists sends their list to some of the agents that have another one, of hosts after the one
// given, and returns after which host it is to go on; more: soon.
func (w *Worker) sendLists(ctx context.Context, after string) (upTo string, more bool) {
	w.mu.Lock()
	hosts := slices.Sorted(maps.Keys(w.owners))
	w.mu.Unlock()
	if w.blind() != "" {
		return "", true // members may be gone, or back, that this worker knows nothing of
	}
	members, addresses := w.lists.present()
	sent := 0
	for _, host := range hosts {
		if host <= after {
			continue
		}
		ses := w.door.Session(host)
		if ses == nil {
			continue // it is told when it comes
		}
		list := w.listFrom(host, members, addresses, "", w.view.index(host))
		if list == nil || list.Hash == ses.ListHash() {
			continue
		}
		if sent == listBatch || ctx.Err() != nil {
			return after, true
		}
		w.door.SendList(host, list)
		sent++
		after = host
	}
	return "", false
}

// drained reports whether a worker is to hold nothing.
func (w *Worker) drained(id string) bool {
	_, ok := get(w.view, w.view.drains, id)
	return ok
}

// leave is the time over which this many agents move.
func (w *Worker) leave(agents int) time.Duration {
	return drainWithin + time.Duration(agents)*time.Second/drainRate
}

// askToLeave asks all agents linked here to link elsewhere.
func (w *Worker) askToLeave(within time.Duration) {
	w.door.Tell(func(string, string) *agentpb.Down {
		return &agentpb.Down{Frame: &agentpb.Down_Move{Move: &agentpb.Move{WithinMs: within.Milliseconds()}}}
	})
}

// indexRecord is the value of indices/<index>.
type indexRecord struct {
	V    int    `json:"v"`
	Host string `json:"host"`
}

// index of a host's enrolment.
func (v *view) index(host string) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if i, ok := v.indexOf[host]; ok {
		return i
	}
	return lists.None
}

// putIndex takes one change of indices/. The caller holds the lock.
func (v *view) putIndex(n int, c leases.Change) error {
	if was, ok := v.indices[n]; ok && v.indexOf[was.Val.Host] == n {
		delete(v.indexOf, was.Val.Host)
	}
	if err := put(v.indices, n, c); err != nil {
		return err
	}
	if x, ok := v.indices[n]; ok {
		v.indexOf[x.Val.Host] = n
	}
	return nil
}

const (
	// enrolBatch bounds how many hosts are given an index in one transaction; a host takes
	// two keys at most.
	enrolBatch = 40
	// enrolRound bounds how many are given one before it is looked anew what is needed.
	enrolRound = 100 * enrolBatch
)

// clerk gives indices to hosts, and removes what is left of the links of those that are gone.
// The worker that owns the slot of "indices" is the only one.
type clerk struct {
	w    *Worker
	upTo int64 // the mirror has to show this revision
}

// tidy removes links/<host> of hosts that are not on record any more; true: it is to be called
// again soon. The removal of a host takes its key along; an owner may have written it since.
func (c *clerk) tidy(ctx context.Context) (again bool) {
	w := c.w
	claim, s, mine := w.clerks()
	if !mine {
		return false
	}
	w.view.mu.RLock()
	var left []leases.Op
	for host := range w.view.links {
		if _, ok := w.view.specs[host]; !ok && len(left) < enrolBatch {
			left = append(left, leases.Delete(leases.LinkKey(host)))
		}
	}
	w.view.mu.RUnlock()
	if len(left) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if _, err := s.Commit(ctx, claim.Guard(), left...); err != nil {
		w.log.Warn("remove links of hosts that are gone", "cause", err)
	}
	return true
}

// clerks is the claim under which this worker is the clerk; false: it is not.
func (w *Worker) clerks() (leases.Claim, *leases.Session, bool) {
	slot := ring.SlotOf("indices", w.slotN)
	w.mu.Lock()
	defer w.mu.Unlock()
	claim, mine := w.claims[slot]
	return claim, w.session, mine && w.session != nil
}

// enrol makes the indices right for the hosts on record; true: it is to be called again soon.
func (c *clerk) enrol(ctx context.Context) (again bool) {
	w := c.w
	claim, s, mine := w.clerks()
	switch {
	case !mine:
		return false
	case w.mirror.Revision() < c.upTo:
		return true
	}
	if !w.view.roundRobin() {
		return false // nobody asks for an index: 100,000 hosts are not written for nothing
	}
	changes := lists.Enrol(w.indices(w.view.effective("", "", time.Now()).String(settingAlgorithm)))
	for batch := range slices.Chunk(changes[:min(len(changes), enrolRound)], enrolBatch) {
		if ctx.Err() != nil {
			return false
		}
		if err := c.write(ctx, s, claim, batch); err != nil {
			w.log.Warn("give indices to hosts", "cause", err)
			return true
		}
	}
	return len(changes) > enrolRound
}

// indices are those that hosts have, the hosts on record, and over how many workers they
// are to be spread: what lists.Enrol asks for.
func (w *Worker) indices(algorithm string) (have map[string]int, hosts []string, even int) {
	even = 1 // only some scopes ask for indices: nobody's changes
	if lists.Algorithm(algorithm) == lists.RoundRobin {
		members, _ := w.lists.present()
		even = len(configured(w.view.effective("", "", time.Now()).String("agent.workers"), members))
	}
	w.view.mu.RLock()
	defer w.view.mu.RUnlock()
	return maps.Clone(w.view.indexOf), slices.Collect(maps.Keys(w.view.specs)), even
}

// roundRobin reports whether some scope asks for the algorithm that needs indices.
func (v *view) roundRobin() bool {
	if lists.Algorithm(v.effective("", "", time.Now()).String(settingAlgorithm)) == lists.RoundRobin {
		return true // by default
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, scope := range v.settings {
		if lists.Algorithm(scope[settingAlgorithm].Val.Value) == lists.RoundRobin {
			return true
		}
	}
	return false
}

const settingAlgorithm = "agent.lb.algorithm"

// write makes some changes of indices in one transaction.
func (c *clerk) write(ctx context.Context, s *leases.Session, claim leases.Claim, changes []lists.Change) error {
	final := map[string]*indexRecord{} // nil: it is free
	var ops []leases.Op
	for _, x := range changes {
		if x.From != lists.None {
			final[leases.IndexKey(x.From)] = nil
		}
		if x.To != lists.None {
			final[leases.IndexKey(x.To)] = &indexRecord{V: 1, Host: x.Host}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(final)) {
		if value := final[key]; value == nil {
			ops = append(ops, leases.Delete(key))
		} else {
			ops = append(ops, leases.Put(key, value))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	rev, err := s.Commit(ctx, claim.Guard(), ops...)
	if err == nil {
		c.upTo = rev
	}
	return err
}
