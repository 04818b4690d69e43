// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The archive is what a kernel unpacks: headers of 110 bytes, names that end with zero,
// everything on multiples of four.
func TestCpio(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c cpio
	c.dir("dev")
	if err := c.file("init", filepath.Join(dir, "f"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.save(filepath.Join(dir, "out.gz")); err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(filepath.Join(dir, "out.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for at := 0; at < len(all); {
		var magic string
		var f [13]int
		head := string(all[at : at+110])
		magic = head[:6]
		for i := range f {
			if _, err := fmt.Sscanf(head[6+8*i:14+8*i], "%08X", &f[i]); err != nil {
				t.Fatal(err)
			}
		}
		name := string(all[at+110 : at+110+f[11]-1])
		at = (at + 110 + f[11] + 3) &^ 3
		got = append(got, fmt.Sprintf("%s %s %o %q", magic, name, f[1], all[at:at+f[6]]))
		at = (at + f[6] + 3) &^ 3
	}
	want := []string{`070701 dev 40755 ""`, `070701 init 100755 "hello"`, `070701 TRAILER!!! 0 ""`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMounts(t *testing.T) {
	if points, minors, err := mounts("/proc"); err != nil || len(points) == 0 || points[len(points)-1] != "/proc" || len(minors) != len(points) {
		t.Errorf("mounts of /proc are %v, %v, %v", points, minors, err)
	}
	if points, _, err := mounts("/pro"); err != nil || len(points) != 0 {
		t.Errorf("mounts of /pro are %v, %v", points, err)
	}
}
