// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/sim/world"
)

const (
	// prefix names everything of a lab that the whole machine sees.
	prefix  = "hflab-"
	network = prefix + "net" // the namespace with the switch
	fusectl = "/sys/fs/fuse/connections"
	cgroups = "/sys/fs/cgroup"
)

// Manager is the namespace for workers and whatever else manages hosts, ManagerAddr its
// address for them.
const (
	Manager     = prefix + "mgr"
	ManagerAddr = "10.77.0.1"
)

// Dir is where a lab keeps its files; Clean removes it.
const Dir = "/var/tmp/holdfast-lab"

// Config is what a lab is made of.
type Config struct {
	Hosts int    // 1 to 9; default 3
	Exec  string // a binary that calls Child first of all; default this one
}

// Lab is a running lab.
type Lab struct {
	Hosts []*Host
	Guest Guest

	cfg     Config
	lock    *os.File
	fusectl bool // mounted by us
	ctx     context.CancelFunc
	tasks   *errgroup.Group
	spawner *world.Spawner
}

// Start brings a lab up with all hosts on. Close ends it.
func Start(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if cfg.Hosts == 0 {
		cfg.Hosts = 3
	}
	if cfg.Hosts < 1 || cfg.Hosts > 9 {
		return nil, fmt.Errorf("start lab: %d hosts, allowed are 1 to 9", cfg.Hosts)
	}
	if cfg.Exec == "" {
		if cfg.Exec, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("start lab: %w", err)
		}
	}
	l := &Lab{cfg: cfg}
	if l.lock, err = lock(); err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := clean(ctx); err != nil {
		return nil, fmt.Errorf("start lab: remove an earlier one: %w", err)
	}
	l.begin()
	if err := l.up(ctx); err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	return l, nil
}

// begin starts what starts and serves; Close waits for it.
func (l *Lab) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	l.ctx = cancel
	l.tasks, ctx = errgroup.WithContext(ctx)
	l.spawner = world.NewSpawner()
	l.tasks.Go(func() error { return l.spawner.Run(ctx) })
	for i := range l.cfg.Hosts {
		h := newHost(l, i+1)
		l.Hosts = append(l.Hosts, h)
		l.tasks.Go(func() error { return h.serve(ctx) })
	}
}

func (l *Lab) up(ctx context.Context) error {
	for _, dir := range []string{Dir, filepath.Join(Dir, "export"), filepath.Join(Dir, "hosts")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var err error
	if l.Guest, err = buildGuest(ctx); err != nil {
		return fmt.Errorf("build guest: %w", err)
	}
	if _, err := os.Stat(filepath.Join(fusectl)); err != nil {
		return err
	}
	if points, _, err := mounts(fusectl); err == nil && len(points) == 0 {
		if err := unix.Mount("none", fusectl, "fusectl", 0, ""); err != nil {
			return fmt.Errorf("mount fusectl: %w", err)
		}
		l.fusectl = true
	}
	if err := l.wire(ctx); err != nil {
		return err
	}
	var on errgroup.Group
	for _, h := range l.Hosts {
		on.Go(func() error { return h.On(ctx) })
	}
	return on.Wait()
}

// wire makes the switch, and a namespace with a cable to it for each host.
func (l *Lab) wire(ctx context.Context) error {
	names := "127.0.0.1 localhost\n" + ManagerAddr + " manager\n"
	for _, h := range l.Hosts {
		names += h.Addr + " " + h.Name + "\n"
	}
	steps := [][]string{{"netns", "add", network}, {"-n", network, "link", "add", "br0", "type", "bridge"}, {"-n", network, "link", "set", "br0", "up"}}
	for _, s := range steps {
		if _, err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	addrs := []string{ManagerAddr}
	for _, h := range l.Hosts {
		addrs = append(addrs, h.bmcAddr())
		if err := plug(ctx, h.space(), h.port(), names, h.Addr); err != nil {
			return err
		}
	}
	if err := plug(ctx, Manager, "p-manager", names, addrs...); err != nil {
		return err
	}
	if _, err := run(ctx, "ip", "-n", network, "link", "set", "p-manager", "up"); err != nil {
		return err
	}
	for _, h := range l.Hosts {
		if err := h.answerManager(); err != nil {
			return err
		}
	}
	return nil
}

// plug makes a namespace with addresses and a cable to the switch that is not plugged in.
func plug(ctx context.Context, space, port, names string, addrs ...string) error {
	steps := [][]string{
		{"netns", "add", space}, {"-n", space, "link", "set", "lo", "up"},
		{"link", "add", port, "netns", network, "type", "veth", "peer", "name", "eth0", "netns", space},
		{"-n", network, "link", "set", port, "master", "br0"}, {"-n", space, "link", "set", "eth0", "up"},
	}
	for _, a := range addrs {
		steps = append(steps, []string{"-n", space, "addr", "add", a + "/24", "dev", "eth0"})
	}
	for _, s := range steps {
		if _, err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	etc := filepath.Join("/etc/netns", space)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	return write(filepath.Join(etc, "hosts"), names)
}

// Manager is a command that will run where workers do: it reaches hosts by name and their
// BMCs. The caller starts and ends it.
func (l *Lab) Manager(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", Manager, name}, args...)...)
}

// DialManager connects to an address that the manager's namespace reaches, its own
// loopback included.
func (l *Lab) DialManager(ctx context.Context, address string) (conn net.Conn, err error) {
	return conn, inManager(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
}

// inManager runs f in the manager's network, on a thread of its own that ends with it.
func inManager(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		space, err := os.Open("/run/netns/" + Manager)
		if err == nil {
			err = errors.Join(unix.Setns(int(space.Fd()), unix.CLONE_NEWNET), space.Close())
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Close cuts the power of all hosts and removes everything.
func (l *Lab) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*waitLimit)
	defer cancel()
	var errs []error
	for _, h := range l.Hosts {
		errs = append(errs, h.Off(ctx))
	}
	if l.tasks != nil {
		l.ctx()
		errs = append(errs, l.tasks.Wait())
	}
	errs = append(errs, clean(ctx))
	if l.fusectl {
		errs = append(errs, unix.Unmount(fusectl, 0))
	}
	return errors.Join(append(errs, unlock(l.lock))...)
}

// Clean removes what a lab that has ended left behind; one that runs is an error.
func Clean(ctx context.Context) error {
	f, err := lock()
	if err != nil {
		return fmt.Errorf("clean lab: %w", err)
	}
	if err := errors.Join(clean(ctx), unlock(f)); err != nil {
		return fmt.Errorf("clean lab: %w", err)
	}
	return nil
}

// lock keeps a second lab away for as long as the file is open. Children do not inherit
// it.
func lock() (*os.File, error) {
	f, err := os.OpenFile(Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(Dir + ".lock")
		return nil, errors.Join(fmt.Errorf("another lab runs (process %s)", strings.TrimSpace(string(pid))), f.Close())
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	return f, err
}

func unlock(f *os.File) error { return errors.Join(os.Remove(f.Name()), f.Close()) }

// clean kills what is left in the cgroups of hosts, which are the lab's alone, and
// removes mounts, namespaces and files.
func clean(ctx context.Context) error {
	var errs []error
	groups, err := filepath.Glob(filepath.Join(cgroupRoot(), prefix+"*"))
	errs = append(errs, err)
	for _, g := range groups {
		errs = append(errs, write(filepath.Join(g, "cgroup.kill"), "1"), write(filepath.Join(g, "cgroup.freeze"), "0"))
	}
	points, minors, err := mounts(Dir)
	errs = append(errs, err)
	for i, p := range points {
		abortMount(minors[i])
		errs = append(errs, unix.Unmount(p, unix.MNT_DETACH))
	}
	for _, g := range groups {
		if err := until(ctx, g+" is empty", func() bool { return !populated(g) }); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, removeGroup(g))
	}
	spaces, err := filepath.Glob("/run/netns/" + prefix + "*")
	errs = append(errs, err)
	for _, s := range spaces {
		_, err := run(ctx, "ip", "netns", "del", filepath.Base(s))
		errs = append(errs, err)
	}
	etc, err := filepath.Glob("/etc/netns/" + prefix + "*")
	errs = append(errs, err)
	for _, d := range etc {
		errs = append(errs, os.RemoveAll(d))
	}
	if err := os.Remove("/etc/netns"); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(Dir))...)
}

// abortMount frees whoever waits for a mount's server; one that has gone is fine.
func abortMount(minor string) {
	_ = write(filepath.Join(fusectl, minor, "abort"), "1")
}

// cgroupRoot is where cgroup 2 is.
func cgroupRoot() string {
	if _, err := os.Stat(filepath.Join(cgroups, "unified")); err == nil {
		return filepath.Join(cgroups, "unified")
	}
	return cgroups
}

func populated(group string) bool {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
	return err == nil && strings.Contains(string(text), "populated 1")
}

// removeGroup removes a group with the groups in it.
func removeGroup(group string) error {
	inner, err := filepath.Glob(filepath.Join(group, "*", "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, g := range inner {
		if err := removeGroup(filepath.Dir(g)); err != nil {
			return err
		}
	}
	if err := os.Remove(group); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
