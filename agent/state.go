// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// readState reads a file of the state dir; a missing one is empty.
func readState(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// writeState replaces a file of the state dir: after a crash there is the old content or
// the new, whole and durable.
func writeState(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// stateLimit is how long a write of the state dir may take before it counts as hung: less
// than a link's silence, because an answer to a ping may wait for one.
const stateLimit = time.Second

// keepState is writeState in the lane of the state dir's disk; one that hangs is an error at
// once for all who come meanwhile. Without a lane it waits as long as it takes.
func keepState(disk *lane, name string, content []byte) error {
	if disk == nil {
		return writeState(name, content)
	}
	_, err := through(context.Background(), disk, func(context.Context) (struct{}, error) { return struct{}{}, writeState(name, content) })
	return err
}

// hungSince is since when the disk of the state dir has not come back with a write of the
// journal, or of another file; zero: none is late.
func (a *Agent) hungSince() (since time.Time) {
	if err := a.disk.hung(); err != nil {
		since = time.Now().Add(-err.age)
	}
	if at := a.commands.writing(); !at.IsZero() && time.Since(at) > accessLimit && (since.IsZero() || at.Before(since)) {
		since = at
	}
	return since
}
