// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

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
		Warn: func(text string) { t.Error(text) }, Faces: true,
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
	works := func(t *testing.T) {
		t.Helper()
		until(t, func() string {
			if !writes(t, h) || !answers(t, h.Addr) {
				return "a host in order does not write or not answer"
			}
			return ""
		})
	}
	works(t)
	repair := func(t *testing.T) {
		t.Helper()
		if err := f.Repair("h001"); err != nil {
			t.Fatal(err)
		}
		boot(t, h, "")
		if s := h.Status(); len(s.Broken) != 0 {
			t.Errorf("repaired host is still broken: %v", s.Broken)
		}
		works(t)
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
		{how: MainsLost, newBoot: true},
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
			if got := h.Status().Mains; got != (c.how != MainsLost) {
				t.Errorf("mains: %v", got)
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
