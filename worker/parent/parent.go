// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/agent/systemd"
	"github.com/holdfast-ha/holdfast/leases"
)

// Config says what Run runs.
type Config struct {
	Worker                  string
	ListenAPI, ListenAgents string // host:port; opened by the parent
	Exec                    string // path of the binary, read anew at each restart
	Args                    []string
	Stdout, Stderr          io.Writer
	// Etcd connects to where leases are; it is tried until it succeeds.
	Etcd func(ctx context.Context) (*leases.Client, error)
	// Restart asks for a restart in place.
	Restart <-chan os.Signal
	// StopTime is how long an orderly end may take, default 10s.
	StopTime time.Duration
	// Systemd is told that the worker runs, for as long as this process and the worker's do;
	// nil: there is none. Nothing of it depends on etcd.
	Systemd *systemd.Supervisor
	Logger  *slog.Logger
}

const (
	stopTime = 10 * time.Second
	reapTime = time.Minute // for etcd to answer; any lease has run out by then
	heirTime = time.Second // for others to take over what a dead worker owned
)

// Run runs the worker until it ends, or until ctx ends and with it the worker, in order.
// It returns the worker's exit status, 128 + n if signal n killed it. Errors: a port that
// is in use, a process that cannot be started. Run keeps its thread: the kernel kills the
// children when it ends.
func Run(ctx context.Context, c Config) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if c.StopTime == 0 {
		c.StopTime = stopTime
	}
	p := &parent{Config: c}
	if err := adopt(); err != nil {
		return 1, err
	}
	for _, l := range []struct {
		field, addr string
		into        **os.File
	}{{"listenAPI", c.ListenAPI, &p.api}, {"listenAgents", c.ListenAgents, &p.agents}} {
		f, err := listener(ctx, l.field, l.addr)
		if err != nil {
			return 1, err
		}
		defer f.Close()
		*l.into = f
	}
	dialing, stopDialing := context.WithCancel(context.WithoutCancel(ctx))
	p.client = make(chan *leases.Client, 1)
	var dial sync.WaitGroup
	dial.Go(func() { p.dial(dialing) })
	defer func() {
		p.retiring.Wait()
		stopDialing()
		dial.Wait()
		close(p.client)
		if client := <-p.client; client != nil {
			_ = client.Close() // nothing is under way any more
		}
	}()
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	var watch sync.WaitGroup
	watch.Go(func() { p.Systemd.Watch(watching, p.alive) })
	stopping := context.AfterFunc(ctx, p.Systemd.Stopping)
	defer func() {
		stopping()
		stopWatching()
		watch.Wait()
	}()
	return p.run(ctx)
}

type parent struct {
	Config
	judged      atomic.Pointer[proc] // the child whose signs of life are waited for; nil: none
	api, agents *os.File
	client      chan *leases.Client // holds it once there is one
	retiring    sync.WaitGroup      // leases of the dead whose slots are being taken over
}

func (p *parent) dial(ctx context.Context) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		client, err := p.Etcd(ctx)
		if err == nil {
			p.client <- client
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func listener(ctx context.Context, field, addr string) (*os.File, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", field, addr, err)
	}
	defer l.Close() // the file is a copy
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", field, addr, err)
	}
	return f, nil
}

// alive is what systemd's watchdog goes by: the worker has been heard lately, or nothing is
// known of it. It is killed with its parent after some more silence than this, and others own
// its hosts long before: a process that stands still keeps no lease.
func (p *parent) alive() bool {
	x := p.judged.Load()
	if x == nil {
		return true
	}
	heard := x.heard.Load()
	return heard == nil || time.Since(*heard) < p.Systemd.Limit()/2
}

// run is the life of the parent. Children are started here only: this goroutine keeps the
// thread that they must not outlive.
func (p *parent) run(ctx context.Context) (int, error) {
	cur, err := p.start()
	if err != nil {
		return 1, err
	}
	cur.join()
	p.judged.Store(cur)
	first := cur.lives
	nobody := &proc{}
	next := nobody // the one that is to follow
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	defer signal.Stop(orphans)
	for {
		select {
		case <-first:
			first = nil
			p.Systemd.Ready()
		case <-ctx.Done():
			p.judged.Store(nil) // its end may take its time
			next.kill()
			p.stop(cur)
			return p.end(cur), nil
		case <-p.Restart:
			if next != nobody {
				p.Logger.Warn("a restart is under way already", "pid", next.pid())
				continue
			}
			if next, err = p.start(); err != nil {
				p.Logger.Error("restart", "cause", err) // the old one goes on
				next = nobody
			}
		case <-next.ready:
			p.Logger.Info("restart: the new process is ready", "old", cur.pid(), "new", next.pid())
			p.judged.Store(next)
			p.stop(cur)
			if cur.unclean() {
				p.reap(cur, next)
			}
			next.join()
			cur, next = next, nobody
		case <-next.done:
			p.Logger.Error("restart: the new process ended before it was ready, the old one goes on", "status", next.code())
			next = nobody
		case <-cur.done:
			p.judged.Store(nil)
			next.kill()
			return p.end(cur), nil
		case <-orphans:
			collect(cur, next)
		}
	}
}

// end is what follows the last child's end.
func (p *parent) end(cur *proc) int {
	if cur.unclean() {
		p.reap(cur)
	}
	return cur.code()
}

// reap makes a death certain and tells etcd.
func (p *parent) reap(dead *proc, spare ...*proc) {
	began := time.Now()
	killDescendants(spare...)
	boot, lease := dead.session()
	p.Logger.Error("the worker ended without being asked to", "pid", dead.pid(), "status", dead.code())
	if boot == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), reapTime)
	defer cancel()
	var client *leases.Client
	select {
	case client = <-p.client:
		p.client <- client
	case <-ctx.Done():
		p.Logger.Error("reap: etcd cannot be reached, the lease runs out by itself", "boot", boot)
		return
	}
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := client.Reap(try, p.Worker, boot, lease)
		cancel()
		if err == nil {
			p.Logger.Info("reaped", "boot", boot, "took", time.Since(began).Round(time.Microsecond))
			p.retiring.Go(func() { p.retire(client, boot, lease) })
			return
		}
		p.Logger.Warn("reap", "boot", boot, "cause", err)
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// retire takes a dead child's lease back when others have taken over what was under it.
func (p *parent) retire(client *leases.Client, boot string, lease int64) {
	ctx, cancel := context.WithTimeout(context.Background(), heirTime+2*time.Second)
	defer cancel()
	if err := client.Retire(ctx, lease, heirTime); err != nil {
		p.Logger.Warn("the lease runs out by itself", "boot", boot, "cause", err)
	}
}

// stop ends a child in order, or, when that takes too long, kills it.
func (p *parent) stop(x *proc) {
	_ = x.cmd.Process.Signal(syscall.SIGTERM) // one that has ended needs none
	t := time.NewTimer(p.StopTime)
	defer t.Stop()
	select {
	case <-x.done:
	case <-t.C:
		p.Logger.Error("the worker does not end in time", "pid", x.pid(), "time", p.StopTime)
		x.kill()
	}
}

// proc is one child.
type proc struct {
	cmd   *exec.Cmd
	link  net.Conn
	lives chan struct{}             // closed when it has said that it works
	ready chan struct{}             // closed when it could join
	heard atomic.Pointer[time.Time] // when it said so last
	done  chan struct{}             // closed when it has ended

	mu    sync.Mutex
	boot  string
	lease int64
}

func (p *parent) start() (*proc, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start worker: link: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	defer theirs.Close()
	defer ours.Close()
	x := &proc{lives: make(chan struct{}), ready: make(chan struct{}), done: make(chan struct{})}
	if x.link, err = net.FileConn(ours); err != nil {
		return nil, fmt.Errorf("start worker: link: %w", err)
	}
	x.cmd = exec.Command(p.Exec, p.Args...)
	x.cmd.Stdout, x.cmd.Stderr = p.Stdout, p.Stderr
	x.cmd.Env = append(os.Environ(), linkEnv+"="+strconv.Itoa(os.Getpid()))
	if limit := p.Systemd.Limit(); limit > 0 {
		x.cmd.Env = append(x.cmd.Env, beatEnv+"="+(limit/10).String())
	}
	x.cmd.ExtraFiles = []*os.File{theirs, p.api, p.agents} // fdLink, fdAPI, fdAgents
	// A group of its own: Ctrl-C is for the parent, which ends it in order.
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	err = x.cmd.Start()
	for _, f := range []*os.File{p.api, p.agents} {
		// Starting a process makes the files it is given blocking, for all that share them.
		err = errors.Join(err, syscall.SetNonblock(int(f.Fd()), true))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start worker: %w", err), x.link.Close())
	}
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		x.listen()
	}()
	go func() { // run returns after every child's end only
		defer close(x.done)
		_ = x.cmd.Wait() // what it says is in ProcessState
		<-listened       // its last words count
	}()
	return x, nil
}

// listen takes what the child says, until it ends.
func (x *proc) listen() {
	defer x.link.Close()
	lines := bufio.NewScanner(x.link)
	for lines.Scan() {
		var s said
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue // a newer binary may say more
		}
		switch {
		case s.Lives:
			now := time.Now()
			if x.heard.Swap(&now) == nil {
				close(x.lives)
			}
		case s.Ready:
			close(x.ready)
		case s.Boot != "":
			x.mu.Lock()
			x.boot, x.lease = s.Boot, s.Lease
			x.mu.Unlock()
		}
	}
}

// join lets the child join the fleet.
func (x *proc) join() { _, _ = x.link.Write([]byte("join\n")) } // one that has ended is noticed by its end

// kill kills the child and waits for its end; of nobody, it does nothing.
func (x *proc) kill() {
	if x.cmd != nil {
		_ = x.cmd.Process.Kill() // one that has ended needs none
		<-x.done
	}
}

func (x *proc) session() (string, int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.boot, x.lease
}

func (x *proc) pid() int { return x.cmd.Process.Pid }

// unclean: the child did not end in order, so it did not give its lease back itself.
func (x *proc) unclean() bool { return !x.cmd.ProcessState.Success() }

func (x *proc) code() int {
	if s, ok := x.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return x.cmd.ProcessState.ExitCode()
}
