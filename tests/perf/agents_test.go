// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/probe"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/hypervisor"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const poolName = "pool"

// fleetOf are real agents (package agent) in this process, one a host.
type fleetOf struct {
	mu       sync.Mutex
	silences map[string]*silence
}

// silence is how long a host went without a word of a worker: every pong, welcome or
// refusal counts, and nothing else is sent to an idle agent.
type silence struct {
	last    time.Time
	longest time.Duration
}

// heard takes note of a word to a host.
func (f *fleetOf) heard(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, now := f.silences[host], time.Now()
	if !s.last.IsZero() {
		s.longest = max(s.longest, now.Sub(s.last))
	}
	s.last = now
}

// fresh forgets how long silences were; those under way begin now.
func (f *fleetOf) fresh() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.silences {
		*s = silence{last: time.Now()}
	}
}

// longest are the longest silences of all hosts, silences that last included.
func (f *fleetOf) longest() (out times) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.silences {
		out = append(out, max(s.longest, time.Since(s.last)))
	}
	return out
}

// linked counts hosts that have heard a worker lately.
func (f *fleetOf) linked(within time.Duration) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.silences {
		if time.Since(s.last) < within {
			n++
		}
	}
	return n
}

// earful tells of what comes in on a connection.
type earful struct {
	net.Conn
	heard func()
}

func (c earful) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard()
	}
	return n, err
}

// agents starts an agent for each host, until the returned stop.
func (b *bench) agents(hosts []string) (*fleetOf, func()) {
	b.t.Helper()
	f := &fleetOf{silences: map[string]*silence{}}
	var doors []string
	for _, w := range b.workers {
		doors = append(doors, w.door)
	}
	shared := filepath.Join(b.dir, poolName)
	if err := os.MkdirAll(shared, 0o700); err != nil {
		b.t.Fatal(err)
	}
	var all []*agent.Agent
	for i, host := range hosts {
		f.silences[host] = &silence{}
		pool, err := probe.NewDir(poolName, shared, false)
		if err != nil {
			b.t.Fatal(err)
		}
		a, err := agent.New(agent.Options{
			Host: host, Workers: append(doors[i%len(doors):len(doors):len(doors)], doors[:i%len(doors)]...),
			StateDir: filepath.Join(b.dir, "agents", host), Version: "perf",
			Hypervisor: hypervisor.Host{Boot: "boot-" + host, Refused: hypervisor.Refused(filepath.Join(b.dir, "agents", host, "refused"))},
			Pools:      []probe.Pool{pool},
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
				if err != nil {
					return nil, err
				}
				return earful{c, func() { f.heard(host) }}, nil
			},
			InsecureLoopback: true,
		})
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, a)
	}
	return f, b.background(func(ctx context.Context) error {
		work, ctx := errgroup.WithContext(ctx)
		for _, a := range all {
			work.Go(func() error { return a.Run(ctx) })
		}
		return work.Wait()
	})
}

// bmcs starts a simulated BMC for each host and returns their devices as a host declares
// them, until the returned stop.
func (b *bench) bmcs(hosts []string) (map[string]v1.Device, func()) {
	b.t.Helper()
	out := map[string]v1.Device{}
	var all []*bmc.BMC
	for i, host := range hosts {
		x := bmc.New(bmc.Config{
			Name: host, Addr: "127.0.0.1:0", GUID: [16]byte{0: 0x70, 14: byte(i >> 8), 15: byte(i)}, Suites: []int{3, 17},
			Users: []bmc.User{{Name: bmcUser, Password: bmcPassword, Privilege: bmc.Administrator}},
		})
		if err := x.Listen(); err != nil {
			b.t.Fatal(err)
		}
		all = append(all, x)
		out[host] = v1.Device{Name: "bmc", Level: 1, Driver: "ipmi", Address: x.Addr().String(), User: bmcUser, Secret: "env:" + passwordEnv}
	}
	return out, b.background(func(ctx context.Context) error {
		work, ctx := errgroup.WithContext(ctx)
		for _, x := range all {
			work.Go(func() error { return x.Run(ctx) })
		}
		return work.Wait()
	})
}

// partitionOf spreads hosts over partitions of 50, in three zones.
func partitionOf(i int) string {
	n := i / hostsPerDomain
	return fmt.Sprintf("z%d/p%d/c%d", n%3, n/3%10, n)
}
