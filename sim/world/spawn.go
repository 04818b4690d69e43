// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Spawner starts child processes that cannot outlive this process, however it ends. The
// kernel kills a child when the *thread* that created it ends, so all are started from
// Run's goroutine, which keeps its thread.
type Spawner struct {
	requests chan request
	over     chan struct{} // closed when no more child is started
}

type request struct {
	proc   *Proc
	answer chan<- error
}

// NewSpawner starts nothing.
func NewSpawner() *Spawner {
	return &Spawner{requests: make(chan request), over: make(chan struct{})}
}

// Run starts what is asked for until ctx ends, then kills whatever is left and waits
// for it. Call it once.
func (s *Spawner) Run(ctx context.Context) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	var all []*Proc
	for {
		select {
		case r := <-s.requests:
			err := r.proc.cmd.Start()
			if err == nil {
				all = append(slices.DeleteFunc(all, (*Proc).over), r.proc)
				go r.proc.wait()
			}
			r.answer <- err
		case <-ctx.Done():
			close(s.over)
			var errs []error
			for _, p := range all {
				errs = append(errs, p.Signal(syscall.SIGKILL))
			}
			for _, p := range all {
				<-p.done
			}
			return errors.Join(errs...)
		}
	}
}

// Child says what to start.
type Child struct {
	Exec string // path of the binary
	Args []string
	Env  []string // added to this process's
	Log  string   // file that gets its output, appended to
}

// ErrOver is returned once the spawner has ended.
var ErrOver = errors.New("the simulated world has ended")

// Start starts a child; Run must have been called. The caller ends it, the end of Run
// does so at the latest.
func (s *Spawner) Start(c Child) (*Proc, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start child: open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.Exec, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: Ctrl-C on the terminal is for the parent, which ends in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Proc{cmd: cmd, done: make(chan struct{})}
	answer := make(chan error, 1)
	select {
	case s.requests <- request{p, answer}:
	case <-s.over:
		return nil, ErrOver
	}
	if err := <-answer; err != nil {
		return nil, fmt.Errorf("start child: %w", err)
	}
	return p, nil
}

// Proc is a started child.
type Proc struct {
	cmd   *exec.Cmd
	done  chan struct{}
	err   error       // how it ended; read after done
	ended atomic.Bool // by us
}

func (p *Proc) wait() {
	defer close(p.done)
	p.err = p.cmd.Wait()
}

func (p *Proc) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PID is its process id.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and is reaped.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Signal sends sig; a process that has ended takes it silently.
func (p *Proc) Signal(sig syscall.Signal) error {
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		p.ended.Store(true)
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID(), err)
	}
	return nil
}

// Expect says that the process is about to be ended: that is no failure.
func (p *Proc) Expect() { p.ended.Store(true) }

// Children lists the direct children of a process.
func Children(pid int) ([]int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range lists {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // a thread that has ended
		}
		if err != nil {
			return nil, fmt.Errorf("list children of process %d: %w", pid, err)
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids, nil
}

// Failed says how the process ended if nobody here ended it, nil otherwise and while it
// runs.
func (p *Proc) Failed() error {
	switch {
	case !p.over(), p.ended.Load():
		return nil
	case p.err == nil:
		return errors.New("ended by itself")
	}
	return p.err
}
