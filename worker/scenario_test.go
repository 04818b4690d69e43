// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// The acceptance scenarios of power.md §11 that need the whole service: a worker, a real
// etcd and simulated BMCs on loopback. Those of the wire alone are with their driver; the
// list of all is in docs/power.md.

// service is one host with one BMC, served by one worker.
type service struct {
	*rig
	t       *testing.T
	w       *Worker
	bmc     *bmc.BMC
	chassis *bmc.ModelChassis
	cfg     bmc.Config
	params  map[string]string
	env     string // names the variable with the password that the worker uses
}

const bootTime = 15 * time.Second

// quick are settings that let a scenario pass in seconds.
var quick = map[string]string{
	"ha.suspect.read.interval": "1s", "power.sync.interval": "2s", "power.confirm.after": "500ms", "power.session.gap": "0s",
	"power.packet.timeout": "200ms", "power.status.deadline": "1s", "ha.policy": "observe",
}

func newService(t *testing.T, password string, before func(*service)) *service {
	t.Helper()
	t.Parallel()
	s := &service{rig: newRig(t), t: t, env: passwordVar(t, password), chassis: bmc.NewChassis(bmc.ChassisConfig{On: true})}
	s.cfg = bmc.Config{Name: "h1", Addr: "127.0.0.1:0", GUID: [16]byte{1, 2, 3}, Chassis: s.chassis, Users: []bmc.User{{Name: "op", Password: "pw-8ad1", Privilege: bmc.Operator}}}
	if before != nil {
		before(s)
	}
	s.bmc = bmc.New(s.cfg)
	if err := s.bmc.Listen(); err != nil {
		t.Fatal(err)
	}
	background(t, s.bmc.Run)
	for name, v := range quick {
		s.put(t, leases.SettingKey("global", name), v1.SettingRecord{V: 1, Value: v})
	}
	return s
}

// passwordVar puts a password into a variable of the test's own.
func passwordVar(t *testing.T, password string) string {
	name := "HOLDFAST_" + strings.NewReplacer("/", "_", "#", "_").Replace(t.Name())
	if err := os.Setenv(name, password); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Unsetenv(name) })
	return name
}

// serve declares the host and starts its worker; its agent pings while it has power.
func (s *service) serve() {
	s.t.Helper()
	s.put(s.t, leases.HostSpecKey("h1"), s.spec())
	s.w, _ = s.worker(s.t, "w1")
	w, chassis := s.w, s.chassis
	background(s.t, func(ctx context.Context) error {
		boot, on := 1, true
		var booted time.Time
		for pause(ctx, 50*time.Millisecond) {
			was := on
			if on = chassis.Power(); on && !was {
				boot, booted = boot+1, time.Now().Add(bootTime)
			}
			if !on || time.Now().Before(booted) {
				continue
			}
			report := &agentpb.Report{HypervisorOk: true, Pools: []*agentpb.PoolReport{{Id: "nfs1", State: agentpb.PoolReport_OK}}}
			(*door)(w).Ping(&link.Session{Host: "h1", Boot: fmt.Sprintf("boot-%d", boot)}, &agentpb.Ping{Report: report}, time.Now())
		}
		return nil
	})
}

func (s *service) spec() v1.HostSpec {
	return v1.HostSpec{V: 1, ID: "h1", Partition: cluster, Provider: "kvm", Pools: []string{"nfs1"},
		Power: []v1.Device{{Name: "bmc", Driver: "ipmi", Address: s.bmc.Addr().String(), User: "op", Secret: "env:" + s.env, Params: s.params}}}
}

func (s *service) faults(f bmc.Faults) {
	s.t.Helper()
	if err := s.bmc.SetFaults(f); err != nil {
		s.t.Fatal(err)
	}
}

// see is what the owner knows now.
func (s *service) see() (m power.Machine, dev deviceRecord, rec ha.Record) {
	s.t.Helper()
	_ = s.w.live(s.t.Context(), "h1", func(_ context.Context, o *owner) { m, dev, rec = o.pow.Machine, o.pow.Devices["bmc"], o.rec }) // not owned yet: nothing known
	return m, dev, rec
}

func (s *service) until(what string, cond func(power.Machine, deviceRecord, ha.Record) bool) {
	s.t.Helper()
	eventually(s.t, what, func() bool { m, d, r := s.see(); return cond(m, d, r) })
}

func (s *service) reads(want power.State) {
	s.t.Helper()
	s.until("power reads "+want.String(), func(m power.Machine, _ deviceRecord, _ ha.Record) bool { return m.State == want })
}

func (s *service) tested() {
	s.t.Helper()
	s.until("the power test passes", func(_ power.Machine, d deviceRecord, _ ha.Record) bool { return d.TestOK })
}

// log are the events of a type.
func (s *service) log(typ string) (out []v1.Event) {
	s.t.Helper()
	kvs, _, err := s.client.List(s.t.Context(), leases.EventsPrefix)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, kv := range kvs {
		var x v1.Event
		if err := json.Unmarshal(kv.Value, &x); err != nil {
			s.t.Fatal(err)
		}
		if x.Type == typ {
			out = append(out, x)
		}
	}
	return out
}

// noCommand: nothing but the lamp was commanded.
func (s *service) noCommand() {
	s.t.Helper()
	for _, e := range s.bmc.Truth() {
		if e.Verb != bmc.VerbIdentify {
			s.t.Errorf("a power command was sent: %+v", e)
		}
	}
}

// Given a new host, when nothing was read yet, then state is UNKNOWN and HA-ineligible.
func TestScenario01NewHostIsUnknown(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.faults(bmc.Faults{Mute: true})
	s.serve()
	s.until("the provider was asked", func(_ power.Machine, _ deviceRecord, r ha.Record) bool { return r.Eligible == ha.Fail })
	if m, d, r := s.see(); m.State != power.Unknown || d.TestOK || r.State == ha.Available {
		t.Errorf("power %s, tested %v, %s", m.State, d.TestOK, r.State)
	}
	s.faults(bmc.Faults{})
	s.until("it becomes eligible by reading", func(m power.Machine, _ deviceRecord, r ha.Record) bool {
		return m.State == power.On && r.Eligible == ha.Pass
	})
}

// Given ON, when a technician switches it off, then event ON->OFF with cause external and
// no power command; given OFF, when switched on by hand, then OFF->ON and the quiet period.
func TestScenario02And03TechnicianAtTheRack(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.host(t, "h2", true) // a partition of one host has no HA
	s.host(t, "h3", true)
	s.serve()
	beat(t, s.w, "h2", "h3")
	s.tested()
	s.until("it is protected", func(_ power.Machine, _ deviceRecord, r ha.Record) bool { return r.State == ha.Available })
	s.chassis.Force(false)
	began := time.Now()
	s.reads(power.Off)
	if took := time.Since(began); took > 8*time.Second { // twice the slowest interval here, and the confirmation
		t.Errorf("seen after %v", took)
	}
	if x := s.log("power.ON-OFF"); len(x) != 1 || x[0].Data["cause"] != string(power.External) {
		t.Errorf("events: %+v", x)
	}
	s.chassis.Force(true)
	s.until("it boots in its quiet period", func(m power.Machine, _ deviceRecord, r ha.Record) bool {
		return m.State == power.On && r.QuietUntil.After(time.Now())
	})
	if x := s.log("power.OFF-ON"); len(x) != 1 || x[0].Host != "h1" || x[0].Data["cause"] != string(power.External) {
		t.Errorf("events: %+v", x)
	}
	s.noCommand()
}

// Given ON, when one read fails, then state stays ON and the counter shows 1; three in a
// row give ON->UNKNOWN; when the BMC answers again, two equal readings give UNKNOWN->ON.
func TestScenario04And05LostAndFoundAgain(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.serve()
	s.tested()
	s.reads(power.On)
	s.faults(bmc.Faults{Mute: true})
	s.until("one failure is counted and ON stays", func(m power.Machine, _ deviceRecord, _ ha.Record) bool {
		d, _ := m.Device("bmc")
		if d.Fails > 0 && d.Fails < 3 && m.State != power.On {
			t.Errorf("after %d failed reads: %s", d.Fails, m.State)
		}
		return d.Fails >= 1
	})
	s.reads(power.Unknown)
	m, _, _ := s.see()
	if d, _ := m.Device("bmc"); d.Fails < 3 || len(s.log("power.ON-UNKNOWN")) != 1 {
		t.Errorf("UNKNOWN after %d failed reads, events %v", d.Fails, s.log("power.ON-UNKNOWN"))
	}
	if x := s.log("power.ON-UNKNOWN"); x[0].Data["cause"] != string(power.LostContact) {
		t.Errorf("cause %q", x[0].Data["cause"])
	}
	s.faults(bmc.Faults{})
	s.reads(power.On)
	if len(s.log("power.UNKNOWN-ON")) != 2 { // at enrolment, and now
		t.Errorf("events %v", s.log("power.UNKNOWN-ON"))
	}
	s.noCommand()
}

// Given "BMC initialising" right after its restart, then Busy, and no ON->OFF event.
func TestScenario12RestartingBMCIsNotOff(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.serve()
	s.tested()
	s.reads(power.On)
	s.faults(bmc.Faults{Initialising: true})
	s.bmc.Restart()
	s.reads(power.Unknown)
	m, _, _ := s.see()
	if d, _ := m.Device("bmc"); d.Err != power.Busy {
		t.Errorf("kind %s, want Busy", d.Err)
	}
	s.faults(bmc.Faults{})
	s.reads(power.On)
	if x := s.log("power.ON-OFF"); len(x) > 0 {
		t.Errorf("it was seen OFF: %+v", x)
	}
}

// Given a per-host timeout override of 15 s, then that host alone uses it and its origin
// is named; a class gives it where nobody said so explicitly.
func TestScenario13OneHostHasItsOwnTimeout(t *testing.T) {
	r := newRig(t)
	r.host(t, "h1", false)
	r.host(t, "h2", false)
	a, b := loaded(t, r, "h1", time.Minute), "h2"
	r.put(t, leases.SettingKey("host/h1", "power.status.deadline"), v1.SettingRecord{V: 1, Value: "15s"})
	if err := a.w.catchUp(t.Context(), a.w.mirror); err != nil {
		t.Fatal(err)
	}
	a.refreshPolicy()
	if got := a.powerLimits().Answer; got != 15*time.Second {
		t.Errorf("h1 waits %v", got)
	}
	if v, origin := a.eff.Value("power.status.deadline"); origin != "host/h1" {
		t.Errorf("%s from %s", v, origin)
	}
	if got := a.w.view.effective(cluster, b, time.Now()).Duration("power.status.deadline"); got != 5*time.Second {
		t.Errorf("h2 waits %v", got)
	}
	r.put(t, leases.ProfileKey("cluster/"+cluster), v1.ProfileRecord{V: 1, Fields: map[string]string{"class": "slow"}})
	if err := a.w.catchUp(t.Context(), a.w.mirror); err != nil {
		t.Fatal(err)
	}
	if v, origin := a.w.view.effective(cluster, b, time.Now()).Value("power.command.deadline"); v != "30s" || origin != "class slow at cluster/"+cluster {
		t.Errorf("h2: %s from %s", v, origin)
	}
	if v, origin := a.w.view.effective(cluster, "h1", time.Now()).Value("power.status.deadline"); v != "15s" || origin != "host/h1" {
		t.Errorf("h1: %s from %s", v, origin)
	}
}

// Given forged plaintext OFF before each answer and the host ON, then ON is read and a
// security event counts the drops.
func TestScenario14ForgedOffIsDroppedAndTold(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.faults(bmc.Faults{Forged: 5})
	s.serve()
	s.tested()
	s.reads(power.On)
	eventually(t, "the attack is told", func() bool { return len(s.log("power.hostile-packets")) == 1 })
	if x := s.log("power.hostile-packets")[0]; x.Severity != string(ha.Warning) || x.Data["count"] == "0" {
		t.Errorf("event %+v", x)
	}
	if x := s.log("power.ON-OFF"); len(x) > 0 {
		t.Errorf("a forged OFF was believed: %+v", x)
	}
}

// Given another device answering at the address, then IdentityMismatch, no command and an
// alert; it is not the host's until an operator says so.
func TestScenario19AnotherBoxGetsNoCommand(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.serve()
	s.tested()
	s.reads(power.On)
	if x := s.log("power.pinned"); len(x) != 1 || x[0].Data["systemUUID"] == "" {
		t.Errorf("pinned: %+v", x)
	}
	s.faults(bmc.Faults{OtherGUID: true})
	s.reads(power.Unknown)
	m, _, _ := s.see()
	if d, _ := m.Device("bmc"); d.Err != power.IdentityMismatch || d.Fails > 1 {
		t.Errorf("%s after %d failed reads, want IdentityMismatch at the first", d.Err, d.Fails)
	}
	eventually(t, "the alert", func() bool { return len(s.log("power.ON-UNKNOWN")) == 1 })
	if !strings.Contains(s.log("power.ON-UNKNOWN")[0].Message, "IdentityMismatch") {
		t.Errorf("alert %+v", s.log("power.ON-UNKNOWN"))
	}
	if _, err := (*backend)(s.w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "off"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the order failed", func() bool { return len(s.log("power.order-failed")) == 1 })
	s.noCommand()
	spec := s.spec()
	spec.Power[0].Enrolment = 1
	s.put(t, leases.HostSpecKey("h1"), spec)
	s.reads(power.On)
}

// Given a wrong password, then AuthFailed on the first try, one alert, no further tries,
// and so a lock-out after 3 failures is never triggered; the next version of the secret
// is used without a restart.
func TestScenario21And22And27WrongPassword(t *testing.T) {
	s := newService(t, "wrong-61", nil)
	s.faults(bmc.Faults{LockoutAfter: 3})
	s.serve()
	s.until("many reads were due", func(m power.Machine, _ deviceRecord, _ ha.Record) bool {
		d, _ := m.Device("bmc")
		return d.Fails >= 5 && d.Err == power.AuthFailed
	})
	x := s.log("power.test-failed")
	if len(x) != 1 || x[0].Data["kind"] != string(power.AuthFailed) {
		t.Errorf("%d alerts: %+v", len(x), x)
	}
	if live, half := s.bmc.Sessions(); live+half > 0 {
		t.Errorf("%d sessions and %d half-open ones are left", live, half)
	}
	if err := os.Setenv(s.env, "pw-8ad1"); err != nil {
		t.Fatal(err)
	}
	s.tested() // a locked account would refuse it
	s.reads(power.On)
}

// Given all session slots taken, then SessionLimit and UNKNOWN, never OFF; success after a
// slot is free.
func TestScenario23SlotsTaken(t *testing.T) {
	s := newService(t, "pw-8ad1", nil)
	s.serve()
	s.tested()
	s.reads(power.On)
	s.faults(bmc.Faults{NoSlots: true})
	s.reads(power.Unknown)
	m, d, _ := s.see()
	if x, _ := m.Device("bmc"); x.Err != power.SessionLimit || !d.TestOK {
		t.Errorf("%s, test counts %v", x.Err, d.TestOK)
	}
	s.faults(bmc.Faults{})
	s.reads(power.On)
}

// Given a USER-privilege account, then the test fails at depth 4 with PrivilegeDenied, and
// host and partition show it.
func TestScenario24PrivilegeIsTested(t *testing.T) {
	s := newService(t, "pw-8ad1", func(s *service) {
		s.cfg.Users[0].Privilege, s.params = bmc.UserLevel, map[string]string{"privilege": "user"}
	})
	s.serve()
	s.until("the test failed", func(_ power.Machine, d deviceRecord, r ha.Record) bool {
		return d.TestKind == string(power.PrivilegeDenied) && r.Eligible == ha.Fail
	})
	if _, d, _ := s.see(); d.Depth != depthIdentity {
		t.Errorf("depth %d", d.Depth)
	}
	s.reads(power.On) // it can be read all the same
	x, err := (*backend)(s.w).ExplainPartition(t.Context(), cluster)
	if err != nil || !slices.ContainsFunc(x.Story, func(e v1.Entry) bool {
		return strings.Contains(e.Text, "h1") && strings.Contains(e.Text, "PrivilegeDenied")
	}) {
		t.Errorf("the partition shows %+v, %v", x.Story, err)
	}
	res, err := (*backend)(s.w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "test"})
	if err != nil || !res.Failed || !slices.ContainsFunc(res.Steps, func(l string) bool {
		return strings.Contains(l, "4 privilege") && strings.Contains(l, "PrivilegeDenied")
	}) || !slices.ContainsFunc(res.Steps, func(l string) bool { return strings.HasPrefix(l, "bmc: 2 status: reads ON") }) {
		t.Errorf("steps %q, %v", res.Steps, err)
	}
	s.noCommand()
}

// Given a 21-byte password, then the declaration is refused with a reason that does not
// tell it.
func TestScenario25LongPasswordIsRefused(t *testing.T) {
	long := "twenty-one-bytes-long"
	env := passwordVar(t, long)
	w, err := New(Options{ID: "w1", Etcd: []string{"http://127.0.0.1:1"}, InsecureLoopback: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = w.validateHost(v1.HostSpec{V: 1, ID: "h1", Partition: cluster, Provider: "kvm",
		Power: []v1.Device{{Name: "bmc", Driver: "ipmi", Address: "10.0.0.1", User: "op", Secret: "env:" + env}}})
	if err == nil || !strings.Contains(err.Error(), "21 bytes") || !strings.Contains(err.Error(), "at most 20") || strings.Contains(err.Error(), long) {
		t.Errorf("got %v", err)
	}
}

// syncBuffer is a log that many goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Given any failure, then no secret appears in logs, errors, events, records, the API or
// metrics (of children: drivertest.Run for every driver).
func TestScenario26SecretsAppearNowhere(t *testing.T) {
	const secret = "s3cr3t-Zq-19"
	for name, f := range map[string]bmc.Faults{"refused": {}, "forged": {Forged: 3, WrongIntegrity: true}, "mute": {Mute: true}, "downgrade": {Downgrade: true}} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, secret, nil)
			s.faults(f)
			logs := &syncBuffer{}
			s.put(t, leases.HostSpecKey("h1"), s.spec())
			w, err := New(Options{ID: "w1", Etcd: s.etcd.Endpoints(), ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", LeaseTTL: 3 * time.Second, InsecureLoopback: true,
				Logger: slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			if err != nil {
				t.Fatal(err)
			}
			s.w = w
			background(t, w.Run)
			s.until("a read failed", func(m power.Machine, _ deviceRecord, _ ha.Record) bool { d, _ := m.Device("bmc"); return d.Fails > 0 })
			res, err := (*backend)(w).Order(t.Context(), "ann", "h1", v1.OrderRequest{Verb: "test"})
			x, err2 := (*backend)(w).ExplainPower(t.Context(), "h1")
			all := fmt.Sprintf("%s %+v %v %+v %v", logs, res, err, x, err2)
			kvs, _, err := s.client.List(t.Context(), leases.Root)
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range kvs {
				all += string(kv.Value)
			}
			families, err := w.metrics.Registry().Gather()
			if err != nil {
				t.Fatal(err)
			}
			all += fmt.Sprint(families)
			if strings.Contains(all, secret) {
				t.Errorf("the secret is in\n%s", all)
			}
		})
	}
}
