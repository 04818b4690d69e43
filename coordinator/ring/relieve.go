// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"slices"
)

// worthPart: a slot is worth moving for the sake of balance alone if it holds this part of
// a seat's share of the hosts.
const worthPart = 8

// relieve evens out the hosts where hosts have come and gone since slots were placed: who
// has too many exchanges a slot for a lighter one of somebody who has too few, so that
// nobody's number of slots changes. Neither side may pass its share by it, so that hosts
// that come and go move nothing to and fro; only who is above its share by more than the
// heaviest slot gives whatever makes the two more alike (leases.md §8). Nothing leaves its
// own zone, and while somebody restarts in place nothing moves (leases.md §2.7).
func (t *table) relieve() {
	if t.all == 0 || t.weights == 0 || slices.ContainsFunc(t.seats, func(s seat) bool { return s.Frozen }) {
		return
	}
	held, heaviest := make([][]int, len(t.seats)), 0
	for s, i := range t.next {
		if i == nobody {
			return
		}
		held[i] = append(held[i], s)
		heaviest = max(heaviest, t.hosts[s])
	}
	for t.exchange(held, heaviest) {
	}
}

// exchange makes the first exchange that helps; false when there is none.
func (t *table) exchange(held [][]int, heaviest int) bool {
	// above is how far a seat is over its share, in hosts times the sum of weights.
	above := func(i int) int { return t.seats[i].hosts*t.weights - t.all*t.seats[i].Weight }
	order := make([]int, len(t.seats))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(-cmp.Compare(above(a), above(b)), cmp.Compare(a, b)) })
	for _, rich := range order {
		peak := above(rich) > heaviest*t.weights
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
				if !peak && l*worthPart*t.weights < t.all*t.seats[rich].Weight || t.local(heavy, rich) > t.local(heavy, poor) {
					continue
				}
				light := t.lightest(held[poor], poor, rich, l, room)
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
func (t *table) lightest(slots []int, poor, rich, l, room int) int {
	best := nobody
	for _, s := range slots {
		d := (l - t.hosts[s]) * t.weights
		if d <= 0 || d > room || t.local(s, poor) > t.local(s, rich) {
			continue
		}
		if best == nobody || cmp.Or(cmp.Compare(t.hosts[s], t.hosts[best]), -cmp.Compare(rank(t.hash[s], t.seats[rich].hash), rank(t.hash[best], t.seats[rich].hash)), cmp.Compare(s, best)) < 0 {
			best = s
		}
	}
	return best
}
