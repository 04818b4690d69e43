// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"
)

// The walk-through of docs/power.md: from a host without a device to a proven OFF, and back.
func TestPowerWalkThrough(t *testing.T) {
	t.Parallel()
	f := start(t, "--hosts", "6", "--workers", "2", "--preset", "fast")
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
	soon := func(what string, args ...string) {
		t.Helper()
		until(t, 30*time.Second, func() string {
			if out := f.must(t, args...); !strings.Contains(out, what) {
				return "holdfast " + strings.Join(args, " ") + ":\n" + out
			}
			return ""
		})
	}
	soon("AVAILABLE", "get", "hosts", host)
	address := strings.TrimSpace(f.must(t, "describe", "host", host, "-o", "jsonpath={.spec.power[0].address}"))
	says("nothing was changed", "power", "device", "remove", host, "bmc", "--dry-run")
	says("0 power devices", "power", "device", "remove", host, "bmc", "--yes")
	soon("UNSUPPORTED", "get", "hosts", host)

	profile := []string{"power", "profile", "set", "device.bmc.driver=ipmi", "device.bmc.user=env:HOLDFAST_BMC_USER", "device.bmc.secret=file:bmc"}
	says("nothing was changed", append(profile, "--dry-run")...)
	says("reaches 6 of 6 hosts", profile...)
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
}
