// SPDX-License-Identifier: Apache-2.0

package virsh

import (
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

const uuid = "04030201-0605-0807-090a-0b0c0d0e0f10"

// script stands for virsh over files beside it: state, commands, mute.
const script = `#!/bin/sh
dir=$(dirname "$0")
[ "$1 $2 $3 $5 $6" = "--connect qemu:///system --quiet --domain h-1" ] || { echo "error: arguments $*" >&2; exit 1; }
[ -e "$dir/mute" ] && exec sleep 600
read -r state <"$dir/state"
case $4 in
domuuid) echo ` + uuid + `; echo ;;
domstate) echo "$state"; echo ;;
destroy)
	[ "$state" = "shut off" ] && { echo "error: Failed to destroy domain 'h-1'" >&2; echo "error: Requested operation is not valid: domain is not running" >&2; exit 1; }
	echo "shut off" >"$dir/state"; echo off >>"$dir/commands" ;;
start)
	[ "$state" = running ] && { echo "error: Domain is already active" >&2; exit 1; }
	echo running >"$dir/state"; echo on >>"$dir/commands" ;;
*) exit 1 ;;
esac
`

func write(t testing.TB, dir, name, text string) string {
	return drivertest.Write(t, dir, name, text, 0o700)
}

func newDriver(t testing.TB, text string) (*Driver, string) {
	dir := t.TempDir()
	return New(proc.NewRunner(4), write(t, dir, "virsh", text)), dir
}

var target = power.Target{Host: "h-1", Device: "vm", Address: "qemu:///system", Params: map[string]string{"domain": "h-1"}}

// TestContract runs the driver contract; tests/crosscheck looks at the real virsh.
func TestContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		d, dir := newDriver(t, script)
		read := func(name string) string { return drivertest.Read(t, dir, name) }
		set := func(s corepower.State) {
			write(t, dir, "state", map[corepower.State]string{corepower.On: "running\n", corepower.Off: "shut off\n"}[s])
		}
		set(corepower.On)
		return drivertest.Device{
			Driver: d, Target: target, Identity: corepower.Identity{SystemUUID: uuid}, Sessionless: true,
			Power: func() corepower.State {
				if strings.TrimSpace(read("state")) == "shut off" {
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
					write(t, dir, "mute", "")
				} else if err := os.Remove(filepath.Join(dir, "mute")); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestStates: only "shut off" and "crashed" are OFF; what is not a state is an error
// (power.md §8.5).
func TestStates(t *testing.T) {
	for text, want := range map[string]corepower.Reading{
		"running": {State: corepower.On}, "idle": {State: corepower.On}, "paused": {State: corepower.On}, "pmsuspended": {State: corepower.On},
		"in shutdown": {State: corepower.On, Transitional: true}, "shut off": {State: corepower.Off}, "crashed": {State: corepower.Off},
		"no state": {}, "": {}, "shut off\nrunning": {}, "Shut Off": {}, "shut off (crashed)": {},
	} {
		d, _ := newDriver(t, "#!/bin/sh\ncat <<'EOF'\n"+text+"\n\nEOF\n")
		r, err := power.ReadOnce(t.Context(), d, target)
		if r.State != want.State || r.Transitional != want.Transitional || (err == nil) != (want.State != corepower.Unknown) {
			t.Errorf("%q: %+v, %v; want %+v", text, r, err, want)
		}
		if err != nil && power.KindOf(err) != corepower.ProtocolViolation {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestEnds: virsh's complaints and hostile ends get their kind, and say whether a command
// may have run (power.md §7).
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		script string
		kind   corepower.Kind
		off    corepower.Outcome
	}{
		{`echo "error: Requested operation is not valid: domain is not running" >&2; exit 1`, corepower.InvalidState, corepower.AlreadyThere},
		{`echo "error: failed to get domain 'h-1'" >&2; exit 1`, corepower.BadConfig, corepower.Rejected},
		{`echo "error: failed to connect to the hypervisor" >&2; echo "error: unable to connect to server at 'outer:16514': Connection refused" >&2; exit 1`, corepower.Unreachable, corepower.Rejected},
		{`echo "error: failed to connect to the hypervisor" >&2; echo "error: Cannot recv data: root@outer: Permission denied (publickey)." >&2; exit 1`, corepower.AuthFailed, corepower.Rejected},
		{`echo "error: failed to connect to the hypervisor" >&2; echo "error: Cannot recv data: Host key verification failed." >&2; exit 1`, corepower.IdentityMismatch, corepower.Rejected},
		{`echo "error: access denied: 'QEMU' denied access" >&2; exit 1`, corepower.PrivilegeDenied, corepower.Rejected},
		{`echo "error: Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainDestroy)" >&2; exit 1`, corepower.Busy, corepower.Rejected},
		{`echo "error: End of file while reading data: Input/output error" >&2; exit 1`, corepower.Timeout, corepower.Indeterminate},
		{`echo "error: internal error: something" >&2; exit 1`, corepower.RemoteError, corepower.Indeterminate},
		{`kill -9 $$`, corepower.RemoteError, corepower.Indeterminate},
		{`exec yes`, corepower.ProtocolViolation, corepower.Indeterminate},
		{`trap "" TERM; while :; do sleep 1; done`, corepower.Timeout, corepower.Indeterminate},
	} {
		t.Run(c.script, func(t *testing.T) {
			d, _ := newDriver(t, "#!/bin/sh\n"+c.script+"\n")
			tg := target
			tg.Limits = power.Limits{Answer: 300 * time.Millisecond, Command: 300 * time.Millisecond}
			conn, err := d.Open(t.Context(), tg)
			if err != nil {
				t.Fatal(err)
			}
			r, err := conn.Status(t.Context())
			if power.KindOf(err) != c.kind || r != (corepower.Reading{}) {
				t.Errorf("status: %+v, %v; want %q", r, err, c.kind)
			}
			out, err := conn.Do(t.Context(), power.Command{Verb: corepower.HardOff})
			if out != c.off || power.MayHaveRun(err) != (out == corepower.Indeterminate) {
				t.Errorf("off: %s, %v; want %s", out, err, c.off)
			}
		})
	}
}

// TestAddresses: connections that run programs, carry passwords, or do not prove who
// answers are refused.
func TestAddresses(t *testing.T) {
	d, _ := newDriver(t, script)
	check := func(address, trusted string) error {
		return d.Check(power.Target{Address: address, Params: map[string]string{"domain": "h-1", "trusted": trusted}})
	}
	for _, a := range []string{"qemu:///system", "test:///default", "qemu+tls://outer/system?pkipath=/etc/pki", "qemu://outer/system", "qemu+ssh://root@outer:2222/system?keyfile=/etc/holdfast/key", "qemu+unix:///system"} {
		if err := check(a, "false"); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"qemu+tcp://outer/system", "qemu+tls://outer/system?no_verify=1", "qemu://outer/system?no_verify=0"} {
		if err := check(a, "false"); power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "proves who answers") {
			t.Errorf("%s: %v", a, err)
		}
		if err := check(a, "true"); err != nil {
			t.Errorf("%s, trusted: %v", a, err)
		}
	}
	for _, a := range []string{"", "outer", "qemu+ext://outer/system?command=/bin/evil", "qemu+ssh://outer/system?command=/bin/evil", "qemu+ssh://outer/system?netcat=/bin/evil",
		"qemu+unix:///system?socket=/tmp/evil", "qemu+ssh://root:hunter2@outer/system", "qemu+ssh://-oProxyCommand=evil/system", "qemu+ssh://-l@outer/system",
		"esx://outer/", "qemu:///system\n", "qemu:///sys tem", "http://outer/", "qemu+ssh://outer/system?keyfile=a&keyfile=b", "qemu:///system?mode=%zz"} {
		err := check(a, "true")
		if power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "address") {
			t.Errorf("%q: %v", a, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is in the error: %v", err)
		}
	}
	for _, domain := range []string{"", "--help", "a\nb", strings.Repeat("x", 300)} {
		err := d.Check(power.Target{Address: "qemu:///system", Params: map[string]string{"domain": domain}})
		if power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "domain") {
			t.Errorf("domain %.20q: %v", domain, err)
		}
	}
	if err := New(proc.NewRunner(1), "/no/such/virsh").Check(target); power.KindOf(err) != corepower.ToolMissing {
		t.Errorf("no virsh: %v", err)
	}
}

// FuzzState: OFF is read from two words only.
func FuzzState(f *testing.F) {
	f.Add("shut off", "error: Domain not found")
	f.Add("running\nshut off", "Permission denied (publickey)")
	f.Fuzz(func(t *testing.T, stdout, stderr string) {
		if r := states[strings.TrimSpace(stdout)]; r.State == corepower.Off && !strings.Contains(stdout, "shut off") && !strings.Contains(stdout, "crashed") {
			t.Errorf("OFF from %q", stdout)
		}
		if e := classify("test", proc.Result{Exit: 1, Stdout: []byte(stdout), Stderr: []byte(stderr)}, true); e.Kind == corepower.NoError || strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 1000 {
			t.Errorf("error %q", e)
		}
		_, _ = checkURI(stdout)
	})
}
