// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
)

// fall is how one worker's death went, in time since the kill.
type fall struct {
	slots                     int
	reaped, gone, first, last time.Duration // end on record; its slots seen without owner; first and last of them claimed
	claims                    int           // transactions that claimed them
	join, joinFirst           time.Duration // from its registration: balanced; the first slot handed over
	memory                    int           // of the one that died, in MiB
	used                      map[string]usage
}

// crash measures leases.md §8: "SIGKILL of a worker until all its slots are owned again"
// and "join of a worker until balanced".
func (b *bench) crash() {
	b.startWorkers()
	var falls []fall
	f := b.floored(func() {
		for i := range b.n.Kills {
			w := b.workers[i%len(b.workers)]
			x := b.fall(w)
			b.rejoin(w, &x)
			falls = append(falls, x)
		}
	})
	all := pick(falls, func(x fall) time.Duration { return x.last })
	b.report.add(row{
		What: "SIGKILL of a worker child until all its slots are owned again, p50", Target: "≤ 3 × (P + X)",
		Measured: fmt.Sprintf("%s = %.2f × (%s)", ms(all.p50()), over(all.p50(), f.sum()), f), Value: over(all.p50(), f.sum()), Limit: 3,
		Parts: append(parts(falls), fmt.Sprintf("%d kills, %d to %d slots each; fastest %s, slowest %s", len(falls), least(falls), most(falls), ms(all.at(0)), ms(all.max()))),
		Why:   whyCrash,
	})
	b.report.add(row{
		What: "the same, p99", Target: "≤ 50 ms", Measured: ms(all.at(0.99)), Value: all.at(0.99).Seconds() * 1000, Limit: 50, Why: whyCrash,
	})
	joins := pick(falls, func(x fall) time.Duration { return x.join })
	b.report.add(row{
		What: "join of a worker until balanced, damping off, p50", Target: "≤ 4 × (P + X)",
		Measured: fmt.Sprintf("%s = %.2f × (P + X)", ms(joins.p50()), over(joins.p50(), f.sum())), Value: over(joins.p50(), f.sum()), Limit: 4,
		Parts: []string{
			fmt.Sprintf("registration → first slot handed over: p50 %s", ms(pick(falls, func(x fall) time.Duration { return x.joinFirst }).p50())),
			fmt.Sprintf("registration → balanced: p50 %s, p99 %s (%d joins)", ms(joins.p50()), ms(joins.at(0.99)), len(joins)),
		},
		Why: whyJoin,
	})
}

// fall kills a worker's child and waits until others own what it owned.
func (b *bench) fall(w *worker) (x fall) {
	b.t.Helper()
	lost := map[string]bool{}
	for n, c := range b.seen.owners() {
		if c.Worker == w.id {
			lost[leases.SlotKey(n)] = true
		}
	}
	x.slots = len(lost)
	from := b.seen.mark()
	x.memory = resident(w.child())
	m := b.meter(w)
	at := w.killChild()
	b.observed(startTime, "owned again after a kill", func() bool { return b.ownedWithout(w.id) })
	x.used = m.since()
	return b.story(x, from, at, lost)
}

// ownedWithout: all slots are owned, none by that worker. The observer's lock is held.
func (b *bench) ownedWithout(id string) bool {
	return len(b.seen.slots) == slotCount && b.seen.counts()[id] == 0
}

// story tells from what was seen when each part of a takeover was over.
func (b *bench) story(x fall, from int, at time.Time, lost map[string]bool) fall {
	revs := map[int64]bool{}
	for _, c := range b.seen.since(from) {
		since := c.At.Sub(at)
		switch {
		case strings.HasPrefix(c.Key, leases.EndsPrefix) && !c.Del && x.reaped == 0:
			x.reaped = since
		case !lost[c.Key]:
		case c.Del:
			x.gone = since
		default:
			if x.first == 0 {
				x.first = since
			}
			x.last = since
			revs[c.Rev] = true
		}
	}
	x.claims = len(revs)
	return x
}

// rejoin starts a worker again, its parent has ended with its child, and waits until the
// fleet is balanced.
func (b *bench) rejoin(w *worker, x *fall) {
	b.t.Helper()
	<-w.proc.Done()
	from := b.seen.mark()
	w.start()
	b.observed(startTime, "balanced after a join", b.balanced)
	var joined time.Time // it has read the records, and says so
	for _, c := range b.seen.since(from) {
		if c.Del {
			continue
		}
		if c.Key == leases.WorkerKey(w.id) && c.State == "ready" && joined.IsZero() {
			joined = c.At
		} else if _, ok := leases.SplitSlotKey(c.Key); ok && c.Worker == w.id {
			if x.joinFirst == 0 {
				x.joinFirst = c.At.Sub(joined)
			}
			x.join = c.At.Sub(joined)
		}
	}
}

// leaseEnd measures leases.md §8: "worker host lost, lease path: time beyond TTL".
func (b *bench) leaseEnd() {
	b.startWorkers()
	var falls []fall
	f := b.floored(func() {
		for i := range b.n.Both {
			w := b.workers[i%len(b.workers)]
			lost := map[string]bool{}
			for n, c := range b.seen.owners() {
				if c.Worker == w.id {
					lost[leases.SlotKey(n)] = true
				}
			}
			x := fall{slots: len(lost)}
			from := b.seen.mark()
			at := w.killBoth()
			b.observed(startTime, "owned again after a lease", func() bool { return b.ownedWithout(w.id) })
			x = b.story(x, from, at, lost)
			b.rejoin(w, &x)
			falls = append(falls, x)
		}
	})
	beyond := pick(falls, func(x fall) time.Duration { return x.last - b.n.TTL })
	again := pick(falls, func(x fall) time.Duration { return x.last - x.gone })
	b.report.add(row{
		What: "SIGKILL of parent and child: time beyond the lease's TTL, slowest", Target: "≤ 0.55 s",
		Measured: fmt.Sprintf("%.0f ms", beyond.max().Seconds()*1000), Value: beyond.max().Seconds(), Limit: 0.55,
		Parts: []string{
			fmt.Sprintf("TTL %v, %d kills; counted from the kill, which is up to TTL/5 after the last renewal was sent", b.n.TTL, len(falls)),
			fmt.Sprintf("beyond TTL: fastest %.0f ms, p50 %.0f ms, slowest %.0f ms", beyond.at(0).Seconds()*1000, beyond.p50().Seconds()*1000, beyond.max().Seconds()*1000),
			fmt.Sprintf("slots seen without owner → all owned again: p50 %s = %.2f × (P + X), slowest %s", ms(again.p50()), over(again.p50(), f.sum()), ms(again.max())),
		},
	})
}

func pick(falls []fall, of func(fall) time.Duration) (out times) {
	for _, x := range falls {
		out = append(out, of(x))
	}
	return out
}

func least(falls []fall) int {
	n := falls[0].slots
	for _, x := range falls {
		n = min(n, x.slots)
	}
	return n
}

func most(falls []fall) (n int) {
	for _, x := range falls {
		n = max(n, x.slots)
	}
	return n
}

// parts are where the time of takeovers goes.
func parts(falls []fall) []string {
	p50 := func(of func(fall) time.Duration) string { return ms(pick(falls, of).p50()) }
	claims, memory := 0, 0
	var used []map[string]usage
	took := time.Duration(0)
	for _, x := range falls {
		claims, memory, took = claims+x.claims, max(memory, x.memory), took+x.last
		used = append(used, x.used)
	}
	return []string{
		"kill → `reaped` on record (the parent notices, one put): p50 " + p50(func(x fall) time.Duration { return x.reaped }),
		"→ first slot under a new owner: p50 " + p50(func(x fall) time.Duration { return x.first - x.reaped }),
		fmt.Sprintf("→ last slot: p50 %s, in %.1f transactions of all heirs together", p50(func(x fall) time.Duration { return x.last - x.first }), float64(claims)/float64(len(falls))),
		cores(used, took),
		fmt.Sprintf("the killed process had up to %d MiB of memory, which the kernel takes back before its parent may learn of the end", memory),
	}
}

func over(a, b time.Duration) float64 { return float64(a) / float64(b) }
