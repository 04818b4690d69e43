// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
)

const password = "s3cret-of-the-bmc"

var testGUID = [16]byte{0x04, 0x03, 0x02, 0x01, 0x06, 0x05, 0x08, 0x07, 9, 10, 11, 12, 13, 14, 15, 16}

const testUUID = "01020304-0506-0708-090a-0b0c0d0e0f10"

// testBMC is go-ipmi's own BMC with a recording chassis, behind a relay that a test can
// silence, listen on and inject through.
type testBMC struct {
	*relay
	bmc     *bmc.BMC
	chassis *chassisLog
}

type chassisLog struct {
	*mock.Chassis
	mu    sync.Mutex
	on    bool
	verbs []corepower.Verb
}

func (c *chassisLog) note(v corepower.Verb, f func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verbs = append(c.verbs, v)
	f()
	return nil
}

func (c *chassisLog) PowerState(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.on, nil
}

func (c *chassisLog) SetPower(_ context.Context, on bool) error {
	if on {
		return c.note(corepower.HardOn, func() { c.on = true })
	}
	return c.note(corepower.HardOff, func() { c.on = false })
}
func (c *chassisLog) PowerCycle(context.Context) error { return c.note(corepower.Cycle, func() {}) }
func (c *chassisLog) ColdReset(context.Context) error  { return c.note(corepower.Reset, func() {}) }
func (c *chassisLog) WarmReset(context.Context) error  { return c.note(corepower.SoftOff, func() {}) }
func (c *chassisLog) Identify(context.Context, uint8) error {
	return c.note(corepower.Identify, func() {})
}

func (c *chassisLog) state() corepower.State {
	if on, _ := c.PowerState(context.Background()); on {
		return corepower.On
	}
	return corepower.Off
}

type testHAL struct {
	*mock.HAL
	chassis *chassisLog
}

func (h testHAL) Chassis() hal.ChassisHAL { return h.chassis }

func newBMC(t testing.TB, offered ...types.CipherSuiteID) *testBMC {
	t.Helper()
	ch := &chassisLog{Chassis: &mock.Chassis{}, on: true}
	b := bmc.New(bmc.DeviceInfo{IPMIVersion: 0x20}, testGUID, testHAL{mock.New(), ch}, bmc.WithCipherSuites(offered))
	for i, name := range []string{"admin", "operator", "user"} {
		u := func(u *bmc.User) error {
			u.Name, u.Enabled = name, true
			copy(u.Password[:], password)
			u.Password20 = len(password) > 16
			u.ChannelAccess = map[uint8]bmc.UserChannelAccess{1: {Enabled: true, MaxPrivilege: bmc.PrivilegeLevelAdministrator - bmc.PrivilegeLevel(i)}}
			return nil
		}
		if err := b.Users.Upsert(uint8(2+i), u); err != nil {
			t.Fatalf("add user: %v", err)
		}
	}
	conn, err := udp.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	srv := server.NewServer(b, conn)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(context.Background()) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	awaitPong(t, conn.LocalAddr().String())
	return &testBMC{relay: newRelay(t, conn.LocalAddr().String()), bmc: b, chassis: ch}
}

// awaitPong waits until the server serves, so that its goroutines are not taken for ours.
func awaitPong(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = c.Write([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 0, 0, 0})
	if _, err2 := c.Read(make([]byte, 64)); err != nil || err2 != nil {
		t.Fatalf("ping the device: %v, %v", err, err2)
	}
}

func (b *testBMC) target(t testing.TB, user string, params map[string]string) power.Target {
	return power.Target{Host: "h-1", Device: "bmc", Address: b.addr(), Params: params, Secret: secret(t, user, password)}
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

func (b *testBMC) device(t *testing.T, params map[string]string) drivertest.Device {
	return drivertest.Device{
		Driver: New(nil), Target: b.target(t, "operator", params), Wrong: secret(t, "operator", "not-it"), Password: password,
		Identity: corepower.Identity{SystemUUID: testUUID},
		Power:    b.chassis.state,
		SetPower: func(s corepower.State) {
			b.chassis.mu.Lock()
			defer b.chassis.mu.Unlock()
			b.chassis.on = s == corepower.On
		},
		Commands: func() []corepower.Verb {
			b.chassis.mu.Lock()
			defer b.chassis.mu.Unlock()
			return slices.Clone(b.chassis.verbs)
		},
		Mute: b.mute.Store,
	}
}

// TestContract runs the driver contract against go-ipmi's BMC, which shares no code with the guard.
func TestContract(t *testing.T) {
	for _, cipher := range []string{"auto", "17", "3"} {
		t.Run("cipher "+cipher, func(t *testing.T) {
			drivertest.Run(t, func(t *testing.T) drivertest.Device {
				return newBMC(t, types.CipherSuiteID17, types.CipherSuiteID3).device(t, map[string]string{"cipher": cipher})
			})
		})
	}
}

func open(t testing.TB, d *Driver, target power.Target) *conn {
	t.Helper()
	c, err := d.Open(context.Background(), target)
	if err != nil {
		t.Fatalf("open session: %v", err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c.(*conn)
}

func wantKind(t testing.TB, err error, want corepower.Kind) {
	t.Helper()
	if got := power.KindOf(err); got != want {
		t.Errorf("kind %q (%v), want %q", got, err, want)
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not reached within 30s", what)
		}
	}
}
