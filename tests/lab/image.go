// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// Guest is what guests boot.
type Guest struct {
	Kernel hypervisor.Kernel
	Memory int // MiB
}

// guestPackage is Debian's kernel for clouds: small, with all virtio drivers.
const guestPackage = "linux-image-cloud-amd64"

// downloadLimit bounds fetching the kernel (27 MB), buildLimit making the guest's init.
const (
	downloadLimit = 5 * time.Minute
	buildLimit    = 5 * time.Minute
)

// buildGuest makes the guest's kernel and first file system. The kernel's package is
// kept in the user's cache directory.
func buildGuest(ctx context.Context) (Guest, error) {
	dir := filepath.Join(Dir, "guest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Guest{}, err
	}
	deb, err := fetchKernel(ctx)
	if err != nil {
		return Guest{}, err
	}
	tree := filepath.Join(dir, "kernel")
	if _, err := run(ctx, "dpkg-deb", "-x", deb, tree); err != nil {
		return Guest{}, err
	}
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return Guest{}, fmt.Errorf("find the kernel in %s: %d found, %w", deb, len(images), err)
	}
	modules, err := modulesFor(ctx, tree, strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-"), "virtio_pci", "virtio_blk")
	if err != nil {
		return Guest{}, err
	}
	initBinary, err := buildInit(ctx, dir)
	if err != nil {
		return Guest{}, err
	}
	var c cpio
	c.dir("dev")
	c.dir("proc")
	c.dir("modules")
	for i, m := range modules {
		if err := c.file(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), m, 0o644); err != nil {
			return Guest{}, err
		}
	}
	if err := c.file("init", initBinary, 0o755); err != nil {
		return Guest{}, err
	}
	initrd := filepath.Join(dir, "initrd.gz")
	if err := c.save(initrd); err != nil {
		return Guest{}, err
	}
	return Guest{Kernel: hypervisor.Kernel{Image: images[0], Initrd: initrd, Args: "console=ttyS0 quiet panic=5"}, Memory: 128}, nil
}

func fetchKernel(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "holdfast-lab")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	if have, _ := filepath.Glob(filepath.Join(cache, "linux-image-*.deb")); len(have) > 0 {
		return have[0], nil
	}
	text, err := run(ctx, "apt-cache", "depends", guestPackage)
	if err != nil {
		return "", err
	}
	_, name, found := strings.Cut(text, "Depends: ")
	if !found {
		return "", fmt.Errorf("package %s depends on no kernel: %s", guestPackage, text)
	}
	ctx, cancel := context.WithTimeout(ctx, downloadLimit)
	defer cancel()
	part, err := os.MkdirTemp(cache, "part-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(part)
	cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", strings.Fields(name)[0])
	cmd.Dir = part
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("download kernel: %w: %s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(part, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download kernel: %d packages came, %w", len(debs), err)
	}
	to := filepath.Join(cache, filepath.Base(debs[0]))
	return to, os.Rename(debs[0], to)
}

// modulesFor lists the files of modules in the order of loading.
func modulesFor(ctx context.Context, tree, version string, names ...string) ([]string, error) {
	if _, err := run(ctx, "depmod", "-b", tree, version); err != nil {
		return nil, err
	}
	var all []string
	for _, n := range names {
		text, err := run(ctx, "modprobe", "-d", tree, "-S", version, "--show-depends", n)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "insmod" && !slices.Contains(all, f[1]) {
				all = append(all, f[1])
			}
		}
	}
	return all, nil
}

func buildInit(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	to := filepath.Join(dir, "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "github.com/holdfast-ha/holdfast/tests/lab/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's init: %w: %s", errors.Join(err, context.Cause(ctx)), out)
	}
	return to, nil
}

// cpio is an archive as the kernel unpacks it ("newc").
type cpio struct {
	b bytes.Buffer
	n int
}

func (c *cpio) entry(name string, mode, links int, data []byte) {
	c.n++
	fmt.Fprintf(&c.b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", c.n, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.b.WriteString(name + "\x00")
	c.pad()
	c.b.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.b.Len()%4 != 0 {
		c.b.WriteByte(0)
	}
}

func (c *cpio) dir(name string) { c.entry(name, 0o040755, 2, nil) }

func (c *cpio) file(name, from string, mode int) error {
	data, err := os.ReadFile(from)
	if err == nil {
		c.entry(name, 0o100000|mode, 1, data)
	}
	return err
}

func (c *cpio) save(name string) error {
	c.entry("TRAILER!!!", 0, 1, nil)
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	if err != nil {
		return err
	}
	_, err = w.Write(c.b.Bytes())
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return os.WriteFile(name, z.Bytes(), 0o644)
}
