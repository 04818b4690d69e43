// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// A copy of a qcow2 volume is one with the same content, and its guest's disk is as large
// as it was asked for.
func TestQCOW2(t *testing.T) {
	a, _ := hosts(t)
	from, to := hypervisor.Disk{Pool: "local", Path: "q1"}, hypervisor.Disk{Pool: "shared", Path: "q2"}
	defer func() {
		for _, d := range []hypervisor.Disk{from, to} {
			must(t, a.DeleteVolume(context.Background(), d))
		}
	}()
	must(t, a.CreateVolume(t.Context(), hypervisor.CreateSpec{Disk: from, Format: hypervisor.QCOW2, Size: diskSize}))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	path := func(d hypervisor.Disk) string {
		p, err := a.Path(d)
		must(t, err)
		return p
	}
	for _, args := range [][]string{{"qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", path(from)}} {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	must(t, a.CopyVolume(ctx, hypervisor.CopySpec{From: from, To: to, Format: hypervisor.QCOW2}, nil))
	if out, err := exec.CommandContext(ctx, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", path(from), path(to)).CombinedOutput(); err != nil {
		t.Errorf("compare: %v: %s", err, out)
	}
	// A running qcow2 disk moves as a raw one does.
	moved := hypervisor.Disk{Pool: "local", Path: "q3"}
	defer func() {
		must(t, a.Stop(context.Background(), "qguest", true))
		must(t, a.Undefine(context.Background(), "qguest"))
		must(t, a.DeleteVolume(context.Background(), moved))
	}()
	must(t, a.Define(ctx, define("qguest", hypervisor.DiskSpec{Disk: to, Format: hypervisor.QCOW2})))
	must(t, a.Start(ctx, "qguest"))
	must(t, a.StartBlockCopy(ctx, hypervisor.BlockCopy{Instance: "qguest", From: to, To: moved, Format: hypervisor.Raw}))
	wait(t, "the copy is ready", func() bool { return a.BlockJob(ctx, "qguest", to).Ready })
	must(t, a.Pivot(ctx, "qguest", to))
	if s := a.LookVolume(ctx, moved); s.Size != diskSize {
		t.Errorf("the raw copy has %d bytes, want %d", s.Size, diskSize)
	}
	wait(t, "the guest writes", func() bool { return check(t, path(moved)) > 0 })
}
