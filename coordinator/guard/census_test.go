// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var labels = []string{"rack", "switch", "pdu"}

func fact(host, partition, rack string, change ...func(*HostFact)) HostFact {
	f := HostFact{Host: host, Partition: partition, Labels: map[string]string{"rack": rack, "model": "r740"}, Pools: []string{"nfs1"}, Live: true}
	for _, c := range change {
		c(&f)
	}
	return f
}

// fell makes a host one that fell silent so long ago.
func fell(ago time.Duration) func(*HostFact) {
	return func(f *HostFact) { f.Unhealthy, f.Live, f.Suspect = true, false, t0.Add(-ago) }
}

func lost(ago time.Duration) func(*HostFact) {
	return func(f *HostFact) { f.Unhealthy, f.Lost = true, map[string]time.Time{"nfs1": t0.Add(-ago)} }
}

func out(f *HostFact) { f.Out = true }

func heardAt(at time.Time) func(string) time.Time { return func(string) time.Time { return at } }

func TestAreasOfAHost(t *testing.T) {
	f := fact("h1", "z1/p1/c1", "7 b")
	f.Labels["PDU"] = "a1, a2"
	want := []string{"cluster/z1/p1/c1", "pdu/z1/a1", "pdu/z1/a2", "pod/z1/p1", "pool/nfs1", "rack/z1/7_b", "zone/z1"}
	if d := cmp.Diff(want, f.Areas(labels)); d != "" {
		t.Error(d)
	}
	if got := (HostFact{Host: "h2", Labels: f.Labels}).Areas(labels); len(got) != 0 {
		t.Errorf("a host without partition and pools is in %v", got)
	}
}

func TestParseLabels(t *testing.T) {
	for list, want := range map[string][]string{
		"rack,switch,pdu": {"rack", "switch", "pdu"}, " rack , chassis-2,rack": {"rack", "chassis-2"},
		"": nil, "Rack,zone,pool,7u,-x,a/b,é": nil,
	} {
		if d := cmp.Diff(want, ParseLabels(list)); d != "" {
			t.Errorf("%q: %s", list, d)
		}
	}
}

// ha.md §6, row by row, over hosts and not over counts.
func TestSurvey(t *testing.T) {
	many := func(n int, rack string, change ...func(*HostFact)) (all []HostFact) {
		for i := range n {
			all = append(all, fact(fmt.Sprintf("n%s-%02d", rack, i), "z1/p1/c1", rack, change...))
		}
		return all
	}
	subject := fact("h1", "z1/p1/c1", "7", fell(30*time.Second))
	for _, c := range []struct {
		name  string
		facts []HostFact
		q     Question
		holds string // guards, of those about areas
	}{
		{"one dead host in a rack of five", many(4, "7"), Question{}, ""},
		{"two of four, one of which was not heard since", slices.Concat(many(2, "8"), many(1, "7")), Question{Heard: heardUnless("n7-00", t0.Add(-31*time.Second), t0.Add(-29*time.Second)), Since: subject.Suspect}, "share"},
		{"two of ten, one of which was not heard since", slices.Concat(many(8, "8"), many(1, "7")), Question{Heard: heardUnless("n7-00", t0.Add(-31*time.Second), t0.Add(-29*time.Second)), Since: subject.Suspect}, ""},
		{"two of forty", slices.Concat(many(38, "8"), many(1, "7", fell(40*time.Second))), Question{}, ""},
		{"three in one rack within 90 s", slices.Concat(many(38, "8"), many(2, "7", fell(80*time.Second))), Question{}, "common cause"},
		{"three in one rack, one of them long ago, and the pool tells nothing else", slices.Concat(many(38, "8"), many(1, "7", fell(80*time.Second)), many(1, "9", fell(10*time.Minute))), Question{}, ""},
		{"three in three racks, but on one pool", slices.Concat(many(38, "8"), many(1, "6", fell(31*time.Second)), many(1, "9", fell(29*time.Second))), Question{}, "common cause"},
		{"a storm in the rack before this host fell", slices.Concat(many(38, "8"), many(3, "7", fell(20*time.Minute))), Question{}, "common cause"},
		{"two of four", slices.Concat(many(2, "8"), many(1, "7", fell(time.Hour))), Question{}, "share"},
		{"two of two: nobody is left who reports on the pool", many(1, "8", fell(time.Hour)), Question{}, "storage"},
		{"one of two: a two-host site must be able to fence", many(1, "8"), Question{Heard: heardAt(time.Time{}), Since: subject.Suspect}, ""},
		{"those in maintenance do not count", slices.Concat(many(8, "8", out), many(2, "9"), many(1, "7", fell(time.Hour))), Question{}, "share"},
		{"three in maintenance fell together", slices.Concat(many(38, "8"), many(3, "7", out, fell(30*time.Second))), Question{}, ""},
		{"three users lost the pool", slices.Concat(many(38, "8"), many(3, "9", lost(20*time.Second))), Question{}, "storage"},
		{"three users lost the pool one after the other", slices.Concat(many(38, "8"), many(1, "5", lost(20*time.Second)), many(1, "6", lost(90*time.Second)), many(1, "9", lost(170*time.Second))), Question{}, ""},
		{"a fifth of the users lost it", slices.Concat(many(6, "8"), many(2, "9", lost(time.Second))), Question{}, "storage"},
		{"one of two that report lost it", slices.Concat(many(1, "8"), many(1, "9", lost(time.Second))), Question{}, "share"},
		{"the last that reports lost it", many(1, "9", lost(time.Second)), Question{}, "storage"},
		{"dead users say nothing of a pool", slices.Concat(many(1, "8", fell(time.Hour))), Question{}, "storage"},
		{"two siblings were not heard since", many(4, "7"), Question{Heard: heardAt(t0.Add(-31 * time.Second)), Since: subject.Suspect}, "share common cause"},
		{"all siblings were heard since", many(4, "7"), Question{Heard: heardAt(t0.Add(-29 * time.Second)), Since: subject.Suspect}, ""},
		{"siblings of other workers, within the round", many(4, "7"), Question{Heard: heardAt(time.Time{}), Since: t0.Add(-5 * time.Second)}, "share common cause"},
		{"siblings of other workers, after the round", many(4, "7"), Question{Heard: heardAt(time.Time{}), Since: t0.Add(-6 * time.Second)}, ""},
		{"the only sibling was not heard", many(1, "7"), Question{Heard: heardAt(time.Time{}), Since: t0}, ""},
		{"a storm is on record", many(40, "7"), Question{Storms: func(a string) (AreaNow, bool) { return AreaNow{Open: true}, a == "rack/z1/7" }}, "cooldown"},
		{"a storm ended lately", many(40, "7"), Question{Storms: func(a string) (AreaNow, bool) { return AreaNow{Ended: t0.Add(-9 * time.Minute)}, a == "pool/nfs1" }}, "cooldown"},
		{"a storm elsewhere", many(40, "7"), Question{Storms: func(a string) (AreaNow, bool) { return AreaNow{Open: true}, a == "rack/z1/8" }}, ""},
		{"the copy is old", many(40, "7"), Question{Age: time.Minute}, "storage share common cause cooldown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := c.q
			q.At, q.Host, q.MaxAge, q.Cooldown, q.Round = t0, "h1", 5*time.Second, 10*time.Minute, 6*time.Second
			q.Share = map[string]int{"zone/z1": 34, "pod/z1/p1": 34, "cluster/z1/p1/c1": 34}
			s := good(Recover)
			s.Area = Survey(append(c.facts, subject), labels, q)
			var by string
			for _, a := range Evaluate(s).Holding() {
				by += " " + a.Guard
				if a.Clears == "" {
					t.Errorf("%s does not say what would clear it", a.Guard)
				}
			}
			if len(by) > 0 {
				by = by[1:]
			}
			if by != c.holds {
				t.Errorf("held by %q, want %q: %+v", by, c.holds, s.Area)
			}
		})
	}
}

// A census that was kept over many changes says the same as one that is made anew of what
// is left (ha.md §6: a replay gives the same verdict).
func TestCensusKeepsCount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := NewCensus(labels)
		now := map[string]HostFact{}
		for range rapid.IntRange(1, 60).Draw(rt, "changes") {
			host := fmt.Sprintf("h%d", rapid.IntRange(0, 7).Draw(rt, "host"))
			if rapid.IntRange(0, 5).Draw(rt, "remove") == 0 {
				c.Remove(host)
				delete(now, host)
				continue
			}
			f := fact(host, rapid.SampledFrom([]string{"", "z1", "z1/p1/c1", "z1/p1/c2", "z2/p1/c1"}).Draw(rt, "partition"), rapid.SampledFrom([]string{"7", "8", "7,8"}).Draw(rt, "rack"))
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				fell(time.Duration(rapid.IntRange(0, 200).Draw(rt, "ago")) * time.Second)(&f)
			case 1:
				lost(time.Duration(rapid.IntRange(0, 200).Draw(rt, "ago")) * time.Second)(&f)
			case 2:
				out(&f)
			case 3:
				f.Pools = nil
			}
			now[host] = f
			c.Put(f)
		}
		for _, host := range append(slices.Sorted(maps.Keys(now)), "gone") {
			q := Question{At: t0, Host: host, Since: t0.Add(-time.Minute), MaxAge: 5 * time.Second, Heard: heardAt(time.Time{}), Round: 2 * time.Minute}
			if d := cmp.Diff(Survey(slices.Collect(maps.Values(now)), labels, q), c.Survey(q)); d != "" {
				rt.Fatalf("about %s:\n%s", host, d)
			}
		}
	})
}

// BenchmarkSurvey asks about one host of ten thousand, in a rack of forty, with a pool of
// a thousand users, all of them well.
func BenchmarkSurvey(b *testing.B) {
	c := NewCensus(labels)
	for i := range 10000 {
		f := fact(fmt.Sprintf("h%05d", i), fmt.Sprintf("z1/p%d/c%d", i/1000, i/100), fmt.Sprint(i/40))
		f.Pools = []string{fmt.Sprintf("nfs%d", i/1000)}
		c.Put(f)
	}
	c.Put(fact("h00000", "z1/p0/c0", "0", fell(time.Minute)))
	q := Question{At: t0, Host: "h00000", MaxAge: 5 * time.Second, Share: map[string]int{"zone/z1": 34}}
	b.Run("survey", func(b *testing.B) {
		for b.Loop() {
			c.Survey(q)
		}
	})
	q.Since, q.Heard = t0.Add(-time.Minute), heardAt(t0)
	b.Run("siblings heard", func(b *testing.B) {
		for b.Loop() {
			c.Survey(q)
		}
	})
	f, g := fact("h00001", "z1/p0/c0", "0"), fact("h00001", "z1/p0/c0", "0", fell(time.Minute))
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			c.Put(g)
			c.Put(f)
		}
	})
}

// heardUnless: all were heard then, but for one host.
func heardUnless(host string, its, others time.Time) func(string) time.Time {
	return func(h string) time.Time {
		if h == host {
			return its
		}
		return others
	}
}
