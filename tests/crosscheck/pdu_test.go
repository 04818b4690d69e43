// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/sim/bmc"
	simpdu "github.com/holdfast-ha/holdfast/sim/pdu"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/drivertest"
	"github.com/holdfast-ha/holdfast/worker/power/fenceagent"
	"github.com/holdfast-ha/holdfast/worker/power/pdu"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const snmpAgent = "fence_apc_snmp"

// installSNMP makes sure that the agent's own tools are there.
func installSNMP(t *testing.T) {
	t.Helper()
	install(t)
	if have("snmpget") && have("snmpset") && have("snmpwalk") {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends", "snmp")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install snmp: %v\n%s", err, out)
	}
}

// rack is a PDU whose outlets 1 and 2 feed a host and its BMC.
type rack struct {
	*simpdu.PDU
	host *bmc.ModelChassis
}

func startPDU(t *testing.T, community string) rack {
	t.Helper()
	installSNMP(t)
	host := bmc.NewChassis(bmc.ChassisConfig{On: true})
	var fed [2]bool
	feed := func(i int) func(bool) {
		fed[i] = true
		return func(on bool) {
			fed[i] = on
			host.SetMains(fed[0] || fed[1])
		}
	}
	p := simpdu.New(simpdu.Config{
		Name: "rack", Addr: "127.77.0.2:0", Community: community,
		Outlets: []simpdu.Outlet{{Label: "h-1 A", Feed: feed(0)}, {Label: "h-1 B", Feed: feed(1)}, {}},
	})
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run pdu: %v", err)
		}
	})
	return rack{p, host}
}

func (r rack) target(t *testing.T) power.Target {
	t.Helper()
	return power.Target{
		Host: "h-1", Device: "pdu", Address: r.Addr().String(), Secret: secretOf(t, "", password),
		Params: map[string]string{"agent": snmpAgent, "secret_as": "community", "trusted": "true", "outlets": "1,2", "stagger": "0s", "power_wait": "0"},
	}
}

// TestPDUContract: the driver contract of outlet sets, with fence_apc_snmp, net-snmp and
// our PDU (power.md §8.6). SNMP meets a wrong community with silence, so this target's is
// the agent's default and no secret.
func TestPDUContract(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Device {
		r := startPDU(t, "private")
		d, target := pdu.New(fenceagent.New(proc.NewRunner(4), fenceagent.Options{})), r.target(t)
		target.Secret = power.Secret{}
		target.Params = map[string]string{"agent": snmpAgent, "secret_as": "none", "outlets": "3", "power_wait": "0"}
		c, err := d.Open(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.Identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return drivertest.Device{
			Driver: d, Target: target, Password: password, Identity: id, Sessionless: true,
			Power: func() corepower.State {
				if r.On(3) {
					return corepower.On
				}
				return corepower.Off
			},
			SetPower: func(s corepower.State) { r.Force(3, s == corepower.On) },
			Commands: func() (verbs []corepower.Verb) {
				for _, e := range r.Truth() {
					verbs = append(verbs, corepower.Verb(e.Verb))
				}
				return verbs
			},
			Mute: func(on bool) {
				if err := r.SetFaults(simpdu.Faults{Mute: on}); err != nil {
					t.Error(err)
				}
			},
		}
	})
}

// TestPDUFence: off cuts both feeds of the host, the host is dark, and OFF read through
// the driver says so; on brings it back.
func TestPDUFence(t *testing.T) {
	r := startPDU(t, password)
	d, target := pdu.New(fenceagent.New(proc.NewRunner(4), fenceagent.Options{})), r.target(t)
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		verb  corepower.Verb
		state corepower.State
		host  bool
	}{{corepower.HardOff, corepower.Off, false}, {corepower.HardOn, corepower.On, true}} {
		if out, err := c.Do(t.Context(), power.Command{Verb: want.verb}); out != corepower.Accepted || err != nil {
			t.Fatalf("%s: %s, %v", want.verb, out, err)
		}
		got, err := c.Status(t.Context())
		if err != nil || got.State != want.state || r.host.Power() != want.host {
			t.Errorf("after %s: %+v, %v, host on: %v", want.verb, got, err, r.host.Power())
		}
	}
	if out, code := run(t, "", "", "snmpwalk", "-v2c", "-c", password, "-On", r.Addr().String(), ".1.3.6.1.4.1.318"); code != 0 {
		t.Errorf("snmpwalk by GETNEXT: %d\n%s", code, out)
	}
	if out, code := run(t, "", "", "snmpbulkwalk", "-v2c", "-c", password, "-On", r.Addr().String(), ".1.3.6.1"); code != 0 {
		t.Errorf("snmpwalk by GETBULK: %d\n%s", code, out)
	}
}

// TestPDUMissingOutlet: an outlet that does not exist must not prove anything. Its identity
// cannot be read, and it does not read OFF; in SNMP 2c fence_apc_snmp says that it does,
// which is why that is refused.
func TestPDUMissingOutlet(t *testing.T) {
	r := startPDU(t, password)
	d, target := pdu.New(fenceagent.New(proc.NewRunner(4), fenceagent.Options{})), r.target(t)
	target.Params["outlets"] = "9"
	c, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := c.Identity(t.Context()); err == nil {
		t.Errorf("an outlet that is not there has identity %+v", id)
	}
	if got, err := c.Status(t.Context()); err == nil || got.State != corepower.Unknown {
		t.Errorf("an outlet that is not there reads %+v", got)
	}
	target.Pinned = corepower.Identity{Fingerprint: "pdu:of another set"}
	if _, err := d.Open(t.Context(), target); err == nil {
		t.Error("an outlet that is not there passes for an enrolled one")
	}
	stdin := "ip=" + r.Addr().Addr().String() + "\nipport=" + strconv.Itoa(int(r.Addr().Port())) + "\ncommunity=" + password + "\nsnmp_version=2c\nplug=9\naction=status\n"
	if out, code := run(t, stdin, "", snmpAgent); code != 2 || !strings.Contains(out, "Status: OFF") {
		t.Errorf("%s can be believed in SNMP 2c: %d, %s", snmpAgent, code, out)
	}
	target.Params["snmp_version"] = "2c"
	if err := d.Check(target); power.KindOf(err) != corepower.BadConfig || !strings.Contains(err.Error(), "allowed are 1, 3") {
		t.Errorf("SNMP 2c: %v", err)
	}
}
