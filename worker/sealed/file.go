// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const maxFile = 64 << 10

// File is a ring file that is read again when it changes. It is safe for concurrent use.
type File struct {
	path string

	mu   sync.Mutex
	ring *Ring
	mark [sha256.Size]byte // of the content that ring was made of
	err  error             // why the file as it is now cannot be used
}

// NewFile reads nothing yet: call Refresh. An empty path is a File without keys.
func NewFile(path string) *File { return &File{path: path} }

// Ring is the ring as last read; nil when there was none that could be used.
func (f *File) Ring() *Ring {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ring
}

// Err says why the file cannot be used as it is now; the ring read before is still in use.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Refresh reads the file and says whether the ring is another one now.
func (f *File) Refresh() (changed bool) {
	if f.path == "" {
		return false
	}
	b, err := readFile(f.path)
	defer clear(b)
	f.mu.Lock()
	defer f.mu.Unlock()
	var r *Ring
	mark := sha256.Sum256(b)
	if err == nil && f.ring != nil && mark == f.mark {
		f.err = nil
		return false
	}
	if err == nil {
		r, err = ParseRing(b)
	}
	if err != nil {
		f.err = fmt.Errorf("key ring %s: %w", f.path, err)
		return false
	}
	f.ring, f.mark, f.err = r, mark, nil
	return true
}

// readFile reads a ring file that nobody but its owner and group may touch.
func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // asked before opening: a FIFO would block
	}
	if err != nil {
		return nil, bare(err)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer file.Close()
	if st, err = file.Stat(); err != nil {
		return nil, bare(err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("mode %v lets others in, allowed are modes like 0600 and 0640", st.Mode().Perm())
	}
	b := make([]byte, maxFile+1)
	n, err := io.ReadFull(file, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, bare(err)
	}
	if n > maxFile {
		clear(b)
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	return b[:n], nil
}

// bare leaves out the path, which the caller names.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

const header = "# Key ring of Holdfast: the first key seals, all of them open. Keep it off etcd and out of\n" +
	"# its backups; without it the sealed secrets are lost.\n"

// AddKey puts a new random key into the ring file at path, which it makes when there is
// none: at the end, where it only opens, or first, where it seals from then on. The file
// is replaced as a whole. An empty id is made of the time. It returns the ring's ids.
func AddKey(path, id string, first bool, now time.Time) ([]string, error) {
	if id == "" {
		id = "k" + now.UTC().Format("20060102-150405")
	}
	if !keyID.MatchString(id) {
		return nil, fmt.Errorf("key id %q: allowed are 1 to 32 letters, digits, '.', '_' or '-', starting with a letter or digit", id)
	}
	old, err := readFile(path)
	defer clear(old)
	mode := fs.FileMode(0o600)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = []byte(header)
	case err != nil:
		return nil, fmt.Errorf("key ring %s: %w", path, err)
	default:
		r, err := ParseRing(old)
		if err != nil {
			return nil, fmt.Errorf("key ring %s: %w", path, err)
		}
		if slices.Contains(r.IDs(), id) {
			return nil, fmt.Errorf("key ring %s: it has a key %s already: %w", path, id, fs.ErrExist)
		}
		if st, err := os.Stat(path); err == nil {
			mode = st.Mode().Perm()
		}
	}
	key := make([]byte, keySize)
	defer clear(key)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	line := base64.StdEncoding.AppendEncode([]byte(id+" "), key)
	line = append(line, '\n')
	defer clear(line)
	if n := len(old); n > 0 && old[n-1] != '\n' {
		old = append(old, '\n')
	}
	at := len(old)
	if first {
		at = firstKey(old)
	}
	text := slices.Concat(old[:at], line, old[at:])
	defer clear(text)
	r, err := ParseRing(text)
	if err != nil {
		return nil, fmt.Errorf("key ring %s: %w", path, err)
	}
	return r.IDs(), replace(path, text, mode)
}

// firstKey is where the first line begins that is neither empty nor a comment.
func firstKey(text []byte) int {
	at := 0
	for line := range bytes.Lines(text) {
		if l := bytes.TrimSpace(line); len(l) > 0 && l[0] != '#' {
			return at
		}
		at += len(line)
	}
	return at
}

// replace writes a file such that a crash leaves the old one or the new one, whole.
func replace(path string, text []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("write key ring: %w", err)
	}
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write key ring %s: %w", path, errors.Join(bare(err), os.Remove(tmp.Name())))
	}
	return nil
}
