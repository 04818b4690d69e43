// SPDX-License-Identifier: Apache-2.0

package dirs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// own is the directory of a pool that is Holdfast's (stamps): nothing in it is a volume.
const own = ".holdfast"

// Dir is one pool.
type Dir struct {
	ID   string
	Type hypervisor.PoolType
	Path string // absolute
	// Mount says that Path must be a mount point whenever it is used.
	Mount bool
}

// Config is what a Store is made of.
type Config struct {
	Dirs []Dir
	// Users tells which volumes, by absolute path, are used by what runs here now. An error
	// means that they cannot be known. nil: nothing runs here.
	Users func(ctx context.Context) (map[string][]hypervisor.User, error)
	// Gate is asked before each access to a volume or, with an empty path, to its pool; its
	// error becomes that access's. nil: none. Simulators break pools with it.
	Gate func(ctx context.Context, op string, d hypervisor.Disk) error
}

// Store implements hypervisor.Storage. It is safe for concurrent use.
type Store struct{ cfg Config }

var _ hypervisor.Storage = (*Store)(nil)

// New checks the configuration; nothing is touched.
func New(cfg Config) (*Store, error) {
	seen := map[string]bool{}
	for i, d := range cfg.Dirs {
		switch {
		case d.ID == "":
			return nil, fmt.Errorf("pools: number %d has no id", i+1)
		case seen[d.ID]:
			return nil, fmt.Errorf("pools: id %q is given twice", d.ID)
		case !filepath.IsAbs(d.Path):
			return nil, fmt.Errorf("pool %s: path %q is not absolute", d.ID, d.Path)
		case d.Type != hypervisor.Local && d.Type != hypervisor.NFS:
			return nil, fmt.Errorf("pool %s: type %q, allowed are %s and %s", d.ID, d.Type, hypervisor.Local, hypervisor.NFS)
		}
		seen[d.ID] = true
	}
	cfg.Dirs = slices.Clone(cfg.Dirs)
	for i := range cfg.Dirs {
		cfg.Dirs[i].Path = filepath.Clean(cfg.Dirs[i].Path)
	}
	return &Store{cfg}, nil
}

// Path is where a volume lies on this host. The pool need not answer for it.
func (p *Store) Path(d hypervisor.Disk) (string, error) {
	pool, err := p.dir(d)
	if err != nil {
		return "", err
	}
	return filepath.Join(pool.Path, d.Path), nil
}

// Disk is the volume at an absolute path; false: it lies in no pool.
func (p *Store) Disk(path string) (hypervisor.Disk, bool) {
	for _, d := range p.cfg.Dirs {
		if rel, err := filepath.Rel(d.Path, filepath.Clean(path)); err == nil && rel != "." && filepath.IsLocal(rel) {
			return hypervisor.Disk{Pool: d.ID, Path: rel}, true
		}
	}
	return hypervisor.Disk{}, false
}

// dir checks what names a volume.
func (p *Store) dir(d hypervisor.Disk) (Dir, error) {
	i := slices.IndexFunc(p.cfg.Dirs, func(c Dir) bool { return c.ID == d.Pool })
	if i < 0 {
		return Dir{}, fmt.Errorf("pool %q is not configured on this host", d.Pool)
	}
	if !filepath.IsLocal(d.Path) || d.Path == "." || filepath.Clean(d.Path) != d.Path || d.Path == own || strings.HasPrefix(d.Path, own+"/") {
		return Dir{}, fmt.Errorf("volume path %q is no clean path inside pool %s, outside of %s", d.Path, d.Pool, own)
	}
	return p.cfg.Dirs[i], nil
}

// open opens the pool's directory if it is what it should be. All else goes through that
// handle, so that a pool that is unmounted meanwhile is not mistaken for an empty one.
func (p *Store) open(ctx context.Context, op string, d hypervisor.Disk) (*os.Root, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(p.cfg.Dirs, func(c Dir) bool { return c.ID == d.Pool })
	if i < 0 {
		return nil, fmt.Errorf("pool %q is not configured on this host", d.Pool)
	}
	if p.cfg.Gate != nil {
		if err := p.cfg.Gate(ctx, op, d); err != nil {
			return nil, fmt.Errorf("pool %s: %w", d.Pool, err)
		}
	}
	dir := p.cfg.Dirs[i]
	root, err := os.OpenRoot(dir.Path)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", d.Pool, err)
	}
	if dir.Mount {
		if err := mounted(root, dir.Path); err != nil {
			return nil, errors.Join(fmt.Errorf("pool %s: %w", d.Pool, err), root.Close())
		}
	}
	return root, nil
}

// mounted compares the opened directory with its parent: a mount point lies on another
// mount.
func mounted(root *os.Root, path string) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	var here, above unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &here); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), 0, unix.STATX_MNT_ID, &above); err != nil {
		return fmt.Errorf("look at %s: %w", filepath.Dir(path), err)
	}
	if here.Mnt_id == above.Mnt_id {
		return fmt.Errorf("%s is not a mount point", path)
	}
	return nil
}

// Pools implements hypervisor.Storage.
func (p *Store) Pools(ctx context.Context) ([]hypervisor.Pool, error) {
	var all []hypervisor.Pool
	for _, d := range p.cfg.Dirs {
		pool := hypervisor.Pool{ID: d.ID, Type: d.Type, Path: d.Path}
		var err error
		if pool.Capacity, pool.Free, err = p.space(ctx, d); err != nil {
			pool.Problem = err.Error()
		}
		all = append(all, pool)
	}
	return all, nil
}

func (p *Store) space(ctx context.Context, d Dir) (capacity, free int64, err error) {
	root, err := p.open(ctx, "space", hypervisor.Disk{Pool: d.ID})
	if err != nil {
		return 0, 0, err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, 0, fmt.Errorf("read space of %s: %w", d.Path, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// Volumes implements hypervisor.Storage.
func (p *Store) Volumes(ctx context.Context, pool string) ([]hypervisor.Disk, error) {
	root, err := p.open(ctx, "list", hypervisor.Disk{Pool: pool})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	defer root.Close()
	var all []hypervisor.Disk
	err = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case path == own:
			return fs.SkipDir
		case !e.IsDir():
			all = append(all, hypervisor.Disk{Pool: pool, Path: path})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list volumes: pool %s: %w", pool, err)
	}
	slices.SortFunc(all, func(a, b hypervisor.Disk) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// LookVolume implements hypervisor.Storage.
func (p *Store) LookVolume(ctx context.Context, d hypervisor.Disk) hypervisor.VolumeSight {
	dir, err := p.dir(d)
	if err != nil {
		return hypervisor.VolumeSight{Reason: err.Error()}
	}
	info, err := p.stat(ctx, d)
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return hypervisor.VolumeSight{Answer: hypervisor.Absent}
	case err != nil:
		return hypervisor.VolumeSight{Reason: err.Error()}
	}
	s := hypervisor.VolumeSight{Answer: hypervisor.Present, Size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Allocation = st.Blocks * 512
	}
	s.UsedBy, err = p.users(ctx, filepath.Join(dir.Path, d.Path))
	if err != nil {
		s.UsersUnknown = err.Error()
	}
	return s
}

// stat is ErrNotFound only if neither the name nor the directory's list knows the volume:
// a client of a shared file system may remember for a minute that a name is not there.
func (p *Store) stat(ctx context.Context, d hypervisor.Disk) (fs.FileInfo, error) {
	root, err := p.open(ctx, "look", d)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, listed(root, d.Path)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file but %s", d.Path, info.Mode().Type())
	}
	return info, nil
}

// listed returns ErrNotFound if no directory on the way to path lists the next step.
func listed(root *os.Root, path string) error {
	at := "."
	for step := range strings.SplitSeq(path, "/") {
		f, err := root.Open(at)
		if err != nil {
			return err
		}
		names, err := f.Readdirnames(-1)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if !slices.Contains(names, step) {
			return fmt.Errorf("volume %s: %w", path, hypervisor.ErrNotFound)
		}
		at = filepath.Join(at, step)
	}
	return fmt.Errorf("volume %s: listed but not found", path)
}
