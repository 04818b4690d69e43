// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/world"
)

// The account of every BMC.
const (
	User     = "admin"
	Password = "lab-s3cret"
)

// cycleGap is how long a power cycle leaves a host off.
const cycleGap = time.Second

// Host is one host. Its methods are safe for concurrent use.
type Host struct {
	Name, Addr string
	BMC        *bmc.BMC // on this machine's loopback
	Remote     *bmc.BMC // the same chassis, for workers in the lab

	lab    *Lab
	dir    string
	remote chan struct{}                    // closed when Remote listens
	asks   chan func(context.Context) error // of the BMC, in order

	mu          sync.Mutex // one change of power at a time
	on          bool
	init, share *world.Proc
}

var _ bmc.Chassis = (*Host)(nil)

func newHost(l *Lab, i int) *Host {
	h := &Host{
		Name: fmt.Sprintf("lab%d", i), Addr: fmt.Sprintf("10.77.0.%d", 10+i), lab: l,
		asks: make(chan func(context.Context) error, 16), remote: make(chan struct{}),
	}
	h.dir = filepath.Join(Dir, "hosts", h.Name)
	cfg := bmc.Config{
		Name: h.Name, Addr: fmt.Sprintf("127.0.0.1:%d", 6630+i), Chassis: h,
		GUID:  uuid.NewSHA1(uuid.NameSpaceDNS, []byte(h.Name+".lab.holdfast")),
		Users: []bmc.User{{Name: User, Password: Password, Privilege: bmc.Operator}},
	}
	h.BMC = bmc.New(cfg)
	cfg.Addr = h.bmcAddr() + ":623"
	h.Remote = bmc.New(cfg)
	return h
}

func (h *Host) bmcAddr() string { return strings.Replace(h.Addr, "10.77.0.", "10.77.0.1", 1) }

// answerManager lets the remote BMC listen.
func (h *Host) answerManager() error {
	if err := inManager(h.Remote.Listen); err != nil {
		return fmt.Errorf("BMC of %s: %w", h.Name, err)
	}
	close(h.remote)
	return nil
}

// OnBoot is a shell script that the host runs at the end of each boot, beside libvirtd,
// such as one that starts an agent. It logs to boot.log in the host's directory.
func (h *Host) OnBoot(script string) error {
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	return write(filepath.Join(h.dir, "rc.local"), script)
}

// Dir is the host's directory: it looks the same from the host.
func (h *Host) Dir() string { return h.dir }

func (h *Host) space() string { return prefix + h.Name }
func (h *Host) port() string  { return "p-" + h.Name }
func (h *Host) group() string { return filepath.Join(cgroupRoot(), prefix+h.Name) }

// URI is libvirt's address of the host for whoever stands on it.
func (h *Host) URI() string {
	return "qemu+unix:///system?socket=" + filepath.Join(h.dir, "run", "libvirt-sock")
}

// Peer is its address for other hosts.
func (h *Host) Peer() string { return "qemu+tcp://" + h.Name + "/system" }

// Dirs are its pools: "local", and "shared" with the other hosts.
func (h *Host) Dirs() []dirs.Dir {
	return []dirs.Dir{
		{ID: "local", Type: hypervisor.Local, Path: filepath.Join(h.dir, "local")},
		{ID: "shared", Type: hypervisor.NFS, Path: filepath.Join(h.dir, "shared"), Mount: true},
	}
}

// SetFault breaks the host's mount of the shared pool until the next fault or the next
// boot. When it returns the fault is in force.
func (h *Host) SetFault(ctx context.Context, f Fault) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := write(h.fault(), string(f)); err != nil || !h.on {
		return err
	}
	return until(ctx, fmt.Sprintf("fault %q of %s is in force", f, h.Name), func() bool {
		text, err := os.ReadFile(h.fault() + ".is")
		return err == nil && string(text) == string(f)
	})
}

func (h *Host) fault() string { return filepath.Join(h.dir, "fault") }

// serve is the BMC and what it was asked to do.
func (h *Host) serve(ctx context.Context) error {
	if err := h.BMC.Listen(); err != nil {
		return fmt.Errorf("BMC of %s: %w", h.Name, err)
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return h.BMC.Run(ctx) })
	work.Go(func() error {
		select {
		case <-h.remote:
			return h.Remote.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	work.Go(func() error {
		for {
			select {
			case do := <-h.asks:
				if err := do(ctx); err != nil && ctx.Err() == nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	return work.Wait()
}

// On switches the host on and returns when its libvirt accepts connections.
func (h *Host) On(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on {
		return nil
	}
	if err := h.powerOn(ctx); err != nil {
		return errors.Join(fmt.Errorf("switch %s on: %w", h.Name, err), h.powerOff(ctx))
	}
	return nil
}

func (h *Host) powerOn(ctx context.Context) error {
	if err := h.furnish(); err != nil {
		return err
	}
	if err := os.Mkdir(h.group(), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	h.on = true
	var err error
	if h.share, err = h.child("share", part{Role: "share", Dir: h.dir}); err != nil {
		return err
	}
	shared := filepath.Join(h.dir, "shared")
	if err := until(ctx, shared+" is mounted", func() bool { p, _, _ := mounts(shared); return len(p) > 0 }); err != nil {
		return err
	}
	if _, err := run(ctx, "ip", "-n", network, "link", "set", h.port(), "up"); err != nil {
		return err
	}
	if h.init, err = h.child("host", part{Role: "host", Dir: h.dir, Name: h.Name, Space: h.space(), Group: h.group()}); err != nil {
		return err
	}
	return until(ctx, "libvirt of "+h.Name+" listens", func() bool {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", filepath.Join(h.dir, "run", "libvirt-sock"))
		return err == nil && c.Close() == nil
	})
}

func (h *Host) child(role string, p part) (*world.Proc, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return h.lab.spawner.Start(world.Child{
		Exec: h.lab.cfg.Exec, Env: []string{childEnv + "=" + string(text)}, Log: filepath.Join(h.dir, role+".log"),
	})
}

// furnish makes the host's disk, once.
func (h *Host) furnish() error {
	for _, d := range []string{"etc", "lib", "cache", "log", "run", "local", "shared"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := write(h.fault(), string(NoFault)); err != nil {
		return err
	}
	conf := filepath.Join(h.dir, "etc", "libvirtd.conf")
	if _, err := os.Stat(conf); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "etc", "qemu"), 0o755); err != nil {
		return err
	}
	// No cgroups and no mounts of QEMU's own keep hosts apart; each host has its own
	// identity, since libvirt does not migrate to itself.
	err := write(filepath.Join(h.dir, "etc", "qemu.conf"), strings.Join([]string{
		`user = "root"`, `group = "root"`, `security_driver = "none"`, `namespaces = [ ]`, `cgroup_controllers = [ ]`,
		`remember_owner = 0`, `dynamic_ownership = 0`, `stdio_handler = "file"`, `keepalive_interval = 2`, `keepalive_count = 3`, "",
	}, "\n"))
	return errors.Join(err, write(conf, strings.Join([]string{
		fmt.Sprintf("host_uuid = %q", uuid.NewString()), fmt.Sprintf("unix_sock_dir = %q", filepath.Join(h.dir, "run")),
		`listen_tls = 0`, `listen_tcp = 1`, `auth_tcp = "none"`, `auth_unix_rw = "none"`, `auth_unix_ro = "none"`,
		`keepalive_interval = 2`, `keepalive_count = 3`, // a migration's other end that is gone is noticed soon
		`log_outputs = "3:file:/var/log/libvirt/libvirtd.log"`, "",
	}, "\n")))
}

// Off cuts the power. Nothing of the host runs when it returns.
func (h *Host) Off(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.on {
		return nil
	}
	if err := h.powerOff(ctx); err != nil {
		return fmt.Errorf("switch %s off: %w", h.Name, err)
	}
	return nil
}

func (h *Host) powerOff(ctx context.Context) error {
	_, err := run(ctx, "ip", "-n", network, "link", "set", h.port(), "down")
	err = errors.Join(err, write(filepath.Join(h.group(), "cgroup.kill"), "1"), write(filepath.Join(h.group(), "cgroup.freeze"), "0"))
	points, minors, listErr := mounts(filepath.Join(h.dir, "shared"))
	for i, p := range points {
		abortMount(minors[i])
		err = errors.Join(err, unix.Unmount(p, unix.MNT_DETACH))
	}
	err = errors.Join(err, listErr, until(ctx, h.Name+" is empty", func() bool { return !populated(h.group()) }))
	for _, p := range []*world.Proc{h.init, h.share} {
		if p == nil {
			continue
		}
		err = errors.Join(err, p.Signal(unix.SIGKILL))
		select {
		case <-p.Done():
		case <-ctx.Done():
			err = errors.Join(err, context.Cause(ctx))
		}
	}
	h.init, h.share, h.on = nil, nil, err != nil
	return err
}

// Freeze stops every process of the host; its kernel still answers pings. Thaw lets it
// go on as if nothing had happened.
func (h *Host) Freeze() error { return write(filepath.Join(h.group(), "cgroup.freeze"), "1") }

// Thaw ends Freeze.
func (h *Host) Thaw() error { return write(filepath.Join(h.group(), "cgroup.freeze"), "0") }

// KillLibvirtd ends the host's libvirtd as a crash does. Its guests run on, and another
// libvirtd comes.
func (h *Host) KillLibvirtd() error { return h.Signal("libvirtd", unix.SIGKILL) }

// Signal sends sig to the processes of the host that have that name; none is an error.
func (h *Host) Signal(name string, sig unix.Signal) error {
	text, err := os.ReadFile(filepath.Join(h.group(), "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("send %v to %s of %s: %w", sig, name, h.Name, err)
	}
	sent := false
	for _, word := range strings.Fields(string(text)) {
		comm, err := os.ReadFile(filepath.Join("/proc", word, "comm"))
		pid, convErr := strconv.Atoi(word)
		if err != nil || convErr != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("send %v to %s of %s: %w", sig, name, h.Name, err)
		}
		sent = true
	}
	if !sent {
		return fmt.Errorf("send %v to %s of %s: there is none", sig, name, h.Name)
	}
	return nil
}

// Cable plugs the host's network in or out.
func (h *Host) Cable(ctx context.Context, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	_, err := run(ctx, "ip", "-n", network, "link", "set", h.port(), state)
	return err
}

// Power implements bmc.Chassis.
func (h *Host) Power() bool { return populated(h.group()) }

func (h *Host) ask(do func(context.Context) error) {
	select {
	case h.asks <- do:
	default: // a BMC that is asked faster than power changes forgets
	}
}

// SetPower implements bmc.Chassis.
func (h *Host) SetPower(on bool) {
	if on {
		h.ask(h.On)
		return
	}
	h.ask(h.Off)
}

// Cycle implements bmc.Chassis.
func (h *Host) Cycle() {
	h.ask(func(ctx context.Context) error {
		if err := h.Off(ctx); err != nil {
			return err
		}
		timer := time.NewTimer(cycleGap)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return h.On(ctx)
	})
}

// Reset implements bmc.Chassis.
func (h *Host) Reset() {
	h.ask(func(ctx context.Context) error { return errors.Join(h.Off(ctx), h.On(ctx)) })
}

// SoftOff implements bmc.Chassis: there is no operating system that would obey.
func (h *Host) SoftOff() {}

// Identify implements bmc.Chassis: nobody is there to see the lamp.
func (h *Host) Identify(int, bool) {}
