// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
)

// Member is a live worker that may own slots.
type Member struct {
	ID     string
	Zone   string
	Weight int // share of the slots relative to the others; 0 or less takes none (draining)
}

// Input is one view of the fleet. Equal inputs give equal plans on every worker.
type Input struct {
	Slots    int
	Members  []Member       // any order; of several with one ID the first in (weight, zone) order counts
	Owner    map[int]string // current owner of a slot; absent, "" or not a member means unowned
	SlotZone map[int]string // zone a slot would rather live in; may be nil
}

// Target says where one slot belongs. From is the current owner if it is a member, else
// "". To is "" only when no member has a positive weight and the slot is unowned.
type Target struct {
	Slot     int
	From, To string
}

// SlotOf returns the slot of a key, in 0 … slots-1. slots below 1 counts as 1.
func SlotOf(key string, slots int) int {
	return int(hash(key) % uint64(max(slots, 1)))
}

// Plan returns a target for every slot, in slot order. When nobody has a positive weight
// the present owners keep what they have: draining the last worker hands over to no one.
func Plan(in Input) []Target {
	t := newTable(in)
	t.place(t.shed())
	out := make([]Target, len(t.now))
	for s := range out {
		out[s] = Target{Slot: s, From: t.id(t.now[s]), To: t.id(t.next[s])}
	}
	return out
}

// Moves returns the targets that take a slot from one live member to another: the
// hand-overs of a join, a drain or a rebalance. Orphans are not among them.
func Moves(in Input) []Target {
	return slices.DeleteFunc(Plan(in), func(t Target) bool { return t.From == "" || t.From == t.To })
}

// Orphans returns the unowned slots that self should take, in slot order.
func Orphans(in Input, self string) []int {
	var out []int
	for _, t := range Plan(in) {
		if t.From == "" && t.To == self && self != "" {
			out = append(out, t.Slot)
		}
	}
	return out
}

const nobody = -1

type seat struct {
	Member
	hash        uint64
	load, quota int
}

type table struct {
	seats     []seat
	now, next []int // seat index by slot, or nobody
	hash      []uint64
	zone      map[int]string
}

func newTable(in Input) *table {
	members := slices.Clone(in.Members)
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Zone, b.Zone))
	})
	members = slices.CompactFunc(members, func(a, b Member) bool { return a.ID == b.ID })
	members = slices.DeleteFunc(members, func(m Member) bool { return m.ID == "" })

	n := max(in.Slots, 0)
	t := &table{now: make([]int, n), next: make([]int, n), hash: make([]uint64, n), zone: in.SlotZone}
	index := make(map[string]int, len(members))
	for i, m := range members {
		m.Weight = max(m.Weight, 0)
		t.seats = append(t.seats, seat{Member: m, hash: hash(m.ID)})
		index[m.ID] = i
	}
	for s := range n {
		t.hash[s] = hash(strconv.Itoa(s))
		t.now[s] = nobody
		if i, ok := index[in.Owner[s]]; ok {
			t.now[s] = i
			t.seats[i].load++
		}
	}
	copy(t.next, t.now)
	t.setQuotas()
	return t
}

func (t *table) id(i int) string {
	if i == nobody {
		return ""
	}
	return t.seats[i].ID
}

// setQuotas gives every seat ⌊share⌋ or ⌈share⌉ slots, exactly as many as there are.
// The rounding goes first to those that already hold it, so that balance alone moves
// nothing twice.
func (t *table) setQuotas() {
	total := 0
	for _, s := range t.seats {
		total += s.Weight
	}
	if total == 0 {
		for i := range t.seats {
			t.seats[i].quota = t.seats[i].load
		}
		return
	}
	left := len(t.now)
	var rounded []int
	rest := make(map[int]int)
	for i := range t.seats {
		s := &t.seats[i]
		s.quota = len(t.now) * s.Weight / total
		left -= s.quota
		if rest[i] = len(t.now) * s.Weight % total; rest[i] > 0 {
			rounded = append(rounded, i)
		}
	}
	slices.SortFunc(rounded, func(a, b int) int {
		x, y := &t.seats[a], &t.seats[b]
		return cmp.Or(
			-cmp.Compare(btoi(x.load > x.quota), btoi(y.load > y.quota)),
			-cmp.Compare(rest[a], rest[b]),
			cmp.Compare(x.hash, y.hash),
			cmp.Compare(x.ID, y.ID))
	})
	for _, i := range rounded[:left] {
		t.seats[i].quota++
	}
}

// shed frees what members hold above their quota and returns all slots without a
// target. A member gives up slots of foreign zones first, then those it ranks lowest for.
func (t *table) shed() []int {
	held := make(map[int][]int, len(t.seats))
	var free []int
	for s, i := range t.now {
		if i == nobody {
			free = append(free, s)
		} else {
			held[i] = append(held[i], s)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(held)) {
		over := t.seats[i].load - t.seats[i].quota
		if over <= 0 {
			continue
		}
		mine := held[i]
		slices.SortFunc(mine, func(a, b int) int { return t.prefer(b, i, a, i) })
		for _, s := range mine[:over] {
			t.next[s] = nobody
			free = append(free, s)
		}
		t.seats[i].load -= over
	}
	slices.Sort(free)
	return free
}

func (t *table) place(free []int) {
	for _, s := range free {
		best := nobody
		for i := range t.seats {
			if t.seats[i].load >= t.seats[i].quota {
				continue
			}
			if best == nobody || t.prefer(s, i, s, best) < 0 {
				best = i
			}
		}
		if best == nobody {
			return // no positive weight anywhere
		}
		t.next[s] = best
		t.seats[best].load++
	}
}

// prefer orders pairs of slot and seat, better first: own zone, then rendezvous rank.
func (t *table) prefer(slotA, seatA, slotB, seatB int) int {
	return cmp.Or(
		-cmp.Compare(t.local(slotA, seatA), t.local(slotB, seatB)),
		-cmp.Compare(rank(t.hash[slotA], t.seats[seatA].hash), rank(t.hash[slotB], t.seats[seatB].hash)),
		cmp.Compare(t.seats[seatA].ID, t.seats[seatB].ID),
		cmp.Compare(slotA, slotB))
}

func (t *table) local(slot, seat int) int {
	z := t.zone[slot]
	return btoi(z != "" && z == t.seats[seat].Zone)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func hash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:8])
}

// rank is the rendezvous weight of a pair: one round of splitmix64.
func rank(a, b uint64) uint64 {
	x := (a ^ b) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
