// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/worker/power"
)

const page = "../../docs/power-performance.md"

// row is one target and what became of it.
type row struct {
	what, target, measured string
	met                    bool
}

// bench is one full run.
type bench struct {
	rows  []row
	notes []string
	load  [2]string
}

func (b *bench) add(met bool, what, target, format string, args ...any) {
	b.rows = append(b.rows, row{what, target, fmt.Sprintf(format, args...), met})
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(text))[:1], "")
}

// TestFull measures the targets of the power service at full size. A miss is written
// down, not hidden; it fails nothing, since it may be the machine's.
func TestFull(t *testing.T) {
	if !*full {
		t.Log("a measurement: go test ./tests/sweep -run TestFull -args -full")
		return
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	const hosts = 10000
	b := &bench{}
	b.load[0] = load()
	c := startFleet(t, hosts)

	c.set(t, "usual")
	w := newWorker(t, c, power.Limits{})
	began, used := time.Now(), cpu(t)
	all := w.once(t.Context())
	wall, burst := time.Since(began), cpu(t)-used
	b.add(wall < 20*time.Second && len(failures(all)) == 0, "sweep of 10,000 BMCs that answer in 30 to 60 ms, as fast as the pool allows: wall", "< 20 s", "%.1f s, %d unknown", wall.Seconds(), len(failures(all)))
	b.add(burst < 10*time.Second, "the same: processor time (power.md §11.6)", "< 10 s", "%.1f s, %.2f ms per read", burst.Seconds(), burst.Seconds()*1000/hosts)
	share := burst.Seconds() / 60
	b.add(share <= 0.05, "the same: averaged over an interval of 60 s", "≤ 5 % of a core", "%.1f %% of a core", 100*share)

	const interval, span = time.Minute, 130 * time.Second
	w = newWorker(t, c, power.Limits{})
	began, used = time.Now(), cpu(t)
	all = w.keep(t.Context(), interval, span)
	spread := cpu(t) - used
	b.add(spread.Seconds()/time.Since(began).Seconds() <= 0.05, "10,000 BMCs, each read at its own moment of every 60 s ± 10 %, so that each answer wakes the process by itself: processor time", "≤ 5 % of a core", "%.1f %% of a core, %.2f ms per read", 100*spread.Seconds()/time.Since(began).Seconds(), ms(spread)/float64(len(all)))
	base := intervals(all)
	b.add(len(failures(all)) == 0, "the same: readings that failed", "0", "%v of %d", failures(all), len(all))

	w = newWorker(t, c, power.Limits{})
	w.pulse = 5 * time.Second
	began, used = time.Now(), cpu(t)
	all = w.keep(t.Context(), interval, span)
	spread = cpu(t) - used
	b.add(spread.Seconds()/time.Since(began).Seconds() <= 0.05, "10,000 BMCs read every 60 s ± 10 %, beginning at common moments 5 s apart: processor time", "≤ 5 % of a core", "%.1f %% of a core, %.2f ms per read", 100*spread.Seconds()/time.Since(began).Seconds(), ms(spread)/float64(len(all)))

	c.set(t, "dead")
	w = newWorker(t, c, power.Limits{})
	all = w.keep(t.Context(), interval, span)
	with := intervals(all)
	change := func(of func([]float64) float64) float64 { return 100 * (of(with)/of(base) - 1) }
	worst := max(math.Abs(change(mean)), change(func(v []float64) float64 { return quantile(v, 0.99) }))
	b.add(worst < 10, "1 % dead BMCs: change of the others' interval, mean and p99", "< 10 %", "%+.2f %%, %+.2f %%", change(mean), change(func(v []float64) float64 { return quantile(v, 0.99) }))

	memory := peak(t, os.Getpid())
	b.add(memory < 100, "memory of the reading process, all of the above", "< 100 MiB", "%.0f MiB", memory)
	simulator := peak(t, c.cmd.Process.Pid)
	b.add(simulator <= 64, "memory of the simulator, 10,000 BMCs, all of the above", "≤ 64 MiB", "%.0f MiB", simulator)

	c.set(t, "healthy")
	got := measure(t, c, 5, 2000, 5)
	b.add(got.ratio(got.ipmitool) >= 100, "one status read, one after another: ipmitool ÷ ours", "≥ 100", "%.0f (%.1f ms ÷ %.3f ms)", got.ratio(got.ipmitool), ms(got.ipmitool), ms(got.ours))
	b.add(got.ratio(got.fence) >= 300, "one status read, one after another: fence_ipmilan ÷ ours", "≥ 300", "%.0f (%.1f ms ÷ %.3f ms)", got.ratio(got.fence), ms(got.fence), ms(got.ours))
	got.ours = 0
	for range 3 {
		w = newWorker(t, c, power.Limits{})
		used = cpu(t)
		w.once(t.Context())
		if each := (cpu(t) - used) / hosts; got.ours == 0 || each < got.ours {
			got.ours = each
		}
	}
	b.add(got.ratio(got.ipmitool) >= 100, "one status read, as a sweep reads: ipmitool ÷ ours", "≥ 100", "%.0f (%.3f ms)", got.ratio(got.ipmitool), ms(got.ours))
	b.add(got.ratio(got.fence) >= 300, "one status read, as a sweep reads: fence_ipmilan ÷ ours", "≥ 300", "%.0f (%.3f ms)", got.ratio(got.fence), ms(got.ours))

	if slices.ContainsFunc(b.rows, func(r row) bool { return !r.met }) {
		var profile bytes.Buffer
		c.set(t, "usual")
		w = newWorker(t, c, power.Limits{})
		if err := pprof.StartCPUProfile(&profile); err != nil {
			t.Fatal(err)
		}
		w.once(t.Context())
		pprof.StopCPUProfile()
		b.notes = append(b.notes, where(t, profile.Bytes()))
	}
	b.load[1] = load()
	b.simulator(t, c)
	text := b.page()
	t.Log("\n" + text)
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// simulator measures the program that anybody runs: its own memory after a sweep.
func (b *bench) simulator(t *testing.T, c *child) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "holdfast")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "../../cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	port := c.items[0].Port
	cmd := exec.Command(bin, "sim", "bmc", "--count", fmt.Sprint(len(c.items)), "--listen", "127.20.0.0/15", "--port", fmt.Sprint(port), "--seed", "1", "--password-file", secret, "--faults", "usual", "--redfish", "100", "--pdu", "100", "--inventory", filepath.Join(t.TempDir(), "inventory"))
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // ended by the signal
	}()
	if n, err := said.Read(make([]byte, 200)); err != nil || n == 0 {
		t.Fatalf("simulator: %v", err)
	}
	w := newWorker(t, c, power.Limits{})
	if k := failures(w.once(t.Context())); len(k) != 0 {
		t.Errorf("sweep of holdfast sim bmc: %v", k)
	}
	most := peak(t, cmd.Process.Pid)
	b.add(most <= 64, "`holdfast sim bmc --count 10000 --redfish 100 --pdu 100` after a sweep: memory", "≤ 64 MiB", "%.0f MiB", most)
}

// where says which functions the processor time of the sweep went to.
func where(t *testing.T, profile []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cpu")
	if err := os.WriteFile(path, profile, 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount", "14", exe, path).Output()
	if err != nil {
		t.Logf("pprof: %v", err)
	}
	return "Where the processor time of a sweep goes:\n\n```\n" + string(out) + "```\n"
}

func (b *bench) page() string {
	var s strings.Builder
	s.WriteString("# Power service: what was measured\n\nWritten by `make bench` (tests/sweep). The driver, gate, retry and pool of the worker read simulated BMCs in another process over loopback; processor time is the reading process's own.\n\n")
	revision := "unknown"
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		revision = strings.TrimSpace(string(out))
	}
	fmt.Fprintf(&s, "Revision %s, %s, %d cores (%s), load %s at the beginning and %s at the end.\n\n", revision, runtime.Version(), runtime.NumCPU(), runtime.GOARCH, b.load[0], b.load[1])
	s.WriteString("| what | target | measured | |\n|---|---|---|---|\n")
	for _, r := range b.rows {
		verdict := "met"
		if !r.met {
			verdict = "**missed**"
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s |\n", r.what, r.target, r.measured, verdict)
	}
	for _, n := range b.notes {
		s.WriteString("\n" + n)
	}
	return s.String()
}
