// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// kind names a fault.
type kind string

const (
	killWorker    kind = "kill-worker"    // How: child, both; started again after For
	restartWorker kind = "restart-worker" // in place
	drainWorker   kind = "drain-worker"
	pauseWorker   kind = "pause-worker" // How: child, both; goes on after For
	cutEtcd       kind = "cut-etcd"     // How: requests, answers, both; Member 0: all
	dropEtcd      kind = "drop-etcd"    // all connections reset once
	delayEtcd     kind = "delay-etcd"   // by Lag
	cutLink       kind = "cut-link"     // How as of cut-etcd; all agents of one worker
	dropLink      kind = "drop-link"
	delayLink     kind = "delay-link"
	killLeader    kind = "kill-leader"
	restartMember kind = "restart-member"
	loseQuorum    kind = "lose-quorum" // two of three members
	compact       kind = "compact"
	breakHost     kind = "break-host" // How of sim/world; repaired after For
	sickBMC       kind = "sick-bmc"   // How: a name of bmcFaults
)

// fault is one thing that goes wrong, and when: at, for how long.
type fault struct {
	At, For time.Duration
	Kind    kind
	Target  string // worker or host
	Member  int    // etcd member, counted from 1
	How     string
	Lag     time.Duration
}

func (f fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%7.2fs %s", f.At.Seconds(), f.Kind)
	for _, w := range []string{f.Target, f.How} {
		if w != "" {
			b.WriteString(" " + w)
		}
	}
	if f.Member > 0 {
		fmt.Fprintf(&b, " member %d", f.Member)
	}
	if f.Lag > 0 {
		fmt.Fprintf(&b, " by %v", f.Lag)
	}
	if f.For > 0 {
		fmt.Fprintf(&b, " for %.2fs", f.For.Seconds())
	}
	return b.String()
}

// schedule is a fleet and what happens to it: pure data out of a seed.
type schedule struct {
	Seed           uint64
	Hosts, Workers int
	Length         time.Duration // of the part in which faults begin
	Faults         []fault
}

func (s schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d hosts, %d workers, 3 etcd members, %d faults\n", s.Seed, s.Hosts, s.Workers, len(s.Faults))
	for _, f := range s.Faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}

// shape bounds the schedules that are made.
type shape struct {
	hosts, minWorkers, maxWorkers int
	length, gap                   time.Duration // gap: mean time between the beginnings of faults
	broken                        time.Duration // until broken hosts are repaired: enough for a whole recovery
	kinds                         []drawn
}

var (
	smokeShape = shape{hosts: 3, minWorkers: 3, maxWorkers: 3, length: 12 * time.Second, gap: time.Second, broken: 16 * time.Second, kinds: everyKind}
	fullShape  = shape{hosts: 6, minWorkers: 3, maxWorkers: 5, length: 36 * time.Second, gap: 1200 * time.Millisecond, broken: 42 * time.Second, kinds: everyKind}
)

// drawn says how often a kind is drawn.
type drawn struct {
	kind   kind
	weight int
}

// Breaks of hosts are placed, not drawn.
var everyKind = []drawn{
	{killWorker, 5}, {restartWorker, 2}, {drainWorker, 2}, {pauseWorker, 6}, {cutEtcd, 5}, {dropEtcd, 2}, {delayEtcd, 3},
	{cutLink, 2}, {dropLink, 2}, {delayLink, 2},
	{killLeader, 3}, {restartMember, 2}, {loseQuorum, 1}, {compact, 3}, {sickBMC, 2},
}

// etcdKinds need no workers, only somebody behind their proxies.
var etcdKinds = []drawn{{cutEtcd, 6}, {dropEtcd, 3}, {delayEtcd, 3}, {killLeader, 2}, {restartMember, 2}, {loseQuorum, 1}, {compact, 1}}

// generate makes the schedule of a seed. Rules that keep it meaningful: one fault at a
// time per worker, per host and for etcd as a whole; one worker is always left alone; a
// host is broken, and links are silenced, so rarely that no host returns a third time (it
// would rightly be watched for five minutes, ha.md §3).
func generate(seed uint64, s shape) schedule {
	r := rand.New(rand.NewPCG(seed, 0x686f6c6466617374))
	out := schedule{Seed: seed, Hosts: s.hosts, Workers: s.minWorkers + r.IntN(s.maxWorkers-s.minWorkers+1), Length: s.length}
	g := &generator{r: r, out: &out, kinds: s.kinds, busy: map[string]time.Duration{}}
	g.breakHosts(s.broken)
	for at := g.between(300*time.Millisecond, 2*s.gap); at < s.length; at += g.between(s.gap/4, s.gap*7/4) {
		g.draw(at)
	}
	slices.SortStableFunc(out.Faults, func(a, b fault) int { return int(a.At - b.At) })
	return out
}

type generator struct {
	r     *rand.Rand
	out   *schedule
	kinds []drawn
	busy  map[string]time.Duration // until when a target has its fault
	links int                      // silenced so far
}

func (g *generator) between(a, b time.Duration) time.Duration {
	return (a + time.Duration(g.r.Int64N(int64(b-a)))).Round(10 * time.Millisecond)
}

func pick[T any](g *generator, all ...T) T { return all[g.r.IntN(len(all))] }

func (g *generator) add(f fault, target string, rest time.Duration) {
	g.busy[target] = f.At + f.For + rest
	g.out.Faults = append(g.out.Faults, f)
}

// breakHosts breaks one host of each cluster (three hosts each) at most once, the first
// one early and so that it must be power-cycled: recoveries run while all else goes on.
func (g *generator) breakHosts(until time.Duration) {
	for c := range g.out.Hosts / 3 {
		how, at := pick(g, "crash", "hang"), g.between(0, 2*time.Second)
		if c > 0 {
			how = pick(g, "crash", "hang", "agent-killed", "link-lost", "reboot", "power-off", "bmc-dead", "bmc-lies")
			at = g.between(0, g.out.Length*2/3)
		}
		host := fmt.Sprintf("h%03d", 3*c+1+g.r.IntN(3))
		g.add(fault{At: at, For: until - at, Kind: breakHost, Target: host, How: how}, host, time.Hour)
	}
}

// draw adds one fault at a time, if its target is free then.
func (g *generator) draw(at time.Duration) {
	total := 0
	for _, w := range g.kinds {
		total += w.weight
	}
	n, k := g.r.IntN(total), kind("")
	for _, w := range g.kinds {
		if n -= w.weight; n < 0 {
			k = w.kind
			break
		}
	}
	f := fault{At: at, Kind: k}
	switch k {
	case killLeader, restartMember, loseQuorum:
		if g.busy["etcd"] > at {
			return
		}
		f.For = g.between(300*time.Millisecond, 4*time.Second)
		if k == restartMember {
			f.Member = 1 + g.r.IntN(3)
		}
		g.add(f, "etcd", 2*time.Second)
	case compact:
		g.out.Faults = append(g.out.Faults, f)
	case sickBMC:
		f.Target, f.How, f.For = fmt.Sprintf("h%03d", 1+g.r.IntN(g.out.Hosts)), pick(g, "mute", "slow", "lossy", "busy", "no-slots"), g.between(2*time.Second, 9*time.Second)
		if g.busy["bmc of "+f.Target] <= at && !slices.ContainsFunc(g.out.Faults, func(b fault) bool {
			return b.Kind == breakHost && b.Target == f.Target && strings.HasPrefix(b.How, "bmc-")
		}) {
			g.add(f, "bmc of "+f.Target, 0)
		}
	default:
		g.worker(f)
	}
}

// worker completes a fault of a worker or its connections.
func (g *generator) worker(f fault) {
	f.Target = fmt.Sprintf("w%d", 1+g.r.IntN(g.out.Workers))
	busy := 0
	for i := range g.out.Workers {
		if g.busy[fmt.Sprintf("w%d", i+1)] > f.At {
			busy++
		}
	}
	if g.busy[f.Target] > f.At || busy == g.out.Workers-1 {
		return
	}
	rest := time.Second
	switch f.Kind {
	case killWorker:
		f.How, f.For = pick(g, "child", "both"), g.between(200*time.Millisecond, 5*time.Second)
	case pauseWorker: // the lease is leaseTTL
		f.How, f.For = pick(g, "child", "both"), g.between(100*time.Millisecond, leaseTTL-500*time.Millisecond)
		if g.r.IntN(2) == 0 {
			f.For = g.between(leaseTTL, 3*leaseTTL)
		}
	case cutEtcd:
		f.How, f.For = pick(g, "requests", "answers", "both", "both"), g.between(500*time.Millisecond, 2*leaseTTL)
		if g.r.IntN(3) == 0 {
			f.Member = 1 + g.r.IntN(3)
		}
	case cutLink:
		if g.links > 0 {
			return
		}
		g.links++
		f.How, f.For = pick(g, "requests", "answers", "both"), g.between(time.Second, 8*time.Second)
	case drainWorker:
		f.For = g.between(500*time.Millisecond, 8*time.Second)
	case delayEtcd:
		f.Lag, f.For = g.between(5*time.Millisecond, 400*time.Millisecond), g.between(time.Second, 8*time.Second)
	case delayLink:
		f.Lag, f.For = g.between(5*time.Millisecond, 200*time.Millisecond), g.between(time.Second, 8*time.Second)
	case dropEtcd, dropLink, restartWorker:
		rest = 500 * time.Millisecond
	}
	g.add(f, f.Target, rest)
}
