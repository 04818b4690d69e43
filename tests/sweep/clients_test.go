// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/worker/power"
)

// cost is the processor time of one status read, of ours and of the tools, children
// included, all in one run against one simulator.
type cost struct{ ours, ipmitool, fence time.Duration }

func (c cost) ratio(of time.Duration) float64 { return float64(of) / float64(max(1, c.ours)) }

// measure reads so many times with each; rounds take turns, so that a busy neighbour
// meets all alike, and the best round of each counts.
func measure(t *testing.T, c *child, rounds, ours, tools int) (best cost) {
	t.Helper()
	w := newWorker(t, c, power.Limits{})
	least := func(have *time.Duration, got time.Duration) {
		if *have == 0 || got < *have {
			*have = got
		}
	}
	for round := range rounds {
		began := cpu(t)
		for i := range ours {
			if r := w.read(t.Context(), i%len(w.targets)); r.err != nil {
				t.Fatal(r.err)
			}
		}
		least(&best.ours, (cpu(t)-began)/time.Duration(ours))
		item := c.items[round%len(c.items)]
		least(&best.ipmitool, tool(t, tools, "", "ipmitool", "-I", "lanplus", "-C", "17", "-H", item.Address, "-p", fmt.Sprint(item.Port), "-U", user, "-E", "-L", "OPERATOR", "power", "status"))
		least(&best.fence, tool(t, tools, fmt.Sprintf("ip=%s\nipport=%d\nusername=%s\npassword=%s\nlanplus=1\ncipher=17\naction=status\n", item.Address, item.Port, user, password), "fence_ipmilan"))
	}
	return best
}

// tool runs a program so many times and returns the processor time of one run, its
// children's included.
func tool(t *testing.T, times int, stdin, name string, args ...string) (sum time.Duration) {
	t.Helper()
	for range times {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "IPMI_PASSWORD="+password)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(strings.ToLower(string(out)), "on") {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		sum += spent(cmd.ProcessState.SysUsage().(*syscall.Rusage))
	}
	return sum / time.Duration(times)
}

// TestCost: one status read costs far less than a process does (power.md §4). The bound
// here only catches a driver that has become another thing; the targets are measured
// with -full.
func TestCost(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	c := startFleet(t, 100)
	got := measure(t, c, 1, 200, 2)
	t.Logf("ours %s, ipmitool %s (%.0f ×), fence_ipmilan %s (%.0f ×)", got.ours, got.ipmitool, got.ratio(got.ipmitool), got.fence, got.ratio(got.fence))
	if got.ratio(got.ipmitool) < 10 || got.ratio(got.fence) < 30 {
		t.Errorf("one status read costs %s, ipmitool %s, fence_ipmilan %s", got.ours, got.ipmitool, got.fence)
	}
}
