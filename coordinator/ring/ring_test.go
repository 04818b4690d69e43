// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func fleet(weights ...int) []Member {
	var out []Member
	for i, w := range weights {
		out = append(out, Member{ID: "w-" + strconv.Itoa(i), Zone: "z" + strconv.Itoa(i%3), Weight: w})
	}
	return out
}

func equal(n int) []Member {
	w := make([]int, n)
	for i := range w {
		w[i] = 1
	}
	return fleet(w...)
}

func apply(plan []Target) map[int]string {
	owner := make(map[int]string, len(plan))
	for _, t := range plan {
		owner[t.Slot] = t.To
	}
	return owner
}

func loads(owner map[int]string) map[string]int {
	n := make(map[string]int)
	for _, id := range owner {
		n[id]++
	}
	return n
}

// genInput draws any view, also ones no healthy fleet would show: strangers as owners,
// lopsided loads, zero weights, any of them frozen.
func genInput(t *rapid.T) Input {
	in := Input{Slots: rapid.IntRange(0, 200).Draw(t, "slots"), Owner: map[int]string{}, SlotZone: map[int]string{}}
	in.Members = fleet(rapid.SliceOfN(rapid.IntRange(0, 4), 0, 12).Draw(t, "weights")...)
	for i := range in.Members {
		in.Members[i].Frozen = rapid.IntRange(0, 5).Draw(t, "frozen") == 0
	}
	for s := range in.Slots {
		if k := rapid.IntRange(-2, len(in.Members)).Draw(t, "owner"); k >= 0 {
			in.Owner[s] = "w-" + strconv.Itoa(k) // len(Members) is a stranger
		}
		if z := rapid.IntRange(0, 3).Draw(t, "zone"); z < 3 {
			in.SlotZone[s] = "z" + strconv.Itoa(z)
		}
	}
	return in
}

func sumWeights(ms []Member) (total int) {
	for _, m := range ms {
		total += m.Weight
	}
	return total
}

// bounds says how many slots a member may hold.
type bounds func(m Member) (lo, hi int)

// boundsOf are the shares of an input by definition: those of all members if the thawed
// can hold exactly what is not frozen within them, else those of the thawed alone. The
// last result is how many slots the thawed have beyond their lower bounds; ok is false
// when nobody may take slots.
func boundsOf(in Input, have map[string]int) (b bounds, spare int, ok bool) {
	var thawed []Member
	free := in.Slots
	for _, m := range in.Members {
		if m.Frozen {
			free -= have[m.ID]
		} else {
			thawed = append(thawed, m)
		}
	}
	for _, of := range []struct{ slots, total int }{{in.Slots, sumWeights(in.Members)}, {free, sumWeights(thawed)}} {
		if of.total == 0 {
			continue
		}
		b := func(m Member) (lo, hi int) {
			if m.Frozen {
				return have[m.ID], have[m.ID]
			}
			return of.slots * m.Weight / of.total, (of.slots*m.Weight + of.total - 1) / of.total
		}
		least, most := 0, 0
		for _, m := range thawed {
			lo, hi := b(m)
			least, most = least+lo, most+hi
		}
		if least <= free && free <= most {
			return b, free - least, sumWeights(thawed) > 0
		}
	}
	return nil, 0, false
}

// leases.md §4: total, bounded, and never more movement than the bounds demand. §2.7:
// members that restart in place keep exactly what they own.
func TestPlanIsTotalBoundedAndMinimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		plan := Plan(in)
		if len(plan) != in.Slots {
			t.Fatalf("%d targets for %d slots", len(plan), in.Slots)
		}
		frozen := map[string]bool{}
		for _, m := range in.Members {
			frozen[m.ID] = m.Frozen
		}
		have, moved := map[string]int{}, 0
		for _, p := range plan {
			if p.From != p.To && (frozen[p.From] || frozen[p.To]) {
				t.Fatalf("%+v touches a frozen member", p)
			}
			if p.From != "" {
				have[p.From]++
				if p.From != p.To {
					moved++
				}
			}
		}
		within, spare, ok := boundsOf(in, have)
		if !ok {
			for _, p := range plan {
				if p.To != p.From {
					t.Fatalf("nobody can take slots, yet %+v moves", p)
				}
			}
			return
		}
		for _, p := range plan {
			if p.To == "" {
				t.Fatalf("slot %d has no target", p.Slot)
			}
		}
		got := loads(apply(plan))
		// The fewest moves within the bounds: everything above ⌈share⌉ goes, and of those
		// above ⌊share⌋ all but as many as there are slots left after everyone's floor.
		least, above := 0, 0
		for _, m := range in.Members {
			lo, hi := within(m)
			if got[m.ID] < lo || got[m.ID] > hi {
				t.Fatalf("%s holds %d, share is %d to %d", m.ID, got[m.ID], lo, hi)
			}
			least += max(0, have[m.ID]-hi)
			if hi > lo && have[m.ID] > lo {
				above++
			}
		}
		if least += max(0, above-spare); moved != least || Least(in) != least {
			t.Fatalf("moved %d, the least is %d, said to be %d", moved, least, Least(in))
		}
	})
}

// leases.md §2.7: a rolling restart of a settled fleet moves nothing, whatever the
// weights and whoever restarts at the same time.
func TestFreezingASettledFleetMovesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Slots: rapid.IntRange(0, 300).Draw(t, "slots")}
		in.Members = fleet(rapid.SliceOfN(rapid.IntRange(0, 9), 1, 12).Draw(t, "weights")...)
		in.Owner = apply(Plan(in))
		for i := range in.Members {
			in.Members[i].Frozen = rapid.Bool().Draw(t, "frozen")
		}
		if m := Moves(in); len(m) > 0 {
			t.Fatalf("moves %v", m)
		}
	})
}

// A worker that dies while another restarts: the orphans go to those that are neither.
func TestOrphansPassByFrozenMembers(t *testing.T) {
	in := Input{Slots: 1024, Members: equal(4)}
	in.Owner = apply(Plan(in))
	in.Members = in.Members[:3] // w-3 died
	in.Members[1].Frozen = true
	got := loads(apply(Plan(in)))
	if diff := cmp.Diff(map[string]int{"w-0": 384, "w-1": 256, "w-2": 384}, got); diff != "" {
		t.Fatal(diff)
	}
}

// genLoad draws hosts for the slots of an input: none, few, or whole partitions of them.
func genLoad(t *rapid.T, in *Input) {
	in.Load = map[int]int{}
	for s := range in.Slots {
		if n := rapid.SampledFrom([]int{0, 0, 0, 1, 7, 50, 100}).Draw(t, "hosts"); n > 0 {
			in.Load[s] = n
		}
	}
}

// leases.md §8: nobody holds more hosts than its share and the heaviest slot, wherever
// hosts have come and gone; a settled fleet stays as it is, and numbers of slots are what
// they are without hosts.
func TestHostsAreBalancedToo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		genLoad(t, &in)
		in.SlotZone = nil // homes come first
		for i := range in.Members {
			in.Members[i].Frozen = false
		}
		bare := in
		bare.Load = nil
		plan := Plan(in)
		owner := apply(plan)
		if diff := cmp.Diff(loads(apply(Plan(bare))), loads(owner)); diff != "" {
			t.Fatalf("hosts change the numbers of slots:\n%s", diff)
		}
		settled := in
		settled.Owner = owner
		if m := Moves(settled); len(m) > 0 {
			t.Fatalf("a settled plan moves again: %v", m)
		}
		weights := sumWeights(in.Members)
		if weights == 0 {
			return
		}
		all, heaviest, held := 0, 0, map[string]int{}
		for s, n := range in.Load {
			all, heaviest = all+n, max(heaviest, n)
			held[owner[s]] += n
		}
		for _, m := range in.Members {
			if over := held[m.ID]*weights - all*m.Weight; over > heaviest*weights && loads(owner)[m.ID] < in.Slots {
				t.Fatalf("%s holds %d hosts, share %d/%d of %d, heaviest slot %d", m.ID, held[m.ID], m.Weight, weights, all, heaviest)
			}
		}
	})
}

// Hosts that come one by one move no slot to and fro: what is exchanged once stays.
func TestHostsThatComeMoveLittle(t *testing.T) {
	in := Input{Slots: 1024, Members: equal(3), Load: map[int]int{}}
	in.Owner = apply(Plan(in))
	moved := 0
	for i := range 2000 { // 40 partitions fill up at the same time
		in.Load[SlotOf("z1/p1/c"+strconv.Itoa(i%40), in.Slots)]++
		for _, m := range Moves(in) {
			moved += min(1, in.Load[m.Slot])
		}
		in.Owner = apply(Plan(in))
	}
	if moved > 40 {
		t.Errorf("%d moves of slots with hosts", moved)
	}
	held := map[string]int{}
	for s, n := range in.Load {
		held[in.Owner[s]] += n
	}
	for id, n := range held {
		if n < 2000/3-100 || n > 2000/3+100 {
			t.Errorf("%s holds %d of 2000 hosts", id, n)
		}
	}
}

// Three clusters in slots of one worker are spread over three; a restart in place moves
// none of them.
func TestFirstHostsAreSpread(t *testing.T) {
	in := Input{Slots: 1024, Members: equal(3)}
	in.Owner = apply(Plan(in))
	in.Load = map[int]int{}
	for s := range in.Slots {
		if in.Owner[s] == "w-0" && len(in.Load) < 3 {
			in.Load[s] = 4
		}
	}
	in.Members[1].Frozen = true
	if m := Moves(in); len(m) > 0 {
		t.Fatalf("moves %v while a worker restarts", m)
	}
	in.Members[1].Frozen = false
	in.Owner = apply(Plan(in))
	held := map[string]int{}
	for s, n := range in.Load {
		held[in.Owner[s]] += n
	}
	if diff := cmp.Diff(map[string]int{"w-0": 4, "w-1": 4, "w-2": 4}, held); diff != "" {
		t.Fatal(diff)
	}
}

// Neither the order of members nor anything random may change the answer.
func TestPlanIsOrderIndependentAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		genLoad(t, &in)
		want := Plan(in)
		shuffled := in
		shuffled.Members = rapid.Permutation(in.Members).Draw(t, "order")
		if diff := cmp.Diff(want, Plan(shuffled)); diff != "" {
			t.Fatal(diff)
		}
		// Once reached, a plan stays: applying it leaves nothing to do.
		settled := in
		settled.Owner = apply(want)
		if m := Moves(settled); len(m) > 0 {
			t.Fatalf("a settled plan moves again: %v", m)
		}
	})
}

// leases.md §8: hosts moved per membership change, no collateral.
func TestMembershipChangesMoveOnlyTheFloor(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 9, 40, 100} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			const slots = 1024
			in := Input{Slots: slots, Members: equal(n)}
			in.Owner = apply(Plan(in))

			join := in
			join.Members = equal(n + 1)
			moves := Moves(join)
			if limit := slots/(n+1) + 1; len(moves) > limit || len(moves) < slots/(n+1) {
				t.Errorf("join moves %d slots, floor %d", len(moves), slots/(n+1))
			}
			for _, m := range moves {
				if m.To != "w-"+strconv.Itoa(n) {
					t.Errorf("collateral: %+v", m)
				}
			}

			leave := in
			leave.Members = in.Members[1:]
			if m := Moves(leave); len(m) > 0 {
				t.Errorf("leave moves %d slots of others", len(m))
			}
		})
	}
}

// Every orphan is taken by exactly one of the members, whoever computes it.
func TestOrphansAreDisjointAndComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		genLoad(t, &in)
		want := map[int]bool{}
		for _, p := range Plan(in) {
			if p.From == "" && p.To != "" {
				want[p.Slot] = true
			}
		}
		got := map[int]bool{}
		for _, m := range in.Members {
			for _, s := range Orphans(in, m.ID) {
				if got[s] {
					t.Fatalf("slot %d has two takers", s)
				}
				got[s] = true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if o := Orphans(in, "stranger"); len(o) > 0 {
			t.Fatalf("a stranger takes %v", o)
		}
	})
}

func TestRandomHistoryStaysBalanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Slots: 256}
		for range rapid.IntRange(1, 12).Draw(t, "changes") {
			in.Members = fleet(rapid.SliceOfN(rapid.IntRange(1, 3), 1, 10).Draw(t, "weights")...)
			in.Owner = apply(Plan(in))
			total := sumWeights(in.Members)
			for _, m := range in.Members {
				share := float64(in.Slots*m.Weight) / float64(total)
				if n := float64(loads(in.Owner)[m.ID]); n > share+1 || n < share-1 {
					t.Fatalf("%s holds %v of %v", m.ID, n, share)
				}
			}
		}
	})
}

// A slot lives in its own zone as long as that zone has room.
func TestOwnZoneFirst(t *testing.T) {
	in := Input{Slots: 300, Members: equal(3), SlotZone: map[int]string{}}
	for s := range in.Slots {
		in.SlotZone[s] = "z" + strconv.Itoa(s%3)
	}
	for _, p := range Plan(in) {
		if want := "w-" + strconv.Itoa(p.Slot%3); p.To != want {
			t.Fatalf("slot %d of %s went to %s", p.Slot, in.SlotZone[p.Slot], p.To)
		}
	}
}

// Only slots with hosts have a zone. Who joins gets its share of them like of the others,
// wherever it and the hosts are, unless they come home with it.
func TestZonesDoNotSkewTheLoad(t *testing.T) {
	const slots, every = 1024, 4
	for _, c := range []struct {
		name, members, hosts, joiner string
		low, high                    int // slots with hosts that the joiner gets; its share of them is 64
	}{
		{"all in one zone", "z1", "z1", "z1", 45, 85},
		{"workers without a zone", "", "z1", "", 45, 85},
		{"nobody in the zone of the hosts", "z1", "z2", "z1", 45, 85},
		{"joiner elsewhere", "z1", "z1", "z2", 45, 85},
		{"joiner comes home", "z1", "z2", "z2", 240, slots / every}, // all that each may give
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{Slots: slots, Members: equal(3), SlotZone: map[int]string{}}
			for s := 0; s < slots; s += every {
				in.SlotZone[s] = c.hosts
			}
			for i := range in.Members {
				in.Members[i].Zone = c.members
			}
			in.Owner = apply(Plan(in))
			in.Members = append(in.Members, Member{ID: "joiner", Zone: c.joiner, Weight: 1})
			got := 0
			for _, m := range Moves(in) {
				if in.SlotZone[m.Slot] != "" {
					got++
				}
			}
			if got < c.low || got > c.high {
				t.Errorf("%d slots with hosts move, want %d to %d", got, c.low, c.high)
			}
		})
	}
}

func TestDrainHandsOverEverything(t *testing.T) {
	in := Input{Slots: 128, Members: equal(4)}
	in.Owner = apply(Plan(in))
	in.Members[2].Weight = 0
	if n := loads(apply(Plan(in)))["w-2"]; n != 0 {
		t.Fatalf("a draining worker keeps %d slots", n)
	}
	if n := len(Moves(in)); n != 32 {
		t.Fatalf("draining one of four moved %d slots, want its 32", n)
	}
}

// The hash may never change: it would move every slot of a running fleet.
func TestHashIsStableForEver(t *testing.T) {
	for key, want := range map[string]int{"z1/p1/c1": 94, "z1/p1/c2": 973, "h0042": 653} {
		if got := SlotOf(key, 1024); got != want {
			t.Errorf("SlotOf(%q) = %d, want %d", key, got, want)
		}
	}
	if got := rank(hash("0"), hash("w-0")); got != 0x9704ec27e54170b6 {
		t.Errorf("rank = %#x", got)
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{3, 40} {
		b.Run(fmt.Sprintf("join-%d", n), func(b *testing.B) {
			in := Input{Slots: 1024, Members: equal(n)}
			in.Owner = apply(Plan(in))
			in.Members = equal(n + 1)
			for b.Loop() {
				Plan(in)
			}
		})
	}
}

// With unequal weights a departure may shift a rounding, never more than one slot for
// each member that stays.
func TestWeightedDepartureShiftsRoundingsOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{Slots: 512, Members: fleet(rapid.SliceOfN(rapid.IntRange(1, 9), 2, 30).Draw(t, "weights")...)}
		in.Owner = apply(Plan(in))
		in.Members = in.Members[1:]
		if n := len(Moves(in)); n > len(in.Members) {
			t.Fatalf("%d slots of %d remaining members moved", n, len(in.Members))
		}
	})
}
