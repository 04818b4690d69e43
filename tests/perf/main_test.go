// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/holdfast-ha/holdfast/tests/proc"
)

var (
	full    = flag.Bool("full", false, "measure with the numbers that count")
	page    = flag.String("page", "", "write what was measured to this file")
	hosts   = flag.Int("hosts", 0, "number of host records, if not the usual one")
	linked  = flag.Int("linked", 0, "number of hosts with an agent in the part about idle ones, if not the usual one")
	kills   = flag.Int("kills", 0, "number of kills, if not the usual one")
	only    = flag.String("only", "", "comma-separated parts: fence, crash, lease, restart, ring, commands, scale (or of it cold, stalls, idle), detect, engine (default: all)")
	dataDir = flag.String("dir", "", "directory of the etcd members' data, on the disk to measure (default: the temporary one)")
)

// size is how much is measured.
type size struct {
	Puts, Txns   int           // of a floor
	Fenced       int           // fenced writes
	Kills, Both  int           // of children; of parents with their children
	TTL          time.Duration // of workers' leases
	Agents       int           // in rolling restarts, each with a BMC
	Steady       time.Duration // of their pings before and after
	Settle       time.Duration // without a write until a host's records are taken as final
	Hosts        int           // on record in the parts about scale
	Linked       int           // of them with an agent
	Falls        int           // kills there
	Window, Idle time.Duration // of a write probe; without anything to do
	Fleet, Dead  int           // hosts with everything; of them crashed one after the other
	Bench        string        // how long a Go benchmark runs, or how often
	Machines     int           // hosts that are given ten commands each at once
	Returns      int           // of an agent to its interrupted command
}

var (
	small = size{Puts: 20, Txns: 5, Fenced: 16, Kills: 1, Both: 1, TTL: 3 * time.Second, Agents: 3, Steady: 100 * time.Millisecond, Settle: time.Second,
		Hosts: 200, Linked: 3, Falls: 1, Window: 300 * time.Millisecond, Idle: time.Second, Fleet: 3, Dead: 1, Bench: "20x", Machines: 2, Returns: 1}
	large = size{Puts: 200, Txns: 40, Fenced: 400, Kills: 30, Both: 10, TTL: 5 * time.Second, Agents: 200, Steady: 5 * time.Second, Settle: 8 * time.Second,
		Hosts: 100_000, Linked: 2000, Falls: 3, Window: 5 * time.Second, Idle: time.Minute, Fleet: 24, Dead: 12, Bench: "3s", Machines: 100, Returns: 10}
)

// TestMain is also what the etcd members run. They are set up as leases.md §5 says, and sync their
// log: that is most of what a put costs.
func TestMain(m *testing.M) {
	proc.Main(m, map[string]proc.Role{"member": proc.As(func(ctx context.Context, m proc.Member) error {
		return m.Run(ctx, func(cfg *embed.Config) { cfg.QuotaBackendBytes = 4 << 30 })
	})})
}

// TestPerf measures everything that `make bench` reports. Without -full it proves with
// tiny numbers that everything can be measured.
func TestPerf(t *testing.T) {
	n := small
	if *full {
		n = large
	}
	if *hosts > 0 {
		n.Hosts, n.Linked = *hosts, min(n.Linked, *hosts)
	}
	if *linked > 0 {
		n.Linked = min(*linked, n.Hosts)
	}
	if *kills > 0 {
		n.Kills, n.Both = *kills, *kills
	}
	b := newBench(t, n)
	for _, part := range []struct {
		name string
		run  func()
	}{
		{"ring", b.ring}, {"fence", b.fence}, {"crash", b.crash}, {"lease", b.leaseEnd}, {"restart", b.restart}, {"commands", b.commands}, {"scale", b.scale}, {"detect", b.detect}, {"engine", b.engine},
	} {
		if wanted(part.name) || part.name == "scale" && slices.ContainsFunc(scaleParts, wanted) {
			began := time.Now()
			b.report.part = part.name
			part.run()
			t.Logf("%s took %v", part.name, time.Since(began).Round(time.Millisecond))
		}
	}
	b.report.finish()
	t.Logf("\n%s", b.report.body())
	if *page != "" {
		if err := b.report.write(*page); err != nil {
			t.Fatal(err)
		}
	}
}

// wanted reports whether a part is to be measured.
func wanted(part string) bool {
	return *only == "" || slices.Contains(strings.Split(*only, ","), part)
}
