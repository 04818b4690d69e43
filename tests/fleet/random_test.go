// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/sim/fleet"
)

var (
	seeds     = flag.Int("seeds", 200, "random search: how many seeds")
	firstSeed = flag.Uint64("seed", 1, "random search: the first seed")
)

// TestRandom plays random faults, orders and repairs against random fleets. Every step is
// looked at by the rules of sim/fleet; after all is healed nothing may stay unfinished.
func TestRandom(t *testing.T) {
	next := make(chan uint64)
	var mu sync.Mutex
	failed := map[uint64]string{}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range next {
				if why := newScenario(seed).play(); why != "" {
					mu.Lock()
					failed[seed] = why
					mu.Unlock()
				}
			}
		})
	}
	for i := range uint64(*seeds) {
		mu.Lock()
		enough := len(failed) >= 5
		mu.Unlock()
		if enough {
			break
		}
		next <- *firstSeed + i
	}
	close(next)
	wg.Wait()
	for seed, why := range failed {
		s := newScenario(seed).shrunk(why)
		t.Errorf("seed %d: %s\nreplay: go test ./tests/fleet -run TestRandom -seed %d -seeds 1\nas a file of testdata, shrunk to %d lines (%s):\n%s", seed, why, seed, len(s.lines), s.play(), s.file())
	}
}

// play returns what went wrong; "" if nothing did.
func (s scenario) play() (why string) {
	defer func() {
		if p := recover(); p != nil {
			why = fmt.Sprintf("panic: %v", p)
		}
	}()
	script, err := fleet.ParseScript(s.script())
	if err != nil {
		return err.Error()
	}
	top, err := s.top.Filled()
	if err != nil {
		return err.Error()
	}
	f := fleet.New(top)
	f.Mute()
	f.StopAtBroken()
	if err := f.Play(script); err != nil {
		return err.Error()
	}
	if b := f.Broken(); len(b) > 0 {
		return b[0].String()
	}
	if open := f.Unfinished(); len(open) > 0 {
		return "unfinished after all was healed: " + strings.Join(open, "\n")
	}
	f.Repair()
	f.Run(f.Now().Add(wellBy))
	if b := f.Broken(); len(b) > 0 {
		return b[0].String()
	}
	if open := f.Unfinished(); len(open) > 0 {
		return "unfinished after all was repaired: " + strings.Join(open, "\n")
	}
	return ""
}

// shrunk leaves out what is not needed to break the same rule.
func (s scenario) shrunk(why string) scenario {
	rule := kindOf(why)
	for again := true; again; {
		again = false
		for i := len(s.lines) - 1; i >= 0; i-- {
			if strings.HasPrefix(s.lines[i], "+") && i > 0 {
				continue // goes with the line before
			}
			less := s.without(i)
			for i < len(less.lines) && strings.HasPrefix(less.lines[i], "+") {
				less = less.without(i)
			}
			if kindOf(less.play()) == rule {
				s, again = less, true
			}
		}
	}
	return s
}

func kindOf(why string) string {
	if _, rest, ok := strings.Cut(why, "rule "); ok {
		rule, _, _ := strings.Cut(rest, ":")
		return rule
	}
	kind, _, _ := strings.Cut(why, ":")
	return kind
}

// BenchmarkFleet measures simulated host-hours a second: a fleet of 1,000 hosts with a
// fault an hour.
func BenchmarkFleet(b *testing.B) { benchmarkFleet(b, "default") }

// BenchmarkFleetFast is the same where neighbours remember each other.
func BenchmarkFleetFast(b *testing.B) { benchmarkFleet(b, "fast") }

func benchmarkFleet(b *testing.B, preset string) {
	top, err := fleet.ParseTopology([]byte("settings: {global: {preset: " + preset + "}}\nclusters: [{path: z1/p1/c1, hosts: 500, racks: [r1, r2, r3, r4]}, {path: z1/p2/c2, hosts: 500, racks: [r5, r6, r7, r8]}]"))
	if err != nil {
		b.Fatal(err)
	}
	f := fleet.New(top)
	f.Mute()
	f.Run(fleet.Start)
	b.ResetTimer()
	for i := range b.N {
		f.Break(fmt.Sprintf("h%d", i%1000+1))
		f.Run(f.Now().Add(time.Hour))
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Minutes(), "host-hours/min")
}
