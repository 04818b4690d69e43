// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memPool is a pool in memory that can be made to hang or to fail.
type memPool struct {
	id string

	mu     sync.Mutex
	stamps map[string]string
	disks  map[string]probe.DiskSample
	err    error
	calls  int           // under way
	most   int           // of calls at any time
	stuck  chan struct{} // calls wait until it is closed; nil lets them through
}

func newMemPool(id string) *memPool {
	return &memPool{id: id, stamps: map[string]string{}, disks: map[string]probe.DiskSample{}}
}

func (p *memPool) ID() string { return p.id }

// access is one system call: deaf to its context, as on a dead mount.
func (p *memPool) access(fn func() error) error {
	p.mu.Lock()
	p.calls++
	p.most = max(p.most, p.calls)
	stuck := p.stuck
	p.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls--
	if p.err != nil {
		return p.err
	}
	return fn()
}

func (p *memPool) WriteStamp(_ context.Context, host string, counter uint64) error {
	return p.access(func() error {
		p.stamps[host] = fmt.Sprint(host, counter)
		return nil
	})
}

func (p *memPool) ReadStamp(_ context.Context, host string) (b []byte, err error) {
	err = p.access(func() error {
		s, found := p.stamps[host]
		if !found {
			return fs.ErrNotExist
		}
		if s == "unreadable" {
			return errors.New("input/output error")
		}
		b = []byte(s)
		return nil
	})
	return b, err
}

func (p *memPool) StatDisk(_ context.Context, path string) (s probe.DiskSample, err error) {
	err = p.access(func() error {
		var found bool
		if s, found = p.disks[path]; !found {
			return fs.ErrNotExist
		}
		return nil
	})
	return s, err
}

func (p *memPool) set(fn func(p *memPool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(p)
}

// hang makes every call wait until the returned function is called.
func (p *memPool) hang() (release func()) {
	stuck := make(chan struct{})
	p.set(func(p *memPool) { p.stuck = stuck })
	return sync.OnceFunc(func() {
		p.set(func(p *memPool) { p.stuck = nil })
		close(stuck)
	})
}

// fakeHost is a hypervisor without Gatekeeper.
type fakeHost struct {
	mu        sync.Mutex
	err       error
	instances []hypervisor.Instance
	calls     int
	stuck     chan struct{}
}

func (h *fakeHost) Name() string { return "fake" }

func (h *fakeHost) BootID(context.Context) (string, error) { return "boot-1", nil }

func (h *fakeHost) Healthy(context.Context) error {
	h.mu.Lock()
	h.calls++
	stuck := h.stuck
	h.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls--
	return h.err
}

func (h *fakeHost) Instances(context.Context) ([]hypervisor.Instance, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.instances, nil
}

func (h *fakeHost) set(fn func(h *fakeHost)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn(h)
}

// keeper is a hypervisor that can refuse instances.
type keeper struct{ *fakeHost }

func (k keeper) Refuse(_ context.Context, ids []string) error {
	k.set(func(h *fakeHost) {
		var left []hypervisor.Instance
		for _, i := range h.instances {
			if !strings.Contains(strings.Join(ids, " "), i.ID) {
				left = append(left, i)
			}
		}
		h.instances = left
	})
	return nil
}

// fakeProber gives each address its answer.
type fakeProber map[string]func(ctx context.Context) (bool, error)

func (p fakeProber) Probe(ctx context.Context, address string) (bool, error) { return p[address](ctx) }

// newAgent makes an agent of host h1 on a temporary state dir.
func newAgent(t *testing.T, change func(*Options)) *Agent {
	t.Helper()
	o := Options{Host: "h1", Workers: []string{"127.0.0.1:1"}, StateDir: t.TempDir(), Version: "test", Hypervisor: &fakeHost{}, InsecureLoopback: true}
	if change != nil {
		change(&o)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// running runs loops until the returned function is called, which waits for them.
func running(t *testing.T, loops ...func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, loop := range loops {
		all.Go(func() {
			if err := loop(ctx); err != nil {
				t.Errorf("loop ended with %v", err)
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited too long for: %s", what)
		}
	}
}

// Bad input gets one line that names field, value and what is allowed.
func TestBadOptionsAreNamed(t *testing.T) {
	for want, change := range map[string]func(*Options){
		`host ""`:                      func(o *Options) { o.Host = "" },
		`host "../x"`:                  func(o *Options) { o.Host = "../x" },
		"workers is empty":             func(o *Options) { o.Workers = nil },
		`address "w1": want host:port`: func(o *Options) { o.Workers = []string{"w1"} },
		`port "0" is not between`:      func(o *Options) { o.Workers = []string{"127.0.0.1:0"} },
		"only loopback addresses":      func(o *Options) { o.Workers = []string{"10.0.0.1:7443"} },
		"tls: empty, without cert":     func(o *Options) { o.InsecureLoopback = false },
		"not allowed together with":    func(o *Options) { o.TLS.CA = "/ca" },
		"tls.cert: empty, all of":      func(o *Options) { o.InsecureLoopback, o.TLS.CA = false, "/ca" },
		"state dir is empty":           func(o *Options) { o.StateDir = "" },
		"state dir: mkdir /dev/null":   func(o *Options) { o.StateDir = "/dev/null/x" },
		"hypervisor is missing":        func(o *Options) { o.Hypervisor = nil },
		`id "p" is given twice`:        func(o *Options) { o.Pools = []probe.Pool{newMemPool("p"), newMemPool("p")} },
		"pools: number 1 has no id":    func(o *Options) { o.Pools = []probe.Pool{newMemPool("")} },
	} {
		o := Options{Host: "h1", Workers: []string{"127.0.0.1:1"}, StateDir: t.TempDir(), Hypervisor: &fakeHost{}, InsecureLoopback: true}
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("New() = %v, want one line with %q", err, want)
		}
	}
}
