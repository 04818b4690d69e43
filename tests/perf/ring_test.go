// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-ha/holdfast/coordinator/ring"
)

const (
	ringWorkers    = 50
	ringHosts      = 100_000
	hostsPerDomain = 50
)

// tallyOf is what membership changes have moved.
type tallyOf struct {
	changes, moved, least, collateral int
	worst                             float64 // moved against the least of one change
	hostsMoved, hostsFair             float64
	peak                              float64 // slots above the fair share, in slots
	hostPeak                          float64 // hosts above the fair share, in heaviest slots
}

// ring measures leases.md §8: "hosts moved per membership change" and the peak, over every
// fleet of 1 to 50 workers, each growing and shrinking by one, with and without weights and
// zones. It needs no cluster.
func (b *bench) ring() {
	hosts := make([]int, slotCount)
	heaviest := 0
	for i := range ringHosts {
		n := ring.SlotOf(partitionOf(i), slotCount)
		hosts[n]++
		heaviest = max(heaviest, hosts[n])
	}
	var all tallyOf
	for _, weighted := range []bool{false, true} {
		for _, zoned := range []bool{false, true} {
			b.grow(&all, hosts, heaviest, weighted, zoned)
		}
	}
	b.report.add(row{
		What: "slots, and so hosts, moved per membership change", Target: "≤ 1.01 × the least possible",
		Measured: fmt.Sprintf("%.4g × over %d changes", float64(all.moved)/float64(max(all.least, 1)), all.changes),
		Value:    float64(all.moved) / float64(max(all.least, 1)), Limit: 1.01,
		Parts: []string{
			"1 to 50 workers, each size reached by a join and by a loss; weights 1 to 4, three zones, and without either; 1,024 slots",
			fmt.Sprintf("worst single change %.4g ×: a few slots that would not have had to move are exchanged to keep the peak in hosts", all.worst),
			fmt.Sprintf("%d hosts in partitions of %d: %.4g × the hosts of a fair share moved per change", ringHosts, hostsPerDomain, all.hostsMoved/all.hostsFair),
		},
	})
	b.report.add(row{
		What: "slots moved between workers that neither came nor went", Target: "0",
		Measured: fmt.Sprintf("%d of %d", all.collateral, all.moved), Value: float64(all.collateral), Why: whyCollateral,
	})
	b.report.add(row{What: "peak above the fair share of a worker's weight, in slots", Target: "≤ 1 slot", Measured: fmt.Sprintf("%.2f slots", all.peak), Value: all.peak, Limit: 1})
	b.report.add(row{
		What: "the same in hosts", Target: "≤ the heaviest slot",
		Measured: fmt.Sprintf("%.2f × the heaviest slot", all.hostPeak), Value: all.hostPeak, Limit: 1,
		Parts: []string{fmt.Sprintf("%d hosts in partitions of %d: %d in the heaviest slot, %d in an average one", ringHosts, hostsPerDomain, heaviest, ringHosts/slotCount)},
		Why:   whyPeak,
	})
}

// grow adds workers one by one, and at each size takes one away and brings it back.
func (b *bench) grow(all *tallyOf, hosts []int, heaviest int, weighted, zoned bool) {
	dice := rand.New(rand.NewPCG(1, 2))
	in := ring.Input{Slots: slotCount, Owner: map[int]string{}, SlotZone: map[int]string{}, Load: map[int]int{}}
	for n, count := range hosts {
		in.Load[n] = count
	}
	if zoned {
		for n := range slotCount {
			in.SlotZone[n] = fmt.Sprintf("z%d", dice.IntN(3))
		}
	}
	for i := range ringWorkers {
		m := ring.Member{ID: fmt.Sprintf("worker-%02d", i), Weight: 1}
		if weighted {
			m.Weight = 1 + dice.IntN(4)
		}
		if zoned {
			m.Zone = fmt.Sprintf("z%d", i%3)
		}
		in.Members = append(in.Members, m)
		if i == 0 {
			for _, t := range ring.Plan(in) {
				in.Owner[t.Slot] = t.To
			}
			continue
		}
		all.change(&in, hosts, heaviest, m.ID) // a join
		gone := in.Members[dice.IntN(len(in.Members))]
		in.Members = slices.DeleteFunc(in.Members, func(x ring.Member) bool { return x == gone })
		all.change(&in, hosts, heaviest, gone.ID) // a loss
		in.Members = append(in.Members, gone)
		all.change(&in, hosts, heaviest, gone.ID)
	}
}

// change carries out what one change of membership asks for: orphans are taken, then
// slots are handed over, as workers do.
func (a *tallyOf) change(in *ring.Input, hosts []int, heaviest int, who string) {
	weights := 0
	share, fair := map[string]float64{}, map[string]float64{}
	for _, m := range in.Members {
		weights += m.Weight
	}
	for _, m := range in.Members {
		share[m.ID] = float64(slotCount) * float64(m.Weight) / float64(weights)
		fair[m.ID] = float64(ringHosts) * float64(m.Weight) / float64(weights)
	}
	live := map[string]bool{}
	for _, m := range in.Members {
		live[m.ID] = true
	}
	orphans := 0
	for _, owner := range in.Owner {
		if !live[owner] {
			orphans++
		}
	}
	least := orphans + ring.Least(*in)
	moved := 0
	after := maps.Clone(in.Owner)
	for _, t := range ring.Plan(*in) {
		was := in.Owner[t.Slot]
		if t.To == was {
			continue
		}
		moved++
		a.hostsMoved += float64(hosts[t.Slot])
		if was != who && t.To != who {
			a.collateral++
		}
		after[t.Slot] = t.To
	}
	in.Owner = after
	a.changes, a.moved, a.least = a.changes+1, a.moved+moved, a.least+least
	a.hostsFair += float64(least) * float64(ringHosts) / float64(slotCount)
	if least > 0 {
		a.worst = max(a.worst, float64(moved)/float64(least))
	}
	slots, held := map[string]float64{}, map[string]float64{}
	for n, owner := range after {
		slots[owner]++
		held[owner] += float64(hosts[n])
	}
	for id := range share {
		a.peak = max(a.peak, slots[id]-share[id])
		a.hostPeak = max(a.hostPeak, (held[id]-fair[id])/float64(heaviest))
	}
}
