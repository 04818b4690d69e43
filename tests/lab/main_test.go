// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/libvirt"
	"github.com/holdfast-ha/holdfast/sim/sequence"
	"github.com/holdfast-ha/holdfast/tests/lab"
)

// diskSize leaves copies something to do.
const diskSize = 24 << 20

// limit is how long anything may take here, a guest's boot included, and what a guest does
// after a migration: QEMU translates its code anew, seconds of a processor that others use.
const limit = 3 * time.Minute

var theLab *lab.Lab

// TestMain brings up one lab for all tests and takes it down whatever happens.
func TestMain(m *testing.M) {
	lab.Child()
	copyChild()
	workerChild()
	etcdChild()
	os.Exit(func() (code int) {
		l, err := lab.Start(context.Background(), lab.Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		theLab = l
		defer func() {
			if err := l.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
		return m.Run()
	}())
}

// host is a host of the lab with the adapter of its agent.
type host struct {
	*libvirt.Host
	node *lab.Host
}

// hosts are those of the lab, all on.
func hosts(t *testing.T) (a, b host) {
	t.Helper()
	var all []host
	for _, node := range theLab.Hosts {
		must(t, node.On(t.Context()))
		h, err := libvirt.New(libvirt.Config{URI: node.URI(), Dirs: node.Dirs(), Accel: "qemu", Emulator: "/usr/bin/qemu-system-x86_64"})
		must(t, err)
		wait(t, node.Name+" answers", func() bool { return h.Healthy(t.Context()) == nil })
		all = append(all, host{h, node})
	}
	return all[0], all[1]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// read reads a guest's disk as one look: a ring that turns meanwhile shows a hole that
// is none, so what looks wrong is read again.
func read(t *testing.T, path string) sequence.Report {
	t.Helper()
	var rep sequence.Report
	for range 3 {
		f, err := os.Open(path)
		must(t, err)
		rep, err = sequence.Read(f)
		f.Close()
		must(t, err)
		if len(rep.Problems) == 0 {
			break
		}
	}
	return rep
}

func check(t *testing.T, path string) uint64 {
	t.Helper()
	rep := read(t, path)
	if len(rep.Problems) > 0 {
		t.Errorf("%s: %v", path, rep.Problems)
	}
	return rep.Last.N
}

func define(id string, disks ...hypervisor.DiskSpec) hypervisor.Definition {
	return hypervisor.Definition{ID: id, MemoryMiB: theLab.Guest.Memory, CPUs: 1, Disks: disks, Kernel: &theLab.Guest.Kernel}
}

// copyChild is the agent of TestCopyDiesWithItsAgent, on the first host.
func copyChild() {
	from := os.Getenv(copyEnv)
	if from == "" {
		return
	}
	host := filepath.Dir(filepath.Dir(from))
	h, err := libvirt.New(libvirt.Config{Dirs: []dirs.Dir{
		{ID: "local", Type: hypervisor.Local, Path: filepath.Join(host, "local")},
		{ID: "shared", Type: hypervisor.NFS, Path: filepath.Join(host, "shared")},
	}})
	if err == nil {
		err = h.CopyVolume(context.Background(), hypervisor.CopySpec{
			From: hypervisor.Disk{Pool: "local", Path: filepath.Base(from)}, To: hypervisor.Disk{Pool: "shared", Path: filepath.Base(from) + "-new"},
			Format: hypervisor.Raw, BytesPerSecond: diskSize / 60,
		}, nil)
	}
	fmt.Fprintln(os.Stderr, "copy ended:", err)
	os.Exit(1)
}
