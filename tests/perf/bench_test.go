// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
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
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	slotCount = 1024
	startTime = time.Minute
	pollEvery = 20 * time.Millisecond

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
	return proc.Background(b.t, run)
}

func (b *bench) startEtcd() {
	b.t.Helper()
	for _, m := range proc.Members(b.dir, b.block) {
		b.endpoints = append(b.endpoints, m.Endpoint())
		member, err := m.Start(b.spawner)
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
	proc.Until(b.t, limit, pollEvery, missing)
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

func (w *worker) alive() bool { return proc.Running(w.proc) }

func (w *worker) start() {
	w.b.t.Helper()
	if w.alive() {
		return
	}
	bin, err := proc.Build("holdfast-worker")
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

// child is the process that works; 0: none now.
func (w *worker) child() int {
	if below := proc.Descendants(w.proc.PID()); len(below) > 0 {
		return below[0]
	}
	return 0
}

// killChild kills the process that works and returns when that was.
func (w *worker) killChild() time.Time {
	w.b.t.Helper()
	pid := w.child()
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
