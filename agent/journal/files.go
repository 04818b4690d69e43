// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// This file is how entries are kept on the disk: created, written, retired and synced.

// create writes a new entry, with room for further lines: into the file of a forgotten
// command, whose name is durable already, so that one sync is enough, or else a new one.
func (j *Journal) create(s *slot, line []byte) error {
	j.mu.Lock()
	from := ""
	if n := len(j.spares); n > 0 {
		from, j.spares = j.spares[n-1], j.spares[:n-1]
	}
	j.mu.Unlock()
	if from == "" {
		f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = f.Write(append(line, make([]byte, max(0, room-len(line)))...))
			err = errors.Join(err, j.flush(f))
			if err == nil {
				err = syncDir(j.dir)
			}
			if err != nil {
				err = errors.Join(err, f.Close())
			}
		}
		if err == nil {
			s.file = f
		}
		return err
	}
	s.path = filepath.Join(j.dir, from)
	return j.writeNext(s, line)
}

// writeNext writes a further line; durable when it returns nil. The file stays open until the
// last step.
func (j *Journal) writeNext(s *slot, line []byte) (err error) {
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		s.file = f
	}
	if err = named(s.file); err == nil {
		_, err = s.file.WriteAt(line, s.size)
	}
	if err == nil {
		err = j.flush(s.file)
	}
	if err != nil {
		err = errors.Join(err, s.shut())
	}
	return err
}

// named is nil while an open file has a name: nobody finds again what is written to one that
// somebody has deleted.
func named(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 0 {
		return fmt.Errorf("%s: %w: it was deleted", f.Name(), fs.ErrNotExist)
	}
	return nil
}

// shut closes the slot's file, if it is open; called with the slot's lock held.
func (s *slot) shut() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// retire makes the file of a forgotten command one that the next can have.
func (j *Journal) retire(s *slot) error {
	j.mu.Lock()
	enough := len(j.spares) >= spares
	j.mu.Unlock()
	if enough {
		return j.remove(s)
	}
	err := j.writeAt(s.path, retired, 0)
	if err == nil && s.size > room {
		err = os.Truncate(s.path, room)
	}
	if err == nil {
		err = j.keepSpare(filepath.Base(s.path))
	}
	if err != nil {
		return errors.Join(err, j.remove(s))
	}
	return nil
}

// keepSpare keeps a retired file for the next command, under a name, made durable, that does
// not say whose it is.
func (j *Journal) keepSpare(name string) error {
	to := name
	if !strings.HasPrefix(name, again) {
		var err error
		if to, err = j.rename(name); err != nil {
			return err
		}
		if err := syncDir(j.dir); err != nil {
			return err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.spares = append(j.spares, to)
	return nil
}

// rename gives a retired file a name that is free and says nothing.
func (j *Journal) rename(name string) (to string, err error) {
	j.naming.Lock()
	defer j.naming.Unlock()
	for n := 1; ; n++ {
		to = fmt.Sprintf("%s%d", again, n)
		if _, err := os.Lstat(filepath.Join(j.dir, to)); errors.Is(err, fs.ErrNotExist) {
			return to, os.Rename(filepath.Join(j.dir, name), filepath.Join(j.dir, to))
		} else if err != nil {
			return "", err
		}
	}
}

// cut takes off what is not known to be whole lines.
func (s *slot) cut() error {
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(s.size), f.Sync(), f.Close())
}

// remove deletes a file. It is not made durable: an entry that is found again is told, and
// forgotten, again.
func (j *Journal) remove(s *slot) error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget command %s: %w", s.entry.ID, err)
	}
	return nil
}

func fdatasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// writeAt writes to a file that is there, at a place; durable when it returns nil.
func (j *Journal) writeAt(path string, content []byte, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, at)
	if err == nil {
		err = j.flush(f)
	}
	return errors.Join(err, f.Close())
}

// write replaces a file below dir: durable, whole or not at all.
func write(dir, name string, content []byte) error {
	temp := filepath.Join(dir, "."+filepath.Base(name))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(filepath.Join(dir, name)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
