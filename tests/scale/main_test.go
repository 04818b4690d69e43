// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent"
	"github.com/holdfast-ha/holdfast/agent/trust"
	"github.com/holdfast-ha/holdfast/sim/hypervisor"
	"github.com/holdfast-ha/holdfast/tests/proc"
	"github.com/holdfast-ha/holdfast/worker/pki"
)

var (
	agentsN  = flag.Int("agents", 24, "number of agents")
	workersN = flag.Int("workers", 0, "number of workers; 0: three, or as many as the limit of open files asks for")
	hold     = flag.Duration("hold", 2*time.Second, "how long all links are held before a worker is lost")
	ping     = flag.Duration("ping", 0, "ping interval; 0: a thousand agents ping in a second, which two cores that also run all agents and etcd can follow")
	pace     = flag.Int("pace", 200, "agents that are started in a second")
)

// childConfig is what a child is to do.
type childConfig struct {
	Floor string `json:"floor,omitempty"` // listen there for raw TLS frames

	From, To int               // agents
	Pace     int               // of them, in a second
	PKI, Dir string            // the authority; state directories
	Doors    []string          // of workers, as they are advertised
	Real     map[string]string // where each is in truth
}

// TestMain is also what the children run.
func TestMain(m *testing.M) {
	proc.Main(m, map[string]proc.Role{"floor": proc.As(serveFloor), "agents": proc.As(agents)})
}

// agents runs agents until ctx ends. Its standard input may say "block" and "unblock": new
// connections wait meanwhile; it answers each with how many were dialled so far.
func agents(ctx context.Context, c childConfig) error {
	n := newNetwork(c.Real)
	work, ctx := errgroup.WithContext(ctx)
	go func() { // ends with the standard input, or the process
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Println(n.block(in.Text() == "block"))
		}
	}()
	began := time.Now()
	said := &saying{causes: map[string]int{}}
	defer said.tell(os.Stderr) // shown if the test fails
	for i := c.From; i < c.To; i++ {
		a, err := c.agent(n, i, slog.New(&firstLink{all: said}))
		if err != nil {
			return err
		}
		due := began.Add(time.Duration(i-c.From) * time.Second / time.Duration(c.Pace))
		for wait := time.Until(due); wait > 0 || i-c.From-int(said.linked.Load()) >= underWay; wait = time.Until(due) {
			t := time.NewTimer(max(wait, time.Millisecond))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return work.Wait()
			}
		}
		work.Go(func() error { return a.Run(ctx) })
	}
	return work.Wait()
}

// agent makes one with a certificate of its own.
func (c childConfig) agent(n *network, i int, log *slog.Logger) (*agent.Agent, error) {
	host := hostID(i)
	files, err := pki.Issue(pki.Kind(trust.Host), host, pki.Options{Dir: c.PKI, Now: time.Now(), Force: true})
	if err != nil {
		return nil, err
	}
	doors := append(c.Doors[i%len(c.Doors):len(c.Doors):len(c.Doors)], c.Doors[:i%len(c.Doors)]...)
	return agent.New(agent.Options{
		Host: host, Workers: doors, StateDir: filepath.Join(c.Dir, host), Version: "scale", Dial: n.dial(i, host),
		TLS:        trust.Files{CA: filepath.Join(c.PKI, "ca.crt"), Cert: files.Cert, Key: files.Key},
		Hypervisor: hypervisor.Host{Boot: "boot-" + host, Refused: hypervisor.Refused(filepath.Join(c.Dir, host, "refused"))}, Logger: log,
	})
}

// underWay is how many agents of one process may be on their way to their first link: more would
// only make each other late on a machine that is busy.
const underWay = 64

// saying is what agents say of their links: how many had one, and why others had none.
type saying struct {
	linked atomic.Int64
	mu     sync.Mutex
	causes map[string]int
}

func (s *saying) tell(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cause, n := range s.causes {
		fmt.Fprintf(w, "%d times not linked: %s\n", n, cause)
	}
}

// firstLink counts an agent once it says that it is linked, and notes why it is not.
type firstLink struct {
	all  *saying
	once sync.Once
}

// Enabled implements slog.Handler.
func (*firstLink) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (f *firstLink) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "linked":
		f.once.Do(func() { f.all.linked.Add(1) })
	case "not linked", "move put off":
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "cause" {
				f.all.mu.Lock()
				f.all.causes[r.Message+": "+a.Value.String()]++
				f.all.mu.Unlock()
			}
			return true
		})
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (f *firstLink) WithAttrs([]slog.Attr) slog.Handler { return f }

// WithGroup implements slog.Handler.
func (f *firstLink) WithGroup(string) slog.Handler { return f }

func hostID(i int) string { return fmt.Sprintf("h%05d", i) }

var errCut = errors.New("the network is cut here")

// network is how agents reach workers; the way of one agent to one worker can be cut.
type network struct {
	real  map[string]string // where advertised addresses are: agents take no proxy
	dials atomic.Int64

	mu    sync.Mutex
	wait  chan struct{} // not nil: new connections wait until it is closed
	cut   map[string]bool
	conns map[string]map[net.Conn]bool
}

func newNetwork(real map[string]string) *network {
	return &network{real: real, cut: map[string]bool{}, conns: map[string]map[net.Conn]bool{}}
}

// block lets new connections wait, or go on; it returns how many there were until then.
func (n *network) block(on bool) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials := n.dials.Load()
	switch {
	case on && n.wait == nil:
		n.wait = make(chan struct{})
	case !on && n.wait != nil:
		close(n.wait)
		n.wait = nil
	}
	return dials
}

func (n *network) dial(i int, host string) func(context.Context, string) (net.Conn, error) {
	// Hosts have addresses of their own. The port is chosen with the connection: chosen before it, the
	// kernel compares it with those of all agents, which once took a quarter of the machine.
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1+byte(i>>16), byte(i>>8), byte(i))}, Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		})
		return errors.Join(err, failed)
	}}
	return func(ctx context.Context, address string) (net.Conn, error) {
		key := host + " " + address
		n.mu.Lock()
		cut, wait := n.cut[key], n.wait
		if !cut && wait == nil {
			n.dials.Add(1) // here: block must not miss one
		}
		n.mu.Unlock()
		if cut {
			return nil, errCut
		}
		if wait != nil {
			select {
			case <-wait:
				n.dials.Add(1)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		c, err := from.DialContext(ctx, "tcp", n.real[address])
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.conns[key] == nil {
			n.conns[key] = map[net.Conn]bool{}
		}
		n.conns[key][c] = true
		return &noted{c, n, key}, nil
	}
}

// noted is a connection that can be cut.
type noted struct {
	net.Conn
	n   *network
	key string
}

// Close implements net.Conn.
func (c *noted) Close() error {
	c.n.mu.Lock()
	delete(c.n.conns[c.key], c.Conn)
	c.n.mu.Unlock()
	return c.Conn.Close()
}

// sever cuts one agent off from one worker, or lets it there again.
func (n *network) sever(host, address string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := host + " " + address
	n.cut[key] = on
	for c := range n.conns[key] {
		if on {
			_ = c.Close() // both sides notice
		}
	}
}

// Raw TLS frames: what a link costs at least.

// floorFrame is about as large as a ping of an idle agent, and its answer.
const floorFrame = 60

// serveFloor answers every frame of everybody who shows a certificate of the fleet.
func serveFloor(ctx context.Context, c childConfig) error {
	src, err := c.worker("floor")
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Floor)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	fmt.Println(l.Addr())
	for {
		raw, err := l.Accept()
		if err != nil {
			return nil // ctx has ended
		}
		go func() {
			conn := tlsServer(raw, src)
			defer conn.Close()
			var frame [floorFrame]byte
			for {
				if _, err := io.ReadFull(conn, frame[:]); err != nil {
					return
				}
				if _, err := conn.Write(frame[:]); err != nil {
					return
				}
			}
		}()
	}
}

// floorClients are n connections that exchange a frame every interval until ctx ends; ready is
// closed when all are there.
func floorClients(ctx context.Context, src *trust.Source, address string, n int, every time.Duration, ready func()) error {
	work, ctx := errgroup.WithContext(ctx)
	var there sync.WaitGroup
	there.Add(n)
	for range n {
		conn, err := src.Dial(ctx, (&net.Dialer{}).DialContext, "tcp", address, trust.Peer{Role: trust.Worker, ID: "floor"})
		if err != nil {
			return fmt.Errorf("dial the floor: %w", err)
		}
		work.Go(func() error {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
			defer stop()
			var frame [floorFrame]byte
			t := time.NewTimer(time.Duration(rand.Float64() * float64(every)))
			defer t.Stop()
			for first := true; ; first = false {
				if _, err := conn.Write(frame[:]); err == nil {
					_, err = io.ReadFull(conn, frame[:])
					if err != nil && ctx.Err() == nil {
						return err
					}
				}
				if first {
					there.Done()
				}
				select {
				case <-t.C:
					t.Reset(every)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	there.Wait()
	ready()
	return work.Wait()
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
