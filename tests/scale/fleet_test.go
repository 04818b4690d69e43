// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/world"
	"github.com/holdfast-ha/holdfast/tests/proc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/pki"
	"github.com/holdfast-ha/holdfast/worker/pki/pkitest"
)

// process is a child of the test.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	end func()
}

// spawn starts a program, which ends with the test.
func spawn(t *testing.T, name, program string, env []string, args ...string) *process {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, out: bufio.NewReader(out)}
	p.end = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		err := cmd.Wait()
		if t.Failed() {
			all := lines(errs.String())
			t.Logf("%s ended with %v:\n%s", name, err, strings.Join(all[max(0, len(all)-40):], "\n"))
		}
	})
	t.Cleanup(p.end)
	return p
}

// child starts this binary again, in one of the roles of TestMain.
func child(t *testing.T, role, name string, c childConfig) *process {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, args := self, []string{"child", role, name}
	if role == "agents" { // they have machines of their own; here workers and etcd go first
		program, args = "nice", append([]string{"-n", "5", self}, args...)
	}
	return spawn(t, role+" "+name, program, []string{world.ChildEnv + "=" + string(text)}, args...)
}

// say sends a word to a process and returns its answer.
func (p *process) say(t *testing.T, word string) int {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, word); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// worker is one process of the control plane, below its parent.
type worker struct {
	id, door string // where its door is in truth
	proc     *process
	relays   *etcdtest.Proxy // at its advertised address
}

// pid is the process that works; its parent only waits.
func (w *worker) pid(t *testing.T) int {
	t.Helper()
	below := proc.Descendants(w.proc.cmd.Process.Pid)
	if len(below) == 0 {
		t.Fatalf("worker %s has no child", w.id)
	}
	return below[0]
}

// cost is what a process has used.
type cost struct {
	memory int // kB that are resident
	cpu    time.Duration
}

func costOf(t *testing.T, pids ...int) (c cost) {
	t.Helper()
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	for _, pid := range pids {
		f, err := proc.Stat(pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{11, 12} { // utime, stime
			n, err := strconv.Atoi(f[i])
			if err != nil {
				t.Fatal(err)
			}
			c.cpu += time.Duration(n) * tick
		}
		pages, err := strconv.Atoi(f[21]) // rss
		if err != nil {
			t.Fatal(err)
		}
		c.memory += pages * os.Getpagesize() / 1024
	}
	return c
}

// fleet is workers, their agents, and who looks at them.
type fleet struct {
	dir     string
	lab     *pkitest.Lab
	client  *v1.Client
	workers []*worker
	doors   []string          // as they are advertised
	real    map[string]string // where each is in truth
	agents  []*process
	own     *network // of the one agent in this process
}

// protected hosts have BMCs, so that HA looks after them: of the others no silence is a suspicion.
const (
	protected   = 8
	bmcUser     = "scale"
	bmcPassword = "scale-bmc-secret"
	passwordEnv = "HOLDFAST_SCALE_BMC"
)

const (
	agentsEach = 5000  // in one process: two connections each, and files
	filesEach  = 18000 // connections that a worker may hold, below the usual limit of 20000
)

func address(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start brings etcd and the workers up, with all hosts on record; no agent runs yet.
func start(t *testing.T) *fleet {
	f := &fleet{dir: t.TempDir(), lab: pkitest.New(t), real: map[string]string{}}
	count := *workersN
	if count == 0 { // one of them may be lost
		count = max(3, (2**agentsN+filesEach-1)/filesEach+1)
	}
	var names []string
	for i := range count {
		names = append(names, fmt.Sprintf("w%d", i+1))
	}
	member := f.lab.Issue(t, pkitest.Etcd, "etcd-1")
	etcd := etcdtest.StartTLS(t, etcdtest.TLS{CA: member.CA, Cert: member.Cert, Key: member.Key, AllowedCNs: names})
	bin, err := proc.Build("holdfast-worker")
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for i, id := range names {
		ip := fmt.Sprintf("127.0.0.%d", i+1)
		files := f.lab.Issue(t, trust.Worker, id, func(o *pki.Options) { o.IP = []string{ip} })
		if i == 0 {
			f.record(t, etcd, files)
		}
		w := &worker{id: id, door: address(t, ip)}
		self := netip.MustParseAddr(ip)
		if w.relays, err = etcdtest.NewProxyAt(netip.AddrPortFrom(self, 0), netip.MustParseAddrPort(w.door), self); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.relays.Close)
		at, api := w.relays.Addr(), address(t, ip)
		config := filepath.Join(f.dir, id+".yaml")
		text := fmt.Sprintf("id: %s\netcd: [%s]\nlistenAPI: %s\nlistenAgents: %s\nadvertiseAgents: %s\ntlsCA: %s\ntlsCert: %s\ntlsKey: %s\nlogLevel: warn\n",
			id, etcd.Endpoints()[0], api, w.door, at, files.CA, files.Cert, files.Key)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.proc = spawn(t, "worker "+id, bin, []string{passwordEnv + "=" + bmcPassword}, "--config", config)
		f.workers, f.doors, endpoints = append(f.workers, w), append(f.doors, at), append(endpoints, "https://"+api)
		f.real[at] = w.door
	}
	src := pkitest.Open(t, f.lab.Issue(t, trust.Operator, "scale"))
	if f.client, err = v1.NewClient(v1.Options{Endpoints: endpoints, Timeout: time.Minute, Transport: &http.Transport{
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return src.Dial(ctx, (&net.Dialer{}).DialContext, network, address, trust.Peer{Role: trust.Worker, Name: host})
		},
	}}); err != nil {
		t.Fatal(err)
	}
	until(t, func() string {
		ws, err := f.client.Workers(t.Context())
		if err != nil {
			return err.Error()
		}
		hosts, ready := 0, 0
		for _, w := range ws {
			hosts += w.Hosts
			if w.State == "ready" {
				ready++
			}
		}
		if ready != count || hosts != *agentsN {
			return fmt.Sprintf("%d of %d workers are ready, %d of %d hosts are owned", ready, count, hosts, *agentsN)
		}
		return ""
	})
	return f
}

// checkInterval is how often agents look whether they are where they belong. Lists are sent at a
// pace: the more agents, the less use there is in looking often. Of more than 10,000 two cores
// that also run the agents cannot move two in three within less than the default.
func checkInterval() time.Duration {
	if *agentsN > 10_000 {
		return time.Minute
	}
	return max(2*time.Second, time.Duration(*agentsN)*time.Millisecond).Round(time.Second)
}

// record writes settings and hosts, many in a transaction.
func (f *fleet) record(t *testing.T, etcd *etcdtest.Server, files trust.Files) {
	t.Helper()
	c, err := leases.Dial(t.Context(), leases.Config{Endpoints: etcd.Endpoints(), TLS: pkitest.Open(t, files).Etcd("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var ops []leases.Op
	for name, value := range map[string]string{
		"agent.ping.interval": ping.String(), "agent.lb.check.interval": checkInterval().String(), "worker.rebalance.quiet": "1s", "worker.rebalance.rate": "0", "ha.health.failures": "3", "ha.kvm.local": "true",
	} {
		ops = append(ops, leases.Put(leases.SettingKey("global", name), v1.SettingRecord{V: 1, Value: value}))
	}
	for i := range *agentsN {
		spec := v1.HostSpec{V: 1, ID: hostID(i), Partition: fmt.Sprintf("z/p/c%d", i/protected), Provider: "kvm"}
		if i < protected {
			b := bmc.New(bmc.Config{
				Name: spec.ID, Addr: "127.0.0.1:0", GUID: [16]byte{0: 0x5c, 15: byte(i)}, Suites: []int{3, 17},
				Users: []bmc.User{{Name: bmcUser, Password: bmcPassword, Privilege: bmc.Administrator}},
			})
			if err := b.Listen(); err != nil {
				t.Fatal(err)
			}
			proc.Background(t, b.Run)
			spec.Probes = []string{"icmp://127.0.0.1#storage"}
			spec.Power = []v1.Device{{Name: "bmc", Level: 1, Driver: "ipmi", Address: b.Addr().String(), User: bmcUser, Secret: "env:" + passwordEnv}}
		}
		ops = append(ops, leases.Put(leases.HostSpecKey(spec.ID), spec))
	}
	for batch := range slices.Chunk(ops, 100) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.Commit(ctx, leases.Unowned(), batch...)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// link starts all agents, at a pace that the machine can follow: the first one in this process.
func (f *fleet) link(t *testing.T) {
	c := childConfig{PKI: f.lab.Dir, Dir: filepath.Join(f.dir, "agents"), Doors: f.doors, Real: f.real}
	f.own = newNetwork(f.real)
	a, err := c.agent(f.own, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	proc.Background(t, a.Run)
	processes := (*agentsN + agentsEach - 1) / agentsEach
	c.Pace = max(1, *pace/processes)
	for from := 1; from < *agentsN; from += agentsEach {
		c.From, c.To = from, min(from+agentsEach, *agentsN)
		f.agents = append(f.agents, child(t, "agents", fmt.Sprintf("from %d", from), c))
	}
}

// guarded: HA looks after the protected hosts.
func (f *fleet) guarded(t *testing.T) string {
	for i := range min(protected, *agentsN) {
		h, err := f.client.Host(t.Context(), hostID(i))
		if err != nil {
			return err.Error()
		}
		if h.Status.State != "AVAILABLE" {
			return fmt.Sprintf("%s is %s: %s", hostID(i), h.Status.State, h.Status.Reason)
		}
	}
	return ""
}

// standing: every agent has a stream that stands by, and is where it should be.
func (f *fleet) standing(t *testing.T) string {
	ws, err := f.client.Workers(t.Context())
	if err != nil {
		return err.Error()
	}
	n := 0
	for _, w := range ws {
		if w.Standby != nil {
			n += *w.Standby
		}
	}
	if n != *agentsN {
		return fmt.Sprintf("%d streams stand by", n)
	}
	return f.inPlace(t)
}

func (f *fleet) pids(t *testing.T) (out []int) {
	for _, w := range f.workers {
		out = append(out, w.pid(t))
	}
	return out
}

// block lets new connections of all agents wait, or go on; it returns how many there were.
func (f *fleet) block(t *testing.T, on bool) (dials int) {
	word := map[bool]string{true: "block", false: "unblock"}[on]
	dials = int(f.own.block(on))
	for _, p := range f.agents {
		dials += p.say(t, word)
	}
	return dials
}

// until waits for a condition, which says what it still misses: an API that does not answer in
// time on a busy machine is asked again.
func until(t *testing.T, missing func() string) time.Duration {
	t.Helper()
	return untilEach(t, 20*time.Microsecond, missing)
}

// untilAll is until for a condition of all agents, whose list costs a worker some time of a core.
func untilAll(t *testing.T, missing func() string) time.Duration {
	t.Helper()
	return untilEach(t, 200*time.Microsecond, missing)
}

func untilEach(t *testing.T, agent time.Duration, missing func() string) time.Duration {
	t.Helper()
	n := time.Duration(*agentsN)
	return proc.Until(t, time.Minute+n*40*time.Millisecond, max(100*time.Millisecond, n*agent), missing)
}

// links says how many agents are linked; empty: all are.
func (f *fleet) links(t *testing.T) string {
	ws, err := f.client.Workers(t.Context())
	if err != nil {
		return err.Error()
	}
	n := 0
	for _, w := range ws {
		if w.Links != nil {
			n += *w.Links
		}
	}
	if n < *agentsN {
		return fmt.Sprintf("%d links", n)
	}
	return ""
}

// inPlace: every agent is linked to the preferred worker, which is its owner.
func (f *fleet) inPlace(t *testing.T) string {
	if why := f.links(t); why != "" {
		return why
	}
	all, err := f.client.Agents(t.Context(), "")
	if err != nil {
		return err.Error()
	}
	var wrong []v1.Agent
	for _, a := range all {
		if a.Carrier != a.Owner || a.Moves != "" || a.Owner == "" {
			wrong = append(wrong, a)
		}
	}
	if len(wrong) > 0 || len(all) != *agentsN {
		return fmt.Sprintf("%d of %d agents are elsewhere, e.g. %+v", len(wrong), len(all), wrong[:min(3, len(wrong))])
	}
	return ""
}

// agentOf is one agent as the workers see it, once they answer.
func (f *fleet) agentOf(t *testing.T, host string) (found v1.Agent) {
	untilAll(t, func() string {
		all, err := f.client.Agents(t.Context(), "")
		if err != nil {
			return err.Error()
		}
		i := slices.IndexFunc(all, func(a v1.Agent) bool { return a.Host == host })
		if i < 0 {
			return "no agent of " + host
		}
		found = all[i]
		return ""
	})
	return found
}

// noSuspects: nobody became one.
func (f *fleet) noSuspects(t *testing.T) {
	t.Helper()
	var events []v1.Event
	until(t, func() string {
		var err error
		if events, err = f.client.Events(t.Context(), v1.EventQuery{Type: "ha.suspect"}); err != nil {
			return err.Error()
		}
		return ""
	})
	for _, e := range events {
		t.Errorf("%s: %s", e.Host, e.Message)
	}
}

// worker issues a certificate for a role beside the workers', and opens it.
func (c childConfig) worker(id string) (*trust.Source, error) {
	p, err := pki.Issue(pki.Kind(trust.Worker), id, pki.Options{Dir: c.PKI, Now: time.Now(), Force: true})
	if err != nil {
		return nil, err
	}
	return trust.Open(trust.Config{Files: trust.Files{CA: filepath.Join(c.PKI, "ca.crt"), Cert: p.Cert, Key: p.Key}, Fields: trust.Files{CA: "ca", Cert: "cert", Key: "key"}})
}

func tlsServer(raw net.Conn, src *trust.Source) net.Conn { return tls.Server(raw, src.Door()) }

// kill ends one process that this test has started, at once.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
