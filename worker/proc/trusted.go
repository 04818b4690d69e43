// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/holdfast-ha/holdfast/worker/power"
)

// Trusted makes sure that only owners (user numbers; 0 is root) could have put an
// administrator's program there (power.md §8.4): a clean absolute path, reached through no
// link, the file and every folder above it theirs and not writable by others. A folder in
// which everybody may create files is in order above the program's own, when it lets
// nobody replace those of others (the sticky bit). Errors, which name the program by what:
// BadConfig; ToolMissing for a file that is not there or cannot be executed.
func Trusted(op, what, path string, owners []uint32) *power.Error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return power.BadConfig(op, "%s: value %q: allowed is a clean absolute path", what, path)
	}
	if e := Executable(op, path); e != nil {
		return e
	}
	// Every hop of a link would have to be as safe as the program itself.
	if real, err := filepath.EvalSymlinks(path); err != nil || real != path {
		return power.BadConfig(op, "%s: value %q: is reached through a link, allowed is the path itself: %s", what, path, real)
	}
	for at := path; ; at = filepath.Dir(at) {
		if err := safe(at, at != path && at != filepath.Dir(path), owners); err != nil {
			return power.BadConfig(op, "%s: value %q: %v", what, path, err)
		}
		if at == "/" {
			return nil
		}
	}
}

func safe(path string, sticky bool, owners []uint32) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !slices.Contains(owners, sys.Uid):
		return fmt.Errorf("%s does not belong to root", path)
	case st.Mode().Perm()&0o022 != 0 && !(sticky && st.Mode()&os.ModeSticky != 0):
		return fmt.Errorf("%s is writable by others (%v)", path, st.Mode().Perm())
	}
	return nil
}
