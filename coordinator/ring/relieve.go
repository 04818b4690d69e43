// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"slices"
)

// worthPart: a slot is worth moving for the sake of balance alone if it holds this part of
// a seat's share of the hosts.
const worthPart = 3

// relieve evens out the hosts where hosts have come and gone since slots were placed: who
// has too many exchanges a slot for a lighter one of somebody who has too few, so that
// nobody's number of slots changes. Neither side may pass its share by it, so that hosts
// that come and go move nothing to and fro, and nothing leaves its own zone; only who is
// above its share by more than the heaviest slot gives whatever makes the two more alike
// (leases.md §8). While somebody restarts in place nothing moves (leases.md §2.7).
func (t *table) relieve() {
	if t.all == 0 || t.weights == 0 || slices.ContainsFunc(t.seats, func(s seat) bool { return s.Frozen }) {
		return
	}
	if slices.Contains(t.next, nobody) {
		return
	}
	for _, anyway := range []bool{true, false} { // first among slots that move anyway
		held := make([][]int, len(t.seats))
		for s, i := range t.next {
			if !anyway || t.now[s] != i {
				held[i] = append(held[i], s)
			}
		}
		for t.exchange(held) {
		}
	}
}

// exchange makes the first exchange that helps; false when there is none.
func (t *table) exchange(held [][]int) bool {
	above := t.above
	order := make([]int, len(t.seats))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(-cmp.Compare(above(a), above(b)), cmp.Compare(a, b)) })
	for _, rich := range order {
		peak := t.laden(rich, 0)
		for k := len(order) - 1; k >= 0; k-- {
			poor := order[k]
			room := min(above(rich), -above(poor))
			if peak {
				room = above(rich) - above(poor) - 1
			}
			if room < t.weights {
				break // less than one host, and the others have less room
			}
			for _, heavy := range held[rich] {
				l := t.hosts[heavy]
				if !peak && (l*worthPart*t.weights < t.all*t.seats[rich].Weight || t.local(heavy, rich) > t.local(heavy, poor)) {
					continue
				}
				light := t.lightest(held[poor], poor, rich, l, room, peak)
				if light == nobody {
					continue
				}
				held[rich][slices.Index(held[rich], heavy)], held[poor][slices.Index(held[poor], light)] = light, heavy
				t.give(heavy, poor)
				t.give(light, rich)
				return true
			}
		}
	}
	return false
}

// lightest is the slot of poor that rich takes for one with l hosts: the one with fewest,
// then the one that rich ranks highest for.
func (t *table) lightest(slots []int, poor, rich, l, room int, peak bool) int {
	best := nobody
	for _, s := range slots {
		d := (l - t.hosts[s]) * t.weights
		if d <= 0 || d > room || !peak && t.local(s, poor) > t.local(s, rich) {
			continue
		}
		if best == nobody || cmp.Or(cmp.Compare(t.hosts[s], t.hosts[best]), -cmp.Compare(rank(t.hash[s], t.seats[rich].hash), rank(t.hash[best], t.seats[rich].hash)), cmp.Compare(s, best)) < 0 {
			best = s
		}
	}
	return best
}
