// SPDX-License-Identifier: Apache-2.0

package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/exec"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	sim "github.com/holdfast-ha/holdfast/sim/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/sequence"
	"github.com/holdfast-ha/holdfast/worker"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	cluster    = "z/p/c"
	farCluster = "z/p/far" // of targets, where they are apart
	patience   = 75 * time.Second
	// diskSize is that of every volume; jobRate moves it in about half a second.
	diskSize = 2 << 20
	jobRate  = 4 << 20
)

// rig is a fleet: one etcd behind a proxy for each worker, workers and agents in this
// process.
type rig struct {
	t       *testing.T
	etcd    *etcdtest.Server
	client  *leases.Client
	dir     string
	api     *v1.Client
	mu      sync.Mutex
	agents  []string // addresses of workers' doors
	workers []*member
	hosts   map[string]*host
	ttl     time.Duration // of workers' leases
	ends    bool          // hosts have lost their power since: instances may have stopped
	apart   bool          // targets are in another partition, which another worker owns
}

// member is one worker and its way to etcd.
type member struct {
	id    string
	proxy *etcdtest.Proxy // its way to etcd
	front *etcdtest.Proxy // the way of agents and other workers to its door
	door  string
	api   string
	stop  func()
}

func newRig(t *testing.T) *rig {
	e := etcdtest.Start(t)
	r := &rig{t: t, etcd: e, client: e.Client(t), dir: t.TempDir(), ttl: 5 * time.Second, hosts: map[string]*host{}}
	for scopeName, value := range map[string]string{"agent.ping.interval": "1s", "reconcile.interval": "1s", "reconcile.max.attempts": "200"} {
		r.put(leases.SettingKey("global", scopeName), v1.SettingRecord{V: 1, Value: value, By: "test"})
	}
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) put(key string, val any) {
	r.t.Helper()
	var err error
	for range 10 { // a busy machine may not answer in time; the same again is the same
		if _, err = r.client.Commit(context.Background(), leases.Unowned(), leases.Put(key, val)); err == nil {
			return
		}
	}
	r.must(err)
}

func logger(t *testing.T, who string) *slog.Logger {
	if os.Getenv("HOLDFAST_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	f, err := os.OpenFile(filepath.Join(os.Getenv("HOLDFAST_TEST_LOG"), strings.ReplaceAll(t.Name(), "/", "_")+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return slog.New(slog.NewTextHandler(f, nil)).With("who", who)
}

// worker starts a worker.
func (r *rig) worker(id string) *member {
	r.t.Helper()
	m := &member{id: id, proxy: etcdtest.NewProxy(r.t, r.etcd.Addr()), door: etcdtest.FreeAddr(r.t), api: etcdtest.FreeAddr(r.t)}
	m.front = etcdtest.NewProxy(r.t, m.door)
	r.mu.Lock()
	r.workers = append(r.workers, m)
	r.agents = append(r.agents, m.advertised())
	r.mu.Unlock()
	r.startWorker(m)
	api, err := v1.NewClient(v1.Options{Endpoints: r.apis(), Actor: "test"})
	r.must(err)
	r.api = api
	return m
}

func (m *member) advertised() string { return strings.TrimPrefix(m.front.Endpoint(), "http://") }

// silence is what a worker that stands still looks like: its connections stay, nothing is
// answered, and its lease runs out.
func (m *member) silence(on bool) {
	held := etcdtest.Dir(0)
	if on {
		held = etcdtest.Both
	}
	m.proxy.Hold(held)
	m.front.Hold(held)
}

func (r *rig) apis() (out []string) {
	for _, m := range r.workers {
		out = append(out, m.api)
	}
	return out
}

func (r *rig) startWorker(m *member) {
	w, err := worker.New(worker.Options{
		ID: m.id, Etcd: []string{m.proxy.Endpoint()}, ListenAPI: m.api, ListenAgents: m.door, AdvertiseAgents: m.advertised(), LeaseTTL: r.ttl, InsecureLoopback: true, Logger: logger(r.t, m.id),
	})
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	m.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Logf("worker %s: %v", m.id, err)
			}
		})
	}
	r.t.Cleanup(m.stop)
}

// kill ends a worker so that etcd hears nothing of it any more: its lease runs out.
func (r *rig) kill(m *member) {
	m.proxy.Refuse(true)
	m.proxy.Cut()
	m.stop()
	m.proxy.Refuse(false)
}

// host is a machine: pools, a hypervisor while it has power, an agent.
type host struct {
	r      *rig
	id     string
	pools  []dirs.Dir
	state  string
	faults *sim.Faults

	mu     sync.Mutex
	boot   int
	power  func() // off
	socket string
	agent  func(orderly bool) // stop
	conns  map[net.Conn]bool
	cut    bool
	at     func(ctx context.Context, id string, p exec.Point)
	stall  chan struct{} // the disk of the agent's journal hangs until it is closed; nil: it does not
}

// sync makes the agent's journal durable.
func (h *host) sync(f *os.File) error {
	h.mu.Lock()
	stall := h.stall
	h.mu.Unlock()
	if stall != nil {
		<-stall
	}
	return f.Sync()
}

func (r *rig) host(id string, pools ...dirs.Dir) *host {
	r.t.Helper()
	h := &host{r: r, id: id, pools: pools, state: filepath.Join(r.dir, id), conns: map[net.Conn]bool{}}
	r.must(os.MkdirAll(filepath.Join(h.state, "engine"), 0o700))
	h.socket = "@" + strings.ReplaceAll(h.state, "/", "_")
	h.faults = sim.NewFaults(filepath.Join(h.state, "faults"))
	home := cluster
	if r.apart && strings.HasPrefix(id, "t-") {
		home = farCluster
	}
	spec := v1.HostSpec{V: 1, ID: id, Partition: home, Provider: "kvm", Control: h.socket}
	for _, p := range pools {
		spec.Pools = append(spec.Pools, p.ID)
	}
	r.put(leases.HostSpecKey(id), spec)
	r.mu.Lock()
	r.hosts[id] = h
	r.mu.Unlock()
	h.on()
	h.start()
	r.t.Cleanup(h.off)
	return h
}

// on gives the host power: a new boot.
func (h *host) on() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.boot++
	e, err := sim.NewEngine(sim.EngineConfig{
		Socket: h.socket, Dir: filepath.Join(h.state, "engine"), Dirs: h.pools, Gate: sim.NewFaults(filepath.Join(h.state, "faults")).Gate,
		WriteEvery: 20 * time.Millisecond, JobRate: jobRate,
	})
	h.r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	var once sync.Once
	h.power = func() { once.Do(func() { cancel(); <-done }) }
}

// off takes it: agent and hypervisor end in the same moment.
func (h *host) off() {
	h.kill()
	h.mu.Lock()
	off := h.power
	h.mu.Unlock()
	off()
}

func (h *host) dial(ctx context.Context, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut {
		return nil, errors.New("no route to host")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err == nil {
		h.conns[c] = true
	}
	return c, err
}

// cable cuts or mends the host's network; hypervisors reach each other all the same.
func (h *host) cable(cut bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = cut
	if cut {
		for c := range h.conns {
			c.Close()
		}
		clear(h.conns)
	}
}

// start starts the agent.
func (h *host) start() {
	h.r.t.Helper()
	h.cable(false)
	remote, err := sim.NewRemote(sim.RemoteConfig{
		Boot: fmt.Sprintf("%s-boot%d", h.id, h.boot), Engine: h.socket, Dirs: h.pools, CopyRate: jobRate,
		Gate: sim.NewFaults(filepath.Join(h.state, "faults")).Gate, Refused: sim.Refused(filepath.Join(h.state, "refused")),
	})
	h.r.must(err)
	a, err := agent.New(agent.Options{
		Host: h.id, Workers: h.r.agents, StateDir: filepath.Join(h.state, "agent"), Version: "test", InsecureLoopback: true, Dial: h.dial, Hypervisor: remote,
		Logger: logger(h.r.t, h.id), Observe: h.observe, SyncJournal: h.sync,
	})
	h.r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	h.mu.Lock()
	h.agent = func(orderly bool) {
		once.Do(func() {
			if !orderly {
				h.cable(true)
			}
			cancel()
			<-done
		})
	}
	h.mu.Unlock()
}

func (h *host) kill()    { h.end(false) }
func (h *host) restart() { h.end(true); h.start() }

func (h *host) end(orderly bool) {
	h.mu.Lock()
	stop := h.agent
	h.mu.Unlock()
	stop(orderly)
}

func (h *host) observe(ctx context.Context, id string, p exec.Point) {
	h.mu.Lock()
	at := h.at
	h.mu.Unlock()
	if at != nil {
		at(ctx, id, p)
	}
}

// hypervisor is a way to look past the agent.
func (h *host) hypervisor() *sim.Remote {
	remote, err := sim.NewRemote(sim.RemoteConfig{Boot: "test", Engine: h.socket, Dirs: h.pools})
	h.r.must(err)
	return remote
}

// pool declares a pool and makes its directory.
func (r *rig) pool(id string, typ hypervisor.PoolType, role string, hosts ...string) dirs.Dir {
	r.t.Helper()
	path := filepath.Join(r.dir, "pools", id)
	r.must(os.MkdirAll(path, 0o700))
	r.put(leases.PoolKey(id), v1.Pool{V: 1, ID: id, Type: string(typ), Role: role, Hosts: hosts})
	return dirs.Dir{ID: id, Type: typ, Path: path}
}

// volume makes a file and its record.
func (r *rig) volume(id string, on dirs.Dir, instance string) v1.Volume {
	r.t.Helper()
	f, err := os.Create(filepath.Join(on.Path, id+".raw"))
	r.must(err)
	r.must(errors.Join(f.Truncate(diskSize), f.Close()))
	v := v1.Volume{V: 1, ID: id, Place: v1.Place{Pool: on.ID, Path: id + ".raw"}, Format: "raw", Size: diskSize, Instance: instance, State: "ready"}
	r.put(leases.VolumeKey(id), v)
	return v
}

// instance defines an instance on a host, and starts it if it is to run.
func (r *rig) instance(id string, h *host, running bool, volumes ...v1.Volume) {
	r.t.Helper()
	i := v1.Instance{V: 1, ID: id, Host: h.id, MemoryMiB: 1, CPUs: 1, State: "stopped", Generation: 1}
	d := hypervisor.Definition{ID: id, MemoryMiB: 1, CPUs: 1}
	for _, v := range volumes {
		i.Volumes = append(i.Volumes, v.ID)
		d.Disks = append(d.Disks, hypervisor.DiskSpec{Disk: hypervisor.Disk(v.Place), Format: hypervisor.Raw})
	}
	hv := h.hypervisor()
	eventually(r.t, h.id+" answers", func() bool { return hv.Healthy(context.Background()) == nil })
	r.must(hv.Define(context.Background(), d))
	if running {
		i.State = "running"
		r.must(hv.Start(context.Background(), id))
	}
	r.put(leases.InstanceKey(id), i)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Errorf("not within %v: %s", patience, what)
			return
		}
	}
}

// within waits until d has passed.
func within(d time.Duration) { <-time.After(d) }

func record[T any](r *rig, key string) (val T, ok bool) {
	kv, err := r.client.Get(context.Background(), key)
	if errors.Is(err, leases.ErrNotFound) {
		return val, false
	}
	if err == nil {
		err = json.Unmarshal(kv.Value, &val)
	}
	return val, err == nil // an etcd that is away tells nothing: it is looked at again
}

// linked waits until hosts are linked and their agents report.
func (r *rig) linked(hosts ...*host) {
	r.t.Helper()
	for _, h := range hosts {
		eventually(r.t, h.id+" is linked", func() bool {
			x, err := r.api.Host(context.Background(), h.id)
			return err == nil && x.Status.Linked == v1.LinkedYes && !x.Status.LastPing.IsZero()
		})
	}
}

// over waits until a command has ended and both sides have forgotten its journal.
func (r *rig) over(host, id string) command.Record {
	r.t.Helper()
	var rec command.Record
	eventually(r.t, "command "+id+" is over", func() bool {
		rec, _ = record[command.Record](r, leases.CommandKey(host, id))
		return rec.Released && rec.Acked
	})
	if !rec.Released || !rec.Acked {
		b, _ := json.MarshalIndent(rec, "", " ")
		r.t.Errorf("it is %s: %s\n%s", rec.State, rec.Reason, b)
	}
	return rec
}

// Invariants, whatever happened (the issue: "After each: the volume's record says the
// truth, the instance runs exactly once, its sequence numbers have no hole, no stray files
// (a checker walks the pools), the journal is empty on both sides").
func (r *rig) check(t *testing.T, rec command.Record, pools []dirs.Dir, volumes []string, instance string, hosts ...*host) {
	t.Helper()
	ctx := context.Background()
	if kvs, _, err := r.client.List(ctx, leases.JournalPrefix+rec.Host+"/"+rec.ID+"/"); err != nil || len(kvs) > 0 {
		t.Errorf("%d steps of the journal are left in etcd (%v)", len(kvs), err)
	}
	for _, h := range hosts {
		files, err := os.ReadDir(filepath.Join(h.state, "agent", "journal"))
		if err != nil {
			t.Errorf("journal of %s: %v", h.id, err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(filepath.Join(h.state, "agent", "journal", f.Name())); !f.IsDir() && (err != nil || !bytes.HasPrefix(text, []byte(`{"forgotten":true}`))) {
				t.Errorf("journal of %s: %s is left (%v)", h.id, f.Name(), err)
			}
		}
		if aside, err := os.ReadDir(filepath.Join(h.state, "agent", "journal", "aside")); err == nil && len(aside) > 0 {
			t.Errorf("journal of %s has files set aside: %v", h.id, aside)
		}
	}
	want := map[string]string{} // place to volume
	var places []v1.Place
	for _, id := range volumes {
		v, ok := record[v1.Volume](r, leases.VolumeKey(id))
		if !ok {
			continue
		}
		if v.State != "ready" || v.Command != "" {
			t.Errorf("volume %s is %s, command %q", id, v.State, v.Command)
		}
		want[v.Place.String()] = id
		if v.Instance != "" {
			places = append(places, v.Place)
		}
	}
	for _, p := range pools {
		err := filepath.WalkDir(p.Path, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(p.Path, path)
			place := v1.Place{Pool: p.ID, Path: rel}.String()
			if want[place] == "" {
				t.Errorf("stray file %s", place)
			}
			delete(want, place)
			r.sequence(t, path)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	for place, id := range want {
		t.Errorf("volume %s is on record at %s: there is no such file", id, place)
	}
	if instance == "" {
		return
	}
	i, _ := record[v1.Instance](r, leases.InstanceKey(instance))
	if i.Command != "" {
		t.Errorf("instance %s still has command %s", instance, i.Command)
	}
	running := []string{}
	for _, h := range hosts {
		s := h.hypervisor().LookInstance(ctx, instance)
		switch {
		case s.Answer == hypervisor.CouldNotLook:
			t.Errorf("look at %s on %s: %s", instance, h.id, s.Reason)
		case s.Answer == hypervisor.Present && s.State != hypervisor.Stopped:
			running = append(running, h.id+" "+string(s.State)+" "+s.Detail)
		}
		if h.id == i.Host && s.Answer != hypervisor.Present {
			t.Errorf("instance %s is on record on %s: it is not there", instance, h.id)
		}
		if h.id != i.Host && s.Answer != hypervisor.Absent {
			t.Errorf("instance %s is on record on %s, and is %s on %s", instance, i.Host, s.State, h.id)
		}
		if h.id == i.Host {
			var disks []v1.Place
			for _, d := range s.Disks {
				disks = append(disks, v1.Place(d))
			}
			if !slices.Equal(disks, places) {
				t.Errorf("instance %s uses %v, on record are %v", instance, disks, places)
			}
		}
	}
	if (i.State == "running") != (len(running) == 1) && !r.ends || len(running) > 1 {
		t.Errorf("instance %s is %s on record, it runs on %v", instance, i.State, running)
	}
}

// sequence: no write of the guest is missing, and nobody else wrote.
func (r *rig) sequence(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	rep, err := sequence.Read(f)
	if err != nil || len(rep.Problems) > 0 {
		t.Errorf("%s: %v %v", path, rep.Problems, err)
	}
}
