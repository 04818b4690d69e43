// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A version between two tags comes after the first; one without a tag before all.
func TestPackageVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v0.1.0": "0.1.0", "v0.1.0-3-gabc1234": "0.1.0+3+gabc1234", "abc1234": "0.0.0~abc1234", "abc1234-dirty": "0.0.0~abc1234+dirty", "devel": "0.0.0~devel",
	} {
		if got := packageVersion(in); got != want {
			t.Errorf("packageVersion(%q) = %q, want %q", in, got, want)
		}
	}
}

// What the agent's package depends on is the newest glibc that its symbols name, as numbers.
func TestNewestLibc(t *testing.T) {
	for want, in := range map[string][]string{"2.34": {"GLIBC_2.4", "", "GLIBC_2.34", "GLIBC_2.9"}, "2.17": {"GLIBC_PRIVATE"}} {
		if got := newestLibc(in); got != want {
			t.Errorf("newestLibc(%v) = %s, want %s", in, got, want)
		}
	}
	if v := libcOf([]string{"passwd", "libc6 (>= 2.34)"}); v != "2.34" {
		t.Errorf("libcOf = %q, want 2.34", v)
	}
}

// The SBOM lists what the linker noted, once each, with hashes.
func TestSBOM(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := sbom(exe, "holdfast", "v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	var d bom
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.Format != "CycloneDX" || d.Spec != "1.6" || d.Metadata.Component.Version != "v0.1.0" {
		t.Errorf("%s", text)
	}
	refs := map[string]bool{}
	for _, c := range d.Components {
		if refs[c.Ref] || c.Version == "" {
			t.Errorf("%+v", c)
		}
		refs[c.Ref] = true
		if c.Name == "sigs.k8s.io/yaml" && (len(c.Hashes) != 1 || len(c.Hashes[0].Content) != 64 || c.PURL != c.Ref) {
			t.Errorf("%+v", c)
		}
	}
	if !slices.ContainsFunc(d.Components, func(c component) bool { return c.Name == "sigs.k8s.io/yaml" }) {
		t.Errorf("a module that is linked is not listed: %s", text)
	}
}

// Packages share no file, bring no configuration that people write, and what they are
// made of is in the repository.
func TestPacks(t *testing.T) {
	owner := map[string]string{}
	for _, p := range packs {
		for _, f := range p.files {
			if owner[f.dst] != "" {
				t.Errorf("%s is in %s and %s", f.dst, owner[f.dst], p.name)
			}
			owner[f.dst] = p.name
			if strings.HasPrefix(f.dst, "/etc/") {
				t.Errorf("%s brings %s", p.name, f.dst)
			}
			if f.mode == 0o755 != strings.HasPrefix(f.dst, "/usr/bin/") {
				t.Errorf("%s has mode %o", f.dst, f.mode)
			}
			if strings.HasPrefix(f.src, "deploy/packages/") {
				if _, err := os.Stat(filepath.Join("..", "..", f.src)); err != nil {
					t.Error(err)
				}
			}
		}
		for _, s := range p.scripts {
			text, err := os.ReadFile(filepath.Join("..", "..", s))
			if err != nil || !strings.HasPrefix(string(text), "#!/bin/sh\n") || !strings.Contains(string(text), "\nset -e\n") {
				t.Errorf("%s: %v", s, err)
			}
		}
	}
}
