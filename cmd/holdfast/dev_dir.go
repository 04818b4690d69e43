// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	devTemp  = "holdfast-dev-"
	devSpace = 256 << 20 // etcd reserves two log segments of 64 MiB at once
)

// devDir is where a dev fleet keeps everything. A temporary one is removed at its end.
type devDir struct {
	path string
	temp bool
	lock *os.File // held as long as the fleet lives, so that two never share a directory
}

// openDevDir makes and locks the directory; an empty path asks for a temporary one, and
// removes those that fleets left behind which were killed.
func openDevDir(path string) (*devDir, error) {
	d := &devDir{path: path, temp: path == ""}
	if d.temp {
		sweepDevDirs()
		var err error
		if d.path, err = os.MkdirTemp("", devTemp); err != nil {
			return nil, fmt.Errorf("make temporary data dir: %w", err)
		}
	}
	if err := d.open(); err != nil {
		if d.temp {
			return nil, errors.Join(err, os.RemoveAll(d.path))
		}
		return nil, usage(fmt.Errorf("data-dir: %q: %w", path, err))
	}
	return d, nil
}

func (d *devDir) open() error {
	abs, err := filepath.Abs(d.path)
	if err != nil {
		return err
	}
	d.path = abs
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("%w, allowed is a directory that you may write to", plainPath(err))
	}
	if d.lock, err = lockFile(filepath.Join(d.path, "lock")); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return errors.Join(fmt.Errorf("ask for free space: %w", err), d.lock.Close())
	}
	if free := st.Bavail * uint64(st.Bsize); free < devSpace {
		return errors.Join(fmt.Errorf("%d MiB are free there, at least %d MiB are needed", free>>20, devSpace>>20), d.lock.Close())
	}
	return nil
}

// close gives the directory back. All that used it must have ended.
func (d *devDir) close() error {
	var err error
	if d.temp {
		err = os.RemoveAll(d.path)
	}
	return errors.Join(err, d.lock.Close())
}

func (d *devDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// lockFile locks without waiting. The kernel frees the lock with the process.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w, allowed is a directory that you may write to", plainPath(err))
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("in use by another holdfast dev, allowed is a directory of this fleet's own")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweepDevDirs removes temporary directories whose fleet is gone. It is a courtesy: what
// cannot be removed stays.
func sweepDevDirs() {
	all, err := filepath.Glob(filepath.Join(os.TempDir(), devTemp+"*"))
	if err != nil {
		return
	}
	for _, dir := range all {
		name := filepath.Join(dir, "lock")
		if _, err := os.Stat(name); err != nil {
			continue // not ours, or just being made
		}
		if lock, err := lockFile(name); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}

// plainPath drops the path from an error that is told together with it.
func plainPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s %s: %w", p.Op, strings.TrimSuffix(filepath.Base(p.Path), "/"), p.Err)
	}
	return err
}
