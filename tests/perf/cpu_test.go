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

// meter reads what processes have used so far.
type meter struct {
	pids map[string][]int
	was  map[int]usage
}

// meter looks at the processes that live now and at this one, but not at dying, which is about
// to be killed.
func (b *bench) meter(dying *worker) *meter {
	m := &meter{pids: map[string][]int{"observer": {os.Getpid()}}}
	for _, x := range b.members {
		m.pids["etcd members"] = append(m.pids["etcd members"], x.PID())
	}
	for _, w := range b.workers {
		if !w.alive() {
			continue
		}
		m.pids["parents"] = append(m.pids["parents"], w.proc.PID())
		if w != dying {
			m.pids["workers"] = append(m.pids["workers"], w.child())
		}
	}
	m.was = m.read()
	return m
}

func (m *meter) read() map[int]usage {
	out := map[int]usage{}
	for _, pids := range m.pids {
		for _, pid := range pids {
			out[pid] = usageOf(pid)
		}
	}
	return out
}

// since is what each kind has used since the meter was made, but for processes that have ended.
func (m *meter) since() map[string]usage {
	now, out := m.read(), map[string]usage{}
	for kind, pids := range m.pids {
		u := out[kind]
		for _, pid := range pids {
			if d := now[pid].minus(m.was[pid]); d.ran >= 0 && d.waited >= 0 {
				u = usage{u.ran + d.ran, u.waited + d.waited}
			}
		}
		out[kind] = u
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

// cores tells who had the cores in the mean of some times, which were as long together.
func cores(used []map[string]usage, together time.Duration) string {
	n := time.Duration(len(used))
	var each []string
	var ran, waited time.Duration
	for _, kind := range kinds {
		var u usage
		for _, x := range used {
			u = usage{u.ran + x[kind].ran/n, u.waited + x[kind].waited/n}
		}
		ran, waited = ran+u.ran, waited+u.waited
		each = append(each, fmt.Sprintf("%s %s", kind, ms(u.ran)))
	}
	room := together / n * time.Duration(runtime.NumCPU())
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
