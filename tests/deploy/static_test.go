// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"debug/elf"
	"testing"
)

// static fails unless a program runs without an interpreter and libraries.
func static(t *testing.T, file string) {
	t.Helper()
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s wants an interpreter", file)
		}
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("%s wants libraries %v (%v)", file, libs, err)
	}
}
