// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// The walk-through of docs/power.md: from a host without a device to a proven OFF, and back.
func TestPowerWalkThrough(t *testing.T) {
	t.Parallel()
	f := start(t, "--hosts", "8", "--workers", "2", "--preset", "fast")
	const host = "h006"
	f.mu.Lock()
	f.victims[host] = true
	f.mu.Unlock()
	says := func(what string, args ...string) string {
		t.Helper()
		out := f.must(t, args...)
		if !strings.Contains(out, what) {
			t.Fatalf("holdfast %s does not say %q:\n%s", strings.Join(args, " "), what, out)
		}
		return out
	}
	within := func(limit time.Duration, what string, args ...string) {
		t.Helper()
		until(t, limit, func() string {
			if out := f.must(t, args...); !strings.Contains(out, what) {
				return "holdfast " + strings.Join(args, " ") + ":\n" + out
			}
			return ""
		})
	}
	soon := func(what string, args ...string) {
		t.Helper()
		within(30*time.Second, what, args...)
	}
	soon("AVAILABLE", "get", "hosts", host)
	address := strings.TrimSpace(f.must(t, "describe", "host", host, "-o", "jsonpath={.spec.power[0].address}"))
	says("nothing was changed", "power", "device", "remove", host, "bmc", "--dry-run")
	says("0 power devices", "power", "device", "remove", host, "bmc", "--yes")
	soon("UNSUPPORTED", "get", "hosts", host)

	profile := []string{"power", "profile", "set", "device.bmc.driver=ipmi", "device.bmc.user=env:HOLDFAST_BMC_USER", "device.bmc.secret=file:bmc"}
	says("nothing was changed", append(profile, "--dry-run")...)
	says("reaches 8 of 8 hosts", profile...)
	says("file:bmc", "power", "profile", "get", "--scope", "host/"+host)
	if _, stderr, code := f.run(t, "power", "device", "add", host, "bmc", "--address", address, "--level", "12"); code == 0 || !strings.Contains(stderr, "allowed are 1 to 9") {
		t.Errorf("level 12: exit %d, %s", code, stderr)
	}
	says("bmc: address="+address, "power", "device", "add", host, "bmc", "--address", address)
	soon("AVAILABLE", "get", "hosts", host)

	out := says("1 of 1 devices pass", "power", "test", host)
	for _, step := range []string{"0 reach: passed", "1 log in: passed", "2 status: reads ON", "3 identity: system UUID", "4 privilege: passed"} {
		if !strings.Contains(out, step) {
			t.Errorf("the test does not tell %q:\n%s", step, out)
		}
	}
	f.must(t, "power", "device", "add", host, "hand", "--driver", "manual")
	says("level 4: a human", "power", "explain", host)

	says("It will:", "power", "off", host, "--dry-run")
	says("cluster/z1/p1/c2 1 of 3", "power", "off", host, "--yes", "--reason", "burning smell")
	soon("which proves A3", "power", "history", host)
	f.must(t, "power", "on", host)
	soon("AVAILABLE", "get", "hosts", host)
	if got := verbs(f.truth(t, host)); strings.Join(got, " ") != "off on" {
		t.Errorf("its BMC was told %v", got)
	}

	f.must(t, "power", "profile", "set", "class=slow", "--scope", "cluster/z1/p1/c2")
	soon("class slow at cluster/z1/p1/c2", "settings", "get", "power.status.deadline", "--scope", "host/"+host)
	f.must(t, "power", "profile", "unset", "class", "--scope", "cluster/z1/p1/c2")

	const fed = "h008"
	f.mu.Lock()
	f.victims["pdu-a/1"], f.victims["pdu-b/1"] = true, true
	f.mu.Unlock()
	says("level 2 (pdu-a, pdu-b): hard off", "power", "explain", fed)
	f.breaks(t, fed, "bmc-dead")
	f.must(t, "power", "off", fed, "--yes", "--reason", "smoke")
	within(2*time.Minute, "which proves A5", "power", "history", fed)
	says("no mains", "dev", "status")
	f.must(t, "power", "on", fed)
	within(time.Minute, "AVAILABLE", "get", "hosts", fed)
}

// A host whose BMC is dead is fenced through the two PDUs that feed it, with the real fence
// agent over SNMP: both outlets are cut together and read back, which is A5; they come back
// and the host with them. Another one recovers through Redfish (power.md §§8.2, 8.6, 9.1).
func TestOtherFaces(t *testing.T) {
	t.Parallel()
	f := start(t, "--hosts", "8", "--workers", "2", "--preset", "fast")
	const fed, web = "h008", "h003"
	f.awaitAllAvailable(t, time.Minute)
	for host, drivers := range map[string]string{fed: "ipmi pdu pdu", web: "redfish", "h001": "ipmi"} {
		var got []string
		for _, d := range f.host(t, host).Spec.Power {
			got = append(got, d.Driver)
		}
		if strings.Join(got, " ") != drivers {
			t.Errorf("%s has devices %v, want %s (is fence_apc_snmp installed? make tools)\n%s", host, got, drivers, f.out)
		}
	}
	f.await(t, time.Minute, fed, "its outlets tested", func(s v1.HostStatus) bool {
		good := 0
		for _, d := range s.Devices {
			if d.TestOK {
				good++
			}
		}
		return good == 3
	})
	f.mu.Lock()
	f.victims["pdu-a/1"], f.victims["pdu-b/1"] = true, true
	f.mu.Unlock()
	old := map[string]v1.HostStatus{fed: f.host(t, fed).Status, web: f.host(t, web).Status}
	f.breaks(t, fed, "bmc-dead")
	f.breaks(t, fed, "crash")
	f.breaks(t, web, "crash")
	for host, was := range old {
		f.await(t, 4*time.Minute, host, "AVAILABLE with a new boot", func(s v1.HostStatus) bool { return s.State == "AVAILABLE" && s.Boot != was.Boot })
	}
	// The host is back with its first feed; the second one follows, however slow its unit is.
	for _, device := range []string{"pdu-a/1", "pdu-b/1", web} {
		f.await(t, time.Minute, fed, device+" told off and on", func(v1.HostStatus) bool {
			return slices.Equal(slices.Compact(verbs(f.truth(t, device))), []string{"off", "on"})
		})
	}
	if got := f.truth(t, fed); len(got) > 0 {
		t.Errorf("the dead BMC was told %v", got)
	}
	for host, proof := range map[string]string{fed: "(A5, ", web: "(A3, "} {
		safe := ofType(f.events(t, host), "ha.safe-to-restart")
		if len(safe) != 1 || !strings.Contains(safe[0].Message, proof) {
			t.Errorf("%s: %+v, want one proof of %s", host, safe, proof)
		}
	}
}
