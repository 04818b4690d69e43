// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"encoding/json"
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

const (
	password = "s3cret-of-the-relay"
	uuid     = "04030201-0605-0807-090a-0b0c0d0e0f10"
)

// relay is a program over files beside it: state, commands, mute.
const relay = `#!/bin/sh
dir=$(dirname "$0")
read -r question
[ -e "$dir/mute" ] && exec sleep 600
case $question in
*'"password":"` + password + `"'*) ;;
*) echo '{"error":{"kind":"AuthFailed","detail":"the relay refuses the password"}}'; exit 1 ;;
esac
case $1 in
identity) echo '{"identity":{"systemUUID":"` + uuid + `"}}' ;;
status) echo "{\"state\":\"$(cat "$dir/state")\"}" ;;
on | off) echo "$1" >"$dir/state"; echo "$1" >>"$dir/commands"; echo '{"outcome":"accepted"}' ;;
*) echo '{"error":{"kind":"Unsupported"}}'; exit 1 ;;
esac
`

func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newDriver() *Driver {
	d := New(proc.NewRunner(4))
	d.owners = append(d.owners, uint32(os.Getuid()))
	return d
}

func secret(t testing.TB, value string) power.Secret {
	t.Helper()
	dir := folder(t)
	drivertest.Write(t, dir, "s", value, 0o600)
	s, err := power.NewSecret("admin", "file:s", dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func target(t testing.TB, script string) power.Target {
	t.Helper()
	return power.Target{Host: "h-1", Device: "relay", Address: "192.0.2.7", Secret: secret(t, password),
		Params: map[string]string{"program": drivertest.Write(t, folder(t), "program", script, 0o755)}}
}

// TestContract runs the driver contract; tests/crosscheck runs it on the program of the
// documentation.
func TestContract(t *testing.T) { contract(t, newDriver(), relay) }

// TestProviderContract: the program of provider exec is held to the same, by its own words.
func TestProviderContract(t *testing.T) {
	words := "#!/bin/sh\ncase $1 in state) set -- status ;; fence) set -- off ;; recover) set -- on ;; identity) ;; *) exit 3 ;; esac\n"
	contract(t, NewProvider(proc.NewRunner(4), uint32(os.Getuid())), words+relay)
}

func contract(t *testing.T, d *Driver, script string) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		tg := target(t, script)
		tg.Params["secret"] = "required"
		dir := filepath.Dir(tg.Params["program"])
		read := func(name string) string { return drivertest.Read(t, dir, name) }
		set := func(s corepower.State) { drivertest.Write(t, dir, "state", strings.ToLower(s.String()), 0o600) }
		set(corepower.On)
		return drivertest.Device{
			Driver: d, Target: tg, Wrong: secret(t, "not-it"), Password: password, Sessionless: true,
			Identity: corepower.Identity{SystemUUID: uuid},
			Power: func() corepower.State {
				if strings.TrimSpace(read("state")) == "off" {
					return corepower.Off
				}
				return corepower.On
			},
			SetPower: set,
			Commands: func() (verbs []corepower.Verb) {
				for line := range strings.Lines(read("commands")) {
					verbs = append(verbs, corepower.Verb(strings.TrimSpace(line)))
				}
				return verbs
			},
			Mute: func(on bool) {
				if on {
					drivertest.Write(t, dir, "mute", "", 0o600)
				} else if err := os.Remove(filepath.Join(dir, "mute")); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestAnswers: one object with a state and exit 0 is a reading; everything else is an
// error and Unknown, never OFF (power.md §8.4).
func TestAnswers(t *testing.T) {
	const violation = corepower.ProtocolViolation
	for _, c := range []struct {
		script string
		state  corepower.State
		kind   corepower.Kind
	}{
		{`echo '{"state":"on"}'`, corepower.On, ""},
		{`echo ' { "state" : "off" } '`, corepower.Off, ""},
		{`echo '{"state":"off"}' >&2`, 0, violation},
		{`echo '{"state":"off"}'; exit 1`, 0, violation},
		{`echo '{"state":"off"}'; exit 2`, 0, violation},
		{`echo '{"state":"off"}'; kill -9 $$`, 0, corepower.RemoteError},
		{`echo '{"state":"off"}{"state":"on"}'`, 0, violation},
		{`echo '{"state":"on","state":"off"}'`, 0, violation},
		{`echo '{"State":"off"}'`, 0, violation},
		{`echo '{"state":"OFF"}'`, 0, violation},
		{`echo '{"state":"powering off"}'`, 0, violation},
		{`echo '{"state":null}'`, 0, violation},
		{`echo '{"state":false}'`, 0, violation},
		{`echo '{"state":"off","sure":true}'`, 0, violation},
		{`echo '{"state":"off"'`, 0, violation},
		{`echo '["off"]'`, 0, violation},
		{`echo '"off"'`, 0, violation},
		{`echo off`, 0, violation},
		{`echo '{}'`, 0, violation},
		{`:`, 0, violation},
		{`exec yes '{"state":"off"}'`, 0, violation},
		{`echo '{"state":"off"}'; exec sleep 600`, 0, corepower.Timeout},
		{`trap "" TERM; echo '{"state":"off"}'; while :; do sleep 1; done`, 0, corepower.Timeout},
		{`echo '{"state":"on"}'; setsid sleep 600 &`, corepower.On, ""},
		{`echo '{"error":{"kind":"Busy","retryAfter":"5s"}}'; exit 1`, 0, corepower.Busy},
		{`echo '{"error":{"kind":"Busy"}}'`, 0, violation},
		{`echo '{"error":{"kind":"Cancelled"}}'; exit 1`, 0, violation},
		{`echo '{"error":{"kind":""}}'; exit 1`, 0, violation},
		{`echo '{"error":{}}'; exit 1`, 0, violation},
		{`echo '{"state":"off","error":{"kind":"RemoteError"}}'; exit 1`, 0, corepower.RemoteError},
		{`echo '{"error":{"error":{"error":{"error":{}}}}}'; exit 1`, 0, violation},
	} {
		t.Run(c.script, func(t *testing.T) {
			tg := target(t, "#!/bin/sh\n"+c.script+"\n")
			tg.Limits.Answer = 400 * time.Millisecond
			r, err := power.ReadOnce(t.Context(), newDriver(), tg)
			if r.State != c.state || power.KindOf(err) != c.kind || err != nil && r != (corepower.Reading{}) || r.Authentic {
				t.Errorf("got %+v, %v; want %v, %q", r, err, c.state, c.kind)
			}
		})
	}
	r, err := power.ReadOnce(t.Context(), newDriver(), target(t, "#!/bin/sh\necho '{\"state\":\"off\",\"authentic\":true,\"transitional\":true,\"fault\":true}'\n"))
	if err != nil || !r.Authentic || !r.Transitional || !r.Fault {
		t.Errorf("what a program says of its reading is kept: %+v, %v", r, err)
	}
}

// TestCommandAnswers: which errors leave open whether a command ran.
func TestCommandAnswers(t *testing.T) {
	for _, c := range []struct {
		script string
		want   corepower.Outcome
		kind   corepower.Kind
	}{
		{`echo '{"outcome":"accepted"}'`, corepower.Accepted, ""},
		{`echo '{"outcome":"already-there"}'`, corepower.AlreadyThere, ""},
		{`echo '{"error":{"kind":"InvalidState"}}'; exit 1`, corepower.AlreadyThere, ""},
		{`echo '{}'`, corepower.Indeterminate, corepower.ProtocolViolation},
		{`echo '{"outcome":"indeterminate"}'`, corepower.Indeterminate, corepower.ProtocolViolation},
		{`echo nonsense`, corepower.Indeterminate, corepower.ProtocolViolation},
		{`exit 3`, corepower.Indeterminate, corepower.ProtocolViolation},
		{`exec sleep 600`, corepower.Indeterminate, corepower.Timeout},
		{`echo '{"error":{"kind":"Timeout"}}'; exit 1`, corepower.Indeterminate, corepower.Timeout},
		{`echo '{"error":{"kind":"Busy"}}'; exit 1`, corepower.Rejected, corepower.Busy},
		{`echo '{"error":{"kind":"AuthFailed"}}'; exit 1`, corepower.Rejected, corepower.AuthFailed},
		{`echo '{"error":{"kind":"Unsupported"}}'; exit 1`, corepower.Rejected, corepower.Unsupported},
	} {
		t.Run(c.script, func(t *testing.T) {
			tg := target(t, "#!/bin/sh\n"+c.script+"\n")
			tg.Limits.Command = 400 * time.Millisecond
			conn, err := newDriver().Open(t.Context(), tg)
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

// TestQuestion: the program gets all it needs on standard input, and no secret elsewhere.
func TestQuestion(t *testing.T) {
	tg := target(t, `#!/bin/sh
dir=$(dirname "$0"); cat >"$dir/stdin"; cat /proc/$$/cmdline /proc/$$/environ >"$dir/seen"; echo '{"outcome":"accepted"}'
`)
	dir := filepath.Dir(tg.Params["program"])
	tg.Params["param.relay"], tg.Params["param.board"] = "4", "left"
	tg.Limits.Command = 30 * time.Second
	conn, err := newDriver().Open(t.Context(), tg)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if _, err := conn.Do(t.Context(), power.Command{Verb: corepower.Identify, ID: "txn/3", Epoch: "7", For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	var q question
	if err := json.Unmarshal(b, &q); err != nil {
		t.Fatal(err)
	}
	if d := q.Deadline.Sub(now); d < 29*time.Second || d > 31*time.Second {
		t.Errorf("deadline in %v", d)
	}
	q.Deadline = time.Time{}
	got, _ := json.Marshal(q)
	if want := `{"version":1,"action":"identify","host":"h-1","device":"relay","address":"192.0.2.7","params":{"board":"left","relay":"4"},"user":"admin","password":"` + password + `","deadline":"0001-01-01T00:00:00Z","id":"txn/3","epoch":"7","seconds":60}`; string(got) != want {
		t.Errorf("question\n%s\nwant\n%s", got, want)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil || strings.Contains(string(seen), password) {
		t.Errorf("the password is in arguments or environment: %v", err)
	}
}

// TestSecretsStay: a program that prints its input gets it into no error.
func TestSecretsStay(t *testing.T) {
	for _, script := range []string{`cat`, `cat >&2; exit 1`, `echo '{"error":{"kind":"RemoteError","detail":"password ` + password + ` refused"}}'; exit 1`} {
		_, err := power.ReadOnce(t.Context(), newDriver(), target(t, "#!/bin/sh\n"+script+"\n"))
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// TestPrograms: only a program that nobody but root could have changed is run.
func TestPrograms(t *testing.T) {
	d := newDriver()
	good := target(t, relay)
	dir := filepath.Dir(good.Params["program"])
	if err := d.Check(good); err != nil {
		t.Fatal(err)
	}
	open := folder(t)
	drivertest.Write(t, open, "program", relay, 0o755)
	if err := os.Chmod(open, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good.Params["program"], link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, words string
		kind        corepower.Kind
	}{
		{"program", "absolute", corepower.BadConfig},
		{dir + "/../x", "absolute", corepower.BadConfig},
		{filepath.Join(dir, "absent"), "no such file", corepower.ToolMissing},
		{dir, "not an executable", corepower.ToolMissing},
		{drivertest.Write(t, dir, "plain", relay, 0o644), "not an executable", corepower.ToolMissing},
		{drivertest.Write(t, dir, "group", relay, 0o775), "writable by others", corepower.BadConfig},
		{drivertest.Write(t, dir, "world", relay, 0o757), "writable by others", corepower.BadConfig},
		{filepath.Join(open, "program"), "writable by others", corepower.BadConfig},
		{link, "through a link", corepower.BadConfig},
	} {
		tg := good
		tg.Params = map[string]string{"program": c.path}
		err := d.Check(tg)
		if power.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q saying %q", c.path, err, c.kind, c.words)
		}
	}
	strict := New(proc.NewRunner(1))
	strict.owners = []uint32{uint32(os.Getuid()) + 1}
	if err := strict.Check(good); power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "does not belong to root") {
		t.Errorf("a program of somebody else: %v", err)
	}
	good.Params["param.x"] = "a\nb"
	if err := d.Check(good); power.KindOf(err) != corepower.BadConfig {
		t.Errorf("control characters: %v", err)
	}
	none := target(t, relay)
	none.Secret = power.Secret{}
	none.Params["secret"] = "none"
	if err := d.Check(none); err != nil {
		t.Errorf("a program without a secret: %v", err)
	}
}

// FuzzAnswer: no output panics the reader, and OFF is read from one form only.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{"state":"off"}`, `{"error":{"kind":"Busy","retryAfter":"5s"}}`, `{"identity":{"systemUUID":"x"}}`, `{"state":"on","state":"off"}`, `[[[[[[`, `{"st\u0061te":"off"}`} {
		f.Add(0, []byte(s), []byte(""))
		f.Add(1, []byte(s), []byte("oops"))
	}
	f.Fuzz(func(t *testing.T, exit int, stdout, stderr []byte) {
		a, e := parse("test", proc.Result{Exit: exit, Stdout: stdout, Stderr: stderr}, power.Credential{}, true)
		if e != nil {
			if e.Kind == corepower.NoError || len(e.Error()) > 1000 || strings.ContainsAny(e.Error(), "\n\x00") {
				t.Errorf("error %q", e)
			}
			return
		}
		r, e := a.reading("test")
		if e == nil && r.State == corepower.Off && (exit != 0 || strings.Count(string(stdout), `"off"`)+strings.Count(string(stdout), `\u`) == 0) {
			t.Errorf("OFF from exit %d and %q", exit, stdout)
		}
	})
}
