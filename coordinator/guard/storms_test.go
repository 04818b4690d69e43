// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// city is a zone of ten racks of ten hosts, in clusters of five that lie across two
// racks each, on one pool a pod of fifty.
func city(change func(i int, f *HostFact)) *Census {
	c := NewCensus(labels)
	for i := range 100 {
		f := HostFact{
			Host: fmt.Sprintf("h%02d", i), Partition: fmt.Sprintf("z1/p%d/c%d", i/50, i/20*4+i%4), Live: true,
			Labels: map[string]string{"rack": fmt.Sprint(i / 10), "switch": fmt.Sprint(i / 20)}, Pools: []string{fmt.Sprintf("nfs%d", i/50)},
		}
		change(i, &f)
		c.Put(f)
	}
	return c
}

// ha.md §6, common cause: "one area incident, one page": a failure that shows in many
// areas is told of the one it describes best.
func TestStormsOneFailureOnePage(t *testing.T) {
	dead := func(f *HostFact) { f.Unhealthy, f.Live, f.Suspect = true, false, t0.Add(-20*time.Second) }
	for _, c := range []struct {
		name   string
		change func(i int, f *HostFact)
		want   []string // top areas, of those in a storm
		also   []string // under one of them
	}{
		{"nothing is wrong", func(int, *HostFact) {}, nil, nil},
		{"two hosts are dead", func(i int, f *HostFact) {
			if i < 2 {
				dead(f)
			}
		}, nil, nil},
		{"rack 3 is dead", func(i int, f *HostFact) {
			if i/10 == 3 {
				dead(f)
			}
		}, []string{"rack/z1/3"}, []string{"cluster/z1/p0/c4", "cluster/z1/p0/c5", "cluster/z1/p0/c6", "cluster/z1/p0/c7", "pool/nfs0", "switch/z1/1"}},
		{"a switch of two racks is dead", func(i int, f *HostFact) {
			if i/20 == 3 {
				dead(f)
			}
		}, []string{"switch/z1/3"}, []string{"cluster/z1/p1/c12", "cluster/z1/p1/c13", "cluster/z1/p1/c14", "cluster/z1/p1/c15", "pod/z1/p1", "pool/nfs1", "rack/z1/6", "rack/z1/7"}},
		{"racks 1 and 8 are dead", func(i int, f *HostFact) {
			if i/10 == 1 || i/10 == 8 {
				dead(f)
			}
		}, []string{"rack/z1/1", "rack/z1/8"}, nil},
		{"a pool is lost", func(i int, f *HostFact) {
			if i >= 50 {
				f.Unhealthy, f.Suspect, f.Lost = true, t0.Add(-20*time.Second), map[string]time.Time{"nfs1": t0.Add(-30 * time.Second)}
			}
		}, []string{"pool/nfs1"}, nil},
		{"one of two pools of the same hosts is lost", func(_ int, f *HostFact) {
			f.Pools = []string{"a", "b"}
			f.Unhealthy, f.Suspect, f.Lost = true, t0.Add(-20*time.Second), map[string]time.Time{"b": t0.Add(-30 * time.Second)}
		}, []string{"pool/b"}, nil},
		{"the whole zone is dark", func(_ int, f *HostFact) { dead(f) }, []string{"zone/z1"}, nil},
		{"one host complains of its pool", func(i int, f *HostFact) {
			if i == 7 {
				f.Unhealthy, f.Lost = true, map[string]time.Time{"nfs0": t0}
			}
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var top, under []string
			for _, l := range city(c.change).Storms(func(string) int { return 34 }) {
				if l.Why == "" || len(l.Hit) == 0 || l.Hosts == 0 {
					t.Errorf("%+v tells too little", l)
				}
				if l.Under == "" {
					top = append(top, l.Area)
				} else {
					under = append(under, l.Area)
				}
			}
			if d := cmp.Diff(c.want, top); d != "" {
				t.Errorf("pages (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.also, under); c.also != nil && d != "" {
				t.Errorf("folded (-want +got):\n%s", d)
			}
		})
	}
}
