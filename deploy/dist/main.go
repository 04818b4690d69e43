// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// nfpm is the packager, pinned. Later versions need modules that not every proxy has.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./deploy/dist VERSION, after make build")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

func run(version string) error {
	arch := os.Getenv("GOARCH")
	if arch == "" {
		arch = runtime.GOARCH
	}
	if err := os.RemoveAll("dist"); err != nil {
		return fmt.Errorf("clear dist: %w", err)
	}
	for shell, name := range map[string]string{"bash": "holdfast.bash", "zsh": "_holdfast"} {
		text, err := exec.Command("bin/holdfast", "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("make completion for %s: %w", shell, err)
		}
		if err := write(filepath.Join("dist/completion", name), text); err != nil {
			return err
		}
	}
	if err := buildAgent(version); err != nil {
		return err
	}
	libc, err := neededLibc(agentFile)
	if err != nil {
		return err
	}
	for name, file := range map[string]string{"holdfast": "bin/holdfast", "holdfast-worker": "bin/holdfast-worker", "holdfast-agent": agentFile} {
		if file != agentFile {
			if err := checkStatic(file); err != nil {
				return err
			}
		}
		text, err := sbom(file, name, version)
		if err != nil {
			return err
		}
		if err := write(fmt.Sprintf("dist/%s_%s_%s.cdx.json", name, version, arch), text); err != nil {
			return err
		}
	}
	for _, p := range packs {
		if p.name == "holdfast-agent" {
			p.depends = append(p.depends, "libc6 (>= "+libc+")")
		}
		if err := p.build(packageVersion(version), arch); err != nil {
			return err
		}
	}
	for _, name := range []string{"holdfast", "holdfast-worker"} {
		if err := rootfs(fmt.Sprintf("dist/%s-image_%s_%s.tar", name, version, arch), "bin/"+name, name); err != nil {
			return err
		}
	}
	for _, made := range []string{"dist/completion", filepath.Dir(agentFile)} {
		if err := os.RemoveAll(made); err != nil {
			return fmt.Errorf("clear dist: %w", err)
		}
	}
	return sums()
}

// checkStatic refuses a program that would need a C library where it is installed.
func checkStatic(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("open %s: %w (make build makes it)", file, err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is not static: build it with CGO_ENABLED=0", file)
	}
	return nil
}

// agentFile is the agent that is packaged. That of `make build` knows no libvirt.
const agentFile = "dist/build/holdfast-agent"

// buildAgent builds the agent with libvirt, which it loads when it is first needed: it needs
// a C compiler here (CC, of the architecture in GOARCH) and glibc where it is installed.
func buildAgent(version string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "libvirt_dlopen", "-ldflags", "-s -w -X main.version="+version, "-o", agentFile, "./cmd/holdfast-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent with libvirt: %w\n%s", err, out)
	}
	info, err := modules(agentFile)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == "libvirt.org/go/libvirt" }) {
		return fmt.Errorf("%s is built without libvirt", agentFile)
	}
	return nil
}

// neededLibc is the oldest glibc that a program runs with. It refuses one that needs any
// library beside it: libvirt is loaded by name, not linked.
func neededLibc(file string) (string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", file, err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return "", fmt.Errorf("read what %s needs: %w", file, err)
	}
	for _, l := range libraries {
		if !slices.Contains([]string{"libc.so.6", "libresolv.so.2", "libpthread.so.0", "libdl.so.2"}, l) {
			return "", fmt.Errorf("%s needs %s: allowed is glibc", file, l)
		}
	}
	symbols, err := f.ImportedSymbols()
	if err != nil {
		return "", fmt.Errorf("read what %s needs: %w", file, err)
	}
	var versions []string
	for _, s := range symbols {
		versions = append(versions, s.Version)
	}
	return newestLibc(versions), nil
}

// newestLibc is the highest of versions such as GLIBC_2.34, as numbers; "2.17", which all
// have, without any.
func newestLibc(versions []string) string {
	newest := 17
	for _, v := range versions {
		var minor int
		if _, err := fmt.Sscanf(v, "GLIBC_2.%d", &minor); err == nil {
			newest = max(newest, minor)
		}
	}
	return fmt.Sprintf("2.%d", newest)
}

// libcOf is the version in a dependence on libc6; empty: there is none.
func libcOf(depends []string) string {
	for _, d := range depends {
		if v, ok := strings.CutPrefix(d, "libc6 (>= "); ok {
			return strings.TrimSuffix(v, ")")
		}
	}
	return ""
}

// packageVersion is a version that deb and rpm order rightly: what lies between two tags
// comes after the first, and what has no tag before all.
func packageVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	if !regexp.MustCompile(`^\d+\.`).MatchString(v) {
		v = "0.0.0~" + v
	}
	return strings.ReplaceAll(v, "-", "+")
}

// build writes deb and rpm of a package.
func (p pack) build(version, arch string) error {
	contents := []map[string]any{}
	for _, f := range p.files {
		contents = append(contents, map[string]any{"src": f.src, "dst": f.dst, "file_info": map[string]any{"mode": f.mode}})
	}
	text, err := yaml.Marshal(map[string]any{
		"name": p.name, "arch": arch, "version": version, "version_schema": "none", "section": "admin",
		"maintainer": "Holdfast <packages@holdfast-ha.example>", "description": p.description,
		"homepage": "https://github.com/holdfast-ha/holdfast", "license": "Apache-2.0", "contents": contents, "scripts": p.scripts,
		"overrides": map[string]any{
			"deb": map[string]any{"depends": p.depends, "recommends": p.recommends},
			"rpm": map[string]any{"depends": mapped(p.depends, map[string]string{"passwd": "shadow-utils", "libc6 (>= " + libcOf(p.depends) + ")": "glibc >= " + libcOf(p.depends)})},
		},
	})
	if err != nil {
		return fmt.Errorf("package %s: %w", p.name, err)
	}
	config := filepath.Join("dist", p.name+".nfpm.yaml")
	if err := write(config, text); err != nil {
		return err
	}
	for _, kind := range []string{"deb", "rpm"} {
		cmd := exec.Command("go", "run", nfpm, "package", "--config", config, "--packager", kind, "--target", "dist/")
		cmd.Env = append(os.Environ(), "GOARCH="+runtime.GOARCH)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("package %s as %s: %w\n%s", p.name, kind, err, out)
		}
	}
	return os.Remove(config)
}

func mapped(in []string, names map[string]string) (out []string) {
	for _, x := range in {
		if n, ok := names[x]; ok {
			x = n
		}
		out = append(out, x)
	}
	return out
}

// rootfs writes all files of an image, as `docker import` takes them.
func rootfs(path, src, name string) error {
	text, err := os.ReadFile(src)
	if err != nil {
		return fmt.Errorf("read %s: %w", src, err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer f.Close()
	t := tar.NewWriter(f)
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := t.Write(text); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// sums writes SHA256SUMS.
func sums() error {
	files, err := filepath.Glob("dist/*.*")
	if err != nil {
		return fmt.Errorf("list dist: %w", err)
	}
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(text), filepath.Base(f))
		fmt.Printf("%8d kB  %s\n", len(text)/1024, f)
	}
	return write("dist/SHA256SUMS", []byte(b.String()))
}

func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// sbom is what the linker noted in a program, as CycloneDX 1.6.
func sbom(file, name, version string) ([]byte, error) {
	info, err := modules(file)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(document(info, name, version), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the SBOM of %s: %w", file, err)
	}
	return append(b, '\n'), nil
}
