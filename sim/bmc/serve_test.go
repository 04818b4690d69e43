// SPDX-License-Identifier: Apache-2.0

package bmc_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"
	"go.uber.org/goleak"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

var guid = [16]byte{0xde, 0xad, 0xbe, 0xef, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// serve runs a BMC until the test ends and fails if it does not end cleanly.
func serve(t *testing.T, cfg bmc.Config) *bmc.BMC {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	cfg.GUID = guid
	cfg.Users = []bmc.User{
		{Name: "admin", Password: "s3cret", Privilege: bmc.Administrator},
		{Name: "viewer", Password: "view1", Privilege: bmc.UserLevel},
	}
	b := bmc.New(cfg)
	if err := b.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect opens a session of go-ipmi's client, an implementation by other people.
func connect(t *testing.T, ctx context.Context, b *bmc.BMC, suite types.CipherSuiteID, user, password string, level types.PrivilegeLevel) (*client.Client, error) {
	t.Helper()
	c, err := client.NewClient(b.Addr().Addr().String(), int(b.Addr().Port()), user, password)
	if err != nil {
		t.Fatal(err)
	}
	c.WithInterface(client.InterfaceLanplus).WithTimeout(5 * time.Second).WithRetry(0).WithMaxPrivilegeLevel(level)
	if suite != 0 {
		c.WithCipherSuiteID(suite)
	}
	err = c.Connect(ctx)
	t.Cleanup(func() {
		end, cancel := context.WithCancel(ctx)
		if err != nil {
			cancel() // no session to close; the call only frees the socket
		}
		defer cancel()
		_ = c.Close(end) // its error is the cancelled context
	})
	return c, err
}

// power.md §5: an independent client reads and controls with suites 3 and 17, and with
// the suite it discovers itself.
func TestGoIPMI(t *testing.T) {
	for _, suite := range []types.CipherSuiteID{0, types.CipherSuiteID3, types.CipherSuiteID17} {
		t.Run(fmt.Sprint("suite ", suite), func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			t.Run("session", func(t *testing.T) { conversation(t, suite) })
		})
	}
}

func conversation(t *testing.T, suite types.CipherSuiteID) {
	ctx := deadline(t)
	host := bmc.NewChassis(bmc.ChassisConfig{On: true})
	b := serve(t, bmc.Config{Name: "b", Chassis: host})
	c, err := connect(t, ctx, b, suite, "admin", "s3cret", types.PrivilegeLevelAdministrator)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		action chassis.ChassisControl
		power  bool
	}{
		{chassis.ChassisControlPowerDown, false}, {chassis.ChassisControlPowerUp, true},
		{chassis.ChassisControlPowerCycle, true}, {chassis.ChassisControlHardReset, true},
		{chassis.ChassisControlDiagnosticInterrupt, true}, {chassis.ChassisControlSoftShutdown, false},
	} {
		if _, err := c.ChassisControl(ctx, step.action); err != nil {
			t.Fatalf("%v: %v", step.action, err)
		}
		st, err := c.GetChassisStatus(ctx)
		if err != nil || st.PowerIsOn != step.power || host.Power() != step.power {
			t.Fatalf("after %v: %+v, %v, power %t; want %t", step.action, st, err, host.Power(), step.power)
		}
	}
	if _, err := c.ChassisIdentify(ctx, 30, false); err != nil || host.Counts().Identify != 1 {
		t.Errorf("identify: %v, %+v", err, host.Counts())
	}
	st, err := c.GetChassisStatus(ctx)
	if err != nil || st.ChassisIdentifyState != chassis.ChassisIdentifyStateTemporaryOn {
		t.Errorf("lamp: %+v, %v", st, err)
	}
	if g, err := c.GetSystemGUID(ctx); err != nil || g.GUID != guid {
		t.Errorf("GUID: %v, %v", g, err)
	}
	if id, err := c.GetDeviceID(ctx); err != nil || id.MajorIPMIVersion != 2 || !id.SupportChassis {
		t.Errorf("device id: %+v, %v", id, err)
	}
	if _, err := c.GetChassisCapabilities(ctx); err != nil {
		t.Errorf("chassis capabilities: %v", err)
	}
	info, err := c.GetSessionInfo(ctx, &app.GetSessionInfoRequest{})
	if err != nil || info.CurrentActiveSessions != 1 || info.PossibleActiveSessions != 4 || info.UserID != 2 ||
		info.OperatingPrivilegeLevel != types.PrivilegeLevelAdministrator || !info.RemoteConsoleIPAddr.IsLoopback() || info.RemoteConsolePort == 0 {
		t.Errorf("session info: %+v, %v", info, err)
	}
	if log := b.Truth(); len(log) != 7 || log[0].Verb != bmc.VerbOff || !log[0].Before || log[0].After {
		t.Errorf("truth: %+v", log)
	}
}

// power.md §7: wrong password, unknown user and missing privilege fail as such.
func TestGoIPMIRefused(t *testing.T) {
	ctx := deadline(t)
	b := serve(t, bmc.Config{Name: "b"})
	for _, suite := range []types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17} {
		if _, err := connect(t, ctx, b, suite, "admin", "wrong", types.PrivilegeLevelAdministrator); err == nil {
			t.Errorf("suite %d: a wrong password connects", suite)
		}
		if _, err := connect(t, ctx, b, suite, "nobody", "s3cret", types.PrivilegeLevelAdministrator); err == nil {
			t.Errorf("suite %d: an unknown user connects", suite)
		}
		if _, err := connect(t, ctx, b, suite, "viewer", "view1", types.PrivilegeLevelOperator); err == nil {
			t.Errorf("suite %d: a user connects as operator", suite)
		}
	}
	c, err := connect(t, ctx, b, types.CipherSuiteID17, "viewer", "view1", types.PrivilegeLevelUser)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := c.GetChassisStatus(ctx); err != nil || !st.PowerIsOn {
		t.Errorf("a user reads: %+v, %v", st, err)
	}
	if _, err := c.ChassisControl(ctx, chassis.ChassisControlPowerDown); err == nil {
		t.Error("a user switched the host off")
	}
}

// power.md §11.8, §11.9: late, jittered and doubled answers arrive, late.
func TestDelayedAnswers(t *testing.T) {
	ctx := deadline(t)
	b := serve(t, bmc.Config{Name: "b"})
	if err := b.SetFaults(bmc.Faults{Delay: 30 * time.Millisecond, Jitter: 30 * time.Millisecond, DuplicateAnswers: 100}); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	until, _ := ctx.Deadline()
	if err := conn.SetDeadline(until); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := conn.Write([]byte{6, 0, 0xff, 6, 0, 0, 0x11, 0xbe, 0x80, 7, 0, 0}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for range 2 {
		if n, err := conn.Read(buf); err != nil || n != 28 || buf[9] != 7 {
			t.Fatalf("pong % x, %v", buf[:n], err)
		}
	}
	if took := time.Since(start); took < 30*time.Millisecond {
		t.Errorf("answered after %s, want at least the delay", took)
	}
}

// A host that powers itself on does so with nobody asking.
func TestSelfOnWithoutTraffic(t *testing.T) {
	ctx := deadline(t)
	host := bmc.NewChassis(bmc.ChassisConfig{On: true})
	back := make(chan struct{})
	b := serve(t, bmc.Config{Name: "b", Chassis: host, OnCommand: func(e bmc.Entry) {
		if e.Verb == bmc.VerbSelfOn {
			close(back)
		}
	}})
	if err := b.SetFaults(bmc.Faults{SelfOnAfter: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	c, err := connect(t, ctx, b, types.CipherSuiteID17, "admin", "s3cret", types.PrivilegeLevelOperator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ChassisControl(ctx, chassis.ChassisControlPowerDown); err != nil {
		t.Fatal(err)
	}
	select {
	case <-back:
	case <-ctx.Done():
		t.Fatal("the host stayed off")
	}
	if !host.Power() {
		t.Error("the log says on, the chassis is off")
	}
}

// Many BMCs on 127.x addresses live in one process and all end with their context.
func TestManyBMCs(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("fleet", func(t *testing.T) {
		ctx := deadline(t)
		for i := range 200 {
			b := serve(t, bmc.Config{Name: fmt.Sprint(i), Addr: fmt.Sprintf("127.9.%d.%d:0", i/100, 1+i%100)})
			if i%50 == 0 {
				c, err := connect(t, ctx, b, types.CipherSuiteID17, "admin", "s3cret", types.PrivilegeLevelOperator)
				if err != nil {
					t.Fatal(err)
				}
				if st, err := c.GetChassisStatus(ctx); err != nil || !st.PowerIsOn {
					t.Errorf("bmc %d: %+v, %v", i, st, err)
				}
			}
		}
	})
}

// An address in use is an error that names the BMC, not a silent second listener.
func TestAddressInUse(t *testing.T) {
	first := serve(t, bmc.Config{Name: "first"})
	if err := bmc.New(bmc.Config{Name: "second", Addr: first.Addr().String()}).Run(context.Background()); err == nil {
		t.Error("two BMCs listen on one address")
	}
}
