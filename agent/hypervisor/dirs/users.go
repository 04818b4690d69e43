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
	"sync"
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
		pids, err := openBy(ctx, filepath.Join(real, filepath.Base(path)))
		unknown = errors.Join(unknown, err)
		for _, pid := range pids {
			known = append(known, hypervisor.User{Kind: hypervisor.ByProcess, ID: strconv.Itoa(pid)})
		}
	}
	slices.SortFunc(known, func(a, b hypervisor.User) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID)) })
	return known, unknown
}

// openBy lists the processes that have the file open, as read after the call. The error of
// an ended ctx: nothing is known.
func openBy(ctx context.Context, path string) ([]int, error) {
	r := processes.join()
	select {
	case <-r.done:
		return r.pids[path], r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("list open files: %w", context.Cause(ctx))
	}
}

// reading is one reading of what all processes have open. It is shared by all who ask
// before it begins: with a hundred copies at once and as many open files, a reading for each
// look took all of the host's cores, and the looks had no answer in time.
type reading struct {
	done chan struct{} // closed when the rest is there
	pids map[string][]int
	err  error
}

// readings lets one reading at a time be under way, and one wait for it.
type readings struct {
	read func() (map[string][]int, error)

	mu   sync.Mutex
	now  *reading // under way
	next *reading // begins when that ends
}

// processes is one for all pools: so is what it reads.
var processes = &readings{read: openFiles}

// join returns a reading that begins after the call: one that is under way has perhaps passed
// who opened the file since.
func (r *readings) join() *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &reading{done: make(chan struct{})}
	}
	mine := r.next
	if r.now == nil {
		r.now, r.next = mine, nil
		go r.run(mine)
	}
	return mine
}

// run reads for those who wait for x, and for those who have come meanwhile.
func (r *readings) run(x *reading) {
	for x != nil {
		x.pids, x.err = r.read()
		close(x.done)
		r.mu.Lock()
		x, r.now, r.next = r.next, r.next, nil
		r.mu.Unlock()
	}
}

// openFiles lists, by absolute path, the processes that have a file open. It reads names
// only, so that a file system that hangs delays nothing. Without root, processes of other
// accounts are not seen.
func openFiles() (map[string][]int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := map[string][]int{}
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
			if err != nil || !filepath.IsAbs(name) {
				continue // closed meanwhile, or no file
			}
			name = strings.TrimSuffix(name, " (deleted)")
			if pids := all[name]; len(pids) == 0 || pids[len(pids)-1] != pid {
				all[name] = append(pids, pid)
			}
		}
	}
	return all, nil
}

// gone holds for a process that ended meanwhile and for one that is not ours to look at.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ESRCH)
}
