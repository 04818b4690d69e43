// SPDX-License-Identifier: Apache-2.0

package pdu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
	"github.com/holdfast-ha/holdfast/worker/power/fenceagent"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "s3cret-of-the-pdu"

func write(t *testing.T, dir, name, text string) { drivertest.Write(t, dir, name, text, 0o700) }

func read(t *testing.T, dir, name string) string {
	return strings.TrimSpace(drivertest.Read(t, dir, name))
}

func secret(t *testing.T, value string) power.Secret {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "s", value)
	if err := os.Chmod(filepath.Join(dir, "s"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := power.NewSecret("apc", "file:s", dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// device is the fence driver's agent over files, with outlets 4 and 12 feeding the host.
func device(t *testing.T, outlets string) (drivertest.Device, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"fence_fake", "metadata.xml"} {
		b, err := os.ReadFile(filepath.Join("..", "fenceagent", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, string(b))
	}
	write(t, dir, "password", password)
	names := strings.Split(outlets, ",")
	for _, n := range []string{"4", "12"} {
		write(t, dir, "outlet."+n, "on\n")
		write(t, dir, "label."+n, "h-1 feed "+n)
	}
	d := New(fenceagent.New(proc.NewRunner(4), fenceagent.Options{Dir: dir}))
	target := power.Target{Host: "h-1", Device: "pdu", Address: "192.0.2.7", Secret: secret(t, password),
		Params: map[string]string{"agent": "fence_fake", "outlets": outlets, "stagger": "1ms"}}
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return drivertest.Device{
		Driver: d, Target: target, Wrong: secret(t, "not-it"), Password: password, Identity: id, Sessionless: true,
		Power: func() corepower.State {
			for _, n := range names {
				if read(t, dir, "outlet."+n) != "off" {
					return corepower.On
				}
			}
			return corepower.Off
		},
		SetPower: func(s corepower.State) {
			for _, n := range names {
				write(t, dir, "outlet."+n, strings.ToLower(s.String())+"\n")
			}
		},
		Commands: func() (verbs []corepower.Verb) {
			for line := range strings.Lines(read(t, dir, "commands")) {
				verbs = append(verbs, corepower.Verb(strings.Fields(line)[0]))
			}
			return verbs
		},
		Mute: func(on bool) {
			if on {
				write(t, dir, "mute", "")
			} else if err := os.Remove(filepath.Join(dir, "mute")); err != nil {
				t.Fatal(err)
			}
		},
	}, dir
}

// TestContract runs the driver contract on a set of one outlet; the tests below are
// about what a set adds.
func TestContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		d, _ := device(t, "4")
		return d
	})
}

// TestSet: off means that every outlet was read off; off beside an error is unknown; any
// outlet that is on is ON (power.md §8.6).
func TestSet(t *testing.T) {
	d, dir := device(t, "4,12")
	c, err := d.Driver.Open(t.Context(), d.Target)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		left, right string
		want        corepower.State
		kind        corepower.Kind
	}{
		{"on", "on", corepower.On, ""}, {"off", "on", corepower.On, ""}, {"on", "off", corepower.On, ""}, {"off", "off", corepower.Off, ""},
		{"off", "", corepower.Unknown, corepower.RemoteError}, {"", "off", corepower.Unknown, corepower.RemoteError}, {"", "on", corepower.On, ""},
	} {
		for n, v := range map[string]string{"4": s.left, "12": s.right} {
			write(t, dir, "outlet."+n, v+"\n")
			if v == "" {
				_ = os.Remove(filepath.Join(dir, "outlet."+n))
			}
		}
		r, err := c.Status(t.Context())
		if r.State != s.want || power.KindOf(err) != s.kind {
			t.Errorf("outlets %q and %q: %+v, %v; want %v, %q", s.left, s.right, r, err, s.want, s.kind)
		}
	}
}

// TestTrusted: the set's readings are authentic when the administrator vouches for the
// path, as the agent's are.
func TestTrusted(t *testing.T) {
	d, _ := device(t, "4,12")
	d.Target.Params["trusted"] = "true"
	d.SetPower(corepower.Off)
	if r, err := power.ReadOnce(t.Context(), d.Driver, d.Target); err != nil || r.State != corepower.Off || !r.Authentic {
		t.Errorf("read: %+v, %v", r, err)
	}
}

// TestCommands: every outlet is switched, the order is asked for before each, and a
// failure after the first outlet is indeterminate.
func TestCommands(t *testing.T) {
	lost := errors.New("the lease is lost")
	for _, c := range []struct {
		name    string
		verb    corepower.Verb
		break_  string // outlet that does not answer
		refuse  int    // the call of Before that says no
		want    corepower.Outcome
		kind    corepower.Kind
		reached []string
	}{
		{"off", corepower.HardOff, "", 0, corepower.Accepted, "", []string{"off 4", "off 12"}},
		{"on when on", corepower.HardOn, "", 0, corepower.AlreadyThere, "", nil},
		{"off, first fails", corepower.HardOff, "4", 0, corepower.Indeterminate, corepower.RemoteError, nil},
		{"off, second fails", corepower.HardOff, "12", 0, corepower.Indeterminate, corepower.RemoteError, []string{"off 4"}},
		{"off, refused at once", corepower.HardOff, "", 1, corepower.Rejected, corepower.Cancelled, nil},
		{"off, refused after the first", corepower.HardOff, "", 2, corepower.Indeterminate, corepower.Cancelled, []string{"off 4"}},
		{"on, first fails", corepower.HardOn, "4", 0, corepower.Indeterminate, corepower.RemoteError, []string{"on 12"}},
		{"cycle", corepower.Cycle, "", 0, corepower.Rejected, corepower.Unsupported, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, dir := device(t, "4,12")
			if strings.Contains(c.name, "on, ") {
				d.SetPower(corepower.Off)
			}
			conn, err := d.Driver.Open(t.Context(), d.Target)
			if err != nil {
				t.Fatal(err)
			}
			if c.break_ != "" {
				if err := os.Remove(filepath.Join(dir, "outlet."+c.break_)); err != nil {
					t.Fatal(err)
				}
			}
			asked := 0
			out, err := conn.Do(t.Context(), power.Command{Verb: c.verb, Before: func() error {
				if asked++; asked == c.refuse {
					return lost
				}
				return nil
			}})
			if out != c.want || power.KindOf(err) != c.kind || power.MayHaveRun(err) != (c.want == corepower.Indeterminate) {
				t.Errorf("got %s, %v; want %s, %q", out, err, c.want, c.kind)
			}
			if c.refuse > 0 && !errors.Is(err, lost) {
				t.Errorf("the owner's reason is in the error: %v", err)
			}
			var got []string
			for line := range strings.Lines(read(t, dir, "commands")) {
				got = append(got, strings.TrimSpace(line))
			}
			if diff := cmp.Diff(c.reached, got); diff != "" {
				t.Errorf("outlets switched (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStagger: outlets come on one after the other, and a deadline ends the waiting.
func TestStagger(t *testing.T) {
	d, dir := device(t, "4,12")
	d.SetPower(corepower.Off)
	d.Target.Params["stagger"] = "10s"
	conn, err := d.Driver.Open(t.Context(), d.Target)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	start := time.Now()
	out, err := conn.Do(ctx, power.Command{Verb: corepower.HardOn})
	if out != corepower.Indeterminate || power.KindOf(err) != corepower.DeadlinePassed || time.Since(start) > 650*time.Millisecond {
		t.Errorf("got %s, %v after %v", out, err, time.Since(start))
	}
	if got := read(t, dir, "commands"); got != "on 4" {
		t.Errorf("switched %q", got)
	}
}

// TestIdentityOfSet: another set, or another label at an outlet, is another identity.
func TestIdentityOfSet(t *testing.T) {
	d, dir := device(t, "4,12")
	one, _ := device(t, "4")
	if d.Identity == one.Identity {
		t.Error("one outlet and two have the same fingerprint")
	}
	write(t, dir, "label.12", "h-2 feed")
	d.Target.Pinned = d.Identity
	if _, err := d.Driver.Open(t.Context(), d.Target); power.KindOf(err) != corepower.IdentityMismatch {
		t.Errorf("a relabelled outlet: %v", err)
	}
}

// TestRefused: wrong sets are refused with the field, its value and what is allowed.
func TestRefused(t *testing.T) {
	d, _ := device(t, "4,12")
	for name, bad := range map[string]string{"outlets": "4,,12", "stagger": "1h", "plug": "4", "port": "4", "agent": "fence_dummy", "no_such": "1"} {
		target := d.Target
		target.Params = map[string]string{"agent": "fence_fake", "outlets": "4,12"}
		target.Params[name] = bad
		err := d.Driver.Check(target)
		if power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, bad, err)
		}
		if _, err := d.Driver.Open(t.Context(), target); power.KindOf(err) != corepower.BadConfig {
			t.Errorf("open %s=%s: %v", name, bad, err)
		}
	}
	for _, bad := range []string{"", "4,4", "4, 4", strings.Repeat("1,", 20)} {
		d.Target.Params["outlets"] = bad
		if err := d.Driver.Check(d.Target); power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "outlets") {
			t.Errorf("outlets=%q: %v", bad, err)
		}
	}
	delete(d.Target.Params, "outlets")
	if err := d.Driver.Check(d.Target); power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "is required") {
		t.Errorf("no outlets: %v", err)
	}
}
