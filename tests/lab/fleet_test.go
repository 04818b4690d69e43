// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/libvirt"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/lab"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

const (
	cluster = "z/p/c"
	shared  = "shared" // the pool of all hosts
	// etcdEnv makes this binary an etcd member with its data in that directory.
	etcdEnv  = "HOLDFAST_LAB_ETCD"
	etcdAddr = "127.0.0.1:2379"
)

// local is the pool of one host.
func local(host string) string { return host + "-local" }

// fleet is the real thing on the lab's hosts: etcd and two workers, processes in the
// manager's namespace, and an agent on each host, which its boot script keeps running as
// a service manager would. All connections are mutual TLS.
type fleet struct {
	t       *testing.T
	dir     string
	spawner *world.Spawner
	etcd    *world.Proc
	workers map[string]*process
	client  *leases.Client
	api     *v1.Client
	hosts   []*node
}

// process is a worker.
type process struct {
	*world.Proc
	id, api, agents string
}

// node is a host of the lab, with an adapter of the test's own beside its agent's.
type node struct {
	host
	id string
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, dir: filepath.Join(lab.Dir, "fleet"), spawner: world.NewSpawner(), workers: map[string]*process{}}
	must(t, os.MkdirAll(filepath.Join(f.dir, "secrets"), 0o700))
	must(t, os.WriteFile(f.path("secrets", "bmc"), []byte(lab.Password+"\n"), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.spawner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	f.build()
	f.certify()
	f.startEtcd()
	f.connect()
	for i, id := range []string{"w1", "w2"} {
		f.workers[id] = &process{id: id, api: fmt.Sprintf("%s:%d", lab.ManagerAddr, 7080+i), agents: fmt.Sprintf("%s:%d", lab.ManagerAddr, 7443+i)}
		f.startWorker(f.workers[id])
	}
	f.declare()
	f.boot()
	return f
}

func (f *fleet) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

func (f *fleet) build() {
	for name, how := range map[string][]string{"agent": {"CGO_ENABLED=1"}, "worker": {"CGO_ENABLED=0"}} {
		ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Minute)
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", "libvirt_dlopen", "-o", f.path("holdfast-"+name), "github.com/holdfast-ha/holdfast/cmd/holdfast-"+name)
		cmd.Env = append(os.Environ(), how...)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			f.t.Fatalf("build holdfast-%s: %v\n%s", name, err, out)
		}
	}
}

func (f *fleet) certify() {
	o := pki.Options{Dir: f.path("pki"), Now: time.Now(), IP: []string{lab.ManagerAddr}}
	_, err := pki.Init(pki.Options{Dir: o.Dir, Now: o.Now})
	must(f.t, err)
	for name, kind := range map[string]pki.Kind{"w1": pki.Kind(trust.Worker), "w2": pki.Kind(trust.Worker), "etcd-1": pki.Etcd} {
		_, err := pki.Issue(kind, name, o)
		must(f.t, err)
	}
	o.IP = nil
	_, err = pki.Issue(pki.Kind(trust.Operator), "lab", o)
	must(f.t, err)
	for _, h := range theLab.Hosts {
		_, err := pki.Issue(pki.Kind(trust.Host), h.Name, o)
		must(f.t, err)
	}
}

// shows is TLS as the holder of one of the certificates.
func (f *fleet) shows(name string) *tls.Config {
	cert, err := tls.LoadX509KeyPair(f.path("pki", name+".crt"), f.path("pki", name+".key"))
	must(f.t, err)
	ca, err := os.ReadFile(f.path("pki", "ca.crt"))
	must(f.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: roots}
}

// manager starts a program in the manager's namespace.
func (f *fleet) manager(log string, env []string, name string, args ...string) *world.Proc {
	cmd := theLab.Manager(f.t.Context(), name, args...)
	p, err := f.spawner.Start(world.Child{Exec: cmd.Path, Args: cmd.Args[1:], Env: env, Log: f.path(log + ".log")})
	must(f.t, err)
	return p
}

func (f *fleet) startEtcd() { f.etcd = f.manager("etcd", []string{etcdEnv + "=" + f.dir}, os.Args[0]) }

// etcdChild is the member; its writes are durable, as those of a real one.
func etcdChild() {
	dir := os.Getenv(etcdEnv)
	if dir == "" {
		return
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel, cfg.LogOutputs = "etcd-1", filepath.Join(dir, "etcd"), "warn", []string{"stderr"}
	client, peer := []url.URL{{Scheme: "https", Host: etcdAddr}}, []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = client, client, peer, peer
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	tls := &cfg.ClientTLSInfo
	tls.TrustedCAFile, tls.CertFile, tls.KeyFile = filepath.Join(dir, "pki/ca.crt"), filepath.Join(dir, "pki/etcd-etcd-1.crt"), filepath.Join(dir, "pki/etcd-etcd-1.key")
	tls.ClientCertAuth, tls.AllowedCNs = true, []string{"w1", "w2"}
	etcd, err := embed.StartEtcd(cfg)
	if err == nil {
		err = <-etcd.Err()
	}
	fmt.Fprintln(os.Stderr, "etcd ended:", err)
	os.Exit(1)
}

// connect makes the test's own ways to etcd and the workers' API: through a door on the
// loopback of this machine, as the test stands outside of the lab's network.
func (f *fleet) connect() {
	ctx, cancel := context.WithTimeout(f.t.Context(), limit)
	defer cancel()
	client, err := leases.Dial(ctx, leases.Config{Endpoints: []string{"https://" + f.door(etcdAddr)}, TLS: f.shows("worker-w1"), DialTimeout: limit})
	must(f.t, err)
	f.client = client
	f.t.Cleanup(func() { must(f.t, client.Close()) })
	var endpoints []string
	for i := range 2 {
		endpoints = append(endpoints, "https://"+f.door(fmt.Sprintf("%s:%d", lab.ManagerAddr, 7080+i)))
	}
	f.api, err = v1.NewClient(v1.Options{Endpoints: endpoints, Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: f.shows("operator-lab"), ForceAttemptHTTP2: true}})
	must(f.t, err)
}

// door forwards connections to an address that the manager's namespace reaches.
func (f *fleet) door(to string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(f.t, err)
	f.t.Cleanup(func() { l.Close() })
	pass := func(from net.Conn) {
		defer from.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		there, err := theLab.DialManager(ctx, to)
		if err != nil {
			return // whoever asks sees a connection that ends
		}
		defer there.Close()
		go func() { _, _ = io.Copy(there, from); there.Close() }()
		_, _ = io.Copy(from, there)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go pass(c)
		}
	}()
	return l.Addr().String()
}

func (f *fleet) startWorker(w *process) {
	config := fmt.Sprintf("id: %s\netcd: ['https://%s']\nlistenAPI: %s\nlistenAgents: %s\ntlsCA: %s\ntlsCert: %s\ntlsKey: %s\nsecretsDir: %s\n", w.id, etcdAddr, w.api, w.agents,
		f.path("pki", "ca.crt"), f.path("pki", "worker-"+w.id+".crt"), f.path("pki", "worker-"+w.id+".key"), f.path("secrets"))
	must(f.t, os.WriteFile(f.path(w.id+".yaml"), []byte(config), 0o600))
	w.Proc = f.manager(w.id, nil, f.path("holdfast-worker"), "--config", f.path(w.id+".yaml"))
}

// kill ends a worker and the process above it, so that etcd hears nothing of it any more.
func (f *fleet) kill(w *process) {
	must(f.t, unix.Kill(-w.PID(), unix.SIGKILL))
	f.gone(w.Proc)
}

func (f *fleet) gone(p *world.Proc) {
	select {
	case <-p.Done():
	case <-time.After(limit):
		f.t.Fatalf("process %d has not ended within %v", p.PID(), limit)
	}
}

// put declares something, also while a test cleans up; workers that are only starting are
// asked again.
func put(t *testing.T, what string, do func(context.Context) error) {
	t.Helper()
	wait(t, what+" is declared", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := do(ctx)
		var p *v1.Problem
		if errors.As(err, &p) && p.Status < 500 {
			t.Fatalf("declare %s: %v", what, err)
		}
		return err == nil
	})
}

func declare[T v1.Resource](f *fleet, r T) {
	f.t.Helper()
	kind, id, _ := r.Named()
	put(f.t, kind+" "+id, func(ctx context.Context) error {
		_, err := v1.PutResource(ctx, f.api, r, -1, true, false)
		return err
	})
}

// set changes a setting of the whole fleet.
func (f *fleet) set(name, value string) {
	f.t.Helper()
	put(f.t, "setting "+name, func(ctx context.Context) error {
		_, err := f.api.PutSetting(ctx, "global", name, v1.SettingRequest{Value: value, Reason: "test"}, false)
		return err
	})
}

// declare puts hosts, pools and settings on record. Automation is disarmed: what switches
// hosts off and on here is the test.
func (f *fleet) declare() {
	for name, value := range map[string]string{"preset": "fast", "reconcile.interval": "5s", "ha.armed": "false"} {
		f.set(name, value)
	}
	for _, path := range []string{"z", "z/p", cluster} {
		put(f.t, "partition "+path, func(ctx context.Context) error {
			_, err := f.api.PutPartition(ctx, v1.PartitionSpec{V: 1, Path: path}, -1)
			return err
		})
	}
	declare(f, v1.Pool{V: 1, ID: shared, Type: "nfs", Role: "primary"})
	for _, h := range theLab.Hosts {
		spec := v1.HostSpec{
			V: 1, ID: h.Name, Partition: cluster, Provider: "kvm", Pools: []string{shared}, Control: h.Peer(), Probes: []string{"icmp://" + h.Addr},
			Power: []v1.Device{{Name: "bmc", Driver: "ipmi", Address: h.Remote.Addr().String(), User: lab.User, Secret: "file:" + f.path("secrets", "bmc")}},
		}
		put(f.t, "host "+h.Name, func(ctx context.Context) error {
			_, err := f.api.PutHost(ctx, spec, -1, false)
			return err
		})
		declare(f, v1.Pool{V: 1, ID: local(h.Name), Type: "local", Role: "primary", Hosts: []string{h.Name}})
	}
}

// pools are those of a host, by their names in the fleet.
func pools(h *lab.Host) []dirs.Dir {
	all := h.Dirs()
	for i := range all {
		if all[i].ID == "local" {
			all[i].ID = local(h.Name)
		}
	}
	return all
}

// boot gives every host an agent and restarts it with that; at the end of the test they
// are as before.
func (f *fleet) boot() {
	for _, h := range theLab.Hosts {
		a, err := libvirt.New(libvirt.Config{URI: h.URI(), Dirs: pools(h), Accel: "qemu", Emulator: "/usr/bin/qemu-system-x86_64"})
		must(f.t, err)
		f.hosts = append(f.hosts, &node{host{a, h}, h.Name})
		config := fmt.Sprintf("host: %s\nhypervisor: libvirt\nlibvirtURI: '%s'\nworkers: ['%s', '%s']\nstateDir: %s\ntls: {ca: %s, cert: %s, key: %s}\npools:\n", h.Name, h.URI(),
			f.workers["w1"].agents, f.workers["w2"].agents, agentDir(h), f.path("pki", "ca.crt"), f.path("pki", "host-"+h.Name+".crt"), f.path("pki", "host-"+h.Name+".key"))
		for _, p := range pools(h) {
			config += fmt.Sprintf("- {id: %s, type: %s, path: %s}\n", p.ID, p.Type, p.Path)
		}
		file := filepath.Join(h.Dir(), "agent.yaml")
		must(f.t, os.WriteFile(file, []byte(config), 0o600))
		must(f.t, h.OnBoot(fmt.Sprintf("while :; do %s --config %s; sleep 0.3; done\n", f.path("holdfast-agent"), file)))
		f.t.Cleanup(func() {
			must(f.t, errors.Join(h.OnBoot(""), h.Off(context.Background()), os.RemoveAll(agentDir(h))))
			must(f.t, h.On(context.Background()))
		})
		must(f.t, errors.Join(h.Off(f.t.Context()), h.On(f.t.Context())))
	}
	f.linked()
}

func agentDir(h *lab.Host) string { return filepath.Join(h.Dir(), "agent") }

// linked waits until every agent is linked and reports.
func (f *fleet) linked() {
	f.t.Helper()
	for _, h := range f.hosts {
		wait(f.t, h.id+" is linked", func() bool {
			x, err := f.api.Host(f.t.Context(), h.id)
			return err == nil && x.Status.Linked == v1.LinkedYes && !x.Status.LastPing.IsZero()
		})
	}
}

// tell shows how hosts are and the ends of the logs.
func (f *fleet) tell() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	all, err := f.api.Hosts(ctx, v1.HostQuery{})
	for _, h := range all {
		text, _ := json.Marshal(h.Status)
		f.t.Logf("%s: %s", h.Spec.ID, text)
	}
	if err != nil {
		f.t.Logf("hosts: %v", err)
	}
	files, _ := filepath.Glob(f.path("*.log"))
	for _, h := range f.hosts {
		files = append(files, filepath.Join(h.node.Dir(), "boot.log"), filepath.Join(h.node.Dir(), "log", "libvirtd.log"))
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		f.t.Logf("%s:\n%s", name, strings.Join(all[max(0, len(all)-60):], "\n"))
	}
}
