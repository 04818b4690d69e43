// SPDX-License-Identifier: Apache-2.0

package parent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/systemd"
	"github.com/holdfast-ha/holdfast/agent/systemd/systemdtest"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker"
	"github.com/holdfast-ha/holdfast/worker/parent"
)

const (
	etcdEnv = "PARENT_TEST_ETCD" // makes this binary a child
	kidEnv  = "PARENT_TEST_KID"  // file that a grandchild's process id is written to
	howEnv  = "PARENT_TEST_HOW"  // file that says how a child behaves
	awayEnv = "PARENT_TEST_AWAY" // the child finds no etcd
	patient = 45 * time.Second
	ttl     = 60 * time.Second // longer than any test waits: only a revoked lease frees slots
)

func TestMain(m *testing.M) {
	if os.Getenv(etcdEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// child is a real worker, with a grandchild that hides in a session of its own.
func child() int {
	link, err := parent.Attach()
	if err != nil || link == nil {
		fmt.Fprintln(os.Stderr, "attach:", err)
		return 3
	}
	how, _ := os.ReadFile(os.Getenv(howEnv))
	if string(how) == "broken" {
		if err := os.WriteFile(os.Getenv(howEnv)+".seen", []byte("seen"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return 3
	}
	kid := exec.Command("setsid", "sh", "-c", `echo $$ > "$0.new" && mv "$0.new" "$0" && exec cat`, os.Getenv(kidEnv))
	if in, err := kid.StdinPipe(); err != nil || kid.Start() != nil {
		return 3
	} else {
		defer in.Close()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if string(how) == "stubborn" {
		ctx = context.Background()
	}
	var above worker.Parent = link
	if string(how) == "hesitant" {
		above = hesitant{link}
	}
	etcd := os.Getenv(etcdEnv)
	if os.Getenv(awayEnv) != "" {
		etcd = "http://127.0.0.1:1"
	}
	w, err := worker.New(worker.Options{
		ID: "w1", Etcd: []string{etcd}, InsecureLoopback: true, LeaseTTL: ttl, RestartGrace: 20 * time.Second,
		APIListener: link.API, AgentsListener: link.Agents, Parent: above,
	})
	if err == nil {
		if err := os.WriteFile(os.Getenv(howEnv)+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 3
		}
		go link.Live(w.Alive) // ends with the process
		err = w.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	return 0
}

// hesitant is a process that knows all it needs to only when its file says no more that
// it hesitates, like one that cannot reach etcd.
type hesitant struct{ *parent.Child }

func (h hesitant) Ready() {
	go func() { // ends with the process
		name := os.Getenv(howEnv)
		_ = os.WriteFile(name+".seen", []byte("seen"), 0o600) // the test waits for it
		tick := time.NewTicker(10 * time.Millisecond)
		for range tick.C {
			if text, _ := os.ReadFile(name); string(text) != "hesitant" {
				h.Child.Ready()
				return
			}
		}
	}()
}

// family is a parent under test, with a real etcd.
type family struct {
	t        *testing.T
	etcd     *etcdtest.Server
	client   *leases.Client
	api      string
	kid, how string
	restart  chan os.Signal
	stop     func()
	done     chan struct{}
	code     int
	err      error
}

func start(t *testing.T) *family {
	t.Helper()
	f := launch(t, nil)
	f.until("the worker owns all slots", func() bool { return len(f.slots()) == 1024 && f.read(f.kid) != "" })
	return f
}

// launch starts a parent under a systemd and waits for nothing.
func launch(t *testing.T, above *systemd.Supervisor) *family {
	t.Helper()
	srv := etcdtest.Start(t)
	dir := t.TempDir()
	f := &family{t: t, etcd: srv, client: srv.Client(t), api: free(t), kid: filepath.Join(dir, "kid"), how: filepath.Join(dir, "how"), restart: make(chan os.Signal), done: make(chan struct{})}
	t.Setenv(etcdEnv, srv.Endpoints()[0])
	t.Setenv(kidEnv, f.kid)
	t.Setenv(howEnv, f.how)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.stop = cancel
	agents := free(t)
	go func() {
		defer close(f.done)
		f.code, f.err = parent.Run(ctx, parent.Config{
			Worker: "w1", ListenAPI: f.api, ListenAgents: agents, Exec: exe, Stdout: os.Stdout, Stderr: os.Stderr,
			Restart: f.restart, StopTime: 3 * time.Second, Systemd: above, Logger: slog.New(slog.DiscardHandler),
			Etcd: func(ctx context.Context) (*leases.Client, error) {
				return leases.Dial(ctx, leases.Config{Endpoints: srv.Endpoints()})
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (f *family) until(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patient); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			f.t.Fatalf("not within %v: %s", patient, what)
		}
	}
}

func (f *family) slots() []leases.KV {
	kvs, _, err := f.client.List(f.t.Context(), leases.SlotsPrefix)
	if err != nil {
		f.t.Fatal(err)
	}
	return kvs
}

func (f *family) read(name string) string {
	text, _ := os.ReadFile(name)
	return strings.TrimSpace(string(text))
}

type registration struct {
	PID         int
	Boot, State string
}

// worker is the registration; zero if there is none.
func (f *family) worker() (r registration) {
	if kv, err := f.client.Get(f.t.Context(), leases.WorkerKey("w1")); err == nil {
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			f.t.Fatal(err)
		}
	}
	return r
}

func (f *family) end(boot string) (e leases.EndRecord) {
	if kv, err := f.client.Get(f.t.Context(), leases.EndsKey("w1", boot)); err == nil {
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			f.t.Fatal(err)
		}
	}
	return e
}

func alive(pid int) bool { return pid > 0 && syscall.Kill(pid, 0) == nil }

func (f *family) grandchild() int {
	pid, err := strconv.Atoi(f.read(f.kid))
	if err != nil || !alive(pid) {
		f.t.Fatalf("no grandchild: %v", err)
	}
	return pid
}

// leases.md §2.9: on an unplanned exit the parent records the end and revokes the lease;
// by then nothing that the worker had started lives, however it hides.
func TestKilledWorkerIsReaped(t *testing.T) {
	f := start(t)
	w, kid := f.worker(), f.grandchild()
	if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.until("the end is on record", func() bool { return f.end(w.Boot).How == leases.Reaped })
	if alive(kid) {
		t.Error("the end is on record, and what the worker had started still lives")
	}
	f.until("slots and registration are free, long before the lease would have run out", func() bool { return len(f.slots()) == 0 && f.worker().PID == 0 })
	<-f.done
	if f.err != nil || f.code != 128+int(syscall.SIGKILL) {
		t.Errorf("parent ended with %d, %v", f.code, f.err)
	}
}

// SIGTERM is planned: the worker leaves its slots to its next process.
func TestOrderlyEndKeepsSlots(t *testing.T) {
	f := start(t)
	w := f.worker()
	f.stop()
	<-f.done
	if f.err != nil || f.code != 0 {
		t.Errorf("parent ended with %d, %v", f.code, f.err)
	}
	if got := f.end(w.Boot).How; got != leases.Released {
		t.Errorf("end is %q, want released", got)
	}
	if r := f.worker(); r.State != leases.Restarting || len(f.slots()) != 1024 {
		t.Errorf("registration %+v, %d slots, want it restarting with all", r, len(f.slots()))
	}
}

// leases.md §2.7: a restart in place moves no slot, refuses no connection, and leaves no
// old process.
func TestRestartInPlace(t *testing.T) {
	f := start(t)
	old, before := f.worker(), f.slots()
	refused := make(chan error, 1)
	watching, done := context.WithCancel(t.Context())
	go func() { // somebody who connects all the time, and must never be turned away
		defer close(refused)
		for watching.Err() == nil {
			c, err := net.DialTimeout("tcp", f.api, time.Second)
			if err != nil {
				refused <- err
				return
			}
			c.Close()
		}
	}()
	f.restart <- syscall.SIGHUP
	var w registration
	f.until("the new process owns all slots", func() bool {
		w = f.worker()
		if w.PID == old.PID || w.State != "ready" {
			return false
		}
		for _, kv := range f.slots() {
			var rec leases.SlotRecord
			if kv.Decode(&rec) != nil || rec.Boot != w.Boot {
				return false
			}
		}
		return true
	})
	done()
	for err := range refused {
		t.Errorf("a connection was refused: %v", err)
	}
	for i, kv := range f.slots() {
		if kv.CreateRevision != before[i].CreateRevision || kv.ModRevision <= before[i].ModRevision {
			t.Fatalf("%s was deleted on the way, or its epoch did not rise", kv.Key)
		}
	}
	if alive(old.PID) {
		t.Error("the old process still runs")
	}
	if got := f.end(old.Boot).How; got != leases.Released {
		t.Errorf("end of the old one is %q, want released", got)
	}
	resp, err := http.Get("http://" + f.api + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the new process does not answer: %v", err)
	} else {
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

// A new process that is not ready yet answers nobody: who connects meanwhile meets the old
// one, which can serve.
func TestStandbyDoesNotServe(t *testing.T) {
	f := start(t)
	old := f.worker()
	if err := os.WriteFile(f.how, []byte("hesitant"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart <- syscall.SIGHUP
	f.until("the new process waits", func() bool { return f.read(f.how+".seen") != "" })
	client := &http.Client{Timeout: patient, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 50 {
		resp, err := client.Get("http://" + f.api + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatalf("a process that is not a member answered: %s", resp.Status)
		}
	}
	if err := os.Remove(f.how); err != nil {
		t.Fatal(err)
	}
	f.until("the new process follows", func() bool { w := f.worker(); return w.Boot != old.Boot && w.State == "ready" })
}

// A new process that cannot start changes nothing.
func TestRestartThatFails(t *testing.T) {
	f := start(t)
	old := f.worker()
	if err := os.WriteFile(f.how, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart <- syscall.SIGHUP
	f.until("the new process gave up", func() bool { return f.read(f.how+".seen") != "" })
	if w := f.worker(); w != old || len(f.slots()) != 1024 || !alive(w.PID) {
		t.Errorf("registration %+v, was %+v, with %d slots", w, old, len(f.slots()))
	}
	if err := os.Remove(f.how); err != nil {
		t.Fatal(err)
	}
	f.until("the next restart succeeds", func() bool {
		select {
		case f.restart <- syscall.SIGHUP: // ignored while the first is not over
		default:
		}
		w := f.worker()
		return w.Boot != old.Boot && w.State == "ready"
	})
}

// An orderly end that takes too long becomes a killed one, and is reaped.
func TestStubbornWorkerIsKilled(t *testing.T) {
	f := start(t)
	if err := os.WriteFile(f.how, []byte("stubborn"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := f.worker()
	f.restart <- syscall.SIGHUP
	f.until("the stubborn one is in", func() bool { w := f.worker(); return w.Boot != first.Boot && w.State == "ready" })
	w := f.worker()
	f.stop()
	<-f.done
	if got := f.end(w.Boot).How; got != leases.Reaped || len(f.slots()) != 0 {
		t.Errorf("end is %q with %d slots owned, want reaped and none", got, len(f.slots()))
	}
}

// systemd is told that the worker is ready, that it runs, and that it stops, etcd or not; but
// not that it runs while the worker's process stands still.
func TestSystemd(t *testing.T) {
	l := systemdtest.Listen(t)
	t.Setenv(awayEnv, "yes")
	f := launch(t, systemd.From(l.Env(600*time.Millisecond), slog.New(slog.DiscardHandler)))
	l.Until("READY=1", "WATCHDOG=1")
	l.Until("WATCHDOG=1", "")
	pid, err := strconv.Atoi(f.read(f.how + ".pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.Silence(1200*time.Millisecond, "WATCHDOG=1")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.Until("WATCHDOG=1", "")
	f.stop()
	l.Until("STOPPING=1", "WATCHDOG=1")
}

// A port in use is told before anything starts.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = parent.Run(t.Context(), parent.Config{ListenAPI: l.Addr().String(), ListenAgents: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "listenAPI") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}
