// SPDX-License-Identifier: Apache-2.0

package dirs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// users are those of a volume on this host, as far as they can be known: the error says
// what could not. A process is named only if nothing that runs here was.
func (p *Store) users(ctx context.Context, path string) ([]hypervisor.User, error) {
	var known []hypervisor.User
	var unknown error
	if p.cfg.Users != nil {
		all, err := p.cfg.Users(ctx)
		if err != nil {
			unknown = fmt.Errorf("ask what runs here: %w", err)
		}
		known = slices.Clone(all[path])
	}
	if len(known) == 0 {
		real, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return nil, errors.Join(unknown, err)
		}
		pids, err := openBy(filepath.Join(real, filepath.Base(path)))
		unknown = errors.Join(unknown, err)
		for _, pid := range pids {
			known = append(known, hypervisor.User{Kind: hypervisor.ByProcess, ID: strconv.Itoa(pid)})
		}
	}
	slices.SortFunc(known, func(a, b hypervisor.User) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) })
	return known, unknown
}

// openBy lists the processes that have the file open. It reads names only, so that a
// file system that hangs delays nothing. Without root, processes of other accounts are
// not seen.
func openBy(path string) ([]int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list files of process %d: %w", pid, err)
		}
		for _, fd := range fds {
			name, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err == nil && strings.TrimSuffix(name, " (deleted)") == path {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// gone holds for a process that ended meanwhile and for one that is not ours to look at.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ESRCH)
}
