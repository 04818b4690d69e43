// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	sim "github.com/holdfast-ha/holdfast/sim/redfish"
	"github.com/holdfast-ha/holdfast/worker/power"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// power.md §8.2: once found and proven, a reading is one GET on the kept connection.
func TestOneGetPerReading(t *testing.T) {
	r := newRig(t, time.Minute)
	if _, err := r.read(r.target(pinned)); err != nil {
		t.Fatal(err)
	}
	requests, connections := r.Requests(), r.Connections()
	for range 20 {
		if got, err := r.read(r.target(pinned)); err != nil || got.State != corepower.On || !got.Authentic {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if n := r.Requests() - requests; n != 20 {
		t.Errorf("20 readings are 20 requests, got %d", n)
	}
	if r.Connections() != connections {
		t.Errorf("%d connections, had %d", r.Connections(), connections)
	}
}

// A connection the device closed while it lay idle is opened again for a GET; a changed
// identity on it is found by the reading itself.
func TestKeptConnectionIsNotTrustedBlindly(t *testing.T) {
	r := newRig(t, time.Minute)
	if _, err := r.read(r.target(pinned)); err != nil {
		t.Fatal(err)
	}
	r.Restart()
	if got, err := r.read(r.target(pinned)); err != nil || got.State != corepower.On {
		t.Errorf("after a restart of the device: %+v, %v", got, err)
	}
	r.set(sim.Faults{OtherUUID: true})
	_, err := r.read(r.target(pinned))
	r.wantKind(err, corepower.IdentityMismatch)
	r.set(sim.Faults{OtherCertificate: true})
	r.Restart()
	_, err = r.read(r.target(pinned))
	r.wantKind(err, corepower.IdentityMismatch)
}

// power.md §7 and §11 (8, 11, 12, 20, 21, 23): each fault has its kind, within the
// deadline, and is Unknown.
func TestReadKinds(t *testing.T) {
	gib := int64(1 << 30)
	for _, tc := range []struct {
		name   string
		faults sim.Faults
		auth   string
		kind   corepower.Kind
		wait   time.Duration // RetryAfter at least
	}{
		{name: "401", faults: sim.Faults{Unauthorized: true}, kind: corepower.AuthFailed, wait: 15 * time.Minute},
		{name: "401 to a log-in", auth: "session", faults: sim.Faults{Unauthorized: true}, kind: corepower.AuthFailed, wait: 15 * time.Minute},
		{name: "403", faults: sim.Faults{Forbidden: true}, kind: corepower.PrivilegeDenied},
		{name: "503", faults: sim.Faults{BusyReads: 9}, kind: corepower.Busy, wait: 3 * time.Second},
		{name: "no session left", auth: "session", faults: sim.Faults{NoSlots: true}, kind: corepower.SessionLimit, wait: 10 * time.Second},
		{name: "broken JSON", faults: sim.Faults{WrongJSON: true}, kind: corepower.ProtocolViolation},
		{name: "no power state", faults: sim.Faults{NoPowerState: true}, kind: corepower.ProtocolViolation},
		{name: "null", faults: sim.Faults{SayState: "null"}, kind: corepower.ProtocolViolation},
		{name: "paused", faults: sim.Faults{SayState: "Paused"}, kind: corepower.ProtocolViolation},
		{name: "force off in progress", faults: sim.Faults{SayState: "ForceOffInProgress"}, kind: corepower.ProtocolViolation},
		{name: "a body of 1 GiB", faults: sim.Faults{HugeBody: gib}, kind: corepower.ProtocolViolation},
		{name: "a body byte by byte", faults: sim.Faults{Trickle: 20 * time.Millisecond}, kind: corepower.Timeout},
		{name: "redirect", faults: sim.Faults{Redirect: "https://192.0.2.1"}, kind: corepower.ProtocolViolation},
		{name: "slow", faults: sim.Faults{Delay: time.Minute}, kind: corepower.Timeout},
		{name: "no answer", faults: sim.Faults{LoseAnswers: 100}, kind: corepower.Timeout},
		{name: "requests lost", faults: sim.Faults{LoseRequests: 100}, kind: corepower.Timeout},
		{name: "mute", faults: sim.Faults{Mute: true}, kind: corepower.Unreachable},
		{name: "another certificate", faults: sim.Faults{OtherCertificate: true}, kind: corepower.IdentityMismatch},
		{name: "another system", faults: sim.Faults{OtherUUID: true}, kind: corepower.IdentityMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 0)
			if tc.auth != "" {
				r.params["auth"] = tc.auth
			}
			r.params["system"] = "/redfish/v1/Systems/1"
			r.set(tc.faults)
			start := time.Now()
			_, err := r.read(r.target(pinned, limits(300*time.Millisecond)))
			if took := time.Since(start); took > 550*time.Millisecond {
				t.Errorf("a deadline of 300ms is kept within 250ms: took %v", took)
			}
			r.wantKind(err, tc.kind)
			var e *power.Error
			if !errors.As(err, &e) || e.RetryAfter < tc.wait || e.MayHaveRun {
				t.Errorf("%+v: want a retry after at least %v", e, tc.wait)
			}
			if len(r.Truth()) != 0 {
				t.Errorf("a reading sends no command: %+v", r.Truth())
			}
			r.set(sim.Faults{})
			if n := r.Sessions(); n != 0 && tc.name != "mute" {
				t.Errorf("%d sessions left behind", n)
			}
		})
	}
	t.Run("closed port", func(t *testing.T) {
		r := newRig(t, 0)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		closed := ln.Addr().String()
		ln.Close()
		_, err = r.read(r.target(func(t *power.Target) { t.Address = closed }))
		r.wantKind(err, corepower.Unreachable)
	})
}

// power.md §6.2.5 and §1: PoweringOff and PoweringOn are never OFF.
func TestTransitionsAreNotOff(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	clock := make(chan time.Time, 1)
	clock <- now
	tell := func() time.Time { t := <-clock; clock <- t; return t }
	r := newRig(t, 0, func(c *sim.Config, ch *bmc.ChassisConfig) {
		c.Now, ch.Now = tell, tell
		ch.OffLatency, ch.OnLatency = 4*time.Second, 4*time.Second
	})
	c := r.open(r.target(pinned))
	for _, step := range []struct {
		verb corepower.Verb
		want corepower.State
	}{{corepower.HardOff, corepower.Off}, {corepower.HardOn, corepower.On}} {
		if out, err := c.Do(t.Context(), power.Command{Verb: step.verb}); err != nil || out != corepower.Accepted {
			t.Fatalf("%s: %s, %v", step.verb, out, err)
		}
		if got, err := c.Status(t.Context()); err != nil || !got.Transitional || got.State == corepower.Off {
			t.Errorf("on its way after %s: %+v, %v", step.verb, got, err)
		}
		clock <- (<-clock).Add(5 * time.Second)
		if got, err := c.Status(t.Context()); err != nil || got.Transitional || got.State != step.want {
			t.Errorf("there after %s: %+v, %v", step.verb, got, err)
		}
	}
}

// power.md §7: what a refused command means, and that it is sent once.
func TestCommandKinds(t *testing.T) {
	for _, tc := range []struct {
		name    string
		verb    corepower.Verb
		off     bool
		faults  sim.Faults
		change  func(*sim.Config)
		user    string
		outcome corepower.Outcome
		kind    corepower.Kind
		ran     []bmc.Verb
		asked   int // commands in the truth log
	}{
		{name: "off", verb: corepower.HardOff, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbOff}, asked: 1},
		{name: "off when off is sent", verb: corepower.HardOff, off: true, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbOff}, asked: 1},
		{name: "reset", verb: corepower.Reset, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbReset}, asked: 1},
		{name: "cycle", verb: corepower.Cycle, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbCycle}, asked: 1},
		{name: "soft", verb: corepower.SoftOff, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbSoft}, asked: 1},
		{name: "lying", verb: corepower.HardOff, faults: sim.Faults{IgnoreCommands: true}, outcome: corepower.Accepted, asked: 1},
		{name: "409 when off", verb: corepower.HardOff, off: true, faults: sim.Faults{RejectSameState: true}, outcome: corepower.AlreadyThere, asked: 1},
		{name: "409 when on", verb: corepower.HardOn, faults: sim.Faults{RejectSameState: true}, outcome: corepower.AlreadyThere, asked: 1},
		{name: "reset of an off host", verb: corepower.Reset, off: true, outcome: corepower.AlreadyThere, asked: 1},
		{name: "409 on its way", verb: corepower.HardOff, off: true, faults: sim.Faults{RejectSameState: true, SayState: "PoweringOff"}, outcome: corepower.AlreadyThere, asked: 1},
		{name: "409 to what would help", verb: corepower.HardOff, off: true, faults: sim.Faults{RejectSameState: true, SayState: "On"}, outcome: corepower.Rejected, kind: corepower.Busy, asked: 1},
		{name: "409 to on, going off", verb: corepower.HardOn, faults: sim.Faults{RejectSameState: true, SayState: "PoweringOff"}, outcome: corepower.Rejected, kind: corepower.Busy, asked: 1},
		{name: "503", verb: corepower.HardOff, faults: sim.Faults{Busy: 1}, outcome: corepower.Rejected, kind: corepower.Busy, asked: 1},
		{name: "429", verb: corepower.HardOff, faults: sim.Faults{TooMany: 1}, outcome: corepower.Rejected, kind: corepower.Busy, asked: 1},
		{name: "in use", verb: corepower.HardOff, faults: sim.Faults{InUse: 1}, outcome: corepower.Rejected, kind: corepower.Busy, asked: 1},
		{name: "may only read", verb: corepower.HardOff, user: "user", outcome: corepower.Rejected, kind: corepower.PrivilegeDenied, asked: 1},
		{name: "not allowable", verb: corepower.Cycle, change: func(c *sim.Config) { c.ResetTypes = []string{"On", "ForceOff"} }, outcome: corepower.Rejected, kind: corepower.Unsupported},
		{name: "only ForceOn", verb: corepower.HardOn, off: true, change: func(c *sim.Config) { c.ResetTypes = []string{"ForceOn", "ForceOff"} }, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbOn}, asked: 1},
		{name: "values behind a link", verb: corepower.HardOff, change: func(c *sim.Config) { c.ActionInfo = true }, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbOff}, asked: 1},
		{name: "not behind that link", verb: corepower.Cycle, change: func(c *sim.Config) { c.ActionInfo, c.ResetTypes = true, []string{"ForceOff"} }, outcome: corepower.Rejected, kind: corepower.Unsupported},
		{name: "task", verb: corepower.HardOff, change: func(c *sim.Config) { c.Tasks = true }, outcome: corepower.Accepted, ran: []bmc.Verb{bmc.VerbOff}, asked: 1},
		{name: "task that fails", verb: corepower.HardOff, change: func(c *sim.Config) { c.Tasks = true }, faults: sim.Faults{TaskFails: true},
			outcome: corepower.Indeterminate, kind: corepower.RemoteError, ran: []bmc.Verb{bmc.VerbOff}, asked: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 0, func(c *sim.Config, ch *bmc.ChassisConfig) {
				ch.On = !tc.off
				if tc.change != nil {
					tc.change(c)
				}
			})
			user := tc.user
			if user == "" {
				user = "operator"
			}
			c := r.open(r.target(pinned, as(r, user, password)))
			r.set(tc.faults)
			out, err := c.Do(t.Context(), power.Command{Verb: tc.verb})
			if out != tc.outcome || power.MayHaveRun(err) != (out == corepower.Indeterminate) {
				t.Errorf("outcome %s, %v; want %s", out, err, tc.outcome)
			}
			r.wantKind(err, tc.kind)
			if diff := cmp.Diff(tc.ran, r.verbs()); diff != "" {
				t.Errorf("what ran (-want +got):\n%s", diff)
			}
			if n := len(r.Truth()); n != tc.asked {
				t.Errorf("%d commands arrived, want %d: %+v", n, tc.asked, r.Truth())
			}
		})
	}
}

// power.md §6.2.4: a command without an answer may have run, and is not sent again.
func TestLostAnswerIsNotRepeated(t *testing.T) {
	for name, f := range map[string]sim.Faults{"ran": {LoseAnswers: 100}, "did not": {LoseRequests: 100}} {
		r := newRig(t, time.Minute)
		c := r.open(r.target(pinned))
		asked := 0
		out, err := c.Do(t.Context(), power.Command{Verb: corepower.HardOff, Before: func() error { asked++; r.set(f); return nil }})
		if out != corepower.Indeterminate || !power.MayHaveRun(err) || asked != 1 || len(r.Truth()) > 1 {
			t.Errorf("%s: %s, %v; asked %d times, truth %+v", name, out, err, asked, r.Truth())
		}
		r.wantKind(err, corepower.Timeout)
		if _, err := c.Status(t.Context()); err == nil {
			t.Errorf("%s: a connection without an answer is spent", name)
		}
	}
}

// power.md §8.2: of several systems one must be meant; the pinned UUID tells as well.
func TestSeveralSystems(t *testing.T) {
	other := bmc.NewChassis(bmc.ChassisConfig{On: true})
	mine := bmc.NewChassis(bmc.ChassisConfig{On: true})
	r := newRig(t, 0, func(c *sim.Config, _ *bmc.ChassisConfig) {
		c.Systems = []sim.System{{ID: "a", UUID: testUUID, Chassis: mine}, {ID: "b", UUID: "ffff0304-0506-0708-090a-0b0c0d0e0f10", Chassis: other}}
	})
	_, err := r.read(r.target())
	r.wantKind(err, corepower.BadConfig)
	if err == nil || !strings.Contains(err.Error(), "/redfish/v1/Systems/a, /redfish/v1/Systems/b") {
		t.Errorf("the error names the choices: %v", err)
	}
	for name, target := range map[string]power.Target{
		"chosen": r.target(func(t *power.Target) { t.Params["system"] = "/redfish/v1/Systems/a" }),
		"pinned": r.target(pinned),
	} {
		mine.Force(true)
		if out, err := r.do(target, corepower.HardOff); err != nil || out != corepower.Accepted || mine.Power() || !other.Power() {
			t.Errorf("%s: %s, %v; power %t and %t", name, out, err, mine.Power(), other.Power())
		}
	}
	_, err = r.read(r.target(func(t *power.Target) { t.Pinned.SystemUUID = "00000000-0000-0000-0000-00000000beef" }))
	r.wantKind(err, corepower.IdentityMismatch)
	_, err = r.read(r.target(pinned, func(t *power.Target) { t.Params["system"] = "/redfish/v1/Systems/b" }))
	r.wantKind(err, corepower.IdentityMismatch)
}

// power.md §11 (21 to 23): no session is left behind, a full table is waited for, and
// neither a wrong password nor one changed under a kept connection ends in a lock-out.
func TestSessionsAndLockOut(t *testing.T) {
	r := newRig(t, time.Minute, func(c *sim.Config, _ *bmc.ChassisConfig) { c.Slots = 1 })
	r.params["auth"] = "session"
	for range 5 {
		if _, err := r.read(r.target(pinned)); err != nil {
			t.Fatalf("one slot serves many in turn: %v", err)
		}
	}
	busy := r.open(r.target(pinned))
	_, err := r.read(r.target(pinned))
	r.wantKind(err, corepower.SessionLimit)
	r.Restart() // the device forgets the session: not a wrong password
	_, err = busy.Status(t.Context())
	r.wantKind(err, corepower.RemoteError)
	_ = busy.Close(t.Context())
	if _, err := r.read(r.target(pinned)); err != nil || r.Sessions() != 0 {
		t.Errorf("after a slot was freed: %v, %d sessions", err, r.Sessions())
	}

	r.params["auth"] = "basic"
	gate := power.NewGate()
	target := r.target(pinned)
	read := func() error {
		_, err := power.ReadWithRetry(t.Context(), gate.For(r.driver, power.Routine), target)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	r.set(sim.Faults{LockoutAfter: 2})
	r.SetUsers([]bmc.User{{Name: "operator", Password: "new", Privilege: bmc.Operator}})
	before := r.Requests()
	for range 10 {
		r.wantKind(read(), corepower.AuthFailed)
	}
	if n := r.Requests() - before; n != 1 {
		t.Errorf("a refused password is tried once, got %d tries", n)
	}
	if _, err := r.read(r.target(pinned, as(r, "operator", "new"))); err != nil {
		t.Errorf("the account is not locked: %v", err)
	}
}

// power.md §8.2: without a proven certificate a reading is not authentic, so it cannot
// fence, and a warning says so.
func TestUnprovenIsNotAuthentic(t *testing.T) {
	for _, params := range []map[string]string{{}, {"tls": "insecure"}, {"tls": "off"}} {
		r := newRig(t, 0, func(c *sim.Config, _ *bmc.ChassisConfig) { c.Plain = params["tls"] == "off" })
		r.params = params
		got, err := r.read(r.target(pinned))
		if err != nil || got.State != corepower.On || got.Authentic {
			t.Errorf("%v: %+v, %v", params, got, err)
		}
		if len(r.driver.Warnings(r.target())) != 1 {
			t.Errorf("%v: no warning", params)
		}
	}
	r := newRig(t, 0)
	r.params = map[string]string{"tls": "ca"} // the system's roots do not know it
	_, err := r.read(r.target(pinned))
	r.wantKind(err, corepower.IdentityMismatch)
	// What enrolment reads, pinned as it is, is authentic from then on.
	r.params = nil
	c := r.open(r.target())
	id, err := c.Identity(t.Context())
	if err != nil || id.Fingerprint != r.Fingerprint() {
		t.Fatalf("%+v, %v", id, err)
	}
	if got, err := r.read(r.target(func(t *power.Target) { t.Pinned = id })); err != nil || !got.Authentic {
		t.Errorf("enrolled: %+v, %v", got, err)
	}
}

// power.md §9.4 depth 4: the lamp proves the privilege, and goes out again.
func TestIdentify(t *testing.T) {
	for _, modern := range []bool{false, true} {
		r := newRig(t, 0, func(c *sim.Config, _ *bmc.ChassisConfig) { c.LocationIndicator = modern })
		c := r.open(r.target(pinned))
		out, err := c.Do(t.Context(), power.Command{Verb: corepower.Identify, For: time.Millisecond})
		if err != nil || out != corepower.Accepted || !slices.Equal(r.verbs(), []bmc.Verb{bmc.VerbIdentify, bmc.VerbIdentify}) {
			t.Errorf("%s, %v, %+v", out, err, r.Truth())
		}
		c = r.open(r.target(pinned, as(r, "user", password)))
		out, err = c.Do(t.Context(), power.Command{Verb: corepower.Identify, For: time.Millisecond})
		if out != corepower.Rejected {
			t.Errorf("an account that may only read: %s", out)
		}
		r.wantKind(err, corepower.PrivilegeDenied)
	}
}

// A lossy service is read right or not at all.
func TestLossIsNeverWrong(t *testing.T) {
	r := newRig(t, time.Minute)
	right := 0
	for i := range 60 {
		want := corepower.State(1 + i%2)
		r.chassis.Force(want == corepower.On)
		r.set(sim.Faults{LoseRequests: 15, LoseAnswers: 15})
		if got, err := r.read(r.target(pinned)); err == nil && got.State != want {
			t.Fatalf("read %v of a host that is %v", got.State, want)
		} else if err == nil {
			right++
		}
	}
	if right == 0 {
		t.Error("no reading came through")
	}
}

// An Open that is cancelled after the log-in gives the session back.
func TestCancelledOpen(t *testing.T) {
	r := newRig(t, 0)
	r.params["auth"], r.params["system"] = "session", "/redfish/v1/Systems/1"
	r.set(sim.Faults{Delay: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	target := r.target(pinned)
	go func() { _, err := r.driver.Open(ctx, target); ended <- err }()
	r.until("the reading after the log-in", func() bool { return r.Requests() >= 2 })
	cancel()
	r.wantKind(<-ended, corepower.Cancelled)
	r.until("no session left", func() bool { return r.Sessions() == 0 })
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: not reached within a minute", what)
		}
	}
}
