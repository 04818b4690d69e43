// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"slices"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
)

// simBMC is the project's own BMC, which shares no code with go-ipmi.
type simBMC struct {
	*bmc.BMC
	chassis *bmc.ModelChassis
}

func newSim(t *testing.T, edit func(*bmc.Config)) simBMC {
	t.Helper()
	ch := bmc.NewChassis(bmc.ChassisConfig{On: true})
	cfg := bmc.Config{
		Name: "h-1", Addr: "127.0.0.1:0", GUID: testGUID, Chassis: ch,
		Users: []bmc.User{{Name: "operator", Password: password, Privilege: bmc.Operator}, {Name: "user", Password: password, Privilege: bmc.UserLevel}},
	}
	if edit != nil {
		edit(&cfg)
	}
	b := bmc.New(cfg)
	if err := b.Listen(); err != nil {
		t.Fatalf("listen: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run simulated device: %v", err)
		}
	})
	awaitPong(t, b.Addr().String())
	return simBMC{b, ch}
}

func (b simBMC) faults(t *testing.T, f bmc.Faults) {
	t.Helper()
	if err := b.SetFaults(f); err != nil {
		t.Fatalf("set faults: %v", err)
	}
}

func (b simBMC) target(t *testing.T, params map[string]string) power.Target {
	return power.Target{Host: "h-1", Device: "bmc", Address: b.Addr().String(), Params: params, Secret: secret(t, "operator", password)}
}

func (b simBMC) device(t *testing.T, params map[string]string) drivertest.Device {
	return drivertest.Device{
		Driver: New(nil), Target: b.target(t, params), Wrong: secret(t, "operator", "not-it"), Password: password,
		Identity: corepower.Identity{SystemUUID: testUUID},
		Power: func() corepower.State {
			if b.chassis.Power() {
				return corepower.On
			}
			return corepower.Off
		},
		SetPower: func(s corepower.State) { b.chassis.Force(s == corepower.On) },
		Commands: func() (verbs []corepower.Verb) {
			for _, e := range b.Truth() {
				verbs = append(verbs, corepower.Verb(e.Verb))
			}
			return verbs
		},
		Mute: func(on bool) { b.faults(t, bmc.Faults{Mute: on}) },
	}
}

// TestContractSim runs the driver contract against the project's own BMC.
func TestContractSim(t *testing.T) {
	for _, cipher := range []string{"17", "3"} {
		t.Run("cipher "+cipher, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) drivertest.Device {
				return newSim(t, nil).device(t, map[string]string{"cipher": cipher})
			})
		})
	}
}

// TestSimFaults: what each fault of the simulator must end in (power.md §11).
func TestSimFaults(t *testing.T) {
	t.Parallel()
	quick := power.Limits{Packet: 100 * time.Millisecond, Answer: 500 * time.Millisecond}
	for _, c := range []struct {
		name   string
		faults bmc.Faults
		want   corepower.Kind // NoError: the true ON is read
	}{
		{"forged plaintext OFF (14)", bmc.Faults{Forged: 5}, corepower.NoError},
		{"short datagrams (16)", bmc.Faults{Short: 5}, corepower.NoError},
		{"bad padding (16)", bmc.Faults{BadPadding: 5}, corepower.NoError},
		{"random bytes (16)", bmc.Faults{Garbage: 5}, corepower.NoError},
		{"replay (17)", bmc.Faults{Replayed: 5}, corepower.NoError},
		{"jitter and duplicates (9)", bmc.Faults{Jitter: 20 * time.Millisecond, DuplicateAnswers: 100}, corepower.NoError},
		{"slower than the packet time-out (8)", bmc.Faults{Delay: 130 * time.Millisecond}, corepower.NoError},
		{"slower than the deadline (8)", bmc.Faults{Delay: time.Second}, corepower.Unreachable},
		{"mute", bmc.Faults{Mute: true}, corepower.Unreachable},
		{"wrong integrity code (15)", bmc.Faults{WrongIntegrity: true}, corepower.ProtocolViolation},
		{"only forged answers (14)", bmc.Faults{Forged: 5, LoseAnswers: 100}, corepower.Unreachable},
		{"weaker algorithms (18)", bmc.Faults{Downgrade: true}, corepower.ProtocolViolation},
		{"all slots taken (23)", bmc.Faults{NoSlots: true}, corepower.SessionLimit},
		{"empty body (11)", bmc.Faults{EmptyBody: true}, corepower.ProtocolViolation},
		{"initialising (12)", bmc.Faults{Initialising: true}, corepower.Busy},
		{"busy", bmc.Faults{BusyReads: 1}, corepower.Busy},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newSim(t, nil)
			b.faults(t, c.faults)
			target := b.target(t, nil)
			target.Limits = quick
			for range 3 {
				r, err := power.ReadOnce(t.Context(), New(nil), target)
				if c.want == corepower.NoError {
					if err != nil || r.State != corepower.On {
						t.Fatalf("read: %+v, %v", r, err)
					}
					continue
				}
				if r != (corepower.Reading{}) {
					t.Errorf("an error implies the zero reading, got %+v", r)
				}
				if c.faults.Forged > 0 && power.KindOf(err) == corepower.ProtocolViolation {
					break // also true: what came was not genuine
				}
				wantKind(t, err, c.want)
				if c.faults.BusyReads > 0 || c.faults.Downgrade {
					break // the counter ran out; the half-open sessions fill the slots
				}
			}
		})
	}
}

// TestSimFaultyCommands: commands on devices that refuse, are busy, or lose the answer.
func TestSimFaultyCommands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		faults bmc.Faults
		want   corepower.Outcome
		kind   corepower.Kind
	}{
		{"busy", bmc.Faults{Busy: 1}, corepower.Rejected, corepower.Busy},
		{"already in that state", bmc.Faults{RejectSameState: true}, corepower.AlreadyThere, corepower.NoError},
		{"accepts and does nothing", bmc.Faults{IgnoreCommands: true}, corepower.Accepted, corepower.NoError},
		{"answer lost", bmc.Faults{LoseAnswers: 100}, corepower.Indeterminate, corepower.Timeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newSim(t, nil)
			target := b.target(t, nil)
			target.Limits = power.Limits{Packet: 100 * time.Millisecond, Answer: 300 * time.Millisecond}
			conn := open(t, New(nil), target)
			if e := conn.raise(t.Context()); e != nil {
				t.Fatalf("raise privilege: %v", e)
			}
			b.faults(t, c.faults)
			out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOn})
			if out != c.want || power.KindOf(err) != c.kind {
				t.Errorf("on: %s, %v; want %s, kind %q", out, err, c.want, c.kind)
			}
			if n := len(b.Truth()); n != 1 {
				t.Errorf("the device executed %d commands, want 1 although repeated", n)
			}
		})
	}
}

// TestSimSlots: no number of failing log-ins fills the device's slots (power.md §11, 21 and 22).
func TestSimSlots(t *testing.T) {
	t.Parallel()
	b := newSim(t, nil)
	bad := b.target(t, nil)
	bad.Secret = secret(t, "operator", "not-it")
	for range 8 {
		_, err := New(nil).Open(t.Context(), bad)
		wantKind(t, err, corepower.AuthFailed)
	}
	until(t, "slots free", func() bool { live, half := b.Sessions(); return live+half == 0 })
}

// TestSimSessionTable: another session of the same user is seen, from where and whose.
func TestSimSessionTable(t *testing.T) {
	t.Parallel()
	b := newSim(t, nil)
	other := open(t, New(nil), b.target(t, nil))
	if _, err := other.Status(t.Context()); err != nil {
		t.Fatalf("read: %v", err)
	}
	got, err := open(t, New(nil), b.target(t, nil)).Sessions(t.Context())
	if err != nil || got.Active != 2 || !got.Complete || len(got.Others) != 1 || !got.Others[0].Own || !got.Others[0].Console.IsLoopback() {
		t.Errorf("sessions: %+v, %v", got, err)
	}
}

// TestSimOtherBox: another device at the address gets no command (power.md §11, 19).
func TestSimOtherBox(t *testing.T) {
	t.Parallel()
	b := newSim(t, nil)
	b.faults(t, bmc.Faults{OtherGUID: true})
	target := b.target(t, nil)
	target.Pinned = corepower.Identity{SystemUUID: testUUID}
	_, err := New(nil).Open(t.Context(), target)
	wantKind(t, err, corepower.IdentityMismatch)
	if !slices.Equal(b.Truth(), nil) {
		t.Errorf("the other box got commands: %v", b.Truth())
	}
}
