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
	Weight int  // share of the slots relative to the others; 0 or less takes none (draining)
	Frozen bool // keeps exactly what it owns: it is restarted in place (leases.md §2.7)
}

// Input is one view of the fleet. Equal inputs give equal plans on every worker.
type Input struct {
	Slots    int
	Members  []Member       // any order; of several with one ID the first in (weight, zone, frozen) order counts
	Owner    map[int]string // current owner of a slot; absent, "" or not a member means unowned
	SlotZone map[int]string // zone a slot would rather live in; may be nil
	Load     map[int]int    // hosts in a slot; may be nil, and then all slots are alike
}

// Target says where one slot belongs. From is the current owner if it is a member, else
// "". To is "" only when nobody may take slots and the slot is unowned.
type Target struct {
	Slot     int
	From, To string
}

// SlotOf returns the slot of a key, in 0 … slots-1. slots below 1 counts as 1.
func SlotOf(key string, slots int) int {
	return int(hash(key) % uint64(max(slots, 1)))
}

// Plan returns a target for every slot, in slot order. When nobody may take slots, because
// all are frozen or without weight, the present owners keep what they have: draining the
// last worker hands over to no one.
func Plan(in Input) []Target {
	return newTable(in).plan()
}

func (t *table) plan() []Target {
	t.place(t.shed())
	t.relieve()
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

// Least is how many hand-overs any assignment within the bounds of Plan needs: what the
// number of Moves is measured against (leases.md §8).
func Least(in Input) int {
	t := newTable(in)
	least, above := 0, 0
	for i := range t.seats {
		s := &t.seats[i]
		high := s.floor + btoi(s.rest > 0)
		least += max(0, s.load-high)
		above += btoi(high > s.floor && s.load > s.floor)
	}
	return least + max(0, above-t.spare)
}

// Orphans returns the unowned slots that self should take, in slot order.
func Orphans(in Input, self string) []int {
	t := newTable(in)
	if self == "" || !slices.Contains(t.now, nobody) {
		return nil // as nearly always
	}
	var out []int
	for _, t := range t.plan() {
		if t.From == "" && t.To == self {
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
	floor, rest int // the share: whole slots, and what is left over in parts of the sum of weights
	hosts       int // in its slots
}

type table struct {
	seats     []seat
	now, next []int // seat index by slot, or nobody
	spare     int   // slots left when every seat has its floor
	hash      []uint64
	zone      map[int]string
	hosts     []int // by slot
	all       int   // hosts of the fleet
	heaviest  int   // hosts in the slot that has most
	weights   int
}

func newTable(in Input) *table {
	members := slices.Clone(in.Members)
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Zone, b.Zone), cmp.Compare(btoi(a.Frozen), btoi(b.Frozen)))
	})
	members = slices.CompactFunc(members, func(a, b Member) bool { return a.ID == b.ID })
	members = slices.DeleteFunc(members, func(m Member) bool { return m.ID == "" })

	n := max(in.Slots, 0)
	t := &table{now: make([]int, n), next: make([]int, n), hash: make([]uint64, n), zone: in.SlotZone, hosts: make([]int, n)}
	index := make(map[string]int, len(members))
	for i, m := range members {
		m.Weight = max(m.Weight, 0)
		t.seats = append(t.seats, seat{Member: m, hash: hash(m.ID)})
		index[m.ID] = i
		t.weights += m.Weight
	}
	for s := range n {
		t.hash[s] = slotHash(s)
		t.now[s] = nobody
		t.hosts[s] = in.Load[s]
		t.all += t.hosts[s]
		t.heaviest = max(t.heaviest, t.hosts[s])
		if i, ok := index[in.Owner[s]]; ok {
			t.now[s] = i
			t.seats[i].load++
			t.seats[i].hosts += t.hosts[s]
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

// setQuotas gives every seat ⌊share⌋ or ⌈share⌉ slots, exactly as many as there are. The
// rounding goes first to those that already hold it, so that balance alone moves nothing
// twice. Frozen seats have what they hold; they count in the shares of the others as long
// as that comes out even, so that restarting workers of a settled fleet moves nothing.
func (t *table) setQuotas() {
	if !t.share(true) {
		t.share(false)
	}
	var rounded []int
	for i := range t.seats {
		s := &t.seats[i]
		if s.quota = s.floor; s.rest > 0 {
			rounded = append(rounded, i)
		}
	}
	slices.SortFunc(rounded, func(a, b int) int {
		x, y := &t.seats[a], &t.seats[b]
		return cmp.Or(
			-cmp.Compare(btoi(x.load > x.quota), btoi(y.load > y.quota)),
			-cmp.Compare(x.rest, y.rest),
			cmp.Compare(x.hash, y.hash),
			cmp.Compare(x.ID, y.ID))
	})
	for _, i := range rounded[:t.spare] {
		t.seats[i].quota++
	}
}

// share sets floor and rest of every seat and what is spare then. With all set frozen
// seats count in the shares; false when the others cannot be given exactly the rest so.
func (t *table) share(all bool) bool {
	slots, total := len(t.now), 0
	for _, s := range t.seats {
		if s.Frozen && !all {
			slots -= s.load
		} else {
			total += s.Weight
		}
	}
	t.spare = 0
	if total == 0 { // nobody to take anything: all keep what they have
		for i := range t.seats {
			t.seats[i].floor, t.seats[i].rest = t.seats[i].load, 0
		}
		return true
	}
	t.spare = len(t.now)
	roundings := 0
	for i := range t.seats {
		s := &t.seats[i]
		s.floor, s.rest = slots*s.Weight/total, slots*s.Weight%total
		if s.Frozen {
			s.floor, s.rest = s.load, 0
		}
		t.spare -= s.floor
		roundings += btoi(s.rest > 0)
	}
	return t.spare >= 0 && t.spare <= roundings
}

// shed frees what members hold above their quota and returns all slots without a
// target. A member gives up first what can go home to another zone, then what brings its
// hosts nearest to its share of them, then what it ranks lowest for.
func (t *table) shed() []int {
	held := make(map[int][]int, len(t.seats))
	room := make(map[string]bool)
	for _, s := range t.seats {
		room[s.Zone] = room[s.Zone] || s.load < s.quota
	}
	var free []int
	for s, i := range t.now {
		if i == nobody {
			free = append(free, s)
		} else {
			held[i] = append(held[i], s)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(held)) {
		mine, seat := held[i], &t.seats[i]
		if seat.load <= seat.quota {
			continue
		}
		away := func(s int) int { z := t.zone[s]; return btoi(z != "" && z != seat.Zone && room[z]) }
		slices.SortFunc(mine, func(a, b int) int {
			return cmp.Or(
				-cmp.Compare(away(a), away(b)),
				cmp.Compare(rank(t.hash[a], seat.hash), rank(t.hash[b], seat.hash)),
				cmp.Compare(b, a))
		})
		for over := seat.load - seat.quota; over > 0; over-- {
			// Of those it would rather give up: the one with its part of the hosts to go.
			goal := (seat.hosts - t.fair(i)) / over
			best := 0
			for k := 1; t.all > 0 && k < len(mine) && away(mine[k]) == away(mine[0]); k++ {
				if abs(t.hosts[mine[k]]-goal) < abs(t.hosts[mine[best]]-goal) {
					best = k
				}
			}
			free = append(free, mine[best])
			t.give(mine[best], nobody)
			mine = slices.Delete(mine, best, best+1)
		}
	}
	return free
}

// fair is a seat's share of the hosts by its weight, rounded down.
func (t *table) fair(i int) int {
	if t.weights == 0 {
		return t.seats[i].hosts
	}
	return t.all * t.seats[i].Weight / t.weights
}

// give puts a slot under a seat, or nobody.
func (t *table) give(slot, to int) {
	if i := t.next[slot]; i != nobody {
		t.seats[i].load--
		t.seats[i].hosts -= t.hosts[slot]
	}
	if t.next[slot] = to; to != nobody {
		t.seats[to].load++
		t.seats[to].hosts += t.hosts[slot]
	}
}

// place finds a seat for each free slot: for the heaviest first, so that the light ones
// even out what those leave.
func (t *table) place(free []int) {
	slices.SortFunc(free, func(a, b int) int { return cmp.Or(-cmp.Compare(t.hosts[a], t.hosts[b]), cmp.Compare(a, b)) })
	for _, s := range free {
		best := nobody
		for i := range t.seats {
			if t.seats[i].load >= t.seats[i].quota {
				continue
			}
			if best == nobody || t.prefer(s, i, best) < 0 {
				best = i
			}
		}
		if best == nobody {
			return // no positive weight anywhere
		}
		t.give(s, best)
	}
}

// above is how far a seat is over its share of the hosts, times the sum of weights.
func (t *table) above(i int) int { return t.seats[i].hosts*t.weights - t.all*t.seats[i].Weight }

// laden: with more hosts a seat is over its share by more than the heaviest slot.
func (t *table) laden(i, more int) bool { return t.above(i)+(more-t.heaviest)*t.weights > 0 }

// prefer orders seats for a slot, better first: for one with hosts who has room for them,
// then own zone, then, with hosts, who has fewest for its weight, then rendezvous rank.
func (t *table) prefer(slot, a, b int) int {
	x, y, l := &t.seats[a], &t.seats[b], t.hosts[slot]
	room, fewer := 0, 0
	if l > 0 {
		room = cmp.Compare(btoi(t.laden(a, l)), btoi(t.laden(b, l)))
		fewer = cmp.Compare(x.hosts*y.Weight, y.hosts*x.Weight)
	}
	return cmp.Or(
		room,
		-cmp.Compare(t.local(slot, a), t.local(slot, b)),
		fewer,
		-cmp.Compare(rank(t.hash[slot], t.seats[a].hash), rank(t.hash[slot], t.seats[b].hash)),
		cmp.Compare(t.seats[a].ID, t.seats[b].ID))
}

func (t *table) local(slot, seat int) int {
	z := t.zone[slot]
	return btoi(z != "" && z == t.seats[seat].Zone)
}

func abs(n int) int { return max(n, -n) }

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

// slotHash is hash of a slot's number. Plans are made in each step of a takeover.
func slotHash(slot int) uint64 {
	if slot < len(slotHashes) {
		return slotHashes[slot]
	}
	return hash(strconv.Itoa(slot))
}

// slotHashes are those of as many slots as large fleets have (leases.md §1).
var slotHashes = func() (out [4096]uint64) {
	for s := range out {
		out[s] = hash(strconv.Itoa(s))
	}
	return out
}()

// rank is the rendezvous weight of a pair: one round of splitmix64.
func rank(a, b uint64) uint64 {
	x := (a ^ b) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
