// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// usage is what processes of one kind had of the cores.
type usage struct {
	ran, waited time.Duration // on a core; ready, but without one
}

func (u usage) minus(v usage) usage { return usage{u.ran - v.ran, u.waited - v.waited} }

// kinds of processes, in the order in which they are shown.
var kinds = []string{"etcd members", "workers", "parents", "observer"}

// spent is what each kind has used so far. Processes that come later, or end, do not count.
func (b *bench) spent(dying *worker) map[string]usage {
	out := map[string]usage{"observer": usageOf(os.Getpid())}
	add := func(kind string, pid int) {
		u, more := out[kind], usageOf(pid)
		out[kind] = usage{u.ran + more.ran, u.waited + more.waited}
	}
	for _, m := range b.members {
		add("etcd members", m.PID())
	}
	for _, w := range b.workers {
		if !w.alive() {
			continue
		}
		add("parents", w.proc.PID())
		if w != dying {
			add("workers", w.child())
		}
	}
	return out
}

// usageOf adds the threads of a process up, from the scheduler's own clock; nothing of one
// that has ended.
func usageOf(pid int) (u usage) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for i, field := range strings.Fields(string(text)) {
			n, err := strconv.ParseInt(field, 10, 64)
			switch {
			case err != nil:
			case i == 0:
				u.ran += time.Duration(n)
			case i == 1:
				u.waited += time.Duration(n)
			}
		}
	}
	return u
}

// cores tells who had the cores over a time, on average of n times it was looked.
func cores(before, after []map[string]usage, took time.Duration) string {
	n := time.Duration(len(before))
	var each []string
	var ran, waited time.Duration
	for _, kind := range kinds {
		var u usage
		for i := range before {
			d := after[i][kind].minus(before[i][kind])
			u.ran, u.waited = u.ran+d.ran/n, u.waited+d.waited/n
		}
		ran, waited = ran+u.ran, waited+u.waited
		each = append(each, fmt.Sprintf("%s %s", kind, ms(u.ran)))
	}
	room := took / n * time.Duration(runtime.NumCPU())
	return fmt.Sprintf("CPU meanwhile, mean: %s; together %.0f %% of what %d cores have in that time; their threads waited %s for a core", strings.Join(each, ", "), 100*over(ran, room), runtime.NumCPU(), ms(waited))
}

// resident is how much memory a process has, in MiB; 0 of one that has ended.
func resident(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0])
	return kib >> 10
}
