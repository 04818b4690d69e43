// SPDX-License-Identifier: Apache-2.0

package libvirt

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"html"
	"regexp"
	"slices"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// domain is what we write and read of a domain's XML.
type domain struct {
	XMLName xml.Name  `xml:"domain"`
	Type    string    `xml:"type,attr"`
	Name    string    `xml:"name"`
	UUID    string    `xml:"uuid"`
	Memory  memory    `xml:"memory"`
	CPUs    int       `xml:"vcpu"`
	OS      system    `xml:"os"`
	ACPI    *struct{} `xml:"features>acpi"`
	OnCrash string    `xml:"on_crash,omitempty"`
	Devices devices   `xml:"devices"`
}

type memory struct {
	Unit  string `xml:"unit,attr"`
	Value int    `xml:",chardata"`
}

type system struct {
	Type    osType `xml:"type"`
	Kernel  string `xml:"kernel,omitempty"`
	Initrd  string `xml:"initrd,omitempty"`
	Cmdline string `xml:"cmdline,omitempty"`
}

type osType struct {
	Arch    string `xml:"arch,attr,omitempty"`
	Machine string `xml:"machine,attr,omitempty"`
	Value   string `xml:",chardata"`
}

type devices struct {
	Emulator string   `xml:"emulator,omitempty"`
	Disks    []disk   `xml:"disk"`
	Serial   []serial `xml:"serial"`
	Balloon  *balloon `xml:"memballoon,omitempty"`
}

type serial struct {
	Type string `xml:"type,attr"`
}

type balloon struct {
	Model string `xml:"model,attr"`
}

type disk struct {
	Type    string   `xml:"type,attr"`
	Device  string   `xml:"device,attr,omitempty"`
	Driver  *driver  `xml:"driver,omitempty"`
	Source  *source  `xml:"source,omitempty"`
	Backing *backing `xml:"backingStore,omitempty"`
	Mirror  *mirror  `xml:"mirror,omitempty"`
	Target  *target  `xml:"target,omitempty"`
}

type driver struct {
	Name   string `xml:"name,attr,omitempty"`
	Type   string `xml:"type,attr"`
	Cache  string `xml:"cache,attr,omitempty"`
	Error  string `xml:"error_policy,attr,omitempty"`
	RError string `xml:"rerror_policy,attr,omitempty"`
}

type source struct {
	File string `xml:"file,attr,omitempty"`
	Dev  string `xml:"dev,attr,omitempty"`  // of a block device
	Name string `xml:"name,attr,omitempty"` // of a network disk
}

type target struct {
	Dev string `xml:"dev,attr"`
	Bus string `xml:"bus,attr,omitempty"`
}

type backing struct {
	Source  *source  `xml:"source"`
	Backing *backing `xml:"backingStore"`
}

type mirror struct {
	Job    string  `xml:"job,attr"`
	Ready  string  `xml:"ready,attr"`
	File   string  `xml:"file,attr"`
	Source *source `xml:"source"`
}

func (m *mirror) path() string {
	if m.Source != nil {
		return m.Source.File
	}
	return m.File
}

// path is the file of a disk; empty: it is none.
func (d disk) path() string {
	if !d.writable() {
		return ""
	}
	return d.Source.File
}

// writable leaves out CD-ROMs and empty drives.
func (d disk) writable() bool {
	return d.Source != nil && (d.Device == "" || d.Device == "disk" || d.Device == "lun")
}

// where names what the disk lies on, whatever it is.
func (d disk) where() string { return cmp.Or(d.Source.File, d.Source.Dev, d.Source.Name, d.Type) }

// files are all that the disk uses: itself and what it is based on.
func (d disk) files() []string {
	if d.path() == "" {
		return nil
	}
	all := []string{d.path()}
	for b := d.Backing; b != nil; b = b.Backing {
		if b.Source != nil && b.Source.File != "" {
			all = append(all, b.Source.File)
		}
	}
	return all
}

// identity is the instance's UUID: the same on every host, so that libvirt knows it again.
func identity(id string) string {
	return uuid.NewSHA1(uuid.NameSpaceDNS, []byte(id+".instance.holdfast")).String()
}

// render writes a definition; accel is libvirt's domain type, path tells where a disk
// lies here.
func render(d hypervisor.Definition, accel, emulator string, path func(hypervisor.Disk) (string, error)) (string, error) {
	if d.ID == "" || d.MemoryMiB <= 0 || d.CPUs <= 0 || len(d.Disks) == 0 || len(d.Disks) > 26 {
		return "", fmt.Errorf("definition of %q with %d MiB, %d CPUs, %d disks: want a name, more than 0 of each, and 26 disks at most", d.ID, d.MemoryMiB, d.CPUs, len(d.Disks))
	}
	out := domain{
		Type: accel, Name: d.ID, UUID: identity(d.ID), Memory: memory{"MiB", d.MemoryMiB}, CPUs: d.CPUs,
		OS: system{Type: osType{"x86_64", "pc", "hvm"}}, ACPI: &struct{}{}, OnCrash: "destroy",
		Devices: devices{Emulator: emulator, Serial: []serial{{"pty"}}, Balloon: &balloon{"none"}},
	}
	if k := d.Kernel; k != nil {
		out.OS.Kernel, out.OS.Initrd, out.OS.Cmdline = k.Image, k.Initrd, k.Args
	}
	for i, spec := range d.Disks {
		file, err := path(spec.Disk)
		if err != nil {
			return "", err
		}
		if spec.Format != hypervisor.Raw && spec.Format != hypervisor.QCOW2 {
			return "", formatError(spec.Format)
		}
		out.Devices.Disks = append(out.Devices.Disks, disk{
			Type: "file", Device: "disk",
			Driver: &driver{"qemu", string(spec.Format), "none", "stop", "stop"},
			Source: &source{File: file}, Target: &target{"vd" + string(rune('a'+i)), "virtio"},
		})
	}
	text, err := xml.MarshalIndent(out, "", "  ")
	return string(text), err
}

func formatError(f hypervisor.Format) error {
	return fmt.Errorf("format %q, allowed are %s and %s", f, hypervisor.Raw, hypervisor.QCOW2)
}

// renderCopy is the target of a block copy.
func renderCopy(f hypervisor.Format, file string) (string, error) {
	type onlyDisk struct {
		XMLName xml.Name `xml:"disk"`
		disk
	}
	text, err := xml.Marshal(onlyDisk{disk: disk{Type: "file", Driver: &driver{Name: "qemu", Type: string(f), Cache: "none"}, Source: &source{File: file}}})
	return string(text), err
}

func parse(text string) (*domain, error) {
	d := &domain{}
	if err := xml.Unmarshal([]byte(text), d); err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	return d, nil
}

// sourceFile is a disk's source as libvirt writes it.
var sourceFile = regexp.MustCompile(`(<source file=')([^']*)(')`)

// relocate replaces files in libvirt's own XML and leaves all else, what we do not
// understand included, as it is.
func relocate(text string, files map[string]string) string {
	return sourceFile.ReplaceAllStringFunc(text, func(m string) string {
		part := sourceFile.FindStringSubmatch(m)
		to, ok := files[html.UnescapeString(part[2])]
		if !ok {
			return m
		}
		return part[1] + html.EscapeString(to) + part[3]
	})
}

// withDisks is libvirt's own definition with its disks, in their order, where disks says.
// A definition with other disks than those is an error: which is which is not known.
func withDisks(text string, disks []hypervisor.DiskSpec, path func(hypervisor.Disk) (string, error)) (string, error) {
	def, err := parse(text)
	if err != nil {
		return "", err
	}
	var have []string
	for _, k := range def.Devices.Disks {
		if k.writable() {
			have = append(have, k.path())
		}
	}
	if len(have) != len(disks) || slices.Contains(have, "") {
		return "", fmt.Errorf("it is defined with the disks %q, which are to be %d files", have, len(disks))
	}
	files := map[string]string{}
	for i, spec := range disks {
		if files[have[i]], err = path(spec.Disk); err != nil {
			return "", err
		}
	}
	return relocate(text, files), nil
}
