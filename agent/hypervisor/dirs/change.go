// SPDX-License-Identifier: Apache-2.0

package dirs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// Reserve takes the name for a new, empty file, durably: ErrExists if it is taken. Its
// directory is made if it is missing. The path is where it lies on this host.
func (p *Store) Reserve(ctx context.Context, d hypervisor.Disk) (path string, err error) {
	dir, err := p.dir(d)
	if err != nil {
		return "", err
	}
	root, err := p.open(ctx, "create", d)
	if err != nil {
		return "", err
	}
	defer root.Close()
	parent := filepath.Dir(d.Path)
	if err := root.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("make directory %s: %w", parent, err)
	}
	f, err := root.OpenFile(d.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("create volume %s: %w", d.Path, hypervisor.ErrExists)
	}
	if err != nil {
		return "", fmt.Errorf("create volume: %w", err)
	}
	if err := errors.Join(f.Close(), syncPath(root, parent)); err != nil {
		return "", fmt.Errorf("create volume: %w", err)
	}
	return filepath.Join(dir.Path, d.Path), nil
}

// Sync makes what was written to a volume durable.
func (p *Store) Sync(ctx context.Context, d hypervisor.Disk) error {
	if _, err := p.dir(d); err != nil {
		return err
	}
	root, err := p.open(ctx, "sync", d)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := errors.Join(syncPath(root, d.Path), syncPath(root, filepath.Dir(d.Path))); err != nil {
		return fmt.Errorf("sync volume %s: %w", d.Path, err)
	}
	return nil
}

func syncPath(root *os.Root, path string) error {
	f, err := root.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	// A FUSE or older NFS directory that cannot be synced says so; its rename is as durable
	// as it gets.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// DeleteVolume implements hypervisor.Storage.
func (p *Store) DeleteVolume(ctx context.Context, d hypervisor.Disk) error {
	sight := p.LookVolume(ctx, d)
	if err := idle("delete", d, sight); err != nil || sight.Answer == hypervisor.Absent {
		return err
	}
	root, err := p.open(ctx, "delete", d)
	if err != nil {
		return fmt.Errorf("delete volume: %w", err)
	}
	defer root.Close()
	if err := root.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete volume: %w", err)
	}
	if err := syncPath(root, filepath.Dir(d.Path)); err != nil {
		return fmt.Errorf("delete volume %s: %w", d.Path, err)
	}
	return nil
}

// idle refuses to touch a volume that has users, or may have.
func idle(verb string, d hypervisor.Disk, s hypervisor.VolumeSight) error {
	switch {
	case s.Answer == hypervisor.CouldNotLook:
		return fmt.Errorf("%s volume %s: look at it: %s", verb, d.Path, s.Reason)
	case len(s.UsedBy) > 0:
		return fmt.Errorf("%s volume %s: %w by %s %s", verb, d.Path, hypervisor.ErrBusy, s.UsedBy[0].Kind, s.UsedBy[0].ID)
	case s.UsersUnknown != "":
		return fmt.Errorf("%s volume %s: %w, for all that is known: %s", verb, d.Path, hypervisor.ErrBusy, s.UsersUnknown)
	}
	return nil
}

// RenameVolume implements hypervisor.Copier.
func (p *Store) RenameVolume(ctx context.Context, from hypervisor.Disk, path string) error {
	to := hypervisor.Disk{Pool: from.Pool, Path: path}
	if _, err := p.dir(to); err != nil {
		return fmt.Errorf("rename volume: %w", err)
	}
	sight := p.LookVolume(ctx, from)
	if sight.Answer == hypervisor.Absent {
		return fmt.Errorf("rename volume %s: %w", from.Path, hypervisor.ErrNotFound)
	}
	if err := idle("rename", from, sight); err != nil {
		return err
	}
	root, err := p.open(ctx, "rename", from)
	if err != nil {
		return fmt.Errorf("rename volume: %w", err)
	}
	defer root.Close()
	parent := filepath.Dir(path)
	if err := root.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("rename volume: make directory %s: %w", parent, err)
	}
	switch err := renameNew(root, from.Path, path); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("rename volume %s to %s: %w", from.Path, path, hypervisor.ErrExists)
	case err != nil:
		return fmt.Errorf("rename volume %s to %s: %w", from.Path, path, err)
	}
	if err := errors.Join(syncPath(root, filepath.Dir(from.Path)), syncPath(root, parent)); err != nil {
		return fmt.Errorf("rename volume %s to %s: %w: %w", from.Path, path, hypervisor.ErrUnsure, err)
	}
	return nil
}

// renameNew renames without replacing. NFS cannot (EINVAL): there a hard link takes the
// name, which fails as well if it is taken. Who is cut off in between leaves the volume
// under both names, and repeats the call.
func renameNew(root *os.Root, from, to string) error {
	a, err := root.Open(filepath.Dir(from))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := root.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer b.Close()
	err = unix.Renameat2(int(a.Fd()), filepath.Base(from), int(b.Fd()), filepath.Base(to), unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP):
		err = root.Link(from, to)
	}
	if err != nil && !(errors.Is(err, fs.ErrExist) && sameFile(root, from, to)) {
		return err
	}
	return root.Remove(from)
}

func sameFile(root *os.Root, a, b string) bool {
	x, errX := root.Lstat(a)
	y, errY := root.Lstat(b)
	return errX == nil && errY == nil && a != b && os.SameFile(x, y)
}
