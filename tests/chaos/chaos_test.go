// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	smokeSeed = 238
	// settleTime is how long after the last fault everything must be well again. A BMC
	// whose sessions are used up by dead workers frees them after 60 s of silence.
	settleTime = 150 * time.Second
)

// TestChaos proves the invariants of leases.md §§2 and 3 under faults: without flags one
// small schedule, with -long as many as fit.
func TestChaos(t *testing.T) {
	shortly(t)
	switch {
	case !*long || *mode == "fencing":
		runSchedule(t, generate(smokeSeed, smokeShape), map[string]int{})
	case *mode == "faults":
		eachSeed(t, func(t *testing.T, seed uint64, total map[string]int) {
			runSchedule(t, generate(seed, fullShape), total)
		})
	case *mode == "pauses":
		runPauses(t, startSeed(), *pauses, *duration)
	default:
		t.Fatalf("mode: %q, allowed are faults, pauses, fencing", *mode)
	}
}

// shortly lets the short forms run side by side: they mostly wait.
func shortly(t *testing.T) {
	if !*long {
		t.Parallel()
	}
}

func startSeed() uint64 {
	if *firstSeed != 0 {
		return *firstSeed
	}
	return uint64(time.Now().Unix()) % 1_000_000
}

// eachSeed runs consecutive seeds for as long, or as many, as the flags say, up to the
// first that fails: the logs of its processes are kept.
func eachSeed(t *testing.T, run func(t *testing.T, seed uint64, total map[string]int)) {
	seed, n, end := startSeed(), *seeds, time.Now().Add(*duration)
	if *firstSeed != 0 && n == 0 {
		n = 1
	}
	total, ran := map[string]int{}, []uint64{}
	for ok := true; ok && (n == 0 || len(ran) < n) && time.Now().Before(end); seed++ {
		ok = t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, seed, total) })
		ran = append(ran, seed)
	}
	t.Logf("%d schedules, seeds %d to %d, all together:%s", len(ran), ran[0], ran[len(ran)-1], tally(total))
}

// runSchedule makes a fleet, breaks it as the schedule says, waits until it is well
// again, and checks everything that was seen. Counts are added to total.
func runSchedule(t *testing.T, s schedule, total map[string]int) {
	t.Logf("%s", s)
	defer func() {
		if t.Failed() {
			t.Logf("replay it with: make chaos SEED=%d\n%s", s.Seed, s)
		}
	}()
	f := newFleet(t, fleetOptions{hosts: s.Hosts, workers: s.Workers})
	p := newPerformer(f)
	f.background(p.watchSelf)
	if err := p.perform(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	well := f.settle(t)
	o := f.observe(t, p)
	found, counts := check(o)
	for _, x := range found {
		t.Error(x)
	}
	counts["schedules"], counts["faults begun or ended"] = 1, p.done
	for _, w := range f.workers {
		counts["worker processes that ended without being killed"] += w.ends
	}
	for k, v := range counts {
		total[k] += v
	}
	if t.Failed() || *story {
		t.Logf("what was on record:%s", tell(o.changes))
	}
	t.Logf("well again after %v\nworkers killed: %v%s", well.Round(time.Millisecond), reowned(o.changes, p.killed), tally(counts))
}

// settle waits: "every slot owned again and every un-broken host AVAILABLE within a bound
// after the schedule's end".
func (f *fleet) settle(t *testing.T) time.Duration {
	t.Helper()
	return f.until(settleTime, func() string {
		if err := f.history.caughtUp(t.Context()); err != nil {
			return err.Error()
		}
		return f.notAvailable()
	})
}

// observe gathers what is known of the run.
func (f *fleet) observe(t *testing.T, p *performer) observed {
	t.Helper()
	o := observed{senders: map[netip.Addr]string{}, partition: map[string]string{}, audit: map[int64]transaction{}, packets: f.world.Truth()}
	f.until(10*time.Second, func() string { // packets are older than what follows
		if err := f.history.caughtUp(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
	o.changes, o.marks = f.history.all()
	for _, w := range f.workers {
		o.senders[w.from] = w.id
	}
	for _, x := range f.places {
		o.partition[x.Host] = x.Partition()
	}
	for _, m := range f.members {
		all, err := readAudit(auditOf(m.Member))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if x.Done {
				o.audit[x.Revision] = x
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o.broken, o.stalls, o.dead = slices.Clone(p.broken), slices.Clone(p.stalls), maps.Clone(p.dead)
	return o
}

// tell renders the events and intents of a history, with the time since its beginning.
func tell(changes []change) string {
	var b strings.Builder
	for _, c := range changes {
		at := c.Seen.Sub(changes[0].Seen).Seconds()
		switch {
		case c.Del:
		case strings.HasPrefix(c.Key, leases.EventsPrefix):
			var e v1.Event
			_ = json.Unmarshal(c.Val, &e) // for people
			fmt.Fprintf(&b, "\n  %7.2fs %s %s%s by %s: %s", at, e.Type, e.Host, e.Partition, e.Worker, e.Message)
		case strings.HasPrefix(c.Key, leases.OpsPrefix):
			fmt.Fprintf(&b, "\n  %7.2fs intent %s %s", at, c.Key, c.Val)
		case strings.HasPrefix(c.Key, leases.WorkersPrefix):
			fmt.Fprintf(&b, "\n  %7.2fs %s registered", at, ownerOf(c))
		}
	}
	return b.String()
}

// reowned tells for each worker that was killed how long it took until all its slots had
// an owner again.
func reowned(changes []change, killed []span) (out []string) {
	for _, k := range killed {
		held, last, left := map[string]bool{}, k.from, 0
		for _, c := range changes {
			if _, ok := leases.SplitSlotKey(c.Key); !ok {
				continue
			}
			switch mine := !c.Del && ownerOf(c).Worker == k.who; {
			case c.Seen.Before(k.from) && mine:
				held[c.Key] = true
			case c.Seen.Before(k.from):
				delete(held, c.Key)
			case !c.Del && held[c.Key]:
				delete(held, c.Key)
				last, left = c.Seen, left+1
			}
		}
		out = append(out, fmt.Sprintf("%s (%s): %d slots in %v", k.who, k.why, left, last.Sub(k.from).Round(time.Millisecond)))
	}
	return out
}
