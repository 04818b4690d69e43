// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

const faultPoll = 10 * time.Millisecond

// Kind is what is wrong with a pool.
type Kind string

const (
	Hang     Kind = "hang"      // no access returns
	Full     Kind = "full"      // ENOSPC for what writes
	ReadOnly Kind = "read-only" // EROFS for what changes
	Broken   Kind = "broken"    // EIO
	Gone     Kind = "gone"      // ENOENT for the pool itself
)

// Fault is what is wrong with one pool.
type Fault struct {
	Kind Kind
	// After lets this many accesses of each process pass that the fault would hit.
	After int
}

// Faults is the file that tells what is wrong with the pools of a host. One value
// belongs to one process. It is safe for concurrent use.
type Faults struct {
	file string

	mu     sync.Mutex
	passed map[string]int
}

// NewFaults reads nothing yet; no file is no faults.
func NewFaults(file string) *Faults { return &Faults{file: file, passed: map[string]int{}} }

// Set replaces all faults, by pool.
func (f *Faults) Set(all map[string]Fault) error {
	text, err := json.Marshal(all)
	if err == nil {
		err = replace(f.file, text)
	}
	if err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	return nil
}

// Gate is for dirs.Config.
func (f *Faults) Gate(ctx context.Context, op string, d hypervisor.Disk) error {
	for first := true; ; first = false {
		all := map[string]Fault{}
		text, err := os.ReadFile(f.file)
		if err == nil {
			err = json.Unmarshal(text, &all)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read faults: %w", err)
		}
		switch fault := all[d.Pool]; {
		case !hits(fault.Kind, op), first && f.pass(d.Pool, fault):
			return nil
		case fault.Kind == Full:
			return syscall.ENOSPC
		case fault.Kind == ReadOnly:
			return syscall.EROFS
		case fault.Kind == Broken:
			return syscall.EIO
		case fault.Kind == Gone:
			return syscall.ENOENT
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pool hangs: %w", context.Cause(ctx))
		case <-time.After(faultPoll):
		}
	}
}

func hits(k Kind, op string) bool {
	switch k {
	case "":
		return false
	case Full:
		return slices.Contains([]string{"create", "write", "sync"}, op)
	case ReadOnly:
		return slices.Contains([]string{"create", "write", "sync", "rename", "delete"}, op)
	}
	return true
}

// pass counts an access that the fault would hit, and says whether it is let through.
func (f *Faults) pass(pool string, fault Fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed[pool]++
	return f.passed[pool] <= fault.After
}

// replace writes a small file whole or not at all.
func replace(name string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
