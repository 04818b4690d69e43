// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
	"github.com/holdfast-ha/holdfast/worker/power/fenceagent"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

func secretOf(t *testing.T, user, value string) power.Secret {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s"), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := power.NewSecret(user, "file:s", dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r rig) agentTarget(t *testing.T) power.Target {
	t.Helper()
	return power.Target{
		Host: "h-1", Device: "agent", Address: net.JoinHostPort("127.77.0.1", strconv.Itoa(int(r.Addr().Port()))),
		Params: map[string]string{"agent": fence, "cipher": "17", "power_wait": "0", "privlvl": "administrator"},
		Secret: secretOf(t, "admin", password),
	}
}

// TestFenceAgentContract: the driver contract with a real agent, ipmitool and our BMC
// (power.md §8.3).
func TestFenceAgentContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		r := start(t)
		d, target := fenceagent.New(proc.NewRunner(4), fenceagent.Options{}), r.agentTarget(t)
		c, err := d.Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return drivertest.Device{
			Driver: d, Target: target, Wrong: secretOf(t, "admin", "not-it"), Password: password, Identity: id, Sessionless: true,
			Power: func() corepower.State {
				if r.host.Power() {
					return corepower.On
				}
				return corepower.Off
			},
			SetPower: func(s corepower.State) { r.host.Force(s == corepower.On) },
			Commands: func() (verbs []corepower.Verb) {
				for _, e := range r.Truth() {
					verbs = append(verbs, corepower.Verb(e.Verb))
				}
				return verbs
			},
			Mute: func(on bool) {
				if err := r.SetFaults(bmc.Faults{Mute: on}); err != nil {
					t.Error(err)
				}
			},
		}
	})
}

// TestFenceAgentEnds: what fence_ipmilan and ipmitool make of a device's refusals gets
// its kind (power.md §7).
func TestFenceAgentEnds(t *testing.T) {
	r := start(t)
	d := fenceagent.New(proc.NewRunner(4), fenceagent.Options{})
	for _, c := range []struct {
		name   string
		faults bmc.Faults
		user   string
		want   corepower.Kind
	}{
		{"right", bmc.Faults{}, "admin", corepower.NoError},
		{"unknown user", bmc.Faults{}, "nobody", corepower.AuthFailed},
		{"account of too little privilege", bmc.Faults{}, "viewer", corepower.PrivilegeDenied},
		{"no slot", bmc.Faults{NoSlots: true}, "admin", corepower.SessionLimit},
		{"mute", bmc.Faults{Mute: true}, "admin", corepower.Timeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := r.SetFaults(c.faults); err != nil {
				t.Fatal(err)
			}
			target := r.agentTarget(t)
			target.Secret, target.Limits.Answer = secretOf(t, c.user, password), 3*time.Second
			reading, err := power.ReadOnce(t.Context(), d, target)
			if power.KindOf(err) != c.want || err != nil && reading != (corepower.Reading{}) {
				t.Errorf("got %+v, %v; want %q", reading, err, c.want)
			}
			if reading.Authentic {
				t.Error("ipmitool takes forged answers: its readings are never authentic")
			}
		})
	}
	conn, err := d.Open(t.Context(), r.agentTarget(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetFaults(bmc.Faults{}); err != nil {
		t.Fatal(err)
	}
	r.host.Force(false)
	// It reads OFF and sends nothing: the answer says so.
	if out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff}); out != corepower.AlreadyThere || err != nil || len(r.Truth()) != 0 {
		t.Errorf("off of a host that is off: %s, %v, %v", out, err, r.Truth())
	}
	r.host.Force(true)
	if out, err := conn.Do(t.Context(), power.Command{Verb: corepower.Cycle}); out != corepower.Accepted || err != nil || !r.host.Power() {
		t.Errorf("cycle: %s, %v, on: %v", out, err, r.host.Power())
	}
}

// TestAllAgents: every installed agent either is usable, or is refused for a reason that
// says why; none ends in anything else (power.md §8.3: 85 of 86 print valid metadata).
func TestAllAgents(t *testing.T) {
	install(t)
	d := fenceagent.New(proc.NewRunner(2), fenceagent.Options{})
	paths, err := filepath.Glob("/usr/sbin/fence_*")
	if err != nil || len(paths) < 50 {
		t.Fatalf("%d agents, %v", len(paths), err)
	}
	usable := 0
	for _, p := range paths {
		name := filepath.Base(p)
		err := d.Check(power.Target{Host: "h-1", Device: "x", Address: "192.0.2.1", Params: map[string]string{"agent": name}, Secret: secretOf(t, "u", "p")})
		if err != nil { // agents without a password
			err = d.Check(power.Target{Host: "h-1", Device: "x", Address: "192.0.2.1", Params: map[string]string{"agent": name, "secret_as": "none"}})
		}
		switch {
		case err == nil:
			usable++
		case power.KindOf(err) == corepower.ToolMissing, strings.Contains(err.Error(), "cannot prove that a host is off"), strings.Contains(err.Error(), "not power"),
			strings.Contains(err.Error(), "knows no off and on"):
			t.Logf("%s: %v", name, err)
		default:
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Logf("%d of %d agents are usable", usable, len(paths))
	if usable < 60 {
		t.Errorf("%d agents are usable, want at least 60", usable)
	}
}

// TestAgentLeavesNothing: an agent killed in the middle leaves no ipmitool behind.
func TestAgentLeavesNothing(t *testing.T) {
	r := start(t)
	if err := r.SetFaults(bmc.Faults{Mute: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := power.ReadOnce(ctx, fenceagent.New(proc.NewRunner(1), fenceagent.Options{}), r.agentTarget(t)); power.KindOf(err) != corepower.Timeout {
		t.Errorf("got %v", err)
	}
	port := strconv.Itoa(int(r.Addr().Port()))
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range dirs {
		b, _ := os.ReadFile(f) // processes come and go
		if args := strings.Split(string(b), "\x00"); slices.Contains(args, port) && strings.Contains(args[0], ipmitool) {
			t.Errorf("%s is still there: %q", filepath.Dir(f), args)
		}
	}
}
