// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	sim "github.com/holdfast-ha/holdfast/sim/redfish"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
)

const (
	password = "s3cret-of-the-bmc"
	testUUID = "01020304-0506-0708-090a-0b0c0d0e0f10"
	serial   = "SN-1"
)

// rig is a simulated service with one system, and a driver.
type rig struct {
	*sim.Server
	t       testing.TB
	chassis *bmc.ModelChassis
	driver  *Driver
	params  map[string]string
}

func newRig(t testing.TB, keep time.Duration, change ...func(*sim.Config, *bmc.ChassisConfig)) *rig {
	t.Helper()
	cfg := sim.Config{
		Name: "bmc-1", Addr: "127.0.0.1:0", Seed: 7,
		Users: []bmc.User{
			{Name: "admin", Password: password, Privilege: bmc.Administrator},
			{Name: "operator", Password: password, Privilege: bmc.Operator},
			{Name: "user", Password: password, Privilege: bmc.UserLevel},
		},
	}
	ch := bmc.ChassisConfig{On: true}
	for _, f := range change {
		f(&cfg, &ch)
	}
	chassis := bmc.NewChassis(ch)
	if len(cfg.Systems) == 0 {
		cfg.Systems = []sim.System{{UUID: testUUID, Serial: serial, Chassis: chassis}}
	}
	s := sim.New(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	d := New(keep)
	t.Cleanup(func() {
		d.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run service: %v", err)
		}
	})
	return &rig{Server: s, t: t, chassis: chassis, driver: d, params: map[string]string{"fingerprint": s.Fingerprint()}}
}

func (r *rig) set(f sim.Faults) {
	r.t.Helper()
	if err := r.SetFaults(f); err != nil {
		r.t.Fatal(err)
	}
}

// target is the system as the operator's account sees it, nothing pinned but the
// certificate.
func (r *rig) target(change ...func(*power.Target)) power.Target {
	r.t.Helper()
	t := power.Target{Host: "h-1", Device: "bmc", Address: r.Addr().String(), Params: map[string]string{}, Secret: secret(r.t, "operator", password)}
	for k, v := range r.params {
		t.Params[k] = v
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

func pinned(t *power.Target) { t.Pinned = corepower.Identity{SystemUUID: testUUID} }

func as(r *rig, user, value string) func(*power.Target) {
	return func(t *power.Target) { t.Secret = secret(r.t, user, value) }
}

func limits(answer time.Duration) func(*power.Target) {
	return func(t *power.Target) { t.Limits = power.Limits{Answer: answer} }
}

func secret(t testing.TB, user, value string) power.Secret {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bmc"), []byte(value+"\n"), 0o600); err != nil {
		t.Fatalf("write secret: %v", err)
	}
	s, err := power.NewSecret(user, "file:bmc", dir)
	if err != nil {
		t.Fatalf("make secret: %v", err)
	}
	return s
}

func (r *rig) open(t power.Target) *conn {
	r.t.Helper()
	c, err := r.driver.Open(context.Background(), t)
	if err != nil {
		r.t.Fatalf("open session: %v", err)
	}
	r.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c.(*conn)
}

// read opens, reads and closes.
func (r *rig) read(t power.Target) (corepower.Reading, error) {
	r.t.Helper()
	got, err := power.ReadOnce(context.Background(), r.driver, t)
	if err != nil && got != (corepower.Reading{}) {
		r.t.Errorf("an error implies the zero reading, got %+v", got)
	}
	return got, err
}

// do sends one command over a connection of its own.
func (r *rig) do(t power.Target, v corepower.Verb) (corepower.Outcome, error) {
	r.t.Helper()
	c := r.open(t)
	defer c.Close(context.Background())
	return c.Do(context.Background(), power.Command{Verb: v})
}

// verbs is the truth log in short: what reached the chassis, in order.
func (r *rig) verbs() []bmc.Verb {
	var out []bmc.Verb
	for _, e := range r.Truth() {
		if e.Outcome == bmc.Executed {
			out = append(out, e.Verb)
		}
	}
	return out
}

func (r *rig) wantKind(err error, want corepower.Kind) {
	r.t.Helper()
	if got := power.KindOf(err); got != want {
		r.t.Errorf("kind %q (%v), want %q", got, err, want)
	}
}

var verbOf = map[bmc.Verb]corepower.Verb{
	bmc.VerbOff: corepower.HardOff, bmc.VerbOn: corepower.HardOn, bmc.VerbReset: corepower.Reset,
	bmc.VerbCycle: corepower.Cycle, bmc.VerbSoft: corepower.SoftOff, bmc.VerbIdentify: corepower.Identify,
}

func (r *rig) device(identity corepower.Identity) drivertest.Device {
	return drivertest.Device{
		Driver: r.driver, Target: r.target(), Wrong: secret(r.t, "operator", "not-it"), Password: password, Identity: identity,
		Power: func() corepower.State {
			if r.chassis.Power() {
				return corepower.On
			}
			return corepower.Off
		},
		SetPower: func(s corepower.State) { r.chassis.Force(s == corepower.On) },
		Commands: func() []corepower.Verb {
			var out []corepower.Verb
			for _, v := range r.verbs() {
				out = append(out, verbOf[v])
			}
			return out
		},
		Mute:    func(on bool) { r.set(sim.Faults{Mute: on}) },
		Release: r.driver.idle.empty,
	}
}

// TestContract runs the driver contract with each way to log in and to trust, with and
// without kept connections.
func TestContract(t *testing.T) {
	for _, auth := range []string{"basic", "session"} {
		for _, mode := range []string{tlsPin, tlsCA} {
			for name, keep := range map[string]time.Duration{"kept": time.Minute, "closed": 0} {
				if auth == "session" && keep > 0 {
					continue // nothing is kept then
				}
				t.Run(auth+" "+mode+" "+name, func(t *testing.T) {
					drivertest.Run(t, func(t *testing.T) drivertest.Device {
						r := newRig(t, keep)
						identity := corepower.Identity{SystemUUID: testUUID, Serial: serial}
						if mode == tlsCA {
							file := filepath.Join(t.TempDir(), "ca.pem")
							if err := os.WriteFile(file, r.CA(), 0o600); err != nil {
								t.Fatal(err)
							}
							r.params = map[string]string{"tls": tlsCA, "ca_file": file}
						} else {
							identity.Fingerprint = r.Fingerprint()
						}
						r.params["auth"] = auth
						return r.device(identity)
					})
				})
			}
		}
	}
}

// BenchmarkRead is one transaction of the loop: open, one GET, close.
func BenchmarkRead(b *testing.B) {
	for name, keep := range map[string]time.Duration{"kept": time.Minute, "new": 0} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, keep)
			t := r.target(pinned)
			for b.Loop() {
				if got, err := power.ReadOnce(context.Background(), r.driver, t); err != nil || got.State != corepower.On {
					b.Fatalf("%+v, %v", got, err)
				}
			}
		})
	}
}
