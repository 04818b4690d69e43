// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stampDir is where stamps lie in a pool, one file a host.
	stampDir = ".holdfast/stamps"
	// stampSize is fixed, so that a stamp is overwritten by one write within one block.
	stampSize = 256
	// stampReads bounds how often a stamp is read again that was caught half written.
	stampReads = 3
)

// Dir is a pool that is a directory, usually an NFS mount.
type Dir struct {
	id, path string
	mount    bool
}

var _ Pool = (*Dir)(nil)

// NewDir makes a pool of an absolute directory path. With mount, every access first
// makes sure that path is a mount point. Nothing is touched yet: a pool that does not
// answer must not keep an agent from starting.
func NewDir(id, path string, mount bool) (*Dir, error) {
	if id == "" {
		return nil, fmt.Errorf("pool at %q: id is empty", path)
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("pool %s: path %q is not absolute", id, path)
	}
	return &Dir{id: id, path: filepath.Clean(path), mount: mount}, nil
}

// ID implements Pool.
func (d *Dir) ID() string { return d.id }

// WriteStamp implements Pool. The file is written in place: a rename for each stamp would
// cost the storage a directory update every second or two for each host.
func (d *Dir) WriteStamp(ctx context.Context, host string, counter uint64) error {
	name, err := d.stamp(ctx, host)
	if err != nil {
		return err
	}
	record := encodeStamp(host, counter)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return d.createStamp(name, record)
	}
	if err != nil {
		return fmt.Errorf("write stamp: %w", err)
	}
	return store(f, record)
}

// createStamp makes the first stamp whole or not at all: a crash between create and
// write would leave an unreadable stamp behind that keeps the host from ever being idle.
func (d *Dir) createStamp(name string, record []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write stamp: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write stamp: %w", err)
	}
	err = f.Chmod(0o644)
	err = errors.Join(err, store(f, record))
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write stamp: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// store writes the record at the beginning of f, waits for the storage, and closes.
func store(f *os.File, record []byte) error {
	_, err := f.WriteAt(record, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write stamp: %w", err)
	}
	return nil
}

// ReadStamp implements Pool. The content is returned only if its checksum is right.
func (d *Dir) ReadStamp(ctx context.Context, host string) ([]byte, error) {
	name, err := d.stamp(ctx, host)
	if err != nil {
		return nil, err
	}
	for range stampReads {
		var content []byte
		content, err = readFresh(name)
		if errors.Is(err, fs.ErrNotExist) {
			// A client may remember for a minute that there is no such name: have it ask
			// for the directory, then look once more.
			if _, dirErr := statFresh(filepath.Dir(name)); dirErr != nil {
				return nil, fmt.Errorf("read stamp: %w", dirErr)
			}
			content, err = readFresh(name)
		}
		if err != nil {
			return nil, fmt.Errorf("read stamp: %w", err)
		}
		if err = checkStamp(content, host); err == nil {
			return content, nil
		}
	}
	return nil, fmt.Errorf("read stamp %s: %w", name, err)
}

// StatDisk implements Pool.
func (d *Dir) StatDisk(ctx context.Context, path string) (DiskSample, error) {
	if !filepath.IsLocal(path) {
		return DiskSample{}, fmt.Errorf("stat disk %q: path leaves the pool", path)
	}
	if err := d.ready(ctx); err != nil {
		return DiskSample{}, err
	}
	st, err := statFresh(filepath.Join(d.path, path))
	if err != nil {
		return DiskSample{}, fmt.Errorf("stat disk %q: %w", path, err)
	}
	return DiskSample{
		Size:      int64(st.Size),
		Allocated: int64(st.Blocks) * 512,
		MTime:     time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)),
	}, nil
}

// stamp is the file of host's stamp in a pool that is ready.
func (d *Dir) stamp(ctx context.Context, host string) (string, error) {
	if err := CheckHost(host); err != nil {
		return "", err
	}
	return filepath.Join(d.path, stampDir, host), d.ready(ctx)
}

// ready says whether the pool is there to be asked.
func (d *Dir) ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("use pool %s: %w", d.id, err)
	}
	st, err := statFresh(d.path)
	switch {
	case err != nil:
		return fmt.Errorf("use pool %s: %w", d.id, errors.New(err.Error())) // not "no such stamp"
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("use pool %s: %s is not a directory", d.id, d.path)
	case !d.mount:
		return nil
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return fmt.Errorf("use pool %s: %s is not a mount point", d.id, d.path)
		}
		return nil
	}
	up, err := statFresh(filepath.Dir(d.path)) // kernels before 5.8 do not tell
	if err != nil {
		return fmt.Errorf("use pool %s: %w", d.id, errors.New(err.Error()))
	}
	if up.Dev_major == st.Dev_major && up.Dev_minor == st.Dev_minor {
		return fmt.Errorf("use pool %s: %s is not a mount point", d.id, d.path)
	}
	return nil
}

// statFresh asks the storage for the attributes, past the client's attribute cache,
// which on NFS may be a minute old.
func statFresh(name string) (unix.Statx_t, error) {
	var st unix.Statx_t
	for {
		err := unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return st, &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		return st, nil
	}
}

// readFresh opens the file anew, which makes an NFS client ask the server for changes.
func readFresh(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, stampSize+1))
	return content, errors.Join(err, f.Close())
}

// encodeStamp makes a record of stampSize bytes: text, padding, checksum, newline.
func encodeStamp(host string, counter uint64) []byte {
	b := fmt.Appendf(make([]byte, 0, stampSize), "holdfast stamp 1 %s %020d", host, counter)
	b = append(b, bytes.Repeat([]byte{' '}, stampSize-9-len(b))...)
	return fmt.Appendf(b, "%08x\n", crc32.ChecksumIEEE(b))
}

// checkStamp says whether content is a whole stamp of host.
func checkStamp(content []byte, host string) error {
	if len(content) != stampSize {
		return fmt.Errorf("stamp has %d bytes, want %d", len(content), stampSize)
	}
	body := content[:stampSize-9]
	if string(content[stampSize-9:]) != fmt.Sprintf("%08x\n", crc32.ChecksumIEEE(body)) {
		return errors.New("stamp is damaged: checksum does not match")
	}
	if !bytes.HasPrefix(body, []byte("holdfast stamp 1 "+host+" ")) {
		return errors.New("stamp is another host's")
	}
	return nil
}
