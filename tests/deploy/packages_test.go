// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Units are sandboxed: systemd itself judges the worker's exposure, of 10, and the figure
// in docs/security.md is that.
func TestUnitExposure(t *testing.T) {
	unit := repo("deploy", "systemd", "holdfast-worker.service")
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze: %v\n%s", err, out)
	}
	_, level, ok := strings.Cut(string(out), "Overall exposure level for holdfast-worker.service: ")
	if !ok {
		t.Fatalf("no level in\n%s", out)
	}
	is, err := strconv.ParseFloat(strings.Fields(level)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	_, doc, _ := strings.Cut(readFile(t, "docs", "security.md"), "**exposure ")
	said, err := strconv.ParseFloat(strings.SplitN(doc, "*", 2)[0], 64)
	if err != nil || math.Abs(said-is) > 0.3 { // versions of systemd weigh a little differently
		t.Errorf("exposure is %.1f, docs/security.md says %.1f (%v)", is, said, err)
	}
	for _, want := range []string{"Type=notify\n", "WatchdogSec=30\n", "KillMode=mixed\n", "ExecReload=/bin/sh -c 'kill -HUP $MAINPID'\n", "RestartPreventExitStatus=2\n", "NoNewPrivileges=yes\n"} {
		if !strings.Contains(readFile(t, "deploy", "systemd", "holdfast-worker.service"), want) {
			t.Errorf("unit lacks %q", want)
		}
	}
}

// Configurations that the packages bring as examples are ones that the programs accept:
// all that is missing are the certificates.
func TestPackagedConfigurations(t *testing.T) {
	for name, want := range map[string]string{"worker": "/etc/holdfast/tls/ca.crt", "agent": "/etc/holdfast/tls/ca.crt"} {
		text := strings.ReplaceAll(readFile(t, "deploy", "packages", name+".yaml"), "/mnt/pool-a", t.TempDir())
		text = strings.ReplaceAll(text, "{id: pool-a, path:", "{id: pool-a, mountpoint: false, path:")
		file := filepath.Join(t.TempDir(), name+".yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"--config", file}
		if name == "agent" {
			args = append(args, "--state-dir", t.TempDir())
		}
		out, err := exec.CommandContext(t.Context(), program(t, "holdfast-"+name), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "bad configuration") {
			t.Errorf("holdfast-%s says %v: %s", name, err, out)
		}
	}
}

// Packages of dist/ install, run and go away on a clean Debian root: `make install-test`.
func TestPackages(t *testing.T) {
	if !*root {
		return
	}
	dir := filepath.Join(t.TempDir(), "root")
	sh := func(script string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	sh("mmdebstrap --quiet --variant=minbase --mode=root bookworm " + dir)
	debs, err := filepath.Glob(repo("dist", "*.deb"))
	if err != nil || len(debs) != 3 {
		t.Fatalf("dist/ has %v (%v), want three packages", debs, err)
	}
	sh("cp " + strings.Join(debs, " ") + " " + dir + "/tmp/")
	before := sh("cd " + dir + " && find . -xdev ! -path './var/*' ! -path './tmp/*' ! -path './proc/*' ! -path './dev/*' | sort")
	sh("chroot " + dir + " sh -ec 'dpkg -i /tmp/*.deb'")
	for _, name := range []string{"holdfast-worker --version", "holdfast-agent --version", "holdfast version --client"} {
		out, err := exec.CommandContext(t.Context(), "chroot", append([]string{dir}, strings.Fields(name)...)...).CombinedOutput()
		if err != nil && !strings.Contains(name, "--client") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if name == "holdfast-agent --version" && !strings.Contains(string(out), "libvirt, ") {
			t.Errorf("the agent's package is without libvirt: %s", out)
		}
		t.Logf("%s: %s", name, strings.TrimSpace(string(out)))
	}
	t.Log(sh("chroot " + dir + " sh -ec 'getent passwd holdfast; ls -ld /etc/holdfast /etc/holdfast/tls /etc/holdfast/secrets; dpkg -V holdfast holdfast-worker holdfast-agent'"))
	sh("echo 'id: worker-1' > " + dir + "/etc/holdfast/worker.yaml")
	sh("chroot " + dir + " sh -ec 'dpkg -i /tmp/*.deb && dpkg -r holdfast holdfast-worker holdfast-agent && dpkg -P holdfast holdfast-worker holdfast-agent'")
	if text := sh("cat " + dir + "/etc/holdfast/worker.yaml"); text != "id: worker-1\n" {
		t.Errorf("a person's configuration is %q after the removal", text)
	}
	after := sh("cd " + dir + " && find . -xdev ! -path './var/*' ! -path './tmp/*' ! -path './proc/*' ! -path './dev/*' | sort")
	had := map[string]bool{}
	for l := range strings.Lines(before) {
		had[l] = true
	}
	for l := range strings.Lines(after) {
		if p := strings.TrimSpace(l); !had[l] && !strings.HasPrefix(p, "./etc/holdfast") && !strings.HasPrefix(p, "./etc/passwd") && !strings.HasPrefix(p, "./etc/group") && !strings.HasPrefix(p, "./etc/shadow") && !strings.HasPrefix(p, "./etc/gshadow") && !strings.HasPrefix(p, "./etc/sub") {
			t.Errorf("left behind: %s", p)
		}
	}
}
