// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// slack is how much later than its deadline a call may end: far less than any deadline of
// the driver's own, and enough for a machine that is busy with other things.
const slack = 2 * time.Second

// Device is one device under test with its truth.
type Device struct {
	Driver   power.Driver
	Target   power.Target // right secret or none, nothing pinned, an account that may switch
	Wrong    power.Secret // right user, wrong password
	Password string       // the right password, to look for where it must not be
	Identity corepower.Identity

	Power    func() corepower.State  // the chassis' true state
	SetPower func(corepower.State)   // as if by hand
	Commands func() []corepower.Verb // what reached the device, in order
	Mute     func(bool)              // silence without closing: no answer, no ICMP
	Release  func()                  // ends what the driver keeps between connections on purpose; nil: it keeps nothing

	Sessionless bool // Open exchanges nothing with the device unless an identity is pinned
}

// Run proves the contract. newDevice makes a fresh device, switched on, for each case
// and cleans up through t.
func Run(t *testing.T, newDevice func(t *testing.T) Device) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := newDevice(t)
			before := goleak.IgnoreCurrent()
			files := openFiles(t)
			c.run(&suite{T: t, Device: d})
			if d.Release != nil {
				d.Release()
			}
			if err := goleak.Find(before); err != nil {
				t.Errorf("a closed connection leaves no goroutine behind: %v", err)
			}
			if n := openFiles(t); n > files {
				t.Errorf("a closed connection leaves no file or socket behind: %d open, %d before", n, files)
			}
		})
	}
}

type suite struct {
	*testing.T
	Device
}

var cases = []struct {
	name string
	run  func(*suite)
}{
	{"descriptor names its parameters and check refuses others", (*suite).parameters},
	{"reads on and off", (*suite).reads},
	{"switches off and on", (*suite).switches},
	{"reads the identity and refuses another box", (*suite).identity},
	{"a wrong password is AuthFailed", (*suite).wrongPassword},
	{"silence at open ends at the deadline", (*suite).muteOpen},
	{"silence at status ends at the deadline", (*suite).muteStatus},
	{"silence after a command is indeterminate", (*suite).muteCommand},
	{"cancel at each step ends at once", (*suite).cancel},
	{"close twice is fine and ends use", (*suite).closeTwice},
	{"a late command is not sent", (*suite).late},
	{"a refused command is not sent", (*suite).refused},
	{"before is asked before the command leaves", (*suite).before},
	{"secrets stay out of errors and logs", (*suite).secrets},
	{"one device serves many in turn", (*suite).many},
}

func (s *suite) open() power.Conn {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	c, err := s.Driver.Open(ctx, s.Target)
	if err != nil {
		s.Fatalf("open session: %v", err)
	}
	s.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (s *suite) close(c power.Conn) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		s.Errorf("close session: %v", err)
	}
}

// wantError checks what holds for every failed read: kind, and the zero reading.
func (s *suite) wantError(r corepower.Reading, err error, kinds ...corepower.Kind) {
	s.Helper()
	if r != (corepower.Reading{}) {
		s.Errorf("an error implies the zero reading, got %+v", r)
	}
	s.wantKind(err, kinds...)
}

func (s *suite) wantKind(err error, kinds ...corepower.Kind) {
	s.Helper()
	for _, k := range kinds {
		if power.KindOf(err) == k {
			return
		}
	}
	s.Errorf("kind of error %q (%v): want one of %v", power.KindOf(err), err, kinds)
}

func (s *suite) wantCommands(want ...corepower.Verb) {
	s.Helper()
	if diff := cmp.Diff(want, s.Commands()); diff != "" {
		s.Errorf("commands that reached the device (-want +got):\n%s", diff)
	}
}

// within runs f with a deadline and checks that it ends there.
func (s *suite) within(d time.Duration, f func(context.Context)) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), d)
	defer cancel()
	start := time.Now()
	f(ctx)
	if took := time.Since(start); took > d+slack {
		s.Errorf("a deadline of %v is kept within %v: took %v", d, slack, took)
	}
}

func (s *suite) parameters() {
	if err := s.Driver.Check(s.Target); err != nil {
		s.Fatalf("check of a right target: %v", err)
	}
	if d := s.Driver.Describe(); d.Kind != s.Driver.Kind() {
		s.Errorf("descriptor kind %q, driver kind %q", d.Kind, s.Driver.Kind())
	}
	t := s.Target
	if t.Params = maps.Clone(t.Params); t.Params == nil {
		t.Params = map[string]string{}
	}
	t.Params["no-such-parameter"] = "x"
	err := s.Driver.Check(t)
	s.wantKind(err, corepower.BadConfig)
	if err != nil && !strings.Contains(err.Error(), "no-such-parameter") {
		s.Errorf("the error names the field: %v", err)
	}
	_, err = s.Driver.Open(s.Context(), t)
	s.wantKind(err, corepower.BadConfig)
	if s.Target.Secret.IsZero() {
		return
	}
	t = s.Target
	t.Secret = power.Secret{}
	s.wantKind(s.Driver.Check(t), corepower.BadConfig)
}

func (s *suite) reads() {
	c := s.open()
	defer s.close(c)
	for _, want := range []corepower.State{corepower.On, corepower.Off, corepower.On} {
		s.SetPower(want)
		before := time.Now()
		r, err := c.Status(s.Context())
		if err != nil || r.State != want || r.At.Before(before) {
			s.Fatalf("status of a device that is %v: %+v, %v", want, r, err)
		}
		if r.Authentic != s.Driver.Describe().Capabilities.Authentic {
			s.Errorf("reading authentic %v, the driver promises otherwise", r.Authentic)
		}
	}
	s.wantCommands()
}

func (s *suite) switches() {
	c := s.open()
	defer s.close(c)
	for _, step := range []struct {
		verb corepower.Verb
		want corepower.State
	}{{corepower.HardOff, corepower.Off}, {corepower.HardOn, corepower.On}} {
		out, err := c.Do(s.Context(), power.Command{Verb: step.verb, ID: "c1", Epoch: "7", NotAfter: time.Now().Add(time.Minute)})
		if err != nil || out != corepower.Accepted {
			s.Fatalf("do %s: %s, %v", step.verb, out, err)
		}
		s.until(func() bool { return s.Power() == step.want })
		if r, err := c.Status(s.Context()); err != nil || r.State != step.want {
			s.Errorf("status after %s: %+v, %v", step.verb, r, err)
		}
	}
	s.wantCommands(corepower.HardOff, corepower.HardOn)
	out, err := c.Do(s.Context(), power.Command{Verb: "explode"})
	if out != corepower.Rejected {
		s.Errorf("an unknown verb is rejected, got %s", out)
	}
	s.wantKind(err, corepower.Unsupported)
}

func (s *suite) identity() {
	c := s.open()
	got, err := c.Identity(s.Context())
	if err != nil || got != s.Identity {
		s.Errorf("identity %+v, %v; want %+v", got, err, s.Identity)
	}
	s.close(c)

	s.Target.Pinned = s.Identity
	s.close(s.open())

	s.Target.Pinned.SystemUUID = "00000000-0000-0000-0000-00000000beef"
	_, err = s.Driver.Open(s.Context(), s.Target)
	s.wantKind(err, corepower.IdentityMismatch)
	s.wantCommands()
}

func (s *suite) wrongPassword() {
	if s.Target.Secret.IsZero() {
		return // its log-in is not by password
	}
	s.Target.Secret = s.Wrong
	r, err := power.ReadOnce(s.Context(), s.Driver, s.Target)
	s.wantError(r, err, corepower.AuthFailed)
	var e *power.Error
	if !errors.As(err, &e) || e.RetryAfter < time.Minute || e.MayHaveRun {
		s.Errorf("a refused log-in says when to try again, and nothing ran: %+v", e)
	}
}

func (s *suite) muteOpen() {
	s.Mute(true)
	s.within(300*time.Millisecond, func(ctx context.Context) {
		r, err := power.ReadOnce(ctx, s.Driver, s.Target)
		s.wantError(r, err, corepower.Unreachable, corepower.Timeout)
	})
}

func (s *suite) muteStatus() {
	c := s.open()
	s.Mute(true)
	s.within(300*time.Millisecond, func(ctx context.Context) {
		r, err := c.Status(ctx)
		s.wantError(r, err, corepower.Timeout, corepower.Unreachable)
	})
	s.within(300*time.Millisecond, func(ctx context.Context) { _ = c.Close(ctx) })
}

func (s *suite) muteCommand() {
	c := s.open()
	s.within(300*time.Millisecond, func(ctx context.Context) {
		out, err := c.Do(ctx, power.Command{Verb: corepower.HardOff, Before: func() error { s.Mute(true); return nil }})
		if out != corepower.Indeterminate || !power.MayHaveRun(err) {
			s.Errorf("a command without an answer may have run: %s, %v", out, err)
		}
		s.wantKind(err, corepower.Timeout)
	})
	s.within(300*time.Millisecond, func(ctx context.Context) { _ = c.Close(ctx) })
}

func (s *suite) cancel() {
	gone, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.Driver.Open(gone, s.Target)
	s.wantKind(err, corepower.Cancelled)

	// Cancelled at each of a log-in's waits and of a read's and a command's.
	s.Mute(true)
	if !s.Sessionless {
		s.cancelled(func(ctx context.Context) {
			_, err := s.Driver.Open(ctx, s.Target)
			s.wantKind(err, corepower.Cancelled)
		})
	}
	s.Mute(false)
	c := s.open()
	s.Mute(true)
	s.cancelled(func(ctx context.Context) {
		r, err := c.Status(ctx)
		s.wantError(r, err, corepower.Cancelled)
	})
	s.cancelled(func(ctx context.Context) { _ = c.Close(ctx) })

	s.Mute(false)
	c = s.open()
	s.cancelled(func(ctx context.Context) {
		out, err := c.Do(ctx, power.Command{Verb: corepower.HardOff, Before: func() error { s.Mute(true); return nil }})
		if out != corepower.Indeterminate || !power.MayHaveRun(err) {
			s.Errorf("a command cancelled after it left may have run: %s, %v", out, err)
		}
		s.wantKind(err, corepower.Cancelled)
	})
	_ = c.Close(gone)

	s.Mute(false)
	c = s.open()
	if out, err := c.Do(gone, power.Command{Verb: corepower.HardOff}); out != corepower.Rejected || power.MayHaveRun(err) {
		s.Errorf("a command cancelled before it left did not run: %s, %v", out, err)
	}
	_ = c.Close(gone)
	s.wantCommands()
}

func (s *suite) cancelled(f func(context.Context)) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	var at atomic.Int64
	timer := time.AfterFunc(50*time.Millisecond, func() { at.Store(time.Now().UnixNano()); cancel() })
	f(ctx)
	timer.Stop()
	cancel()
	if n := at.Load(); n != 0 && time.Since(time.Unix(0, n)) > slack {
		s.Errorf("a cancelled call ends within %v: took %v", slack, time.Since(time.Unix(0, n)))
	}
}

func (s *suite) closeTwice() {
	c := s.open()
	s.close(c)
	s.close(c)
	r, err := c.Status(s.Context())
	s.wantError(r, err, power.KindOf(err))
	if err == nil {
		s.Error("a closed connection cannot be read")
	}
	if out, err := c.Do(s.Context(), power.Command{Verb: corepower.HardOff}); err == nil || out != corepower.Rejected {
		s.Errorf("a closed connection sends nothing: %s, %v", out, err)
	}
	s.wantCommands()
}

func (s *suite) late() {
	c := s.open()
	defer s.close(c)
	out, err := c.Do(s.Context(), power.Command{Verb: corepower.HardOff, NotAfter: time.Now().Add(-time.Millisecond),
		Before: func() error { s.Error("before is not asked for a late command"); return nil }})
	if out != corepower.Rejected || power.MayHaveRun(err) {
		s.Errorf("a late command is rejected: %s, %v", out, err)
	}
	s.wantKind(err, corepower.DeadlinePassed)
	s.wantCommands()
	if r, err := c.Status(s.Context()); err != nil || r.State != corepower.On {
		s.Errorf("the session lives on: %+v, %v", r, err)
	}
}

func (s *suite) refused() {
	c := s.open()
	defer s.close(c)
	lost := errors.New("the lease is lost")
	out, err := c.Do(s.Context(), power.Command{Verb: corepower.HardOff, Before: func() error { return lost }})
	if out != corepower.Rejected || !errors.Is(err, lost) || power.MayHaveRun(err) {
		s.Errorf("a command its owner stopped did not run: %s, %v", out, err)
	}
	s.wantKind(err, corepower.Cancelled)
	s.wantCommands()
	if r, err := c.Status(s.Context()); err != nil || r.State != corepower.On {
		s.Errorf("the session lives on: %+v, %v", r, err)
	}
}

func (s *suite) before() {
	c := s.open()
	defer s.close(c)
	asked := 0
	out, err := c.Do(s.Context(), power.Command{Verb: corepower.HardOff, Before: func() error {
		asked++
		if len(s.Commands()) != 0 {
			s.Error("before is asked before the packet leaves")
		}
		return nil
	}})
	if err != nil || out != corepower.Accepted || asked != 1 {
		s.Errorf("do off: %s, %v, asked %d times", out, err, asked)
	}
	s.wantCommands(corepower.HardOff)
}

func (s *suite) secrets() {
	if s.Target.Secret.IsZero() {
		return
	}
	var seen bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&seen, nil))
	record := func(err error) {
		fmt.Fprintf(&seen, "%v %+v %#v", err, err, err)
		for ; err != nil; err = errors.Unwrap(err) {
			fmt.Fprintf(&seen, "%v", err)
		}
	}
	t := s.Target
	fmt.Fprintf(&seen, "%v %+v %#v %s", t, t, t, t.Secret)
	cred, err := t.Secret.Resolve()
	if err != nil {
		s.Fatalf("resolve secret: %v", err)
	}
	fmt.Fprintf(&seen, "%v %+v %#v %s %x", cred, cred, cred, cred, cred)
	if b, err := json.Marshal(map[string]any{"target": t, "credential": cred}); err == nil {
		seen.Write(b)
	}
	log.Info("target", "target", t, "secret", t.Secret, "credential", cred)
	s.Mute(true)
	s.within(200*time.Millisecond, func(ctx context.Context) {
		_, err := power.ReadOnce(ctx, s.Driver, t)
		record(err)
	})
	s.Mute(false)
	t.Secret = s.Wrong
	_, err = power.ReadOnce(s.Context(), s.Driver, t)
	record(err)
	if strings.Contains(seen.String(), s.Password) || strings.Contains(seen.String(), fmt.Sprintf("%x", s.Password)) {
		s.Error("the password appears in an error, a log or JSON")
	}
	if args, err := os.ReadFile("/proc/self/cmdline"); err == nil && bytes.Contains(args, []byte(s.Password)) {
		s.Error("the password appears in argv")
	}
}

func (s *suite) many() {
	for range 10 {
		r, err := power.ReadOnce(s.Context(), s.Driver, s.Target)
		if err != nil || r.State != corepower.On {
			s.Fatalf("read: %+v, %v", r, err)
		}
	}
}

func (s *suite) until(ok func() bool) {
	s.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			s.Fatal("condition not reached within 10s")
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatalf("count open files: %v", err)
	}
	return len(entries)
}
