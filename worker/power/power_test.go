// SPDX-License-Identifier: Apache-2.0

package power

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// fake is a driver whose opens and readings follow a script.
type fake struct {
	opens  []time.Time
	errs   []error // of each Open in turn, nil beyond
	status error
	inside int
	most   int
}

func (f *fake) Kind() string         { return "fake" }
func (f *fake) Describe() Descriptor { return Descriptor{Kind: "fake"} }
func (f *fake) Check(Target) error   { return nil }

func (f *fake) Open(context.Context, Target) (Conn, error) {
	f.opens = append(f.opens, time.Now())
	if n := len(f.opens) - 1; n < len(f.errs) && f.errs[n] != nil {
		return nil, f.errs[n]
	}
	f.inside++
	f.most = max(f.most, f.inside)
	return &fakeConn{f: f}, nil
}

type fakeConn struct {
	f      *fake
	closed bool
}

func (c *fakeConn) Identity(context.Context) (corepower.Identity, error) {
	return corepower.Identity{}, nil
}
func (c *fakeConn) Status(context.Context) (corepower.Reading, error) {
	return corepower.Reading{State: corepower.Off}, c.f.status
}
func (c *fakeConn) Do(context.Context, Command) (corepower.Outcome, error) {
	return corepower.Accepted, nil
}
func (c *fakeConn) Sessions(context.Context) (SessionTable, error) {
	return SessionTable{Slots: 4}, nil
}
func (c *fakeConn) Close(context.Context) error {
	if !c.closed {
		c.closed = true
		c.f.inside--
	}
	return nil
}

func refusal(k corepower.Kind) error { return &Error{Kind: k, Op: "test"} }

func fileSecret(t *testing.T, value string) (Secret, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "bmc")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := NewSecret("admin", "file:bmc", dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// TestGateGap: routine sessions keep the gap, urgent ones do not, and one device has one
// transaction at a time (power.md §6.3).
func TestGateGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		g, target, start := NewGate(), Target{Address: "a", Limits: Limits{Gap: 2 * time.Second}}, time.Now()
		read := func(u Urgency) {
			if _, err := ReadOnce(t.Context(), g.For(f, u), target); err != nil {
				t.Errorf("read: %v", err)
			}
		}
		read(Routine)
		read(Routine)
		read(Urgent)
		var at []time.Duration
		for _, o := range f.opens {
			at = append(at, o.Sub(start))
		}
		if diff := cmp.Diff([]time.Duration{0, 2 * time.Second, 2 * time.Second}, at); diff != "" {
			t.Errorf("times of sessions (-want +got):\n%s", diff)
		}

		held, err := g.For(f, Urgent).Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := As[Sessions](held); !ok {
			t.Error("an optional ability is found behind the gate")
		} else if got, _ := s.Sessions(t.Context()); got.Slots != 4 {
			t.Errorf("sessions: %+v", got)
		}
		for range 3 {
			go read(Urgent)
		}
		other := target
		other.Address, other.Limits.Gap = "b", 0
		if _, err := ReadOnce(t.Context(), g.For(f, Routine), other); err != nil {
			t.Errorf("another device does not wait: %v", err)
		}
		f.most = 0
		synctest.Wait()
		if len(f.opens) != 5 {
			t.Errorf("%d sessions while one is held, want none more", len(f.opens)-5)
		}
		_ = held.Close(t.Context())
		_ = held.Close(t.Context())
		synctest.Wait()
		if len(f.opens) != 8 || f.most != 1 {
			t.Errorf("%d sessions, at most %d at once; want 8 and 1", len(f.opens), f.most)
		}
	})
}

// TestGateWaits: whoever waits for a device ends with its context, and says so.
func TestGateWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		g, target := NewGate(), Target{Address: "a"}
		held, err := g.For(f, Routine).Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.For(f, Urgent).Open(ctx, target); KindOf(err) != corepower.DeadlinePassed {
			t.Errorf("waiting past the deadline: %v", err)
		}
		gone, cancel2 := context.WithCancel(t.Context())
		cancel2()
		if _, err := g.For(f, Urgent).Open(gone, target); KindOf(err) != corepower.Cancelled {
			t.Errorf("waiting while cancelled: %v", err)
		}
		_ = held.Close(t.Context())
		if _, err := ReadOnce(t.Context(), g.For(f, Urgent), target); err != nil {
			t.Errorf("the device is free again: %v", err)
		}
	})
}

// TestGateLockout: after AuthFailed no try with that secret version for 15 minutes and at
// most two in an hour; a new version is tried at once; urgency changes nothing (power.md §11, 21, 22, 27).
func TestGateLockout(t *testing.T) {
	s, path := fileSecret(t, "wrong")
	synctest.Test(t, func(t *testing.T) {
		f := &fake{errs: []error{refusal(corepower.AuthFailed), refusal(corepower.AuthFailed)}}
		g := NewGate()
		start := time.Now()
		try := func() corepower.Kind {
			_, err := ReadOnce(t.Context(), g.For(f, Urgent), Target{Address: "a", Secret: s})
			return KindOf(err)
		}
		for range 6 * 60 { // every 10 s for an hour
			try()
			<-time.After(10 * time.Second)
		}
		var at []time.Duration
		for _, o := range f.opens {
			at = append(at, o.Sub(start))
		}
		if diff := cmp.Diff([]time.Duration{0, 15 * time.Minute}, at); diff != "" {
			t.Errorf("log-ins within an hour (-want +got):\n%s", diff)
		}
		_, err := g.For(f, Urgent).Open(t.Context(), Target{Address: "a", Secret: s})
		if err != nil {
			t.Errorf("after the hour it is tried again: %v", err)
		}

		f = &fake{errs: []error{refusal(corepower.AuthFailed)}}
		g = NewGate()
		if k := try(); k != corepower.AuthFailed {
			t.Errorf("first try: %q", k)
		}
		if k := try(); k != corepower.AuthFailed || len(f.opens) != 1 {
			t.Errorf("second try: %q after %d log-ins, want AuthFailed without another", k, len(f.opens))
		}
		if err := os.WriteFile(path, []byte("right"), 0o600); err != nil {
			t.Fatal(err)
		}
		if k := try(); k != corepower.NoError || len(f.opens) != 2 {
			t.Errorf("new version: %q after %d log-ins", k, len(f.opens))
		}
	})
}

// TestGateLockoutInSession: a log-in that is refused later than at Open counts as well;
// drivers that run programs log in with each call (power.md §11, 21).
func TestGateLockoutInSession(t *testing.T) {
	s, _ := fileSecret(t, "wrong")
	synctest.Test(t, func(t *testing.T) {
		f := &fake{status: refusal(corepower.AuthFailed)}
		g := NewGate()
		for range 3 {
			if _, err := ReadOnce(t.Context(), g.For(f, Urgent), Target{Address: "a", Secret: s}); KindOf(err) != corepower.AuthFailed {
				t.Errorf("read: %v", err)
			}
		}
		if len(f.opens) != 1 {
			t.Errorf("%d log-ins with a refused secret, want 1", len(f.opens))
		}
	})
}

// TestGateForgets: devices nobody asks for any more do not stay for ever.
func TestGateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f := NewGate(), &fake{}
		for round := range 3 {
			for i := range pruneFloor {
				if _, err := ReadOnce(t.Context(), g.For(f, Routine), Target{Address: fmt.Sprint(round, "-", i)}); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(2 * time.Hour)
		}
		if len(g.devices) > 2*pruneFloor {
			t.Errorf("%d devices are remembered", len(g.devices))
		}
	})
}

// TestReadWithRetry: one more try in a new session, only where it makes sense; an error
// implies the zero reading even when the driver returned one.
func TestReadWithRetry(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{refusal(corepower.Timeout), 2}, {refusal(corepower.ProtocolViolation), 2}, {refusal(corepower.RemoteError), 2},
		{refusal(corepower.AuthFailed), 1}, {refusal(corepower.Unreachable), 1}, {refusal(corepower.Busy), 1}, {nil, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{status: c.err}
			start := time.Now()
			r, err := ReadWithRetry(t.Context(), f, Target{})
			if len(f.opens) != c.want || f.inside != 0 || !errors.Is(err, c.err) {
				t.Errorf("%v: %d sessions, %d left open, %v; want %d", c.err, len(f.opens), f.inside, err, c.want)
			}
			if err != nil && r != (corepower.Reading{}) {
				t.Errorf("%v: reading %+v", err, r)
			}
			if c.want == 2 && time.Since(start) < time.Second {
				t.Errorf("%v: retried after %v", err, time.Since(start))
			}
		})
	}
}

// TestSecretSources: references only, late, from one directory, with a safe mode.
func TestSecretSources(t *testing.T) {
	for _, bad := range []struct{ user, ref, dir, want string }{
		{"u", "hunter2", "/d", "plain value is not accepted"},
		{"u", "env:", "/d", "names nothing"},
		{"u", "file:x", "", "no secrets directory"},
		{"u", "file:../x", "/d", "must lie in /d"},
		{"u", "file:/etc/shadow", "/d", "must lie in /d"},
		{"file:/etc/passwd", "env:X", "/d", "must lie in /d"},
	} {
		_, err := NewSecret(bad.user, bad.ref, bad.dir)
		if KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v", bad, err)
		}
	}

	s, path := fileSecret(t, "one\n")
	c1, err := s.Resolve()
	if err != nil || c1.Password() != "one" || c1.User() != "admin" {
		t.Errorf("resolve: %q %q, %v", c1.User(), c1.Password(), err)
	}
	if err := os.WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	c2, err := s.Resolve()
	if err != nil || c2.Password() != "two" || c1.Version() == c2.Version() {
		t.Errorf("a changed file is read again: %q, %v", c2.Password(), err)
	}
	for mode, ok := range map[os.FileMode]bool{0o640: true, 0o400: true, 0o604: false, 0o602: false, 0o644: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resolve(); (err == nil) != ok {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	out, err := NewSecret("u", "file:link", filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Resolve(); KindOf(err) != corepower.BadConfig {
		t.Errorf("a link out of the directory is refused: %v", err)
	}
	t.Setenv("HOLDFAST_TEST_SECRET", "from-env")
	env, err := NewSecret("env:HOLDFAST_TEST_SECRET", "env:HOLDFAST_TEST_SECRET", "")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := env.Resolve(); err != nil || c.User() != "from-env" || c.Password() != "from-env" {
		t.Errorf("resolve from the environment: %v", err)
	}
	t.Setenv("HOLDFAST_TEST_SECRET", "")
	if _, err := env.Resolve(); KindOf(err) != corepower.BadConfig {
		t.Errorf("an empty variable is refused: %v", err)
	}
}

// TestSecretsDoNotPrint: whatever the verb or the encoder.
func TestSecretsDoNotPrint(t *testing.T) {
	s, _ := fileSecret(t, "hunter2")
	c, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{s, &s, c, &c, Target{Secret: s}, []Credential{c}, struct{ C Credential }{c}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %q %x %d", v, v, v, v, v, v, v)
		b, err := json.Marshal(v)
		if err != nil {
			t.Errorf("marshal: %v", err)
		}
		out.Write(b)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	}
	for _, word := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), "file:bmc"} {
		if strings.Contains(out.String(), word) {
			t.Errorf("%q was printed", word)
		}
	}
	if d := Detail("login admin/hunter2\nfailed\x00"+strings.Repeat("x", 500), c); strings.Contains(d, "hunter2") || strings.ContainsAny(d, "\n\x00") || len(d) > maxDetail+8 {
		t.Errorf("detail is redacted, one line, bounded: %q", d)
	}
}

// TestValues: a wrong parameter is refused with its name, value and what is allowed.
func TestValues(t *testing.T) {
	d := Descriptor{Kind: "k", Params: []Param{
		{Name: "mode", Type: ParamString, Default: "a", Allowed: []string{"a", "b"}},
		{Name: "n", Type: ParamInt}, {Name: "wait", Type: ParamDuration, Default: "1s"},
		{Name: "on", Type: ParamBool}, {Name: "text", Type: ParamString}, {Name: "must", Type: ParamString, Required: true, Help: "needed"},
	}}
	for _, c := range []struct {
		params map[string]string
		want   string
	}{
		{map[string]string{}, `parameter "must": is required`},
		{map[string]string{"must": "x", "mode": "c"}, `parameter "mode": value "c": allowed are a, b`},
		{map[string]string{"must": "x", "n": "1.5"}, `parameter "n": value "1.5": allowed is a value of type int`},
		{map[string]string{"must": "x", "wait": "5"}, `type duration`},
		{map[string]string{"must": "x", "on": "maybe"}, `type bool`},
		{map[string]string{"must": "x\naction=on"}, `control characters`},
		{map[string]string{"must": "x", "typo": "1"}, `parameter "typo": unknown, allowed are mode, n, wait`},
	} {
		_, err := d.Values(c.params)
		if KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.params, err, c.want)
		}
	}
	got, err := d.Values(map[string]string{"must": "x", "n": "3"})
	want := map[string]string{"mode": "a", "n": "3", "wait": "1s", "on": "", "text": "", "must": "x"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("values: %v\n%s", err, diff)
	}
}

// TestErrors: kinds are found through wrapping, and text comes from our own fields only.
func TestErrors(t *testing.T) {
	e := &Error{Kind: corepower.Busy, Op: "read power status of a", Code: 0xc0, MayHaveRun: true, Err: errors.New("hunter2")}
	wrapped := fmt.Errorf("sync host h-1: %w", e)
	if !errors.Is(wrapped, &Error{Kind: corepower.Busy}) || errors.Is(wrapped, &Error{Kind: corepower.Timeout}) {
		t.Error("errors.Is matches the kind only")
	}
	if KindOf(wrapped) != corepower.Busy || !MayHaveRun(wrapped) || strings.Contains(wrapped.Error(), "hunter2") {
		t.Errorf("%v", wrapped)
	}
	for err, want := range map[error]corepower.Kind{
		nil: corepower.NoError, context.DeadlineExceeded: corepower.Timeout, context.Canceled: corepower.Cancelled, os.ErrClosed: corepower.RemoteError,
	} {
		if got := KindOf(err); got != want {
			t.Errorf("kind of %v: %q, want %q", err, got, want)
		}
	}
	r, err := NewRegistry(&fake{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Driver("nope"); KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "allowed are fake") {
		t.Errorf("unknown kind: %v", err)
	}
	if _, err := NewRegistry(&fake{}, &fake{}); err == nil {
		t.Error("two drivers of one kind are refused")
	}
}

// closing is a driver that keeps something between transactions.
type closing struct {
	Driver
	kind   string
	closed int
}

func (c *closing) Kind() string { return c.kind }
func (c *closing) Close()       { c.closed++ }

// TestRegistryEndsWhatDriversKeep: whoever keeps nothing needs no Close.
func TestRegistryEndsWhatDriversKeep(t *testing.T) {
	keeps := &closing{kind: "keeps"}
	r, err := NewRegistry(keeps, struct{ Driver }{&closing{kind: "plain"}})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if keeps.closed != 1 {
		t.Errorf("closed %d times", keeps.closed)
	}
}
