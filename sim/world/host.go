// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
	"github.com/holdfast-ha/holdfast/sim/redfish"
)

// System is what runs on a host.
type System string

const (
	SystemOff      System = "off"
	SystemBoots    System = "boots"
	SystemRuns     System = "runs"
	SystemStops    System = "stops" // obeys a soft power off
	SystemCrashed  System = "crashed"
	SystemHangs    System = "hangs"
	instancesABoot        = 2
	stopTime              = time.Second // of a soft power off
	offTime               = time.Second // between off and on of a cycle
)

// Host is one simulated host: the chassis behind its BMC and what runs in it. Its
// methods are safe for concurrent use and do not wait for anything outside.
type Host struct {
	Place
	cfg     Config
	dir     string
	cable   *Cable
	bmc     *bmc.BMC
	redfish *redfish.Server // nil for most
	fault   Fault
	wake    chan struct{}

	mu           sync.Mutex
	mains, on    bool    // mains may be lost for the whole rack
	fed          [2]bool // by outlets
	lit, wasOn   bool    // has power by one of them; was on when it lost that
	system       System
	linkCut      bool
	agentDown    bool // stays so until repaired
	plan         func()
	planAt       time.Time
	boot         string
	instances    []hypervisor.Instance
	agent, guest *Proc
	err          error // of something that happened outside a call
}

var _ bmc.Chassis = (*Host)(nil)

func newHost(p Place, cfg Config) (*Host, error) {
	h := &Host{
		Place: p, cfg: cfg, dir: filepath.Join(cfg.Dir, "hosts", p.Host),
		wake: make(chan struct{}, 1), system: SystemOff, mains: true, fed: [2]bool{true, true}, lit: true,
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make host %s: %w", p.Host, err)
	}
	h.fault = Fault(filepath.Join(h.dir, "pool.fault"))
	if err := h.fault.Set(false); err != nil {
		return nil, fmt.Errorf("make host %s: %w", p.Host, err)
	}
	var users []bmc.User
	for _, name := range cfg.Users {
		users = append(users, bmc.User{Name: name, Password: cfg.Password, Privilege: bmc.Operator})
	}
	guid := uuid.NewSHA1(uuid.NameSpaceDNS, []byte(p.Host+".holdfast.example"))
	h.bmc = bmc.New(bmc.Config{Name: p.Host, Addr: p.BMC.String(), Chassis: h, Users: users, GUID: guid})
	if err := errors.Join(h.bmc.Listen(), h.listenRedfish(users, guid.String())); err != nil {
		return nil, fmt.Errorf("make host %s: %w", p.Host, err)
	}
	var err error
	if h.cable, err = NewCable(h.socket(), p.Addr, cfg.allowed); err != nil {
		return nil, fmt.Errorf("make host %s: %w", p.Host, err)
	}
	return h, nil
}

// socket is the agent's end of the cable. Abstract sockets leave no file behind and
// have no trouble with long directories; the lock on the block makes the name unique.
func (h *Host) socket() string { return "@holdfast-cable-" + h.Addr.String() }

// run powers the host on, then carries out what was planned until ctx ends. Children
// are dead when it returns.
func (h *Host) run(ctx context.Context) error {
	h.mu.Lock()
	h.on = true
	h.start() // a fleet that is switched on together has booted before anybody looks
	h.mu.Unlock()
	for {
		next, exits := h.next()
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-h.wake:
		case <-exits[0]:
		case <-exits[1]:
		case <-ctx.Done():
		}
		timer.Stop()
		h.mu.Lock()
		if h.planAt.IsZero() || time.Now().Before(h.planAt) {
			h.reap()
		} else {
			do := h.plan
			h.planned(0, nil)
			do()
		}
		err := h.err
		if err != nil || ctx.Err() != nil {
			h.halt(SystemOff)
			h.mu.Unlock()
			return err
		}
		h.mu.Unlock()
	}
}

// next says for how long nothing is planned, and when a child ends.
func (h *Host) next() (time.Duration, [2]<-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := time.Hour
	if !h.planAt.IsZero() {
		d = time.Until(h.planAt)
	}
	var exits [2]<-chan struct{}
	for i, p := range []*Proc{h.agent, h.guest} {
		if p != nil {
			exits[i] = p.Done()
		}
	}
	return d, exits
}

// reap forgets children that have ended and tells of those that nobody ended.
func (h *Host) reap() {
	for role, p := range map[string]**Proc{"agent": &h.agent, "guest": &h.guest} {
		if *p == nil || !(*p).over() {
			continue
		}
		if err := (*p).Failed(); err != nil {
			h.cfg.Warn(fmt.Sprintf("%s of %s: %v (log: %s)", role, h.Host, err, h.log(role)))
		}
		*p = nil
	}
}

// planned replaces what was to happen later; a nil plan is none. Callers hold mu.
func (h *Host) planned(after time.Duration, do func()) {
	h.plan, h.planAt = do, time.Time{}
	if do != nil {
		h.planAt = time.Now().Add(after)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// halt ends everything that runs, silence first. Callers hold mu.
func (h *Host) halt(s System) {
	h.cable.Set(Dark)
	for _, p := range []**Proc{&h.guest, &h.agent} {
		if *p != nil {
			h.note((*p).Signal(syscall.SIGKILL))
			*p = nil
		}
	}
	h.cable.Cut()
	h.system = s
	h.planned(0, nil)
}

// bootIn plans a boot. Callers hold mu; nothing runs.
func (h *Host) bootIn(d time.Duration) {
	h.system = SystemBoots
	h.planned(d, h.start)
}

// start is the moment a new boot comes up. Callers hold mu.
func (h *Host) start() {
	n, err := h.countBoot()
	if err != nil {
		h.note(err)
		return
	}
	h.boot = uuid.NewString()
	h.instances = nil
	for i := range instancesABoot {
		id := fmt.Sprintf("%s-vm%d", h.Host, (n-1)*instancesABoot+i+1)
		h.instances = append(h.instances, hypervisor.Instance{
			ID: id, Disks: []hypervisor.Disk{{Pool: h.Pool, Path: "instances/" + id + ".img"}},
		})
	}
	if err := os.Remove(string(h.refused())); err != nil && !errors.Is(err, os.ErrNotExist) {
		h.note(fmt.Errorf("boot %s: %w", h.Host, err))
	}
	h.system = SystemRuns
	h.carry()
	h.startGuest()
	if !h.agentDown {
		h.startAgent()
	}
}

// countBoot numbers the boots of this host, past the end of this process too, so that
// no instance is ever named like one of an earlier boot.
func (h *Host) countBoot() (int, error) {
	name := filepath.Join(h.dir, "boots")
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("boot %s: %w", h.Host, err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text))) // nothing yet: 0
	if err := replace(name, strconv.Itoa(n+1)+"\n"); err != nil {
		return 0, fmt.Errorf("boot %s: %w", h.Host, err)
	}
	return n + 1, nil
}

func (h *Host) carry() {
	if h.linkCut {
		h.cable.Set(NoTCP)
		return
	}
	h.cable.Set(Carries)
}

func (h *Host) startAgent() {
	h.agent = h.child("agent", Agent{
		Host: h.Host, Boot: h.boot, Engine: h.Control(), Dirs: h.pools(), Refused: h.refused(),
		Workers: h.cfg.Workers, Cable: h.socket(), StateDir: filepath.Join(h.dir, "agent"),
		Pool: h.Pool, PoolDir: h.cfg.poolDir(h.Pool), Fault: h.fault,
	})
}

func (h *Host) startGuest() {
	h.guest = h.child("guest", Guest{
		Host: h.Host, Socket: h.Control(), Dir: filepath.Join(h.dir, "definitions"), Dirs: h.pools(), Fault: h.fault,
		Instances: h.instances, Refused: h.refused(),
	})
}

func (h *Host) child(role string, what any) *Proc {
	text, err := json.Marshal(what)
	if err != nil {
		h.note(fmt.Errorf("start %s of %s: %w", role, h.Host, err))
		return nil
	}
	p, err := h.cfg.Spawner.Start(Child{
		Exec: h.cfg.Exec, Args: []string{"child", role, h.Host},
		Env: []string{ChildEnv + "=" + string(text)}, Log: h.log(role),
	})
	if err != nil && !errors.Is(err, ErrOver) {
		h.note(fmt.Errorf("start %s of %s: %w", role, h.Host, err))
	}
	return p
}

func (h *Host) log(role string) string { return filepath.Join(h.dir, role+".log") }
func (h *Host) refused() simhv.Refused { return simhv.Refused(filepath.Join(h.dir, "refused")) }

// note keeps the first error that no caller can be told of; run returns it.
func (h *Host) note(err error) {
	if h.err == nil && err != nil {
		h.err = err
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}
