// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The example of the design paper, word for word: "3 management servers: M1, M2 and M3;
// 4 KVM hosts: H1, H2, H3 and H4. The 'host' global configuration should be set to
// 'M1,M2,M3'."
func TestExampleOfTheSeed(t *testing.T) {
	configured := strings.Split("M1,M2,M3", ",")
	hosts := []string{"H1", "H2", "H3", "H4"}
	index := map[string]int{}
	for i := range hosts { // each is added in its turn
		for _, c := range Enrol(index, hosts[:i+1], len(configured)) {
			index[c.Host] = c.To
		}
	}
	got := func(a Algorithm) (out []string) {
		for _, h := range hosts {
			l := For(Input{Algorithm: a, Workers: configured, Host: h, Index: index[h], Key: h})
			out = append(out, fmt.Sprintf("%s receives the list (%s)", h, strings.Join(l, ", ")))
		}
		return out
	}
	// "Each agent receives the same list (M1,M2,M3), and will be connected to the same
	// management server."
	static := []string{
		"H1 receives the list (M1, M2, M3)",
		"H2 receives the list (M1, M2, M3)",
		"H3 receives the list (M1, M2, M3)",
		"H4 receives the list (M1, M2, M3)",
	}
	if d := cmp.Diff(static, got(Static)); d != "" {
		t.Errorf("static (-want +got):\n%s", d)
	}
	roundrobin := []string{
		"H1 receives the list (M1, M2, M3)",
		"H2 receives the list (M2, M3, M1)",
		"H3 receives the list (M3, M1, M2)",
		"H4 receives the list (M1, M2, M3)",
	}
	if d := cmp.Diff(roundrobin, got(RoundRobin)); d != "" {
		t.Errorf("roundrobin (-want +got):\n%s", d)
	}
}

// One table per algorithm (agents.md "List and algorithms").
func TestAlgorithms(t *testing.T) {
	abc := []string{"a", "b", "c"}
	for alg, rows := range map[Algorithm][]struct {
		what string
		in   Input
		want []string
	}{
		Static: {
			{"as configured, not sorted", Input{Workers: []string{"c", "a", "b"}, Host: "h1", Owner: "b"}, []string{"c", "a", "b"}},
			{"the index means nothing", Input{Workers: abc, Index: 2}, abc},
			{"doubles count once", Input{Workers: []string{"a", "b", "a", ""}}, []string{"a", "b"}},
			{"one worker", Input{Workers: []string{"a"}}, []string{"a"}},
			{"no worker", Input{}, nil},
		},
		RoundRobin: {
			{"rotated by the index", Input{Workers: abc, Index: 1}, []string{"b", "c", "a"}},
			{"beyond the number of workers", Input{Workers: abc, Index: 5}, []string{"c", "a", "b"}},
			{"as configured, not sorted", Input{Workers: []string{"c", "a", "b"}, Index: 1}, []string{"a", "b", "c"}},
			{"no index yet: by the host's id", Input{Workers: abc, Host: "h1", Index: None}, []string{"a", "b", "c"}},
			{"the owner means nothing", Input{Workers: abc, Index: 0, Owner: "c"}, abc},
		},
		Shuffle: {
			{"seeded by the host", Input{Workers: abc, Host: "h1"}, []string{"b", "a", "c"}},
			{"another host, another list", Input{Workers: abc, Host: "h2"}, []string{"b", "c", "a"}},
			{"the order given means nothing", Input{Workers: []string{"c", "b", "a"}, Host: "h2"}, []string{"b", "c", "a"}},
			{"a worker less changes no order", Input{Workers: []string{"a", "c"}, Host: "h2"}, []string{"c", "a"}},
		},
		Ring: {
			{"the owner first", Input{Workers: abc, Host: "h1", Key: "z/p/c", Owner: "c"}, []string{"c", "b", "a"}},
			{"no owner: the successors", Input{Workers: abc, Host: "h1", Key: "z/p/c"}, []string{"b", "a", "c"}},
			{"an owner that is not on the list is not put on it", Input{Workers: abc, Key: "z/p/c", Owner: "d"}, []string{"b", "a", "c"}},
		},
		"unknown": {{"counts as ring", Input{Workers: abc, Key: "z/p/c", Owner: "c"}, []string{"c", "b", "a"}}},
	} {
		for _, r := range rows {
			t.Run(string(alg)+"/"+r.what, func(t *testing.T) {
				r.in.Algorithm = alg
				given := slices.Clone(r.in.Workers)
				if d := cmp.Diff(r.want, For(r.in)); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
				if d := cmp.Diff(given, r.in.Workers); d != "" {
					t.Errorf("the caller's list was changed:\n%s", d)
				}
			})
		}
	}
}

// Every list holds exactly the workers given; shuffle and ring keep the order of the others
// when one worker goes.
func TestListsAreWholeAndSteady(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`w[a-z0-9]{1,3}`)
		in := Input{
			Algorithm: rapid.SampledFrom([]Algorithm{Static, RoundRobin, Shuffle, Ring}).Draw(t, "algorithm"),
			Workers:   rapid.SliceOfNDistinct(id, 1, 9, rapid.ID).Draw(t, "workers"),
			Host:      rapid.StringMatching(`h[0-9]{1,4}`).Draw(t, "host"), Index: rapid.IntRange(-1, 1000).Draw(t, "index"),
			Key: "z/p/c",
		}
		in.Owner = rapid.SampledFrom(in.Workers).Draw(t, "owner")
		got := For(in)
		if d := cmp.Diff(slices.Sorted(slices.Values(in.Workers)), slices.Sorted(slices.Values(got))); d != "" {
			t.Fatalf("not the workers given:\n%s", d)
		}
		if in.Algorithm == Ring && got[0] != in.Owner {
			t.Fatalf("%s owns the host, the list begins with %s", in.Owner, got[0])
		}
		if in.Algorithm == RoundRobin && in.Index < 0 {
			return
		}
		gone := rapid.SampledFrom(in.Workers).Draw(t, "gone")
		without := func(l []string) []string {
			return slices.DeleteFunc(slices.Clone(l), func(w string) bool { return w == gone })
		}
		in.Workers = without(in.Workers)
		if in.Algorithm != RoundRobin && (in.Algorithm != Ring || in.Owner != gone) {
			if d := cmp.Diff(without(got), For(in), cmp.Transformer("nil", func(l []string) string { return strings.Join(l, ",") })); d != "" {
				t.Fatalf("the order of others changed when %s went:\n%s", gone, d)
			}
		}
	})
}

// spread is max − min of the hosts per preferred worker.
func spread(have map[string]int, workers int) int {
	n := make([]int, workers)
	for _, i := range have {
		n[i%workers]++
	}
	return slices.Max(n) - slices.Min(n)
}

// roundrobin: max − min ≤ 1 after any sequence of joins and leaves, of hosts and of
// workers; no host has another's index; a join moves nobody, a leave one other at most.
func TestRoundRobinStaysEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, workers, hosts := map[string]int{}, 3, map[string]bool{}
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			what := rapid.SampledFrom([]string{"join", "join", "leave", "workers"}).Draw(t, "what")
			switch what {
			case "join":
				hosts[fmt.Sprintf("h%d", step)] = true
			case "leave":
				if len(hosts) == 0 {
					continue
				}
				delete(hosts, rapid.SampledFrom(slices.Sorted(maps.Keys(hosts))).Draw(t, "host"))
			case "workers":
				workers = rapid.IntRange(1, 7).Draw(t, "number")
			}
			before := maps.Clone(have)
			moved := 0
			for _, c := range Enrol(have, slices.Collect(maps.Keys(hosts)), workers) {
				if was, ok := have[c.Host]; ok != (c.From != None) || ok && was != c.From {
					t.Fatalf("change %+v of a host that had %d", c, was)
				}
				if delete(have, c.Host); c.To != None {
					have[c.Host] = c.To
				}
				if c.From != None && c.To != None {
					moved++
				}
			}
			if d := cmp.Diff(slices.Sorted(maps.Keys(hosts)), slices.Sorted(maps.Keys(have))); d != "" {
				t.Fatalf("not every host has one index:\n%s", d)
			}
			taken := slices.Sorted(maps.Values(have))
			if len(slices.Compact(taken)) != len(have) {
				t.Fatalf("an index was given twice: %v", have)
			}
			if s := spread(have, workers); s > 1 {
				t.Fatalf("%s: max − min is %d over %d workers: %v", what, s, workers, have)
			}
			if limit := map[string]int{"join": 0, "leave": 1, "workers": len(have)}[what]; moved > limit {
				t.Fatalf("%s moved %d others: %v → %v", what, moved, before, have)
			}
			if again := Enrol(have, slices.Collect(maps.Keys(hosts)), workers); len(again) > 0 {
				t.Fatalf("not at rest: %v", again)
			}
		}
	})
}

// "freed indices are given again".
func TestFreedIndicesAreGivenAgain(t *testing.T) {
	got := Enrol(map[string]int{"h1": 0, "h2": 1, "h3": 2}, []string{"h1", "h3", "h4", "h5"}, 3)
	want := []Change{{"h2", 1, None}, {"h4", None, 1}, {"h5", None, 3}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	// Of two that hold one index, which no worker would write, one is given another.
	got = Enrol(map[string]int{"h1": 0, "h2": 0}, []string{"h1", "h2"}, 3)
	if d := cmp.Diff([]Change{{"h2", 0, None}, {"h2", None, 1}}, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// agents.md: "A worker that is only restarting or missing for less than
// agent.lb.membership.grace changes no list."
func TestMembershipGrace(t *testing.T) {
	t0 := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	gone := map[string]time.Time{"a": t0, "c": t0.Add(-time.Minute), "d": t0.Add(-10 * time.Second), "b": t0}
	members, next := Members([]string{"b", "e"}, gone, t0.Add(time.Second), time.Minute)
	if d := cmp.Diff([]string{"a", "b", "d", "e"}, members); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if want := t0.Add(50 * time.Second); !next.Equal(want) {
		t.Errorf("next leaves at %v, want %v", next, want)
	}
	if members, next = Members([]string{"e"}, gone, t0.Add(time.Second), 0); len(members) != 1 || !next.IsZero() {
		t.Errorf("without grace: %v, %v", members, next)
	}
}

// The hash is part of what agents keep: it never changes.
func TestGoldenOrder(t *testing.T) {
	workers := []string{"w1", "w2", "w3", "w4", "w5"}
	got := strings.Join(For(Input{Algorithm: Shuffle, Workers: workers, Host: "host-1"}), " ") + " | " +
		strings.Join(For(Input{Algorithm: Ring, Workers: workers, Key: "z1/p1/c1", Owner: "w3"}), " ")
	if want := "w3 w1 w4 w5 w2 | w3 w4 w1 w2 w5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
