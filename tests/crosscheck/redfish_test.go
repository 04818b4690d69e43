// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/redfish"
)

const (
	fenceRedfish = "fence_redfish"
	python       = "/usr/bin/python3" // Debian's, which finds Debian's modules
)

// service is a simulated Redfish service on loopback with a chassis that acts at once.
type service struct {
	*redfish.Server
	host *bmc.ModelChassis
}

func serveRedfish(t *testing.T, change ...func(*redfish.Config)) service {
	t.Helper()
	install(t) // fence-agents has fence_redfish, too
	host := bmc.NewChassis(bmc.ChassisConfig{On: true})
	cfg := redfish.Config{
		Name: "crosscheck", Addr: "127.77.0.2:0",
		Systems: []redfish.System{{UUID: "01020304-0506-0708-090a-0b0c0d0e0f10", Serial: "SN-1", Chassis: host}},
		Users: []bmc.User{
			{Name: "admin", Password: password, Privilege: bmc.Administrator},
			{Name: "viewer", Password: password, Privilege: bmc.UserLevel},
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	s := redfish.New(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run service: %v", err)
		}
	})
	return service{s, host}
}

// verbs is the truth log in short: what reached the chassis, in order.
func (s service) verbs() []bmc.Verb {
	var out []bmc.Verb
	for _, e := range s.Truth() {
		if e.Outcome == bmc.Executed {
			out = append(out, e.Verb)
		}
	}
	return out
}

// agent runs fence_redfish with its options on stdin, as a cluster manager does.
func (s service) agent(t *testing.T, action string, more ...string) (string, int) {
	t.Helper()
	options := append([]string{
		"ip=" + s.Addr().Addr().String(), fmt.Sprint("ipport=", s.Addr().Port()),
		"username=admin", "password=" + password, "ssl_insecure=1", "power_wait=0", "action=" + action,
	}, more...)
	return run(t, strings.Join(options, "\n")+"\n", "", fenceRedfish)
}

// power.md §8.3: fence_redfish reads, switches and confirms over the simulated service,
// whether the answer to a reset comes at once or as a task.
func TestFenceRedfish(t *testing.T) {
	for name, tasks := range map[string]bool{"at once": false, "task": true} {
		t.Run(name, func(t *testing.T) {
			s := serveRedfish(t, func(c *redfish.Config) { c.Tasks = tasks })
			for _, step := range []struct {
				action string
				exit   int
				power  bool
			}{
				{"status", 0, true}, {"off", 0, false}, {"status", 2, false}, {"off", 0, false},
				{"on", 0, true}, {"status", 0, true}, {"reboot", 0, true}, {"monitor", 0, true},
			} {
				out, exit := s.agent(t, step.action)
				if exit != step.exit || s.host.Power() != step.power {
					t.Fatalf("%s: exit %d, power %t; want %d, %t:\n%s", step.action, exit, s.host.Power(), step.exit, step.power, out)
				}
			}
			want := []bmc.Verb{bmc.VerbOff, bmc.VerbOn, bmc.VerbOff, bmc.VerbOn}
			if diff := cmp.Diff(want, s.verbs()); diff != "" {
				t.Errorf("truth (-want +got):\n%s", diff)
			}
		})
	}
}

// power.md §7: refusals reach fence_redfish as errors, and nothing is executed.
func TestFenceRedfishRefused(t *testing.T) {
	s := serveRedfish(t)
	for _, tc := range []struct {
		name   string
		faults redfish.Faults
		more   []string
	}{
		{"wrong password", redfish.Faults{}, []string{"password=wrong"}},
		{"no power state", redfish.Faults{NoPowerState: true}, nil},
		{"broken JSON", redfish.Faults{WrongJSON: true}, nil},
		{"lying", redfish.Faults{IgnoreCommands: true}, []string{"power_timeout=2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := s.SetFaults(tc.faults); err != nil {
				t.Fatal(err)
			}
			out, exit := s.agent(t, "off", tc.more...)
			if exit != 1 || !s.host.Power() || len(s.verbs()) != 0 {
				t.Errorf("exit %d, power %t, truth %+v; want 1 and an untouched host:\n%s", exit, s.host.Power(), s.Truth(), out)
			}
		})
	}
}

// sushy logs in with a session, walks the service, switches and logs out.
const sushyScript = `
import sys, time
import sushy
from sushy import auth
url, password, kind = sys.argv[1], sys.stdin.read().strip(), sys.argv[2]
how = {"session": auth.SessionAuth, "basic": auth.BasicAuth}[kind]("admin", password)
root = sushy.Sushy(url, auth=how, verify=sys.argv[3])
print("uuid", root.get_system_collection().members_identities)
s = root.get_system("/redfish/v1/Systems/1")
print("system", s.uuid, s.serial_number, s.power_state.value)
print("allowed", sorted(v.value for v in s.get_allowed_reset_system_values()))
def until(want):
    for _ in range(200):
        s.refresh(force=True)
        if s.power_state.value == want:
            print("power", want)
            return
        time.sleep(0.05)
    sys.exit("power state is %s, want %s" % (s.power_state.value, want))
s.reset_system(sushy.RESET_FORCE_OFF); until("Off")
s.reset_system(sushy.RESET_ON); until("On")
s.reset_system(sushy.RESET_FORCE_RESTART); until("On")
s.set_indicator_led(sushy.INDICATOR_LED_BLINKING); s.refresh(force=True); print("lamp", s.indicator_led.value)
s.set_indicator_led(sushy.INDICATOR_LED_OFF)
m = root.get_manager(root.get_manager_collection().members_identities[0])
print("manager", m.manager_type.value)
if kind == "session":
    how.close()
`

// power.md §5: python3-sushy, which shares nothing with us, walks and switches the
// simulated service with both kinds of log-in, and its session is gone afterwards.
func TestSushy(t *testing.T) {
	if out, exit := run(t, "", "", python, "-c", "import sushy"); exit != 0 {
		t.Fatalf("python3-sushy is not installed, make tools does it:\n%s", out)
	}
	for _, kind := range []string{"session", "basic"} {
		t.Run(kind, func(t *testing.T) {
			host := bmc.NewChassis(bmc.ChassisConfig{On: true, OffLatency: 200 * time.Millisecond, OnLatency: 200 * time.Millisecond})
			s := serveRedfish(t, func(c *redfish.Config) { c.Systems[0].Chassis = host })
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, s.CA(), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("REQUESTS_CA_BUNDLE", ca) // which sushy's HTTP library prefers to what it is told
			out, exit := run(t, password, "", python, "-c", sushyScript, "https://"+s.Addr().String(), kind, ca)
			if exit != 0 {
				t.Fatalf("exit %d:\n%s", exit, out)
			}
			for _, says := range []string{
				"uuid ('/redfish/v1/Systems/1',)", "system 01020304-0506-0708-090a-0b0c0d0e0f10 SN-1 On",
				"'ForceOff'", "'ForceRestart'", "power Off", "power On", "lamp Blinking", "manager BMC",
			} {
				if !strings.Contains(out, says) {
					t.Errorf("sushy does not say %q:\n%s", says, out)
				}
			}
			want := []bmc.Verb{bmc.VerbOff, bmc.VerbOn, bmc.VerbReset, bmc.VerbIdentify, bmc.VerbIdentify}
			if diff := cmp.Diff(want, s.verbs()); diff != "" {
				t.Errorf("truth (-want +got):\n%s", diff)
			}
			if n := s.Sessions(); n != 0 {
				t.Errorf("%d sessions left behind", n)
			}
		})
	}
}

// power.md §5: one chassis, two faces. What ipmitool switches fence_redfish sees, the
// other way round as well, and one log has the commands of both in order.
func TestTwoFaces(t *testing.T) {
	var mu sync.Mutex
	var log []string
	note := func(e bmc.Entry) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprint(e.BMC, " ", e.Verb, " ", e.Outcome))
	}
	s := serveRedfish(t, func(c *redfish.Config) { c.OnCommand = note })
	b := bmc.New(bmc.Config{
		Name: "crosscheck", Addr: "127.77.0.2:0", Chassis: s.host, OnCommand: note,
		Users: []bmc.User{{Name: "admin", Password: password, Privilege: bmc.Administrator}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run bmc: %v", err)
		}
	}()
	ipmi := rig{b, s.host}
	if out, exit := ipmi.tool(t, "admin", password, "-C", "17", "chassis", "power", "off"); exit != 0 {
		t.Fatalf("ipmitool: exit %d:\n%s", exit, out)
	}
	if out, exit := s.agent(t, "status"); exit != 2 {
		t.Errorf("fence_redfish status: exit %d, want 2 for off:\n%s", exit, out)
	}
	if out, exit := s.agent(t, "on"); exit != 0 {
		t.Errorf("fence_redfish on: exit %d:\n%s", exit, out)
	}
	if out, exit := ipmi.tool(t, "admin", password, "-C", "17", "chassis", "power", "status"); exit != 0 || !strings.Contains(out, "is on") {
		t.Errorf("ipmitool: exit %d:\n%s", exit, out)
	}
	if diff := cmp.Diff([]string{"crosscheck off executed", "crosscheck on executed"}, log); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}
