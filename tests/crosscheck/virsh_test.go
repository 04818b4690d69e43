// SPDX-License-Identifier: Apache-2.0

package crosscheck

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/virsh"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// TestVirsh: the words of the real virsh, with libvirt's test hypervisor. That one forgets
// everything when a connection ends, so each call finds the domain running.
func TestVirsh(t *testing.T) {
	if !have("virsh") {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends", "libvirt-clients")
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("install libvirt-clients: %v\n%s", err, out)
		}
	}
	d := virsh.New(proc.NewRunner(1), "")
	target := power.Target{Host: "h-1", Device: "vm", Address: "test:///default", Params: map[string]string{"domain": "test"}}
	conn, err := d.Open(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := conn.Status(t.Context()); err != nil || r.State != corepower.On || !r.Authentic {
		t.Errorf("status: %+v, %v", r, err)
	}
	id, err := conn.Identity(t.Context())
	if err != nil || len(id.SystemUUID) != 36 {
		t.Errorf("identity: %+v, %v", id, err)
	}
	for verb, want := range map[corepower.Verb]corepower.Outcome{
		corepower.HardOff: corepower.Accepted, corepower.SoftOff: corepower.Accepted, corepower.HardOn: corepower.AlreadyThere,
	} {
		if out, err := conn.Do(t.Context(), power.Command{Verb: verb}); out != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", verb, out, err, want)
		}
	}
	target.Params = map[string]string{"domain": "elsewhere"}
	if r, err := power.ReadOnce(t.Context(), d, target); power.KindOf(err) != corepower.BadConfig || r != (corepower.Reading{}) {
		t.Errorf("a domain that is not there is not off: %+v, %v", r, err)
	}
	target.Address = "qemu+tls://127.0.0.1:1/system"
	if _, err := power.ReadOnce(t.Context(), d, target); power.KindOf(err) != corepower.Unreachable {
		t.Errorf("nobody listens: %v", err)
	}
}
