// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
)

// simBMC is a BMC of OpenIPMI's simulator. Its chassis is a file with "power:1" or "power:0".
type simBMC struct{ addr, chassis string }

// installSim makes sure that OpenIPMI's simulator is there.
func installSim(t *testing.T) {
	t.Helper()
	if have("ipmi_sim") {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends", "openipmi")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("install openipmi: %v\n%s", err, out)
	}
}

func startIPMISim(t *testing.T) simBMC {
	t.Helper()
	install(t)
	installSim(t)
	dir := t.TempDir()
	free, err := net.ListenPacket("udp", "127.77.0.4:0") // an address of its own: nobody else takes the port
	if err != nil {
		t.Fatal(err)
	}
	b := simBMC{addr: free.LocalAddr().String(), chassis: filepath.Join(dir, "power")}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(b.addr, ":")
	for name, text := range map[string]string{
		"power": "power:1\n",
		"cc":    "#!/bin/sh\n[ \"$1 $2\" = 'get power' ] && exec cat " + b.chassis + "\n[ \"$1 $2\" = 'set power' ] && echo power:$3 >" + b.chassis + "\nexit 0\n",
		"bmc.emu": `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
mc_enable 0x20
`,
		"lan.conf": fmt.Sprintf(`name "crosscheck"
set_working_mc 0x20
startlan 1
  addr %s %s
  priv_limit admin
  allowed_auths_user none md2 md5 straight
  allowed_auths_operator none md2 md5 straight
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
chassis_control "%s"
user 2 true "admin" "%s" admin 10 none md2 md5 straight
`, host, port, filepath.Join(dir, "cc"), password),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ipmi_sim", "-n", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "bmc.emu"), "-s", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	})
	return b
}

func (b simBMC) on(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile(b.chassis)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text)) == "power:1"
}

func (b simBMC) target(t *testing.T, user, secret string) power.Target {
	t.Helper()
	return power.Target{Host: "h-1", Device: "bmc", Address: b.addr, Secret: secretOf(t, user, secret), Limits: power.Limits{Packet: 500 * time.Millisecond}}
}

// TestIPMISim: our driver against a BMC that shares no code with it or with go-ipmi. It
// knows cipher suite 3 only, which is found (power.md §5, §8.1).
func TestIPMISim(t *testing.T) {
	b := startIPMISim(t)
	d := ipmi.New(nil)
	open := func(user, secret string) (power.Conn, error) { return d.Open(t.Context(), b.target(t, user, secret)) }
	var c power.Conn
	ready := time.Now().Add(20 * time.Second)
	for {
		var err error
		if c, err = open("admin", password); err == nil {
			break
		}
		if power.KindOf(err) != corepower.Unreachable || time.Now().After(ready) {
			t.Fatal(err)
		}
	}
	id, err := c.Identity(t.Context())
	if err != nil || id.SystemUUID == "" {
		t.Errorf("identity %+v, %v", id, err)
	}
	for _, want := range []struct {
		verb  corepower.Verb
		state corepower.State
	}{{corepower.HardOff, corepower.Off}, {corepower.HardOn, corepower.On}, {corepower.HardOff, corepower.Off}} {
		if out, err := c.Do(t.Context(), power.Command{Verb: want.verb}); err != nil || out != corepower.Accepted {
			t.Fatalf("%s: %s, %v", want.verb, out, err)
		}
		r, err := c.Status(t.Context())
		if err != nil || r.State != want.state || !r.Authentic || b.on(t) != (want.state == corepower.On) {
			t.Errorf("after %s: %+v, %v, truly on: %v", want.verb, r, err, b.on(t))
		}
	}
	if s, ok := power.As[power.Sessions](c); !ok {
		t.Error("it lists no sessions")
	} else if table, err := s.Sessions(t.Context()); err != nil || table.Active < 1 {
		t.Errorf("sessions %+v, %v", table, err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := open("admin", "not-it"); power.KindOf(err) != corepower.AuthFailed {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := open("nobody", password); power.KindOf(err) != corepower.AuthFailed {
		t.Errorf("a wrong user: %v", err)
	}
}
