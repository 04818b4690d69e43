// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	leaseTTL  = 3 * time.Second // a packet needs 2 s of it left
	selfExe   = "/proc/self/exe"
	bmcUser   = "HOLDFAST_BMC_USER" // names a worker's own account in its environment
	password  = "chaos-bmc-secret"
	bootDelay = time.Second
	pollEvery = 50 * time.Millisecond
	startTime = time.Minute

	apiPort     = 7080
	agentsPort  = 7090
	clientPort  = 2379
	proxyAt     = 50  // Block.Worker(proxyAt+i): proxies in front of and behind worker i
	proxiesFrom = 150 // … from which proxies of worker i call: members know who writes
)

// fleet is everything that runs for one schedule.
type fleet struct {
	t       *testing.T
	dir     string
	block   world.Block
	places  []world.Place
	spawner *world.Spawner
	members []*member
	workers []*worker
	world   *world.World
	history *history
	client  *v1.Client
}

type member struct {
	proc.Member
	proc *world.Proc
}

type worker struct {
	id    string
	args  []string
	log   string
	from  netip.Addr        // where its calls to etcd come from
	link  *etcdtest.Proxy   // agents to it
	etcd  []*etcdtest.Proxy // it to each member
	start func(world.Child) (*world.Proc, error)
	bin   string

	mu    sync.Mutex
	proc  *world.Proc
	wants bool  // it should run: who supervises it starts it
	held  []int // processes that are stopped
	shot  bool  // we killed it, or its child, since it was started
	ends  int   // times it ended although nobody killed it
}

// fleetOptions say what a fleet is made of.
type fleetOptions struct {
	hosts, workers int
	settings       map[string]string // global, on top of the preset fast
	follow         func(change)
}

// newFleet starts a fleet and waits until every host is AVAILABLE. All of it ends with
// the test, what was started last first.
func newFleet(t *testing.T, o fleetOptions) *fleet {
	t.Helper()
	bin, err := proc.Build("holdfast-worker")
	if err != nil {
		t.Fatal(err)
	}
	f := newCluster(t, o.follow)
	if f.places, err = world.Plan(o.hosts, f.block); err != nil {
		t.Fatal(err)
	}
	f.newWorkers(o.workers, bin)
	var users, agents []string
	for _, w := range f.workers {
		users, agents = append(users, w.id), append(agents, w.link.Addr())
	}
	f.world, err = world.New(world.Config{
		Dir: f.dir, Places: f.places, Workers: agents, Exec: selfExe, Spawner: f.spawner, Users: users,
		Password: password, BootDelay: bootDelay, Warn: func(text string) { t.Log("warning:", text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range f.workers {
		w.want(true)
	}
	f.background(f.supervise)
	f.declare(o.settings)
	f.background(f.world.Run)
	f.until(startTime, f.notAvailable)
	f.until(startTime, f.neverSeen)
	return f
}

// newCluster starts three etcd members and their history, and nothing else.
func newCluster(t *testing.T, follow func(change)) *fleet {
	t.Helper()
	f := &fleet{t: t, spawner: world.NewSpawner()}
	var err error
	// A short name: unix sockets and data lie below.
	if f.dir, err = os.MkdirTemp("", "hf-chaos-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of all processes are kept in %s", f.dir)
			return
		}
		os.RemoveAll(f.dir)
	})
	if f.block, err = world.TakeBlock(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.block.Close() })
	f.background(f.spawner.Run)
	f.startEtcd(follow)
	return f
}

func (f *fleet) background(run func(context.Context) error) { proc.Background(f.t, run) }

func (f *fleet) startEtcd(follow func(change)) {
	f.t.Helper()
	var endpoints []string
	for _, config := range proc.Members(f.dir, f.block) {
		m := &member{Member: config}
		f.members, endpoints = append(f.members, m), append(endpoints, m.Endpoint())
		if err := m.start(f.spawner); err != nil {
			f.t.Fatal(err)
		}
	}
	var err error
	if f.history, err = newHistory(endpoints, follow); err != nil {
		f.t.Fatal(err)
	}
	f.until(memberStart, func() string {
		if _, err := f.history.revision(f.t.Context()); err != nil {
			return fmt.Sprintf("etcd does not answer: %v (logs: %s)", err, f.dir)
		}
		return ""
	})
	f.background(f.history.run)
}

func (m *member) start(s *world.Spawner) (err error) {
	m.proc, err = m.Start(s)
	return err
}

// kill is kill -9; its data stays.
func (m *member) kill() error {
	err := m.proc.Signal(syscall.SIGKILL)
	<-m.proc.Done()
	return err
}

func (f *fleet) newWorkers(n int, bin string) {
	f.t.Helper()
	secret := filepath.Join(f.dir, "secrets", "bmc")
	if err := errors.Join(os.MkdirAll(filepath.Dir(secret), 0o700), os.WriteFile(secret, []byte(password+"\n"), 0o600)); err != nil {
		f.t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		self, front := f.block.Worker(i), f.block.Worker(proxyAt+i)
		w := &worker{id: fmt.Sprintf("w%d", i), start: f.spawner.Start, bin: bin}
		w.log = filepath.Join(f.dir, w.id+".log")
		agents := netip.AddrPortFrom(self, agentsPort)
		w.link = f.proxied(netip.AddrPortFrom(front, agentsPort), agents, front)
		etcd := f.wayToEtcd(w, i)
		w.args = []string{
			"--insecure-loopback", "--id", w.id, "--zone", f.places[(i-1)%len(f.places)].Zone, "--etcd", strings.Join(etcd, ","),
			"--listen-api", netip.AddrPortFrom(self, apiPort).String(), "--listen-agents", agents.String(),
			"--advertise-agents", w.link.Addr(), "--lease-ttl", leaseTTL.String(),
			"--secrets-dir", filepath.Dir(secret), "--insecure-loopback",
		}
		f.workers = append(f.workers, w)
	}
	var endpoints []string
	for i := range f.workers {
		endpoints = append(endpoints, "http://"+netip.AddrPortFrom(f.block.Worker(i+1), apiPort).String())
	}
	var err error
	if f.client, err = v1.NewClient(v1.Options{Endpoints: endpoints, Actor: "chaos", Timeout: 5 * time.Second}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) proxied(at, target netip.AddrPort, from netip.Addr) *etcdtest.Proxy {
	f.t.Helper()
	p, err := etcdtest.NewProxyAt(at, target, from)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(p.Close)
	return p
}

// wayToEtcd makes worker i's own proxies to all members and returns their URLs.
func (f *fleet) wayToEtcd(w *worker, i int) (urls []string) {
	f.t.Helper()
	w.from = f.block.Worker(proxiesFrom + i)
	for k, m := range f.members {
		p := f.proxied(netip.AddrPortFrom(f.block.Worker(proxyAt+i), clientPort+10*uint16(k)), m.Client, w.from)
		w.etcd, urls = append(w.etcd, p), append(urls, p.Endpoint())
	}
	return urls
}

// supervise starts workers that should run and do not, as systemd or a kubelet would.
func (f *fleet) supervise(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		for _, w := range f.workers {
			if err := w.run(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *worker) run() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.wants || w.alive() {
		return nil
	}
	if w.proc != nil && !w.shot {
		w.ends++
	}
	w.shot = false
	var err error
	w.proc, err = w.start(world.Child{Exec: w.bin, Args: w.args, Env: []string{bmcUser + "=" + w.id}, Log: w.log})
	return err
}

func (w *worker) want(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wants = on
}

// alive reports whether its process, the parent where there are two, lives. Callers hold mu.
func (w *worker) alive() bool { return proc.Running(w.proc) }

// tree are the processes of a worker; how: "child" leaves out the parent, if there is
// one. Callers hold mu.
func (w *worker) tree(how string) []int {
	below := proc.Descendants(w.proc.PID())
	if how == "child" && len(below) > 0 {
		return below
	}
	return append([]int{w.proc.PID()}, below...)
}

// kill is kill -9: of the child, for whose death its parent can vouch, or of both, of
// which only the lease tells. The parent is stopped before its child dies, so that it
// learns nothing.
func (w *worker) kill(how string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wants = false
	if !w.alive() {
		return nil
	}
	w.held, w.shot = nil, true
	if how == "both" {
		if err := w.proc.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	all := w.tree(how)
	for i := len(all) - 1; i >= 0; i-- {
		if err := sendTo(all[i], syscall.SIGKILL); err != nil {
			return err
		}
	}
	if how == "both" {
		<-w.proc.Done() // a started one must find its ports free
	}
	return nil
}

// pause is SIGSTOP; resume wakes what pause stopped.
func (w *worker) pause(how string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive() {
		return nil
	}
	w.held = w.tree(how)
	for _, pid := range w.held {
		if err := sendTo(pid, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return nil
}

// restart asks for a restart in place, which a worker without a parent takes as its end.
func (w *worker) restart() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive() {
		return nil
	}
	return sendTo(w.proc.PID(), syscall.SIGHUP)
}

func (w *worker) resume() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, pid := range w.held {
		errs = append(errs, sendTo(pid, syscall.SIGCONT))
	}
	w.held = nil
	return errors.Join(errs...)
}

// sendTo sends to a process of ours; one that has ended takes it silently.
func sendTo(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
	}
	return nil
}

// declare registers the fleet through the operators' API, as an operator would.
func (f *fleet) declare(settings map[string]string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), startTime)
	defer cancel()
	f.until(startTime, func() string {
		all, err := f.client.Workers(ctx)
		if err != nil || len(all) < len(f.workers) {
			return fmt.Sprintf("%d of %d workers are members: %v (logs: %s)", len(all), len(f.workers), err, f.dir)
		}
		return ""
	})
	values := map[string]string{
		"preset": "fast", "guard.storm.cooldown": "0s", "power.off.to.on": "1s",
		"budget.host": "1000/24h", "budget.cluster": "1000/1h", "budget.pod": "1000/1h", "budget.zone": "1000/1h",
	}
	for name, v := range settings {
		values[name] = v
	}
	for name, v := range values {
		if _, err := f.client.PutSetting(ctx, "global", name, v1.SettingRequest{Value: v, Reason: "chaos"}, false); err != nil {
			f.t.Fatalf("set %s: %v", name, err)
		}
	}
	declared := map[string]bool{}
	for _, p := range f.places {
		for _, path := range []string{p.Zone, p.Zone + "/" + p.Pod, p.Partition()} {
			if declared[path] {
				continue
			}
			declared[path] = true
			if _, err := f.client.PutPartition(ctx, v1.PartitionSpec{V: 1, Path: path}, -1); err != nil {
				f.t.Fatalf("register partition %s: %v", path, err)
			}
		}
		if _, err := f.client.PutHost(ctx, v1.HostSpec{
			V: 1, ID: p.Host, Partition: p.Partition(), Provider: "kvm",
			Labels: map[string]string{"rack": p.Rack}, Probes: []string{p.Probe()}, Pools: []string{p.Pool},
			Power: []v1.Device{{
				Name: "bmc", Level: 1, Driver: "ipmi", Address: p.BMC.String(),
				User: "env:" + bmcUser, Secret: "file:" + filepath.Join(f.dir, "secrets", "bmc"),
			}},
		}, -1, false); err != nil {
			f.t.Fatalf("register host %s: %v", p.Host, err)
		}
	}
}

func (f *fleet) worker(id string) *worker {
	for _, w := range f.workers {
		if w.id == id {
			return w
		}
	}
	return nil
}

// until waits for a condition, which says what it still misses, and returns how long
// that took.
func (f *fleet) until(limit time.Duration, missing func() string) time.Duration {
	f.t.Helper()
	return proc.Until(f.t, limit, pollEvery, missing)
}

// pass lets time go by, in which the faults of a schedule have their effect.
func pass(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
