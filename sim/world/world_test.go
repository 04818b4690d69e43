// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/agent/probe"
)

// TestMain is also the children's main: tests start their own binary.
func TestMain(m *testing.M) {
	if text := os.Getenv(ChildEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// child is a guest for real, and an agent that only keeps a connection to its worker.
func child(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Args[2] == "guest" {
		var g Guest
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			return err
		}
		return g.Run(ctx)
	}
	var a Agent
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return err
	}
	for ctx.Err() == nil {
		conn, err := Dial(ctx, a.Cable, a.Workers[0])
		if err != nil {
			_ = wait(ctx, 20*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(conn, "%s %d\n", a.Boot, n); err != nil || wait(ctx, 20*time.Millisecond) != nil {
				break
			}
		}
		stop()
		conn.Close()
	}
	return nil
}

const patience = 20 * time.Second

// until waits for a condition, which says what it still misses.
func until(t *testing.T, missing func() string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for {
		why := missing()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("after %v: %s", patience, why)
		}
	}
}

// inbox is a worker that only listens.
type inbox struct {
	addr  string
	conns chan net.Conn
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &inbox{addr: ln.Addr().String(), conns: make(chan net.Conn, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.conns <- c
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for len(b.conns) > 0 {
			(<-b.conns).Close()
		}
	})
	return b
}

func (b *inbox) accept(t *testing.T) net.Conn {
	t.Helper()
	select {
	case c := <-b.conns:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("nobody connected")
		return nil
	}
}

// reads expects text within patience.
func reads(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Fatalf("read %q, %v, want %q", buf, err, text)
	}
}

// silent expects neither data nor an end for a while.
func silent(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	var timeout net.Error
	buf := make([]byte, 100)
	if n, err := c.Read(buf); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("read %q, %v, want silence", buf[:n], err)
	}
}

func testBlock(t *testing.T) Block {
	t.Helper()
	b, err := TakeBlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func testCable(t *testing.T, to string) (*Cable, string, netip.Addr) {
	t.Helper()
	host := testBlock(t).addr(0, 1)
	socket := "@holdfast-test-" + host.String()
	c, err := NewCable(socket, host, func(a string) bool { return a == to })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, socket, host
}

func answers(t *testing.T, host netip.Addr) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	ok, err := (probe.Net{}).Probe(ctx, Place{Addr: host}.Probe())
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// A network that is cut loses no byte of a connection that lives through it, tells
// nobody, and the host's kernel still answers probes.
func TestCableStallsAndGoesOn(t *testing.T) {
	in := newInbox(t)
	c, socket, host := testCable(t, in.addr)
	c.Set(Carries)
	agent, err := Dial(t.Context(), socket, in.addr)
	if err != nil {
		t.Fatal(err)
	}
	worker := in.accept(t)
	if ip := worker.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); ip != host {
		t.Errorf("worker sees %v, want the host's own address %v", ip, host)
	}
	io.WriteString(agent, "one")
	reads(t, worker, "one")

	c.Set(NoTCP)
	io.WriteString(agent, "two")
	agent.Close()
	silent(t, worker, 100*time.Millisecond)
	if !answers(t, host) {
		t.Error("no answer to a probe while only TCP is cut")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(short, socket, in.addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial() = %v, want a deadline: a lost SYN is not answered", err)
	}

	c.Set(Carries)
	reads(t, worker, "two")
	if _, err := worker.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %v, want EOF, once the cable carries again", err)
	}
}

// A host that died sends no FIN, RST or ICMP, and a later boot does not revive its
// connections: only the worker ends them.
func TestDeathIsSilent(t *testing.T) {
	in := newInbox(t)
	c, socket, host := testCable(t, in.addr)
	c.Set(Carries)
	agent, err := Dial(t.Context(), socket, in.addr)
	if err != nil {
		t.Fatal(err)
	}
	worker := in.accept(t)
	c.Set(Dark)
	io.WriteString(agent, "last words")
	agent.Close()
	c.Cut()
	silent(t, worker, 100*time.Millisecond)
	if answers(t, host) {
		t.Error("a dead host answered a probe")
	}
	c.Set(Carries)
	if !answers(t, host) {
		t.Error("the next boot does not answer probes")
	}
	for range 100 { // swallowed, however much
		if _, err := worker.Write(make([]byte, 64<<10)); err != nil {
			t.Fatalf("write to a dead host: %v, want it swallowed", err)
		}
	}
	silent(t, worker, 100*time.Millisecond)
	again, err := Dial(t.Context(), socket, in.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	io.WriteString(again, "new boot")
	reads(t, in.accept(t), "new boot")
}

// A cable leads to the fleet's workers and nowhere else, and a worker that is not there
// is refused at once, as its kernel would.
func TestCableRefuses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	c, socket, _ := testCable(t, nobody)
	c.Set(Carries)
	for _, to := range []string{nobody, "127.0.0.1:22", ""} {
		if conn, err := Dial(t.Context(), socket, to); err == nil || t.Context().Err() != nil {
			t.Errorf("Dial(%q) = %v, %v, want an error at once", to, conn, err)
		}
	}
}

func TestPlan(t *testing.T) {
	b := Block{n: 99}
	for n := 1; n <= MaxHosts; n++ {
		all, err := Plan(n, b)
		if err != nil || len(all) != n {
			t.Fatalf("Plan(%d): %d hosts, %v", n, len(all), err)
		}
		clusters, racks := map[string]int{}, map[string]int{}
		for _, p := range all {
			clusters[p.Partition()]++
			racks[p.Rack]++
		}
		for c, size := range clusters {
			if size < 3 && n > 2 || size > 4 && n != 5 {
				t.Errorf("Plan(%d): cluster %s has %d hosts, want 3 to 4", n, c, size)
			}
		}
		for r, size := range racks {
			if size > 2 {
				t.Errorf("Plan(%d): rack %s has %d hosts, want at most 2: three would be an area incident", n, r, size)
			}
		}
	}
	got, err := Plan(12, b)
	if err != nil {
		t.Fatal(err)
	}
	want := Place{
		Host: "h012", Zone: "z1", Pod: "p2", Cluster: "c3", Rack: "p2-r4", Pool: "pool-c3",
		Addr: netip.MustParseAddr("127.99.0.12"), BMC: netip.MustParseAddrPort("127.99.100.12:6230"),
	}
	if d := cmp.Diff(want, got[11], cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for _, n := range []int{0, -1, MaxHosts + 1} {
		if _, err := Plan(n, b); err == nil {
			t.Errorf("Plan(%d) = nil, want an error", n)
		}
	}
}

func TestBlocksAreExclusive(t *testing.T) {
	if a, b := testBlock(t), testBlock(t); a.n == b.n {
		t.Errorf("two worlds got the same block %d", a.n)
	}
}

// A pool that hangs holds every operation until it is repaired or the caller gives up.
func TestPoolHangs(t *testing.T) {
	dir, f := t.TempDir(), Fault(filepath.Join(t.TempDir(), "fault"))
	d, err := probe.NewDir("p", dir, false)
	if err != nil {
		t.Fatal(err)
	}
	p := f.Pool(d)
	if err := p.WriteStamp(t.Context(), "h1", 1); err == nil {
		t.Error("a fault that cannot be read let an operation pass")
	}
	if err := f.Set(true); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, readErr := p.ReadStamp(short, "h1")
	_, statErr := p.StatDisk(short, "x")
	if writeErr := p.WriteStamp(short, "h1", 1); !errors.Is(writeErr, context.DeadlineExceeded) || !errors.Is(readErr, context.DeadlineExceeded) || !errors.Is(statErr, context.DeadlineExceeded) {
		t.Errorf("hanging pool: write %v, read %v, stat %v, want deadlines", writeErr, readErr, statErr)
	}
	done := make(chan error, 1)
	go func() { done <- p.WriteStamp(t.Context(), "h1", 1) }()
	if err := f.Set(false); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("write after repair: %v", err)
	}
}

// fleet is a world of real children with one listening worker.
type fleet struct {
	*World
	in   *inbox
	dir  string
	stop func()
}

func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	places, err := Plan(n, testBlock(t))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{in: newInbox(t), dir: t.TempDir()}
	s := NewSpawner()
	f.World, err = New(Config{
		Dir: f.dir, Places: places, Workers: []string{f.in.addr}, Exec: "/proc/self/exe", Spawner: s,
		Users: []string{"w1"}, Password: "secret", BootDelay: 50 * time.Millisecond,
		Warn: func(text string) { t.Error(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sctx, scancel := context.WithCancel(context.Background())
	done, sdone := make(chan error, 1), make(chan error, 1)
	go func() { sdone <- s.Run(sctx) }()
	go func() { done <- f.Run(ctx) }()
	f.stop = func() {
		cancel()
		err := <-done
		scancel()
		if err := errors.Join(err, <-sdone); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { f.stop() })
	return f
}

func (f *fleet) host(t *testing.T, name string) *Host {
	t.Helper()
	h, err := f.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// boot waits for a running host other than of boot old.
func boot(t *testing.T, h *Host, old string) string {
	t.Helper()
	until(t, func() string {
		if s := h.Status(); s.System != SystemRuns || s.Boot == old || s.Agent == 0 {
			return fmt.Sprintf("no new boot runs: %+v", s)
		}
		return ""
	})
	return h.Status().Boot
}

// writes says whether the instances of h write now.
func writes(t *testing.T, h *Host) bool {
	t.Helper()
	h.mu.Lock()
	name := filepath.Join(h.cfg.poolDir(h.Pool), h.instances[0].Disks[0].Path)
	h.mu.Unlock()
	read := func() string { b, _ := os.ReadFile(name); return string(b) }
	before := read()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * writeEvery); time.Now().Before(end); <-tick.C {
		if read() != before {
			return true
		}
	}
	return false
}

// What each break does to a host (break table of the issue "One host dies and comes back").
func TestBreaks(t *testing.T) {
	f := newFleet(t, 3)
	h := f.host(t, "h001")
	first := boot(t, h, "")
	if !writes(t, h) {
		t.Fatal("instances of a healthy host do not write")
	}
	repair := func(t *testing.T) {
		t.Helper()
		if err := f.Repair("h001"); err != nil {
			t.Fatal(err)
		}
		boot(t, h, "")
		if s := h.Status(); len(s.Broken) != 0 {
			t.Errorf("repaired host is still broken: %v", s.Broken)
		}
		if !writes(t, h) || !answers(t, h.Addr) {
			t.Error("repaired host does not write or not answer")
		}
	}
	for _, c := range []struct {
		how                     How
		power, writes, answers  bool
		newBoot, mute, lies, ok bool
	}{
		{how: Crash, power: true, newBoot: true},
		{how: Hang, power: true},
		{how: AgentKilled, power: true, writes: true, answers: true},
		{how: LinkLost, power: true, writes: true, answers: true},
		{how: StorageLost, power: true, answers: true},
		{how: PowerOff, newBoot: true},
		{how: MainsLost, newBoot: true, mute: true},
		{how: BMCDead, power: true, writes: true, answers: true, mute: true},
		{how: BMCLies, power: true, newBoot: true, lies: true},
	} {
		t.Run(string(c.how), func(t *testing.T) {
			old := boot(t, h, "")
			if err := f.Break("h001", c.how, false); err != nil {
				t.Fatal(err)
			}
			until(t, func() string { // one write may be under way when storage begins to hang
				if got := writes(t, h); got != c.writes {
					return fmt.Sprintf("writes: %v, want %v", got, c.writes)
				}
				return ""
			})
			if got := answers(t, h.Addr); got != c.answers {
				t.Errorf("answers probes: %v, want %v", got, c.answers)
			}
			if h.Power() != c.power {
				t.Errorf("power: %v, want %v", h.Power(), c.power)
			}
			if got := h.bmc.Faults(); got.Mute != c.mute || got.IgnoreCommands != c.lies {
				t.Errorf("BMC's faults: %+v", got)
			}
			repair(t)
			if got := h.Status().Boot; (got != old) != c.newBoot {
				t.Errorf("boot after repair is new: %v, want %v", got != old, c.newBoot)
			}
		})
	}
	t.Run("reboot", func(t *testing.T) {
		old := boot(t, h, "")
		if err := f.Break("h001", Reboot, false); err != nil {
			t.Fatal(err)
		}
		if answers(t, h.Addr) {
			t.Error("host that panicked answers")
		}
		boot(t, h, old)
	})
	if len(f.Truth()) != 0 {
		t.Errorf("power commands without anybody asking: %+v", f.Truth())
	}
	if boot(t, h, "") == first {
		t.Error("boot id did not change over crashes")
	}
}

// A boot after the first runs instances of its own: nothing starts twice.
func TestInstancesAreOfOneBoot(t *testing.T) {
	f := newFleet(t, 1)
	h := f.host(t, "h001")
	seen := map[string]bool{}
	old := ""
	for range 3 {
		old = boot(t, h, old)
		h.mu.Lock()
		for _, i := range h.instances {
			if seen[i.ID] {
				t.Errorf("instance %s runs in two boots", i.ID)
			}
			seen[i.ID] = true
		}
		h.mu.Unlock()
		h.Reset()
	}
}

// The chassis obeys: off is off whatever the system does, on boots, soft needs a system.
func TestChassis(t *testing.T) {
	f := newFleet(t, 1)
	h := f.host(t, "h001")
	one := boot(t, h, "")
	h.SetPower(true) // is on
	if h.Status().Boot != one || h.Status().System != SystemRuns {
		t.Error("power on of a host that runs did something")
	}
	if err := h.Break(Hang); err != nil {
		t.Fatal(err)
	}
	h.SoftOff()
	h.SetPower(false)
	if h.Power() || h.Status().System != SystemOff {
		t.Error("a hung host was not switched off")
	}
	h.Cycle() // is off: nothing to cycle
	h.Reset()
	if s := h.Status(); s.System != SystemOff {
		t.Errorf("cycle or reset of a host that is off: %v", s.System)
	}
	h.SetPower(true)
	two := boot(t, h, one)
	h.Cycle()
	if h.Power() {
		t.Error("a cycle does not pass through off")
	}
	three := boot(t, h, two)
	h.SoftOff()
	until(t, func() string {
		if h.Power() {
			return "soft off has not ended"
		}
		return ""
	})
	h.SetPower(true)
	h.SetPower(false) // overtakes the boot
	if h.Power() || h.Status().System != SystemOff {
		t.Error("off does not overtake a boot")
	}
	if err := f.Break("h001", MainsLost, false); err != nil {
		t.Fatal(err)
	}
	h.SetPower(true)
	if h.Power() {
		t.Error("on without mains")
	}
	if err := f.Repair("h001"); err != nil {
		t.Fatal(err)
	}
	boot(t, h, three)
}

func TestClusterStorage(t *testing.T) {
	f := newFleet(t, 6)
	if err := f.Break("h001", Crash, true); err == nil {
		t.Error("a whole cluster was crashed")
	}
	if err := f.Break("h001", StorageLost, true); err != nil {
		t.Fatal(err)
	}
	hangs := func() (names []string) {
		for _, s := range f.Status() {
			if strings.Contains(strings.Join(s.Broken, " "), "pool hangs") {
				names = append(names, s.Host)
			}
		}
		return names
	}
	if d := cmp.Diff([]string{"h001", "h002", "h003"}, hangs()); d != "" {
		t.Error(d)
	}
	if err := f.Repair("h002"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string(nil), hangs()); d != "" {
		t.Error(d)
	}
}

// Bad input names the field, the value and what is allowed.
func TestBadInput(t *testing.T) {
	f := newFleet(t, 3)
	h := f.host(t, "h002")
	boot(t, h, "")
	if err := f.Break("h9", Crash, false); !errors.Is(err, ErrNotThere) || !strings.Contains(err.Error(), `"h9", allowed are h001 to h003`) {
		t.Errorf("unknown host: %v", err)
	}
	if err := h.Break("melt"); err == nil || !strings.Contains(err.Error(), `how: "melt": not a thing to do, allowed are crash, hang,`) {
		t.Errorf("unknown way: %v", err)
	}
	if err := h.Break(PowerOff); err != nil {
		t.Fatal(err)
	}
	if err := h.Break(Hang); !errors.Is(err, ErrNotNow) {
		t.Errorf("hang of a host that is off: %v", err)
	}
}

// The end of a world leaves no child behind, stopped ones included.
func TestEndLeavesNothing(t *testing.T) {
	f := newFleet(t, 3)
	var pids []int
	for i, s := range f.Status() {
		h := f.host(t, s.Host)
		boot(t, h, "")
		h.mu.Lock()
		pids = append(pids, h.agent.PID(), h.guest.PID())
		h.mu.Unlock()
		if i == 0 {
			if err := h.Break(Hang); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop := f.stop
	f.stop = func() {}
	stop()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is there: %v", pid, err)
		}
	}
}
