// SPDX-License-Identifier: Apache-2.0

package libvirt

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

func at(d hypervisor.Disk) (string, error) { return "/pools/" + d.Pool + "/" + d.Path, nil }

// What is rendered stops on disk errors, bypasses the cache, and has the same identity
// on every host.
func TestRender(t *testing.T) {
	def := hypervisor.Definition{
		ID: "i-1", MemoryMiB: 64, CPUs: 2, Kernel: &hypervisor.Kernel{Image: "/k", Initrd: "/i", Args: "a=1 & b"},
		Disks: []hypervisor.DiskSpec{{Disk: hypervisor.Disk{Pool: "p", Path: "a<b"}, Format: hypervisor.QCOW2}, {Disk: hypervisor.Disk{Pool: "q", Path: "c"}, Format: hypervisor.Raw}},
	}
	text, err := render(def, "qemu", "/usr/bin/qemu", at)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<domain type="qemu">`, "<uuid>" + identity("i-1") + "</uuid>", `<memory unit="MiB">64</memory>`, "<cmdline>a=1 &amp; b</cmdline>",
		`<driver name="qemu" type="qcow2" cache="none" error_policy="stop" rerror_policy="stop"></driver>`,
		`<source file="/pools/p/a&lt;b"></source>`, `<target dev="vdb" bus="virtio"></target>`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	d, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "i-1" || len(d.Devices.Disks) != 2 || d.Devices.Disks[0].path() != "/pools/p/a<b" {
		t.Errorf("read back as %+v", d)
	}
	for _, bad := range []func(*hypervisor.Definition){
		func(d *hypervisor.Definition) { d.Disks = nil }, func(d *hypervisor.Definition) { d.ID = "" },
		func(d *hypervisor.Definition) { d.MemoryMiB = 0 },
		func(d *hypervisor.Definition) { d.Disks = []hypervisor.DiskSpec{{Format: "vmdk"}} },
	} {
		broken := def
		bad(&broken)
		if _, err := render(broken, "qemu", "", at); err == nil {
			t.Errorf("%+v was rendered", broken)
		}
	}
}

const running = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>i-1</name>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/p/a&amp;b' index='2'/>
      <backingStore type='file' index='3'>
        <format type='raw'/>
        <source file='/p/base'/>
        <backingStore/>
      </backingStore>
      <mirror type='file' job='copy' ready='yes'>
        <format type='raw'/>
        <source file='/q/new' index='4'/>
      </mirror>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><source file='/iso'/><target dev='hda'/></disk>
    <disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='vdb'/></disk>
  </devices>
</domain>`

// Base images are in use as well; CD-ROMs and block devices are no volumes.
func TestParseLive(t *testing.T) {
	d, err := parse(running)
	if err != nil {
		t.Fatal(err)
	}
	first := d.Devices.Disks[0]
	if diff := cmp.Diff([]string{"/p/a&b", "/p/base"}, first.files()); diff != "" {
		t.Error(diff)
	}
	if first.Mirror == nil || first.Mirror.path() != "/q/new" || first.Mirror.Ready != "yes" || first.Mirror.Job != "copy" {
		t.Errorf("mirror is %+v", first.Mirror)
	}
	for _, other := range d.Devices.Disks[1:] {
		if len(other.files()) != 0 {
			t.Errorf("%+v has files", other)
		}
	}
	if cd, block := d.Devices.Disks[1], d.Devices.Disks[2]; cd.writable() || !block.writable() || block.where() != "/dev/sdb" {
		t.Errorf("%+v is no CD-ROM, or %+v no disk on /dev/sdb", cd, block)
	}
}

func TestRelocate(t *testing.T) {
	got := relocate(running, map[string]string{"/p/a&b": "/x/it's", "/p": "/no"})
	if !strings.Contains(got, `<source file='/x/it&#39;s' index='2'/>`) || !strings.Contains(got, `<source file='/p/base'/>`) || !strings.Contains(got, "xmlns:qemu") {
		t.Errorf("relocated:\n%s", got)
	}
}

// A volume that moved changes the disk alone; a definition that does not have the disks
// on record is left alone.
func TestWithDisks(t *testing.T) {
	const stopped = `<domain type='kvm'><name>i-1</name><uuid>own</uuid><devices><disk type='file' device='disk'><source file='/p/a'/></disk>` +
		`<disk type='file' device='cdrom'><source file='/iso'/></disk><interface type='bridge'><mac address='52:54:00:00:00:01'/></interface></devices></domain>`
	moved := []hypervisor.DiskSpec{{Disk: hypervisor.Disk{Pool: "q", Path: "b"}}}
	got, err := withDisks(stopped, moved, at)
	if want := strings.Replace(stopped, "/p/a", "/pools/q/b", 1); err != nil || got != want {
		t.Errorf("%v:\n%s\nwant\n%s", err, got, want)
	}
	for _, bad := range []string{running, strings.Replace(stopped, "device='cdrom'", "device='disk'", 1), strings.Replace(stopped, "type='file' device='disk'><source file='/p/a'", "type='block' device='disk'><source dev='/dev/sdb'", 1)} {
		if got, err := withDisks(bad, moved, at); err == nil {
			t.Errorf("other disks were taken for its own:\n%s", got)
		}
	}
}
