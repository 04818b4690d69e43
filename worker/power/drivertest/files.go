// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"os"
	"path/filepath"
	"testing"
)

// Write writes a file that a child may run or read at any moment, with this mode whatever the
// umask, and returns its path. A process is being forked somewhere all the time, and a file that
// is open for writing cannot be run: so it is renamed to its place.
func Write(t testing.TB, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".tmp", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path+".tmp", mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Read returns what a child has written; nothing where there is no such file yet.
func Read(t testing.TB, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}
