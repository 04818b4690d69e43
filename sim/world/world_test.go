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

const patience = time.Minute

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
	var faces []string
	for _, p := range got {
		if p.Redfish.IsValid() {
			faces = append(faces, p.Host+" "+p.Redfish.String())
		}
		if p.Outlet > 0 {
			faces = append(faces, fmt.Sprintf("%s%v %d", p.Host, p.PDUs, p.Outlet))
		}
	}
	if d := cmp.Diff([]string{"h003 127.99.100.3:6231", "h007 127.99.100.7:6231", "h008[127.99.101.1:6232 127.99.101.2:6232] 1", "h011 127.99.100.11:6231"}, faces); d != "" {
		t.Error(d)
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
