// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "s3cret-of-the-pdu"

// fake is a folder with the agent of testdata and its outlets.
type fake struct{ dir string }

func newFake(t testing.TB) fake {
	t.Helper()
	f := fake{t.TempDir()}
	for _, name := range []string{"fence_fake", "metadata.xml"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		f.write(t, name, string(b))
	}
	f.write(t, "password", password)
	f.write(t, "outlet.1", "on\n")
	f.write(t, "label.1", "h-1 left")
	return f
}

func (f fake) write(t testing.TB, name, text string) { drivertest.Write(t, f.dir, name, text, 0o700) }

func (f fake) read(t testing.TB, name string) string { return drivertest.Read(t, f.dir, name) }

// agent replaces the agent's answers by a shell script; metadata stays.
func (f fake) agent(t testing.TB, text string) {
	f.write(t, "fence_fake", "#!/bin/sh\n[ \"$1\" = -o ] && exec cat \"$(dirname \"$0\")/metadata.xml\"\n"+text)
}

func (f fake) driver() *Driver { return New(proc.NewRunner(4), Options{Dir: f.dir}) }

func (f fake) target(t testing.TB, params map[string]string) power.Target {
	p := map[string]string{"agent": "fence_fake", "plug": "1"}
	for k, v := range params {
		p[k] = v
	}
	return power.Target{Host: "h-1", Device: "pdu", Address: "192.0.2.7", Params: p, Secret: secret(t, "apc", password)}
}

func secret(t testing.TB, user, value string) power.Secret {
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

// TestContract runs the driver contract against an agent over files; tests/crosscheck
// runs it against fence_ipmilan.
func TestContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		f := newFake(t)
		d, target := f.driver(), f.target(t, nil)
		c, err := d.Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return drivertest.Device{
			Driver: d, Target: target, Wrong: secret(t, "apc", "not-it"), Password: password, Identity: id, Sessionless: true,
			Power: func() corepower.State {
				if strings.TrimSpace(f.read(t, "outlet.1")) == "off" {
					return corepower.Off
				}
				return corepower.On
			},
			SetPower: func(s corepower.State) { f.write(t, "outlet.1", strings.ToLower(s.String())+"\n") },
			Commands: func() (verbs []corepower.Verb) {
				for line := range strings.Lines(f.read(t, "commands")) {
					verbs = append(verbs, corepower.Verb(strings.Fields(line)[0]))
				}
				return verbs
			},
			Mute: func(on bool) {
				if on {
					f.write(t, "mute", "")
				} else if err := os.Remove(filepath.Join(f.dir, "mute")); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func wantKind(t *testing.T, err error, want corepower.Kind, words string) {
	t.Helper()
	if power.KindOf(err) != want || want != corepower.NoError && !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want %q saying %q", err, want, words)
	}
}

// TestRefusedTargets: what could run programs, inject options, print secrets or prove
// nothing is refused before anything runs, with name, value and what is allowed (power.md §8.3).
func TestRefusedTargets(t *testing.T) {
	f := newFake(t)
	d := f.driver()
	for _, c := range []struct {
		name, value string
		kind        corepower.Kind
		words       string
	}{
		{"agent", "", corepower.BadConfig, "allowed is the name of a program"},
		{"agent", "../fence_fake", corepower.BadConfig, "allowed is the name of a program"},
		{"agent", "/bin/sh", corepower.BadConfig, "allowed is the name of a program"},
		{"agent", "fence_absent", corepower.ToolMissing, "no such file"},
		{"agent", "fence_dummy", corepower.BadConfig, "believes a file"},
		{"agent", "fence_scsi", corepower.BadConfig, "cuts storage"},
		{"agent", "fence_ack_manual", corepower.BadConfig, "driver manual"},
		{"no_such", "1", corepower.BadConfig, "has no such option"},
		{"plug", "1\naction=on", corepower.BadConfig, "line break"},
		{"plug", "1\r", corepower.BadConfig, "control"},
		{"plug", "1 ", corepower.BadConfig, "white space"},
		{"plug", `"1"`, corepower.BadConfig, "double quotes"},
		{"plug", strings.Repeat("1", 2000), corepower.BadConfig, "too long"},
		{"password_script", "/bin/evil", corepower.BadConfig, "is a secret"},
		{"passwd_script", "/bin/evil", corepower.BadConfig, "is a secret"},
		{"snmpget_path", "/bin/evil", corepower.BadConfig, "names a program"},
		{"ssh_options", "-o ProxyCommand=evil", corepower.BadConfig, "names a program"},
		{"identity_file", "/etc/shadow", corepower.BadConfig, "names a program"},
		{"debug_file", "/tmp/x", corepower.BadConfig, "names a program"},
		{"debug", "/tmp/x", corepower.BadConfig, "names a program"},
		{"use_sudo", "1", corepower.BadConfig, "names a program"},
		{"sudo", "1", corepower.BadConfig, "names a program"},
		{"action", "on", corepower.BadConfig, "comes from the command"},
		{"ipaddr", "192.0.2.9", corepower.BadConfig, "is the target's address"},
		{"login", "x", corepower.BadConfig, "comes from the target's secret"},
		{"password", "x", corepower.BadConfig, "is a secret"},
		{"passwd", "x", corepower.BadConfig, "is a secret"},
		{"community", "x", corepower.BadConfig, "is a secret"},
		{"method", "cycle", corepower.BadConfig, "always onoff"},
		{"delay", "30", corepower.BadConfig, "always 0"},
		{"verbose", "1", corepower.BadConfig, "print secrets"},
		{"power_timeout", "900", corepower.BadConfig, "deadline"},
		{"power_wait", "-1", corepower.BadConfig, "whole number"},
		{"snmp_version", "2c", corepower.BadConfig, "allowed are 1, 3"},
		{"snmp_version", "4", corepower.BadConfig, "allowed are 1, 2c, 3"},
		{"ssh", "perhaps", corepower.BadConfig, "true and false"},
		{"secret_as", "plug", corepower.BadConfig, "allowed are community, none, password"},
		{"secret_as", "password_script", corepower.BadConfig, "allowed are community, none, password"},
		{"trusted", "perhaps", corepower.BadConfig, "type bool"},
	} {
		target := f.target(t, map[string]string{c.name: c.value})
		err := d.Check(target)
		wantKind(t, err, c.kind, c.words)
		if err != nil && c.kind == corepower.BadConfig && !strings.Contains(err.Error(), c.name) {
			t.Errorf("the error names the field %q: %v", c.name, err)
		}
		if _, err := d.Open(t.Context(), target); power.KindOf(err) != c.kind {
			t.Errorf("open: %v, want %q", err, c.kind)
		}
	}
	both := f.target(t, map[string]string{"plug": "1", "port": "2"})
	wantKind(t, d.Check(both), corepower.BadConfig, "two names")
	for _, a := range []string{"", "-h", "h 1", "192.0.2.7:0", "192.0.2.7:99999", "$(evil)", "a;b", "a\nb"} {
		target := f.target(t, nil)
		target.Address = a
		wantKind(t, d.Check(target), corepower.BadConfig, "address")
	}
	for _, pw := range []string{"a\tb", "ends in space ", `"quoted"`} {
		target := f.target(t, nil)
		target.Secret = secret(t, "apc", pw)
		err := d.Check(target)
		wantKind(t, err, corepower.BadConfig, "password")
		if err != nil && strings.Contains(err.Error(), pw) {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	if got := f.read(t, "stdin"); got != "" {
		t.Errorf("the agent was run: %q", got)
	}
	allowed := New(proc.NewRunner(1), Options{Dir: f.dir, Allow: []string{"snmpget_path"}})
	wantKind(t, allowed.Check(f.target(t, map[string]string{"snmpget_path": "/opt/snmpget"})), corepower.NoError, "")
}

// TestOptions: options go to standard input only, obsolete names become present ones, and
// the fixed ones are always there.
func TestOptions(t *testing.T) {
	f := newFake(t)
	f.agent(t, `cat >"$(dirname "$0")/stdin"; tr '\0' ' ' </proc/$$/cmdline >"$(dirname "$0")/argv"; tr '\0' ' ' </proc/$$/environ >"$(dirname "$0")/env"; echo "Status: ON"`)
	target := f.target(t, map[string]string{"secure": "true", "secret_as": "community"})
	delete(target.Params, "plug")
	target.Params["port"] = "Rack 7 = left"
	target.Address = "[2001:db8::7]:1161"
	target.Limits = power.Limits{Answer: 10 * time.Second}
	if r, err := power.ReadOnce(t.Context(), f.driver(), target); err != nil || r.State != corepower.On || r.Authentic {
		t.Fatalf("read: %+v, %v", r, err)
	}
	want := "action=status\ncommunity=" + password + "\ndelay=0\nip=2001:db8::7\nipport=1161\nmethod=onoff\nplug=Rack 7 = left\npower_timeout=4\nsnmp_version=1\nssh=true\nusername=apc\n"
	if got := f.read(t, "stdin"); got != want {
		t.Errorf("standard input\n%s\nwant\n%s", got, want)
	}
	for _, where := range []string{"argv", "env"} {
		if strings.Contains(f.read(t, where), password) {
			t.Errorf("the password is in %s", where)
		}
	}
	target.Params["trusted"] = "true"
	if r, err := power.ReadOnce(t.Context(), f.driver(), target); err != nil || !r.Authentic {
		t.Errorf("an administrator vouched for the path: %+v, %v", r, err)
	}
}

// TestAnswers: only exit code and words together are a state; any other end is an error
// of its kind and Unknown (power.md §7, §8.3).
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name, script string
		state        corepower.State
		kind         corepower.Kind
	}{
		{"on", `echo "Status: ON"`, corepower.On, ""},
		{"off", `echo "Status: OFF"; exit 2`, corepower.Off, ""},
		{"off with the wrong exit code", `echo "Status: OFF"`, 0, corepower.ProtocolViolation},
		{"on with the exit code of off", `echo "Status: ON"; exit 2`, 0, corepower.ProtocolViolation},
		{"exit code of off without a word: a missing script", `exit 2`, 0, corepower.ProtocolViolation},
		{"exit 0 without a word", `exit 0`, 0, corepower.ProtocolViolation},
		{"on and off", `echo "Status: ON"; echo "Status: OFF"; exit 2`, 0, corepower.ProtocolViolation},
		{"off somewhere in the text", `echo "Status: OFFLINE"; exit 2`, 0, corepower.ProtocolViolation},
		{"exit 1 with the words", `echo "Status: OFF"; exit 1`, 0, corepower.RemoteError},
		{"killed after the words", `echo "Status: OFF"; kill -9 $$`, 0, corepower.RemoteError},
		{"endless output", `exec yes "Status: OFF"`, 0, corepower.ProtocolViolation},
		{"never ends", `echo "Status: OFF"; exec sleep 600`, 0, corepower.Timeout},
		{"ends, and leaves somebody with the pipe", `echo "Status: ON"; setsid sleep 600 & exit 0`, corepower.On, ""},
		{"no log-in", `echo "Unable to connect/login to fencing device" >&2; exit 1`, 0, corepower.AuthFailed},
		{"refused", `echo "Connection refused. Unable to connect/login to fencing device" >&2; exit 1`, 0, corepower.Unreachable},
		{"privileges", `echo "Failed: The user does not have the correct privileges to do the requested action." >&2; exit 1`, 0, corepower.PrivilegeDenied},
		{"time-out of its own", `echo "Connection timed out" >&2; exit 1`, 0, corepower.Timeout},
		{"no slot", `echo "RAKP 2 message indicates an error : insufficient resources for session" >&2; exit 1`, 0, corepower.SessionLimit},
		{"Python without a module", `echo "ModuleNotFoundError: No module named 'pexpect'" >&2; exit 1`, 0, corepower.ToolMissing},
		{"no plug", `echo "Failed: Unable to obtain correct plug status or plug is not available" >&2; exit 1`, 0, corepower.RemoteError},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			f.agent(t, "cat >/dev/null; "+c.script)
			target := f.target(t, nil)
			target.Limits.Answer = 400 * time.Millisecond
			r, err := power.ReadOnce(t.Context(), f.driver(), target)
			if r.State != c.state || power.KindOf(err) != c.kind {
				t.Errorf("got %+v, %v; want %v, %q", r, err, c.state, c.kind)
			}
			if err != nil && r != (corepower.Reading{}) {
				t.Errorf("an error implies the zero reading, got %+v", r)
			}
		})
	}
}

// TestCommandAnswers: what a command's end says about whether it ran.
func TestCommandAnswers(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         corepower.Outcome
		kind         corepower.Kind
	}{
		{"done", `echo "Success: Powered OFF"`, corepower.Accepted, ""},
		{"nothing sent", `echo "Success: Already OFF"`, corepower.AlreadyThere, ""},
		{"done without a word proves as little", `exit 0`, corepower.Accepted, ""},
		{"does not go off", `echo "Failed: Timed out waiting to power OFF" >&2; exit 1`, corepower.Indeterminate, corepower.RemoteError},
		{"lost on the way", `echo "Connection lost" >&2; exit 1`, corepower.Indeterminate, corepower.Timeout},
		{"no log-in", `echo "Unable to connect/login to fencing device" >&2; exit 1`, corepower.Rejected, corepower.AuthFailed},
		{"exit 2 is no answer to off", `exit 2`, corepower.Indeterminate, corepower.ProtocolViolation},
		{"killed", `kill -9 $$`, corepower.Indeterminate, corepower.RemoteError},
		{"never ends", `exec sleep 600`, corepower.Indeterminate, corepower.Timeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			f.agent(t, "cat >/dev/null; "+c.script)
			target := f.target(t, nil)
			target.Limits.Command = 400 * time.Millisecond
			conn, err := f.driver().Open(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff})
			if out != c.want || power.KindOf(err) != c.kind || power.MayHaveRun(err) != (c.want == corepower.Indeterminate) {
				t.Errorf("got %s, %v; want %s, %q", out, err, c.want, c.kind)
			}
		})
	}
}

// TestUnable: an agent that cannot do or read something says so, and nothing is run.
func TestUnable(t *testing.T) {
	f := newFake(t)
	f.write(t, "metadata.xml", strings.Replace(f.read(t, "metadata.xml"), `<action name="status" />`, "", 1))
	d := f.driver()
	c, err := d.Open(t.Context(), f.target(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Status(t.Context())
	wantKind(t, err, corepower.Unsupported, "cannot read")
	for _, v := range []corepower.Verb{corepower.Cycle, corepower.Reset, corepower.SoftOff, corepower.Identify} {
		out, err := c.Do(t.Context(), power.Command{Verb: v})
		wantKind(t, err, corepower.Unsupported, "cannot do")
		if out != corepower.Rejected {
			t.Errorf("%s: %s", v, out)
		}
	}
	if w := d.Warnings(f.target(t, nil)); len(w) != 2 || !strings.Contains(w[1], "A1") {
		t.Errorf("warnings %q: an agent without status is good for A1 only", w)
	}
	f.write(t, "metadata.xml", strings.Replace(f.read(t, "metadata.xml"), `automatic="0"`, `automatic="1"`, 1))
	wantKind(t, f.driver().Check(f.target(t, nil)), corepower.BadConfig, "not power")
}

// TestIPMItool: an agent above ipmitool is never trusted, always encrypted, and its
// values cannot become arguments.
func TestIPMItool(t *testing.T) {
	f := newFake(t)
	f.write(t, "metadata.xml", strings.Replace(f.read(t, "metadata.xml"), "<parameters>", `<parameters>
		<parameter name="ipmitool_path"><content type="string" /></parameter><parameter name="lanplus"><content type="boolean" /></parameter>
		<parameter name="cipher"><content type="string" /></parameter><parameter name="privlvl"><content type="string" /></parameter>`, 1))
	d := f.driver()
	for name, bad := range map[string]string{"trusted": "true", "cipher": "0", "lanplus": "0", "privlvl": "operator -f /etc/shadow", "plug": "-x", "ipmitool_path": "/bin/evil"} {
		wantKind(t, d.Check(f.target(t, map[string]string{name: bad})), corepower.BadConfig, name)
	}
	if _, err := power.ReadOnce(t.Context(), d, f.target(t, nil)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"lanplus=1\n", "privlvl=operator\n"} {
		if !strings.Contains(f.read(t, "stdin"), line) {
			t.Errorf("%q was not set: %q", line, f.read(t, "stdin"))
		}
	}
}

// TestIdentity: the fingerprint changes with outlet, address and label, and an outlet the
// device does not have is an error.
func TestIdentity(t *testing.T) {
	f := newFake(t)
	f.write(t, "outlet.2", "on\n")
	f.write(t, "label.2", "h-1 right")
	d := f.driver()
	id := func(target power.Target) corepower.Identity {
		t.Helper()
		c, err := d.Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	base, other := f.target(t, nil), f.target(t, nil)
	other.Address = "192.0.2.8"
	first := id(base)
	if again := id(base); again != first {
		t.Errorf("the same target gives %v and %v", first, again)
	}
	for what, target := range map[string]power.Target{"outlet": f.target(t, map[string]string{"plug": "2"}), "outlets": f.target(t, map[string]string{"plug": "1,2"}), "address": other} {
		if id(target) == first {
			t.Errorf("another %s has the same fingerprint", what)
		}
	}
	f.write(t, "label.1", "h-9 left")
	base.Pinned = first
	_, err := d.Open(t.Context(), base)
	wantKind(t, err, corepower.IdentityMismatch, "outlet")
	base.Pinned, base.Params["plug"] = corepower.Identity{}, "7"
	c, err := d.Open(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Identity(t.Context())
	wantKind(t, err, corepower.BadConfig, `outlet "7"`)
}

// TestMissingOutletIsNotOff: agents take what SNMP 3 answers for an outlet that is not
// there, or not there yet, for OFF. It counts only beside a list that has the outlet.
func TestMissingOutletIsNotOff(t *testing.T) {
	f := newFake(t)
	f.write(t, "outlet.1", "off\n")
	f.write(t, "unlisted.1", "")
	d, v1, v3 := f.driver(), f.target(t, map[string]string{"snmp_version": "1"}), f.target(t, map[string]string{"snmp_version": "3"})
	if r, err := power.ReadOnce(t.Context(), d, v1); err != nil || r.State != corepower.Off {
		t.Errorf("SNMP 1: %+v, %v", r, err)
	}
	r, err := power.ReadOnce(t.Context(), d, v3)
	wantKind(t, err, corepower.BadConfig, `outlet "1"`)
	if r != (corepower.Reading{}) {
		t.Errorf("an outlet that is not listed reads %+v", r)
	}
	if err := os.Remove(filepath.Join(f.dir, "unlisted.1")); err != nil {
		t.Fatal(err)
	}
	if r, err := power.ReadOnce(t.Context(), d, v3); err != nil || r.State != corepower.Off {
		t.Errorf("SNMP 3, listed: %+v, %v", r, err)
	}
}

// TestMetadataCache: one process asks an agent for its metadata until its file changes,
// and one that hangs is not asked again at once.
func TestMetadataCache(t *testing.T) {
	f := newFake(t)
	count := func(text string) {
		f.write(t, "fence_fake", "#!/bin/sh\n[ \"$1\" = -o ] && echo x >>\"$(dirname \"$0\")/asked\"\n"+text)
	}
	count(`exec cat "$(dirname "$0")/metadata.xml"`)
	d := f.driver()
	done := make(chan error)
	for range 8 {
		go func() { done <- d.Check(f.target(t, nil)) }()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := f.read(t, "asked"); got != "x\n" {
		t.Errorf("asked %q, want once", got)
	}
	count(`echo "no metadata today"`)
	for range 2 {
		wantKind(t, d.Check(f.target(t, nil)), corepower.ProtocolViolation, "metadata")
	}
	if got := f.read(t, "asked"); got != "x\nx\n" {
		t.Errorf("asked %q, want once more for the new file", got)
	}
	count(`exec sleep 600`)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := d.Open(ctx, f.target(t, nil))
	wantKind(t, err, corepower.Timeout, "killed")
	if took := time.Since(start); took > 450*time.Millisecond {
		t.Errorf("took %v", took)
	}
	count(`exec cat "$(dirname "$0")/metadata.xml" `)
	wantKind(t, d.Check(f.target(t, nil)), corepower.NoError, "")
}

// TestSecretsStay: an agent that prints its input into its errors does not get the secret
// into ours.
func TestSecretsStay(t *testing.T) {
	f := newFake(t)
	f.agent(t, "cat >&2; exit 1")
	_, err := power.ReadOnce(t.Context(), f.driver(), f.target(t, map[string]string{"secret_as": "password"}))
	if err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("got %v", err)
	}
	if !bytes.Contains([]byte(err.Error()), []byte("username")) && power.KindOf(err) != corepower.RemoteError {
		t.Errorf("got %v", err)
	}
}
