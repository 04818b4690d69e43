// SPDX-License-Identifier: Apache-2.0

package dirs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
)

func open(t *testing.T, d dirs.Dir) *dirs.Store {
	t.Helper()
	s, err := dirs.New(dirs.Config{Dirs: []dirs.Dir{d}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// An unmounted directory must not pass for an empty pool.
func TestMountPoint(t *testing.T) {
	s := open(t, dirs.Dir{ID: "p", Type: hypervisor.NFS, Path: t.TempDir(), Mount: true})
	if v := s.LookVolume(t.Context(), hypervisor.Disk{Pool: "p", Path: "v"}); v.Answer != hypervisor.CouldNotLook || !strings.Contains(v.Reason, "not a mount point") {
		t.Errorf("look = %+v", v)
	}
	s = open(t, dirs.Dir{ID: "p", Type: hypervisor.NFS, Path: "/proc", Mount: true})
	if v := s.LookVolume(t.Context(), hypervisor.Disk{Pool: "p", Path: "no-such-volume"}); v.Answer != hypervisor.Absent {
		t.Errorf("look at a mount point = %+v", v)
	}
}

// Whoever has a volume open is its user, and it stays.
func TestOpenFileIsAUser(t *testing.T) {
	s, d := open(t, dirs.Dir{ID: "p", Type: hypervisor.Local, Path: t.TempDir()}), hypervisor.Disk{Pool: "p", Path: "a/v"}
	path, err := s.Reserve(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := []hypervisor.User{{Kind: hypervisor.ByProcess, ID: strconv.Itoa(os.Getpid())}}
	if v := s.LookVolume(t.Context(), d); v.UsersUnknown != "" || cmp.Diff(want, v.UsedBy) != "" {
		t.Errorf("look = %+v, want users %+v", v, want)
	}
	if err := s.DeleteVolume(t.Context(), d); !errors.Is(err, hypervisor.ErrBusy) {
		t.Errorf("delete = %v, want ErrBusy", err)
	}
}

// A rename that was cut off between its two names goes on when it is repeated; a name
// that another volume has is never taken.
func TestRenameGoesOn(t *testing.T) {
	dir := t.TempDir()
	s, d := open(t, dirs.Dir{ID: "p", Type: hypervisor.NFS, Path: dir}), hypervisor.Disk{Pool: "p", Path: "tmp"}
	path, err := s.Reserve(t.Context(), d)
	if err == nil {
		err = os.Link(path, filepath.Join(dir, "v"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RenameVolume(t.Context(), d, "v"); err != nil {
		t.Errorf("rename = %v", err)
	}
	if v := s.LookVolume(t.Context(), d); v.Answer != hypervisor.Absent {
		t.Errorf("the old name is %+v, want absent", v)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"other", "v"} {
		if err := s.RenameVolume(t.Context(), hypervisor.Disk{Pool: "p", Path: "v"}, to); !errors.Is(err, hypervisor.ErrExists) {
			t.Errorf("rename to %s = %v, want ErrExists", to, err)
		}
	}
	if v := s.LookVolume(t.Context(), hypervisor.Disk{Pool: "p", Path: "v"}); v.Answer != hypervisor.Present {
		t.Errorf("the volume is %+v", v)
	}
}

// Volumes are all files but Holdfast's own; paths and disks are each other's inverse.
func TestVolumesAndPaths(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dirs.Dir{ID: "p", Type: hypervisor.Local, Path: dir})
	for _, name := range []string{"b", "a/x", ".holdfast/stamps/h1"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Volumes(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]hypervisor.Disk{{Pool: "p", Path: "a/x"}, {Pool: "p", Path: "b"}}, got); diff != "" {
		t.Error(diff)
	}
	for _, d := range got {
		path, err := s.Path(d)
		if back, ok := s.Disk(path); err != nil || !ok || back != d {
			t.Errorf("%+v is at %s is %+v, %v", d, path, back, err)
		}
	}
	for _, path := range []string{dir, dir + "/../x", "/", "v"} {
		if d, ok := s.Disk(path); ok {
			t.Errorf("%s is %+v", path, d)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for want, list := range map[string][]dirs.Dir{
		"has no id":       {{Path: "/p", Type: hypervisor.Local}},
		"twice":           {{ID: "p", Path: "/p", Type: hypervisor.Local}, {ID: "p", Path: "/q", Type: hypervisor.Local}},
		"not absolute":    {{ID: "p", Path: "p", Type: hypervisor.Local}},
		"allowed are loc": {{ID: "p", Path: "/p", Type: "ceph"}},
	} {
		if _, err := dirs.New(dirs.Config{Dirs: list}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New(%+v) = %v, want %q", list, err, want)
		}
	}
}
