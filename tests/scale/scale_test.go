// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

var (
	agentsN = flag.Int("agents", 24, "number of agents")
	hold    = flag.Duration("hold", 2*time.Second, "how long all links are held before a worker is lost")
	ping    = flag.Duration("ping", time.Second, "ping interval")
)

// idle is a hypervisor on which nothing runs.
type idle struct{ boot string }

func (idle) Name() string                                             { return "idle" }
func (h idle) BootID(context.Context) (string, error)                 { return h.boot, nil }
func (idle) Healthy(context.Context) error                            { return nil }
func (idle) Instances(context.Context) ([]hypervisor.Instance, error) { return nil, nil }

var errCut = errors.New("the network is cut here")

// network is how agents reach workers; the way of one agent to one worker can be cut.
type network struct {
	dials atomic.Int64

	mu    sync.Mutex
	cut   map[string]bool // host + worker's address
	conns map[string]map[net.Conn]bool
}

func (n *network) dial(i int, host string) func(context.Context, string) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 1, byte(i/5000), 1)} // each address has its own ports
	return func(ctx context.Context, address string) (net.Conn, error) {
		n.dials.Add(1)
		key := host + " " + address
		n.mu.Lock()
		cut := n.cut[key]
		n.mu.Unlock()
		if cut {
			return nil, errCut
		}
		c, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.conns[key] == nil {
			n.conns[key] = map[net.Conn]bool{}
		}
		n.conns[key][c] = true
		return c, nil
	}
}

// sever cuts one agent off from one worker.
func (n *network) sever(host, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[host+" "+address] = true
	for c := range n.conns[host+" "+address] {
		c.Close()
	}
}

// rig is three workers and their agents.
type rig struct {
	net     *network
	client  *v1.Client
	workers map[string]string // address of the agents' door, by id
	stop    map[string]func()
}

func start(t *testing.T) *rig {
	e := etcdtest.Start(t)
	etcd := e.Client(t)
	put := func(key string, v any) {
		if _, err := etcd.Commit(t.Context(), leases.Unowned(), leases.Put(key, v)); err != nil {
			t.Fatal(err)
		}
	}
	set := func(name, value string) { put(leases.SettingKey("global", name), v1.SettingRecord{V: 1, Value: value}) }
	set("agent.ping.interval", ping.String())
	set("agent.lb.check.interval", "2s")
	set("worker.rebalance.quiet", "1s")
	set("worker.rebalance.rate", "0")
	for i := range *agentsN {
		put(leases.HostSpecKey(hostID(i)), v1.HostSpec{V: 1, ID: hostID(i), Partition: fmt.Sprintf("z/p/c%d", i/8), Provider: "kvm"})
	}
	r := &rig{net: &network{cut: map[string]bool{}, conns: map[string]map[net.Conn]bool{}}, workers: map[string]string{}, stop: map[string]func(){}}
	var endpoints, doors []string
	for i := range 3 {
		id, at := fmt.Sprintf("w%d", i+1), fmt.Sprintf("127.0.0.%d:0", i+1)
		api, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		door, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		w, err := worker.New(worker.Options{
			ID: id, Etcd: e.Endpoints(), APIListener: api, AgentsListener: door, LeaseTTL: 5 * time.Second, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		r.stop[id] = background(t, w.Run)
		r.workers[id] = door.Addr().String()
		endpoints, doors = append(endpoints, "http://"+api.Addr().String()), append(doors, door.Addr().String())
	}
	var err error
	if r.client, err = v1.NewClient(v1.Options{Endpoints: endpoints, Actor: "scale", Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range *agentsN {
		a, err := agent.New(agent.Options{
			Host: hostID(i), Workers: doors, StateDir: filepath.Join(dir, hostID(i)), Version: "scale",
			Dial: r.net.dial(i, hostID(i)), InsecureLoopback: true, Hypervisor: idle{"boot-" + hostID(i)},
		})
		if err != nil {
			t.Fatal(err)
		}
		background(t, a.Run)
	}
	return r
}

func hostID(i int) string { return fmt.Sprintf("h%05d", i) }

func background(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// until waits for a condition, which says what it still misses.
func until(t *testing.T, missing func() string) time.Duration {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began, limit := time.Now(), 30*time.Second+time.Duration(*agentsN)*20*time.Millisecond
	for {
		why := missing()
		if why == "" {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %v: %s", limit, why)
		}
		<-tick.C
	}
}

// inPlace: every agent is linked to the preferred worker, which is its owner.
func (r *rig) inPlace(t *testing.T) string {
	all, err := r.client.Agents(t.Context(), "")
	if err != nil {
		return err.Error()
	}
	wrong := 0
	for _, a := range all {
		if a.Carrier != a.Owner || a.Moves != "" || a.Owner == "" {
			wrong++
		}
	}
	links := 0
	workers, err := r.client.Workers(t.Context())
	if err != nil {
		return err.Error()
	}
	for _, w := range workers {
		if w.Links != nil {
			links += *w.Links
		}
	}
	if wrong > 0 || links != *agentsN {
		return fmt.Sprintf("%d of %d agents are elsewhere, %d links", wrong, *agentsN, links)
	}
	return ""
}

// noSuspects: nobody became one.
func (r *rig) noSuspects(t *testing.T) {
	t.Helper()
	events, err := r.client.Events(t.Context(), v1.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if strings.HasPrefix(e.Type, "ha.suspect") {
			t.Errorf("%s: %s", e.Host, e.Message)
		}
	}
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// TestManyAgents holds all links, loses a worker, and cuts one agent off from one worker.
func TestManyAgents(t *testing.T) {
	r := start(t)
	took := until(t, func() string { return r.inPlace(t) })
	held := memory()
	t.Logf("%d agents linked to their owners after %v, %d dials, %d kB each in one process with workers and etcd", *agentsN, took.Round(time.Millisecond), r.net.dials.Load(), held/1024/uint64(*agentsN))
	timer := time.NewTimer(*hold)
	<-timer.C
	t.Logf("after %v: %d kB each", *hold, memory()/1024/uint64(*agentsN))

	// A partition between one worker and one agent: another worker carries.
	all, err := r.client.Agents(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	lonely := all[0]
	r.net.sever(lonely.Host, r.workers[lonely.Owner])
	took = until(t, func() string {
		h, err := r.client.Host(t.Context(), lonely.Host)
		if err != nil {
			return err.Error()
		}
		all, err := r.client.Agents(t.Context(), "")
		if err != nil {
			return err.Error()
		}
		if a := all[0]; h.Status.Linked != v1.LinkedYes || a.Carrier == a.Owner {
			return fmt.Sprintf("%s is linked: %s, by %s; its owner is %s", a.Host, h.Status.Linked, a.Carrier, a.Owner)
		}
		return ""
	})
	t.Logf("cut off from its owner: carried by another worker after %v", took.Round(time.Millisecond))

	before := r.net.dials.Load()
	r.stop["w3"]()
	took = until(t, func() string {
		workers, err := r.client.Workers(t.Context())
		if err != nil {
			return err.Error()
		}
		links := 0
		for _, w := range workers {
			if w.Links != nil {
				links += *w.Links
			}
		}
		if links < *agentsN {
			return fmt.Sprintf("%d links", links)
		}
		return ""
	})
	t.Logf("a worker left: all linked again after %v, %d dials since", took.Round(time.Millisecond), r.net.dials.Load()-before)
	r.noSuspects(t)
}
