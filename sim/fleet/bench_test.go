// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// processor is the time that this process has had a processor.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHostHours lives through days of 200 hosts in which every hour one of them dies, is
// switched off, proven dead and switched on again (issue: ≥ 10⁶ host-hours a minute on one
// core). One iteration is a day.
func BenchmarkHostHours(b *testing.B) {
	const hosts, hours = 200, 24
	top, err := ParseTopology([]byte("clusters: [{path: z1/p1/c1, hosts: 50}, {path: z1/p1/c2, hosts: 50}, {path: z1/p2/c3, hosts: 50}, {path: z2/p3/c4, hosts: 50}]"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	began := processor(b)
	for day := 0; b.Loop(); day++ {
		var story strings.Builder
		for h := range hours {
			fmt.Fprintf(&story, "%dm crash h%d\n", 60*h+10, 1+(day*hours+h)*7%hosts)
		}
		fmt.Fprintf(&story, "%dh end\n", hours)
		s, err := ParseScript(story.String())
		if err != nil {
			b.Fatal(err)
		}
		f := New(top)
		f.Mute()
		if err := f.Play(s); err != nil {
			b.Fatal(err)
		}
		if broken := f.Broken(); len(broken) > 0 {
			b.Fatalf("rules were broken: %v", broken)
		}
		if n := len(f.Result().Hosts); n != hosts {
			b.Fatalf("%d hosts at the end", n)
		}
	}
	b.ReportMetric(float64(b.N)*hosts*hours/(processor(b)-began).Minutes(), "host-hours/min")
}
