// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	members   = 3
	memberAt  = 100 // Block.Worker(memberAt+i) is etcd member i
	slotCount = 1024
	startTime = time.Minute
	pollEvery = 20 * time.Millisecond
	selfExe   = "/proc/self/exe"

	bmcUser, bmcPassword = "perf", "perf-bmc-secret"
	passwordEnv          = "HOLDFAST_PERF_BMC"
)

// bench is the cluster that everything is measured on: three etcd members and, from the
// first part that needs them on, three workers.
type bench struct {
	t         *testing.T
	n         size
	dir       string
	block     world.Block
	spawner   *world.Spawner
	endpoints []string
	data      *clientv3.Client // what is measured through
	seen      *observer
	members   []*world.Proc
	workers   []*worker
	api       *v1.Client
	report    *report
}

func newBench(t *testing.T, n size) *bench {
	t.Helper()
	b := &bench{t: t, n: n, spawner: world.NewSpawner(), seen: newObserver(), report: newReport(n)}
	var err error
	if b.dir, err = os.MkdirTemp(*dataDir, "hf-perf-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of all processes are kept in %s", b.dir)
			return
		}
		os.RemoveAll(b.dir)
	})
	b.report.disk = filesystem(b.dir)
	if b.block, err = world.TakeBlock(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.block.Close() })
	b.background(b.spawner.Run)
	b.startEtcd()
	return b
}

// background runs something until the test's end, and waits for it then.
func (b *bench) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) startEtcd() {
	b.t.Helper()
	var all []memberConfig
	var cluster []string
	for i := range members {
		at := b.block.Worker(memberAt + i + 1)
		c := memberConfig{Name: fmt.Sprintf("m%d", i+1), Client: netip.AddrPortFrom(at, 2379), Peer: netip.AddrPortFrom(at, 2380)}
		c.Dir = filepath.Join(b.dir, c.Name)
		all, cluster = append(all, c), append(cluster, fmt.Sprintf("%s=http://%s", c.Name, c.Peer))
		b.endpoints = append(b.endpoints, "http://"+c.Client.String())
	}
	for _, c := range all {
		c.Cluster = strings.Join(cluster, ",")
		text, err := json.Marshal(c)
		if err != nil {
			b.t.Fatal(err)
		}
		member, err := b.spawner.Start(world.Child{
			Exec: selfExe, Args: []string{"child", "member", c.Name}, Env: []string{world.ChildEnv + "=" + string(text)}, Log: c.Dir + ".log",
		})
		if err != nil {
			b.t.Fatal(err)
		}
		b.members = append(b.members, member)
	}
	b.data = b.client()
	b.until(startTime, func() string {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		if _, err := b.data.Get(ctx, floorPrefix); err != nil {
			return fmt.Sprintf("etcd does not answer: %v", err)
		}
		return ""
	})
	var open sync.WaitGroup
	open.Add(len(watched))
	watching := b.client()
	b.background(func(ctx context.Context) error { return b.seen.run(ctx, watching, &open) })
	open.Wait()
}

// client is another connection to etcd, closed with the test.
func (b *bench) client() *clientv3.Client {
	b.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: b.endpoints, Logger: zap.NewNop()})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() }) // its watches have ended
	return c
}

// until waits for a condition, which says what it still misses.
func (b *bench) until(limit time.Duration, missing func() string) {
	b.t.Helper()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for end := time.After(limit); ; {
		why := missing()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			b.t.Fatalf("after %v: %s", limit, why)
		}
	}
}

// observed waits for a condition on what the observer has seen.
func (b *bench) observed(limit time.Duration, what string, ok func() bool) {
	b.t.Helper()
	if !b.seen.until(limit, ok) {
		b.seen.mu.Lock()
		defer b.seen.mu.Unlock()
		b.t.Fatalf("after %v: still not %s; slots by owner: %v", limit, what, b.seen.counts())
	}
}

// pass lets time go by, in which something is counted.
func pass(d time.Duration) { <-time.After(d) }

// worker is one holdfast-worker, parent and child.
type worker struct {
	b    *bench
	id   string
	args []string
	log  string
	url  string
	door string // where agents dial
	proc *world.Proc
}

// startWorkers starts three workers, unless they run already, and waits until they share
// the slots. Damping is off.
func (b *bench) startWorkers() {
	b.t.Helper()
	if b.workers == nil {
		b.makeWorkers()
	}
	for _, w := range b.workers {
		w.start()
	}
	b.observed(startTime, "balanced", b.balanced)
	for name, value := range map[string]string{"worker.rebalance.quiet": "0s", "worker.rebalance.rate": "0"} {
		b.set(name, value)
	}
}

func (b *bench) makeWorkers() {
	b.t.Helper()
	var endpoints []string
	for i := 1; i <= 3; i++ {
		at := b.block.Worker(i)
		w := &worker{b: b, id: fmt.Sprintf("w%d", i), url: "http://" + netip.AddrPortFrom(at, 7080).String(), door: netip.AddrPortFrom(at, 7090).String()}
		w.log = filepath.Join(b.dir, w.id+".log")
		w.args = []string{
			"--insecure-loopback", "--id", w.id, "--etcd", strings.Join(b.endpoints, ","), "--lease-ttl", b.n.TTL.String(), "--log-level", "info",
			"--listen-api", strings.TrimPrefix(w.url, "http://"), "--listen-agents", w.door,
		}
		b.workers, endpoints = append(b.workers, w), append(endpoints, w.url)
	}
	var err error
	if b.api, err = v1.NewClient(v1.Options{Endpoints: endpoints, Actor: "perf", Timeout: 10 * time.Second}); err != nil {
		b.t.Fatal(err)
	}
}

// set sets something for the whole fleet, through the operators' API.
func (b *bench) set(name, value string) {
	b.t.Helper()
	b.until(startTime, func() string {
		if _, err := b.api.PutSetting(b.t.Context(), "global", name, v1.SettingRequest{Value: value, Reason: "perf"}, false); err != nil {
			return fmt.Sprintf("set %s: %v", name, err)
		}
		return ""
	})
}

// balanced: all slots are owned, by all workers alike. The observer's lock is held.
func (b *bench) balanced() bool {
	counts := b.seen.counts()
	for _, w := range b.workers {
		if n := counts[w.id]; n < slotCount/len(b.workers) || n > slotCount/len(b.workers)+1 {
			return false
		}
	}
	return len(b.seen.slots) == slotCount
}

func (w *worker) alive() bool {
	if w.proc == nil {
		return false
	}
	select {
	case <-w.proc.Done():
		return false
	default:
		return true
	}
}

func (w *worker) start() {
	w.b.t.Helper()
	if w.alive() {
		return
	}
	bin, err := workerBinary()
	if err == nil {
		w.proc, err = w.b.spawner.Start(world.Child{Exec: bin, Args: w.args, Env: []string{passwordEnv + "=" + bmcPassword}, Log: w.log})
	}
	if err != nil {
		w.b.t.Fatal(err)
	}
}

// signal sends to the parent.
func (w *worker) signal(sig syscall.Signal) {
	w.b.t.Helper()
	if err := w.proc.Signal(sig); err != nil {
		w.b.t.Fatal(err)
	}
}

// killChild kills the process that works and returns when that was.
func (w *worker) killChild() time.Time {
	w.b.t.Helper()
	pid := childOf(w.proc.PID())
	if pid == 0 {
		w.b.t.Fatalf("%s has no child to kill", w.id)
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.b.t.Fatal(err)
	}
	return at
}

// killBoth kills parent and child; the parent is stopped before, so that it learns nothing.
func (w *worker) killBoth() time.Time {
	w.b.t.Helper()
	w.signal(syscall.SIGSTOP)
	at := w.killChild()
	w.signal(syscall.SIGKILL)
	<-w.proc.Done()
	return at
}

// ready asks /readyz.
func (w *worker) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stopWorkers ends all workers in order.
func (b *bench) stopWorkers() {
	b.t.Helper()
	for _, w := range b.workers {
		if w.alive() {
			w.signal(syscall.SIGTERM)
		}
	}
	for _, w := range b.workers {
		if w.proc != nil {
			<-w.proc.Done()
		}
	}
}
