// SPDX-License-Identifier: Apache-2.0

package parent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// adopt makes this process the one that descendants fall to when their parents die, so
// that none of them can hide.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// killDescendants kills and waits for everything below this process except some: what the
// children of a killed process were falls to us, and is killed in turn.
func killDescendants(except ...*proc) {
	for {
		all := children(except...)
		if len(all) == 0 {
			return
		}
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already: fine
		}
		for _, pid := range all {
			var status syscall.WaitStatus
			for {
				if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
					break // dead and buried, or another's to bury
				}
			}
		}
	}
}

// collect buries adopted descendants that have ended by themselves.
func collect(own ...*proc) {
	for _, pid := range children(own...) {
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, syscall.WNOHANG, nil) // alive, or gone: both fine
	}
}

// children lists this process's children except some.
func children(except ...*proc) (pids []int) {
	spared := func(pid int) bool {
		return slices.ContainsFunc(except, func(x *proc) bool { return x.cmd != nil && x.pid() == pid })
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, name := range lists {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && !spared(pid) {
				pids = append(pids, pid)
			}
		}
	}
	if len(lists) > 0 {
		return pids
	}
	// A kernel without that file: all processes have to be looked at.
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // ended
		}
		_, rest, _ := bytes.Cut(text, []byte(") "))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if f := bytes.Fields(rest); err == nil && len(f) > 1 && string(f[1]) == strconv.Itoa(os.Getpid()) && !spared(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
