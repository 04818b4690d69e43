// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a Debian with systemd as its first process, in namespaces of its own. Its
// network is a loopback that nobody else sees.
type machine struct {
	t      *testing.T
	root   string // its files
	leader string // pid of its systemd
	env    []string
}

// debian makes a clean Debian in dir, with packages besides the smallest set.
func debian(t *testing.T, dir string, packages ...string) {
	t.Helper()
	args := []string{"--quiet", "--variant=minbase", "--mode=root", "--dpkgopt=force-unsafe-io", "--include=" + strings.Join(packages, ","), "bookworm", dir}
	if out, err := exec.CommandContext(t.Context(), "mmdebstrap", args...).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
}

// boot starts systemd in root and waits until it has come up. It is powered off at the end.
func boot(t *testing.T, root string) *machine {
	t.Helper()
	name := fmt.Sprintf("hf-install-%d", os.Getpid())
	script, args := "", []string{"--quiet", "--directory=" + root, "--machine=" + name, "--boot", "--private-network", "--console=pipe"}
	if _, err := os.Stat("/run/systemd/system"); err != nil { // nobody here gives it a group of its own
		args = append(args, "--register=no", "--keep-unit")
		groups, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range append(groups, "/sys/fs/cgroup/cgroup.procs") {
			own := filepath.Join(filepath.Dir(g), name)
			if kind := filepath.Base(filepath.Dir(g)); kind != "unified" && kind != "systemd" && kind != "cgroup" {
				continue
			}
			if _, err := os.Stat(g); err != nil {
				continue
			}
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = exec.Command("find", own, "-depth", "-type", "d", "-delete").Run() })
			script += "echo $$ > " + own + "/cgroup.procs; "
		}
	}
	console, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = console.Close() })
	cmd := exec.Command("sh", append([]string{"-ec", script + `exec systemd-nspawn "$@"`, "sh"}, args...)...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // which powers it off
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: root, env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = exec.Command("kill", "-KILL", m.leader).Run()
			<-ended
		}
	})
	said := func() string { b, _ := os.ReadFile(console.Name()); return string(b) }
	until(t, 2*time.Minute, func() string {
		pids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err.Error() + said()
		}
		if m.leader = strings.TrimSpace(string(pids)); m.leader == "" || strings.Contains(m.leader, " ") {
			return "no systemd: " + said()
		}
		out, err := m.try("systemctl is-system-running")
		if strings.TrimSpace(out) != "running" {
			failed, _ := m.try("systemctl --failed --no-pager --plain")
			return fmt.Sprintf("%s (%v)\n%s", out, err, failed)
		}
		return ""
	})
	return m
}

// try gives a script to a shell of the machine that ends at the first command that fails.
func (m *machine) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", "--target", m.leader, "--all", "sh", "-ec", "cd /root\n"+script)
	cmd.Env = m.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	return out.String(), err
}

func (m *machine) sh(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		journal, _ := m.try("journalctl --no-pager -n 60 -u 'holdfast-*'")
		m.t.Fatalf("%s: %v\n%s\n%s", script, err, out, journal)
	}
	return out
}

// write makes a file of the machine; folders above it are there.
func (m *machine) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

// unit is what systemd knows of a service of the machine.
func (m *machine) unit(name, property string) string {
	m.t.Helper()
	return strings.TrimSpace(m.sh("systemctl show --value --property=" + property + " " + name))
}

// child is the process below the main one of a service, "" while there is none or two.
func (m *machine) child(name string) string {
	m.t.Helper()
	out, err := m.try("cat /proc/$(systemctl show --value --property=MainPID " + name + ")/task/*/children")
	if pids := strings.Fields(out); err == nil && len(pids) == 1 {
		return pids[0]
	}
	return ""
}

// The machine of docs/install.md has these names and addresses, the worker's and etcd's.
const installHosts = "127.0.0.1 localhost\n10.0.0.11 etcd-1.example\n10.0.0.12 etcd-2.example\n10.0.0.13 etcd-3.example\n10.0.0.21 worker-1.example\n"

// Programs that the worker runs: a power device that is always on, and a hook that takes an
// event only if it runs as the worker's user and can change nothing but its own /tmp.
const (
	relayProgram = `#!/usr/bin/python3
import json, sys
q = json.load(sys.stdin)
print(json.dumps({"status": {"state": "on", "authentic": True}, "identity": {"identity": {"serial": "relay-1"}}}.get(q["action"], {"outcome": "accepted"})))
`
	hookProgram = `#!/bin/sh
test "$(id -un)" = holdfast || exit 3
for d in /etc/holdfast /usr/lib/holdfast /var/lib /root /home; do
	if touch $d/touched 2>/dev/null; then exit 4; fi
done
cat > /tmp/took
`
)

// docs/install.md under a real systemd, from the packages to a watched host; then what the
// units promise: watchdogs, a sandbox in which all works that has to, an upgrade in place,
// and a purge that leaves nothing. `make install-test`.
func TestSystemd(t *testing.T) {
	if !*root {
		return
	}
	began := time.Now()
	step := func(format string, args ...any) {
		t.Helper()
		t.Logf("%4.0fs  %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir := filepath.Join(t.TempDir(), "root")
	debian(t, dir, "systemd", "systemd-sysv", "dbus", "libvirt-daemon-system", "fence-agents", "ipmitool")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "usr/bin/etcd"), "go.etcd.io/etcd/server/v3")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	step("a Debian with systemd, libvirtd and fence agents")
	m := boot(t, dir)
	m.write("etc/hosts", installHosts, 0o644)
	addresses := "" // from each to each by way of 127.0.0.1, which peers of etcd have in their certificates
	for _, ip := range regexp.MustCompile(`(?m)^10\S+`).FindAllString(installHosts, -1) {
		addresses += "ip address add " + ip + "/32 dev lo; ip route replace table local local " + ip + " dev lo src 127.0.0.1; "
	}
	if out, err := exec.CommandContext(t.Context(), "nsenter", "--target", m.leader, "--net", "sh", "-ec", addresses).CombinedOutput(); err != nil {
		t.Fatalf("addresses: %v\n%s", err, out)
	}
	step("%s", strings.TrimSpace(m.sh("systemctl --version | head -1")))
	files := func() string {
		return m.sh(`find / -xdev -path /proc -prune -o -path /sys -prune -o -path /run -prune -o -path /tmp -prune -o -path /root -prune -o -path '/var/cache/*' -prune -o -path '/var/log/*' -prune -o -path '/var/lib/dpkg/*' -prune -o -path '/var/lib/systemd/*' -prune -o -path '/var/lib/apt/*' -prune -o -path '/var/tmp/*' -prune -o -print | sort`)
	}
	before := files()
	for _, f := range []string{"*.deb", "SHA256SUMS"} {
		found, err := filepath.Glob(repo("dist", f))
		if err != nil || len(found) == 0 {
			t.Fatalf("dist/%s: %v (%v)", f, found, err)
		}
		for _, from := range found {
			copyFile(t, from, filepath.Join(dir, "root", filepath.Base(from)))
		}
	}

	page := readFile(t, "docs", "install.md")
	prepare := map[string]func(){
		"install -m 0640 -g holdfast /usr/share": func() { startEtcd(m, page) },
		"holdfast apply":                         func() { makeHost(m, page) },
		"systemctl enable --now holdfast-agent": func() {
			text := readFile(t, "deploy", "packages", "agent.yaml")
			// libvirtd's own test driver: there is no QEMU here to find.
			m.write("etc/holdfast/agent.yaml", strings.Replace(text, "hypervisor: none", "hypervisor: libvirt\nlibvirtURI: test+unix:///default", 1), 0o600)
			m.sh("for f in crt key; do install -m 0600 pki/host-h-1.$f /etc/holdfast/tls/host.$f; done; mkdir /mnt/pool-a; mount -t tmpfs pool-a /mnt/pool-a")
		},
	}
	bs, err := blocks(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bs {
		if b.kind != "run" && b.kind != "machine" {
			continue
		}
		for first, do := range prepare {
			if strings.HasPrefix(b.text, first) {
				do()
				delete(prepare, first)
			}
		}
		out := m.sh(watching.ReplaceAllString(b.text, "timeout 2 $1 || test $$? = 124"))
		step("docs/install.md:%d\n%s", b.line, out)
	}
	if len(prepare) > 0 {
		t.Errorf("docs/install.md has no block for %v", prepare)
	}
	until(t, time.Minute, func() string {
		out, _ := m.try("holdfast get host h-1 -o json; holdfast explain host h-1")
		if strings.Contains(out, `"linked": "yes"`) && !strings.Contains(out, "health fails") {
			return ""
		}
		return "h-1 is not well: " + out
	})
	step("h-1 is linked, its libvirt answers")

	checkSandbox(m)
	step("the worker reads and tests BMC, fence agent and program, and runs a hook, without a capability")
	checkWatchdogs(m, step)
	checkUpgrade(m)
	step("packages upgraded: worker in place, agent restarted, none refused meanwhile")
	checkRunbooks(m, step)

	m.sh("rm -r /etc/holdfast/* /usr/lib/holdfast; dpkg --purge holdfast-worker holdfast-agent holdfast")
	if out := m.sh("systemctl list-units --all --plain --no-legend 'holdfast*'; systemctl list-unit-files --no-legend 'holdfast*' || true"); strings.TrimSpace(out) != "" {
		t.Errorf("units after a purge: %s", out)
	}
	m.sh("systemctl stop 'etcd@*' bmcs; umount /mnt/pool-a; rm -r /mnt/pool-a /etc/systemd/system/etcd@.service /var/lib/etcd /etc/etcd")
	had := map[string]bool{}
	for l := range strings.Lines(before) {
		had[l] = true
	}
	for l := range strings.Lines(files()) {
		if p := strings.TrimSpace(l); !had[l] && !regexp.MustCompile(`^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$`).MatchString(p) {
			t.Errorf("left behind: %s", p)
		}
	}
	step("purged: nothing is left")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatalf("copy %s: %v", from, err)
	}
}

// startEtcd runs three members, each with the configuration that the package brings.
func startEtcd(m *machine, page string) {
	m.t.Helper()
	m.write("etc/systemd/system/etcd@.service", "[Service]\nType=notify\nExecStart=/usr/bin/etcd --config-file /etc/etcd/%i.yaml\n", 0o644)
	m.sh(`mkdir -p /etc/etcd
for n in 1 2 3; do
	if test $n != 1; then holdfast pki issue etcd etcd-$n --dir pki --dns etcd-$n.example --ip 10.0.0.1$n; fi
	sed -e "s|^name: etcd-1|name: etcd-$n|; s|/var/lib/etcd/holdfast|/var/lib/etcd/$n|; s|10.0.0.11:|10.0.0.1$n:|g; s|,https://127.0.0.1:2379||" \
		-e "s|^\(.*advertise.*\)etcd-1|\1etcd-$n|; s|/etc/holdfast/tls/etcd|/root/pki/etcd-etcd-$n|g" /usr/share/doc/holdfast-worker/etcd.yaml > /etc/etcd/$n.yaml
done
systemctl daemon-reload
systemctl start etcd@1 etcd@2 etcd@3`)
}

// makeHost writes the page's fleet.yaml, and makes what it names: BMCs, and the secret of h-1's.
func makeHost(m *machine, page string) {
	m.t.Helper()
	_, text, ok := strings.Cut(page, "`fleet.yaml`:\n\n")
	if !ok {
		m.t.Fatal("docs/install.md shows no fleet.yaml")
	}
	var fleet strings.Builder
	for l := range strings.Lines(text) {
		if !strings.HasPrefix(l, "    ") {
			break
		}
		fleet.WriteString(strings.TrimPrefix(l, "    "))
	}
	until(m.t, time.Minute, func() string { // the first worker takes its slots some seconds after it came
		out, err := m.try("holdfast get workers --no-headers")
		if err == nil && strings.Contains(out, " 1024 ") {
			return ""
		}
		return fmt.Sprintf("%v: %s", err, out)
	})
	m.write("root/fleet.yaml", strings.Replace(fleet.String(), "10.0.3.1", `"127.10.0.1:6230"`, 1), 0o600)
	m.sh(`systemd-run --quiet --unit=bmcs holdfast sim bmc --count 1 --user holdfast
umask 027; printf simulated > /etc/holdfast/secrets/h-1; chgrp holdfast /etc/holdfast/secrets/h-1`)
	if err := os.MkdirAll(filepath.Join(m.root, "usr/lib/holdfast"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.write("usr/lib/holdfast/relay", relayProgram, 0o755)
	m.write("usr/lib/holdfast/ticket", hookProgram, 0o755)
}

// checkSandbox has the worker do all that it needs the machine for, as nobody in particular.
func checkSandbox(m *machine) {
	m.t.Helper()
	status := m.sh("cat /proc/" + m.child("holdfast-worker") + "/status")
	for _, want := range []string{"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			m.t.Errorf("no %q in\n%s", want, status)
		}
	}
	m.sh(`holdfast power device add h-1 fence --driver fenceagent --level 2 --address 127.10.0.1:6230 --user holdfast --secret file:h-1 --param agent=fence_ipmilan --param lanplus=1
holdfast power device add h-1 relay --driver exec --level 3 --address rack-7 --param program=/usr/lib/holdfast/relay --param secret=none`)
	out := m.sh("holdfast power test h-1")
	for _, want := range []string{"bmc: 4 privilege: passed", "fence: 2 status: reads ON", "relay: 3 identity: serial relay-1", "3 of 3 devices pass"} {
		if !strings.Contains(out, want) {
			m.t.Errorf("no %q in\n%s", want, out)
		}
	}
	out = m.sh("holdfast webhook add ticket --exec /usr/lib/holdfast/ticket; holdfast webhook test ticket")
	if !strings.Contains(out, "took the test event") {
		m.t.Errorf("the hook: %s", out)
	}
}

// checkWatchdogs stops an agent and the process below a worker's parent: systemd kills and
// restarts both, and the worker has its slots again.
func checkWatchdogs(m *machine, step func(string, ...any)) {
	m.t.Helper()
	agent, worker := m.unit("holdfast-agent", "MainPID"), m.unit("holdfast-worker", "MainPID")
	began := time.Now()
	m.sh("kill -STOP " + agent + " " + m.child("holdfast-worker"))
	was := map[string]string{"holdfast-agent": agent, "holdfast-worker": worker}
	for _, unit := range []string{"holdfast-agent", "holdfast-worker"} { // the shorter watchdog first
		old := was[unit]
		until(m.t, 3*time.Minute, func() string {
			pid, state := m.unit(unit, "MainPID"), m.unit(unit, "ActiveState")
			if pid != "0" && pid != old && state == "active" {
				return ""
			}
			return unit + " stands still as process " + pid + ", " + state
		})
		out := m.sh("journalctl --boot --no-pager --output=short-precise -u " + unit + " -g 'Watchdog timeout'")
		step("%s stopped, active again within %v: %s", unit, time.Since(began).Round(time.Second), strings.TrimSpace(out))
	}
	until(m.t, time.Minute, func() string { return notServing(m) })
}

// notServing is "" when the one worker has every slot, and the host's link.
func notServing(m *machine) string {
	m.t.Helper()
	out, err := m.try("holdfast get workers --no-headers; holdfast get host h-1 -o json")
	if err == nil && regexp.MustCompile(`^worker-1\s+ready\s+1\s+1024\s`).MatchString(out) && strings.Contains(out, `"linked": "yes"`) {
		return ""
	}
	return fmt.Sprintf("%v: %s", err, out)
}

// checkUpgrade installs packages of a later version over those that run: the worker's parent
// stays and has a new process below it, whose door was never shut; the agent is a new process.
func checkUpgrade(m *machine) {
	m.t.Helper()
	parent, old, agent := m.unit("holdfast-worker", "MainPID"), m.child("holdfast-worker"), m.unit("holdfast-agent", "MainPID")
	m.sh(`for p in holdfast-worker holdfast-agent; do
	dpkg-deb --raw-extract $(ls ${p}_*.deb) new
	sed -i 's/^Version: .*/Version: 9.0.0/' new/DEBIAN/control; rm -f new/DEBIAN/conffiles
	dpkg-deb -Znone --build new $p-9.deb; rm -r new
done`)
	out := m.sh(`(while test ! -e upgraded; do holdfast get workers --no-headers || echo REFUSED; done) > asked 2>&1 &
dpkg -i holdfast-worker-9.deb holdfast-agent-9.deb; touch upgraded`)
	until(m.t, time.Minute, func() string {
		if now := m.child("holdfast-worker"); now == "" || now == old {
			return "the process below the worker's parent is " + now + "\n" + out
		}
		return notServing(m)
	})
	if now := m.unit("holdfast-worker", "MainPID"); now != parent {
		m.t.Errorf("the worker's parent was %s and is %s", parent, now)
	}
	if now := m.unit("holdfast-agent", "MainPID"); now == agent {
		m.t.Errorf("the agent is still process %s", now)
	}
	if asked := m.sh("cat asked"); strings.Contains(asked, "REFUSED") || asked == "" {
		m.t.Errorf("the API while the package was upgraded:\n%s", asked)
	}
}

// checkRunbooks runs what runbooks ask of a machine.
func checkRunbooks(m *machine, step func(string, ...any)) {
	m.t.Helper()
	lines := machineLines(m.t)
	for _, l := range lines {
		// 1 without a complaint: nothing in the journal matches.
		out, err := m.try(l)
		if err != nil && (!strings.HasPrefix(l, "journalctl") || strings.Contains(out, "ailed") || strings.Contains(out, "nvalid")) {
			m.t.Errorf("%s: %v\n%s", l, err, out)
		}
	}
	step("%d commands of runbooks that need a machine", len(lines))
}
