// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	pauseHosts, pauseWorkers = 18, 5
	pausedAtOnce             = 2
	orderTime                = 2 * time.Minute // with many owners in the middle of it
)

// runPauses stops owners while hosts are switched off and on, n times: "stray opposite verbs:
// 0 in ≥ 1,000 pauses". These are operators' orders, because those are cheap and may
// follow each other at once; their packets go the way of all packets: intent, fence,
// lease. Most pauses begin when an intent has just been written, when the packet is about
// to leave.
func runPauses(t *testing.T, seed uint64, n int, limit time.Duration) {
	t.Logf("mode pauses, seed %d: %d hosts, %d workers, up to %d pauses in %v", seed, pauseHosts, pauseWorkers, n, limit)
	defer func() {
		if t.Failed() {
			t.Logf("repeat it with: make chaos MODE=pauses SEED=%d", seed)
		}
	}()
	intents := make(chan string, 64) // workers that have just written one
	f := newFleet(t, fleetOptions{
		hosts: pauseHosts, workers: pauseWorkers, settings: map[string]string{"power.verify.interval": "500ms", "power.off.repeat": "2s"},
		follow: func(c change) {
			if !c.Del && strings.HasPrefix(c.Key, leases.OpsPrefix) {
				select {
				case intents <- ownerOf(c).Worker:
				default: // enough of them
				}
			}
		},
	})
	p := newPerformer(f)
	f.background(p.watchSelf)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	x := &pauser{f: f, r: rand.New(rand.NewPCG(seed, 0x706175736573)), left: n, paused: map[string]bool{}, counts: map[string]int{}, enough: cancel}
	var work errgroup.Group
	for range pausedAtOnce {
		work.Go(func() error { return x.pauses(ctx, intents) })
	}
	for _, h := range f.places {
		work.Go(func() error { x.cycles(ctx, h.Host); return nil })
	}
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, h := range f.places { // some are off, as ordered, and some orders still run
		if !wait(t.Context(), settleTime, func() bool { return !x.ordered(h.Host) }) {
			t.Errorf("the last order to %s still runs %v after the last pause", h.Host, settleTime)
		}
		if err := f.world.Repair(h.Host); err != nil {
			t.Fatal(err)
		}
	}
	well := f.settle(t)
	o := f.observe(t, p)
	o.ordered = true
	found, counts := check(o)
	for _, e := range found {
		t.Error(e)
	}
	for k, v := range x.counts {
		counts[k] = v
	}
	t.Logf("well again after %v%s", well.Round(time.Millisecond), tally(counts))
}

// pauser stops workers and orders power cycles.
type pauser struct {
	f      *fleet
	enough func() // no pauses are left

	mu     sync.Mutex
	r      *rand.Rand
	left   int
	paused map[string]bool
	counts map[string]int
}

// pauses stops one worker after the other, each for a while of its own.
func (x *pauser) pauses(ctx context.Context, intents <-chan string) error {
	for {
		idle := time.NewTimer(500 * time.Millisecond)
		id := ""
		select {
		case <-ctx.Done():
		case id = <-intents:
		case <-idle.C: // nobody writes any
		}
		idle.Stop()
		if ctx.Err() != nil {
			return nil
		}
		w, after, d := x.take(id)
		if w == nil {
			continue
		}
		pass(after)
		if err := w.pause("both"); err != nil {
			return fmt.Errorf("pause %s: %w", w.id, err)
		}
		pass(d)
		if err := w.resume(); err != nil {
			return fmt.Errorf("resume %s: %w", w.id, err)
		}
		x.mu.Lock()
		x.paused[w.id] = false
		x.mu.Unlock()
	}
}

// take chooses what to stop, how soon and for how long: under the lease, around it, and
// long enough for the next owner to have proven OFF and switched ON.
func (x *pauser) take(id string) (w *worker, after, d time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if id == "" {
		id = x.f.workers[x.r.IntN(len(x.f.workers))].id
	}
	if x.left == 0 || x.paused[id] {
		return nil, 0, 0
	}
	between := func(a, b time.Duration) time.Duration { return a + time.Duration(x.r.Int64N(int64(b-a))) }
	after = between(0, 20*time.Millisecond)
	switch x.r.IntN(20) {
	case 0:
		d = between(9*time.Second, 26*time.Second)
		x.counts["pauses of 9 to 26 s"]++
	case 1, 2, 3, 4:
		d = between(leaseTTL, 2*leaseTTL)
		x.counts["pauses of one to two leases"]++
	default:
		d = between(50*time.Millisecond, leaseTTL/2)
		x.counts["pauses of up to half a lease"]++
	}
	x.paused[id] = true
	x.counts["pauses"]++
	if x.acting(id) {
		x.counts["pauses of a worker with open intents"]++
	}
	if x.left--; x.left == 0 {
		x.enough()
	}
	return x.f.worker(id), after, d
}

// acting reports whether a worker has an open intent.
func (x *pauser) acting(id string) bool {
	for _, p := range x.f.places {
		if c, open := x.f.history.get(leases.OpsKey(p.Host)); open && ownerOf(c).Worker == id {
			return true
		}
	}
	return false
}

// cycles has a host switched off, and on again when that is proven, over and over. (An
// operator's own "cycle" is one packet: it has no opposite.)
func (x *pauser) cycles(ctx context.Context, host string) {
	for verb := bmc.VerbOff; ctx.Err() == nil; {
		before := x.sent(host, verb)
		octx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := x.f.client.Order(octx, host, v1.OrderRequest{Verb: string(verb), Reason: "chaos"})
		cancel()
		if err != nil { // its owner is away, or the last order still runs
			wait(ctx, 300*time.Millisecond, func() bool { return false })
			continue
		}
		if !wait(ctx, orderTime, func() bool { return x.sent(host, verb) > before && !x.ordered(host) }) {
			continue
		}
		x.mu.Lock()
		x.counts["orders carried out: "+string(verb)]++
		x.mu.Unlock()
		if verb == bmc.VerbOff {
			verb = bmc.VerbOn
		} else {
			verb = bmc.VerbOff
		}
	}
}

// sent counts the commands of one verb that a host's BMC carried out.
func (x *pauser) sent(host string, verb bmc.Verb) (n int) {
	for _, e := range x.f.world.Truth() {
		if e.BMC == host && e.Verb == verb && e.Outcome == bmc.Executed {
			n++
		}
	}
	return n
}

// ordered reports whether an order of the host is on record as running.
func (x *pauser) ordered(host string) bool {
	c, _ := x.f.history.get(leases.HostHAKey(host))
	var r struct {
		OrderTxn json.RawMessage `json:"orderTxn"`
	}
	_ = json.Unmarshal(c.Val, &r) // nothing on record: nothing ordered
	return r.OrderTxn != nil
}

// wait waits until ok, at most so long; it returns ok's last answer.
func wait(ctx context.Context, limit time.Duration, ok func() bool) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if ok() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return false
}
