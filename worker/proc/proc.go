// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	maxStdout = 256 << 10 // the longest metadata of a known agent is 12 KiB
	maxStderr = 64 << 10

	// How a run ends after its context or its limit: together well below 250 ms.
	grace = 60 * time.Millisecond // between SIGTERM and SIGKILL
	reap  = 60 * time.Millisecond // for the kernel to end what was killed

	// A child that ended has said all; somebody out of reach may still hold its pipes.
	drain = time.Second
)

// Runner runs child processes, at most so many at once. It is safe for concurrent use.
type Runner struct{ places chan struct{} }

// NewRunner makes a runner for at most n children at a time; n below 1 means 1.
func NewRunner(n int) *Runner {
	// Files that this process itself inherited, from a shell or a service manager, are
	// not for its children either. A kernel without the call leaves them as they are.
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	return &Runner{places: make(chan struct{}, max(n, 1))}
}

// Command is one child to run.
type Command struct {
	Op    string   // verb and object for errors: "read power status of 10.0.0.7"
	Path  string   // absolute
	Args  []string // never a secret: everybody on the machine can read them
	Stdin []byte   // where secrets go
	Env   []string // added to the fixed environment; never a secret

	// Change says that the child changes something: an error after its start then says
	// MayHaveRun.
	Change bool
	// NotAfter and Before are Command's of the port: both are asked when a place is free
	// and immediately before the child starts.
	NotAfter time.Time
	Before   func() error
	// Secret is removed from errors.
	Secret power.Credential
}

// Result is what a child said.
type Result struct {
	Stdout, Stderr []byte
	Exit           int // 0 to 255
}

var errLate = errors.New("the command's time has passed")

// Run starts the child, waits for its end and returns what it said, whatever its exit
// code. Errors: BadConfig and ToolMissing for the path; DeadlinePassed and Cancelled
// when nothing was started; Timeout and Cancelled when ctx ended and the child was
// killed; ProtocolViolation for too much output; RemoteError for a child that died of a
// signal.
func (r *Runner) Run(ctx context.Context, c Command) (Result, *power.Error) {
	if e := c.check(); e != nil {
		return Result{}, e
	}
	select {
	case r.places <- struct{}{}:
	case <-ctx.Done():
		return Result{}, c.unstarted(ctx, "no place in the pool of processes was free")
	}
	p := &process{Command: c, mark: rand.Text(), release: func() { <-r.places }}
	if ctx.Err() != nil {
		p.release()
		return Result{}, c.unstarted(ctx, "")
	}
	return p.run(ctx)
}

func (c Command) check() *power.Error {
	if !filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path {
		return power.BadConfig(c.Op, "program %q: allowed is a clean absolute path", c.Path)
	}
	return nil
}

func (c Command) unstarted(ctx context.Context, why string) *power.Error {
	e := &power.Error{Kind: corepower.DeadlinePassed, Op: c.Op, Detail: why, Err: context.Cause(ctx)}
	if ctx.Err() == context.Canceled {
		e.Kind = corepower.Cancelled
	}
	return e
}

// process is one child from its start to its end.
type process struct {
	Command
	mark    string
	release func()
	cmd     *exec.Cmd

	started chan error    // of the start
	exited  chan struct{} // closed when the child is dead, before it is reaped
	buried  chan struct{} // closed when it is reaped and its place is free
	mayReap chan struct{} // closed by the runner when it needs the process number no more
}

func (p *process) run(ctx context.Context) (Result, *power.Error) {
	in, out, errs, e := p.prepare()
	if e != nil {
		p.release()
		return Result{}, e
	}
	if e := p.allowed(); e != nil {
		in.close()
		out.close()
		errs.close()
		p.release()
		return Result{}, e
	}
	p.started, p.exited = make(chan error, 1), make(chan struct{})
	p.buried, p.mayReap = make(chan struct{}), make(chan struct{})
	go p.attend()
	if err := <-p.started; err != nil {
		in.close()
		out.close()
		errs.close()
		<-p.buried
		return Result{}, p.notStarted(err)
	}
	for _, s := range []*stream{in, out, errs} {
		_ = s.child.Close() // the child holds its own end
		go s.pump()
	}

	stopped, tooMuch := false, false
	select {
	case <-p.exited:
	case <-out.full:
		tooMuch = true
	case <-errs.full:
		tooMuch = true
	case <-ctx.Done():
		stopped = true // whatever it says from now on is not an answer
		p.signal(syscall.SIGTERM)
		timer := time.NewTimer(grace)
		select {
		case <-p.exited:
		case <-timer.C:
		}
		timer.Stop()
	}
	p.signal(syscall.SIGKILL) // also whoever the child left behind in its session
	killMarked(p.mark)
	draining, done := context.WithTimeout(ctx, drain)
	defer done()
	for _, s := range []*stream{in, out, errs} {
		s.finish(draining)
	}
	timer := time.NewTimer(reap)
	defer timer.Stop()
	close(p.mayReap)
	select {
	case <-p.exited:
		<-p.buried
	case <-timer.C: // stuck in the kernel; attend keeps waiting and keeps the place
		return Result{}, p.failed(ctx, "it cannot be killed")
	}

	switch {
	case stopped:
		return Result{}, p.failed(ctx, "")
	case tooMuch || out.over || errs.over:
		return Result{}, &power.Error{Kind: corepower.ProtocolViolation, Op: p.Op, MayHaveRun: p.Change,
			Detail: fmt.Sprintf("%s wrote more than %d bytes", filepath.Base(p.Path), max(out.limit, errs.limit))}
	}
	state := p.cmd.ProcessState
	if state.ExitCode() < 0 {
		return Result{}, &power.Error{Kind: corepower.RemoteError, Op: p.Op, MayHaveRun: p.Change,
			Detail: fmt.Sprintf("%s died: %v", filepath.Base(p.Path), state)}
	}
	return Result{Stdout: out.kept, Stderr: errs.kept, Exit: state.ExitCode()}, nil
}

// prepare makes the pipes and the command.
func (p *process) prepare() (in, out, errs *stream, e *power.Error) {
	var made []*stream
	for _, limit := range []int{0, maxStdout, maxStderr} {
		s, err := newStream(limit)
		if err != nil {
			for _, m := range made {
				m.close()
			}
			return nil, nil, nil, p.notStarted(err)
		}
		made = append(made, s)
	}
	in, out, errs = made[0], made[1], made[2]
	in.text = p.Stdin
	p.cmd = &exec.Cmd{
		Path: p.Path, Args: append([]string{p.Path}, p.Args...), Dir: "/",
		Env:   append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "LC_ALL=C", "HOME=/", markName + "=" + p.mark}, p.Env...),
		Stdin: in.child, Stdout: out.child, Stderr: errs.child,
		// A session of its own: one signal reaches all of it, and no terminal can be asked for a password.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	return in, out, errs, nil
}

// allowed asks the last questions before the child starts.
func (p *process) allowed() *power.Error {
	if !p.NotAfter.IsZero() && !time.Now().Before(p.NotAfter) {
		return &power.Error{Kind: corepower.DeadlinePassed, Op: p.Op, Detail: "not after " + p.NotAfter.UTC().Format(time.RFC3339), Err: errLate}
	}
	if p.Before == nil {
		return nil
	}
	if err := p.Before(); err != nil {
		return &power.Error{Kind: corepower.Cancelled, Op: p.Op, Detail: "stopped before it started", Err: err}
	}
	return nil
}

// attend starts the child and stays with it until it is reaped. It keeps one thread for
// that: the kernel ties the death signal to the thread that forked, not to the process.
func (p *process) attend() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.buried)
	defer p.release()
	err := p.cmd.Start()
	p.started <- err
	if err != nil {
		return
	}
	// Dead but not reaped, its number stays its own: a signal to the session cannot hit a stranger.
	for {
		if err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	close(p.exited)
	<-p.mayReap
	_ = p.cmd.Wait() // its verdict is in ProcessState
}

func (p *process) signal(s syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, s) // gone is what we want
}

func (p *process) notStarted(err error) *power.Error {
	e := &power.Error{Kind: corepower.RemoteError, Op: p.Op, Detail: power.Detail("start "+p.Path+": "+reason(err), p.Secret), Err: err}
	for _, missing := range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.EPERM, syscall.ENOEXEC, syscall.ENOTDIR, syscall.ELOOP} {
		if errors.Is(err, missing) {
			e.Kind = corepower.ToolMissing
		}
	}
	return e
}

func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// failed is the error of a child that was killed because ctx ended.
func (p *process) failed(ctx context.Context, why string) *power.Error {
	e := &power.Error{Kind: corepower.Timeout, Op: p.Op, MayHaveRun: p.Change, Err: context.Cause(ctx), Detail: filepath.Base(p.Path) + " was killed"}
	if ctx.Err() == context.Canceled {
		e.Kind = corepower.Cancelled
	}
	if why != "" {
		e.Detail += ": " + why
	}
	return e
}

// Executable reports why path cannot be run as a program: nil, or a ToolMissing.
func Executable(op, path string) *power.Error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return &power.Error{Kind: corepower.ToolMissing, Op: op, Detail: power.Detail(path+": "+reason(err), power.Credential{}), Err: err}
	case !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0:
		return &power.Error{Kind: corepower.ToolMissing, Op: op, Detail: power.Detail(path+": not an executable file", power.Credential{})}
	}
	return nil
}
