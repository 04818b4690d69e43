// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proof is a way to break a fleet and the alerts that must fire then.
type proof struct {
	name   string
	breaks []string // arguments of holdfast, or: stop dev, continue dev
	fires  []string
	limit  time.Duration
}

// proofs go on from each other: what is broken stays so. The clusters of `holdfast dev`
// are c1 (h001–h004), c2 (h005–h008) and c3 (h009–h012).
var proofs = []proof{
	// The storm's one page is the one that fails: pages of its hosts are folded into it for long.
	{"nobody left to ask in c1, and a page hook that fails", []string{
		"settings set page.exec /bin/false --reason proof",
		"dev break h001 --how agent-killed", "dev break h002 --how agent-killed", "dev break h003 --how agent-killed", "dev break h004 --how agent-killed",
	}, []string{"ActivityChecksFailing", "PagesFailing"}, 3 * time.Minute},
	{"a BMC that is dead in c1", []string{"dev repair h001", "dev repair h002", "dev repair h003", "dev repair h004", "dev break h002 --how bmc-dead"}, []string{"BMCUnreachable"}, 2 * time.Minute},
	{"a budget of nothing in c2", []string{
		"settings set budget.cluster 0/1h --scope cluster/z1/p1/c2 --reason proof",
		"dev break h005 --how crash",
	}, []string{"FenceBudgetExhausted", "HostUnwell"}, 3 * time.Minute},
	{"a host that is fenced in c3", []string{"settings set ha.policy fence --scope cluster/z1/p2/c3 --reason proof", "dev break h009 --how crash"}, []string{"HostFenced"}, 3 * time.Minute},
	{"a BMC that lies in c3", []string{"settings set ha.fence.level.timeout 51s --reason proof", "settings set ha.fence.timeout 51s --reason proof", "dev break h010 --how bmc-lies"}, []string{"FenceFailed"}, 4 * time.Minute},
	{"agents that die", []string{"dev break h001 --how agent-killed", "dev break h003 --how agent-killed", "dev break h006 --how agent-killed"},
		[]string{"SuspectStorm", "AgentsReconnectStorm"}, 2 * time.Minute},
	{"maintenance of all c3, and disarming", []string{
		"host maintenance on h009 --reason proof", "host maintenance on h010 --reason proof", "host maintenance on h011 --reason proof", "host maintenance on h012 --reason proof", "ha disarm zone/z1 --reason proof",
	}, []string{"PartitionInactive", "HADisarmedTooLong"}, time.Minute},
	{"a crash while disarmed", []string{"dev break h007 --how crash"}, []string{"FenceHeld"}, 2 * time.Minute},
	{"a worker dies with its parent", []string{"dev kill-worker w3 --parent"}, []string{"WorkerDown", "SlotsUnowned"}, time.Minute},
	{"etcd stands still", []string{"stop dev"}, []string{"EtcdUnreachable", "WorkerWithoutLease", "NoWorker"}, time.Minute},
}

// Alerts that can fire on `holdfast dev` do so, with a real Prometheus and the very rules;
// only their `for:` is made short. Takes some four minutes: `make alerts`.
func TestAlertsFire(t *testing.T) {
	if !*alerts {
		checkProofs(t)
		return
	}
	home, err := os.MkdirTemp("", "hf-alerts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	env := append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "TMPDIR="+home)
	dev, said := start(t, env, program(t, "holdfast"), "dev", "--preset", "fast")
	until(t, time.Minute, func() string {
		if strings.Contains(said(), "\n  data  ") {
			return ""
		}
		return "not ready: " + said()
	})
	var targets []string
	for _, m := range regexp.MustCompile(`API +http://(\S+)`).FindAllStringSubmatch(said(), -1) {
		targets = append(targets, "'"+m[1]+"'")
	}
	short := regexp.MustCompile(`(?m)^(\s+for:) .*$`).ReplaceAllString(readFile(t, "deploy", "mixin", "alerts.yaml"), "$1 2s")
	conf := fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [alerts.yaml]\nscrape_configs:\n- job_name: holdfast-dev\n  static_configs: [{targets: [%s]}]\n", strings.Join(targets, ", "))
	for name, text := range map[string]string{"alerts.yaml": short, "prometheus.yml": conf} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, promSaid := start(t, env, "prometheus", "--config.file", filepath.Join(home, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(home, "tsdb"), "--web.listen-address", addr)
	until(t, time.Minute, func() string {
		if _, err := firing(t.Context(), addr); err != nil {
			return err.Error() + promSaid()
		}
		return ""
	})
	until(t, time.Minute, func() string {
		out, err := exec.Command("curl", "-sg", "http://"+addr+`/api/v1/query?query=sum(holdfast_resources{state="AVAILABLE"})`).Output()
		if err == nil && strings.Contains(string(out), `"12"`) {
			return ""
		}
		return "fleet is not well: " + string(out)
	})
	for _, p := range proofs {
		began := time.Now()
		for _, b := range p.breaks {
			if b == "stop dev" {
				if err := dev.Process.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = dev.Process.Signal(syscall.SIGCONT) }) // or it does not end
				continue
			}
			cmd := exec.CommandContext(t.Context(), program(t, "holdfast"), strings.Fields(b)...)
			cmd.Env = env
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("holdfast %s: %v\n%s", b, err, out)
			}
		}
		seen := map[string]time.Duration{}
		deadline := time.Now().Add(p.limit)
		tick := time.NewTicker(500 * time.Millisecond)
		for len(seen) < len(p.fires) && time.Now().Before(deadline) {
			now, err := firing(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range p.fires {
				if _, had := seen[a]; !had && now["Holdfast"+a] != "" {
					seen[a] = time.Since(began)
					t.Logf("%s: %s fired after %v (%s)", p.name, a, seen[a].Round(time.Second), now["Holdfast"+a])
				}
			}
			<-tick.C
		}
		tick.Stop()
		for _, a := range p.fires {
			if _, ok := seen[a]; !ok {
				now, _ := firing(t.Context(), addr)
				t.Errorf("%s: %s did not fire within %v; firing are %v", p.name, a, p.limit, now)
			}
		}
	}
}

// checkProofs is what is true of the table without running it.
func checkProofs(t *testing.T) {
	t.Helper()
	known := map[string]bool{}
	for _, r := range rules(t, "alerts.yaml") {
		known[r.Alert] = true
	}
	for _, p := range proofs {
		for _, a := range p.fires {
			if !known["Holdfast"+a] {
				t.Errorf("%s: no alert %s", p.name, a)
			}
		}
		for _, b := range p.breaks {
			if b != "stop dev" {
				checkCommand(t, p.name, "holdfast "+b)
			}
		}
	}
}

// start starts a program until the end of the test; said is what it printed so far.
func start(t *testing.T, env []string, name string, args ...string) (cmd *exec.Cmd, said func() string) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(name, args...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGINT)
		kill := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait() // how it ends is not the matter here
		kill.Stop()
		_ = file.Close()
	})
	return cmd, func() string {
		b, _ := os.ReadFile(file.Name())
		return string(b)
	}
}

// firing asks Prometheus for the alerts that fire, with the summary of one each.
func firing(ctx context.Context, addr string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/alerts", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	var got struct {
		Data struct {
			Alerts []struct {
				Labels, Annotations map[string]string
				State               string
			}
		}
	}
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, a := range got.Data.Alerts {
		if a.State == "firing" {
			out[a.Labels["alertname"]] = a.Annotations["summary"]
		}
	}
	return out, nil
}
