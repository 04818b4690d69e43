// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Fault is what is wrong with a host's mount of the shared pool.
type Fault string

// The faults of a mount. A hang ends with the next fault, or with the host's power: even
// a killed process waits for it.
const (
	NoFault  Fault = ""
	Hang     Fault = "hang"
	Broken   Fault = "eio"
	Stale    Fault = "estale"
	ReadOnly Fault = "erofs"
	Full     Fault = "enospc"
)

const faultPoll = 20 * time.Millisecond

// serveShare serves the exported directory at a mount point until it is unmounted. Its
// type, fuse.glusterfs, is one that libvirt knows to be shared between hosts.
func serveShare(export, at, faults string) error {
	root, err := fs.NewLoopbackRoot(export)
	if err != nil {
		return err
	}
	none := time.Duration(0) // two hosts' mounts agree
	g := &gate{RawFileSystem: fs.NewNodeFS(root, &fs.Options{EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none})}
	if err := g.read(faults); err != nil {
		return err
	}
	server, err := fuse.NewServer(g, at, &fuse.MountOptions{DirectMount: true, DirectMountStrict: true, AllowOther: true, FsName: "holdfast-lab", Name: "glusterfs"})
	if err != nil {
		return fmt.Errorf("serve share: %w", err)
	}
	go server.Serve()
	over := make(chan struct{})
	go func() { server.Wait(); close(over) }()
	for tick := time.NewTicker(faultPoll); ; {
		select {
		case <-tick.C:
			if err := g.read(faults); err != nil {
				return errors.Join(err, server.Unmount())
			}
		case <-over:
			return nil
		}
	}
}

// gate stands before every request.
type gate struct {
	fuse.RawFileSystem
	fault atomic.Value // Fault
}

// read takes over the fault in the file and tells in another what is in force.
func (g *gate) read(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read fault: %w", err)
	}
	fault := Fault(strings.TrimSpace(string(text)))
	if g.fault.Swap(fault) == fault {
		return nil
	}
	return write(file+".is", string(fault))
}

// pass says what becomes of a request: one that changes anything, one that takes space
// for content.
func (g *gate) pass(change, space bool) fuse.Status {
	for g.fault.Load() == Hang {
		<-time.After(faultPoll)
	}
	switch fault := g.fault.Load(); {
	case fault == Broken:
		return fuse.EIO
	case fault == Stale:
		return fuse.Status(syscall.ESTALE)
	case fault == ReadOnly && change:
		return fuse.EROFS
	case fault == Full && space:
		return fuse.Status(syscall.ENOSPC)
	}
	return fuse.OK
}

func (g *gate) Lookup(c <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Lookup(c, h, name, out)
}

func (g *gate) GetAttr(c <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.GetAttr(c, in, out)
}

func (g *gate) SetAttr(c <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.SetAttr(c, in, out)
}

// direct keeps the page cache out: what one host writes the other reads. The export
// itself is cached, so it needs no aligned buffers.
func direct(in *uint32, out *uint32) {
	*in &^= syscall.O_DIRECT
	*out |= fuse.FOPEN_DIRECT_IO
}

func (g *gate) Open(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s := g.pass(in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY, false); s != fuse.OK {
		return s
	}
	in.Flags &^= syscall.O_DIRECT
	s := g.RawFileSystem.Open(c, in, out)
	direct(&in.Flags, &out.OpenFlags)
	return s
}

func (g *gate) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	in.Flags &^= syscall.O_DIRECT
	s := g.RawFileSystem.Create(c, in, name, out)
	direct(&in.Flags, &out.OpenFlags)
	return s
}

func (g *gate) Read(c <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if s := g.pass(false, false); s != fuse.OK {
		return nil, s
	}
	return g.RawFileSystem.Read(c, in, buf)
}

func (g *gate) Write(c <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if s := g.pass(true, true); s != fuse.OK {
		return 0, s
	}
	return g.RawFileSystem.Write(c, in, data)
}

// Writev sends every write through Write.
func (g *gate) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (g *gate) Fallocate(c <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if s := g.pass(true, true); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Fallocate(c, in)
}

func (g *gate) Fsync(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Fsync(c, in)
}

func (g *gate) Unlink(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Unlink(c, h, name)
}

// Rename refuses flags, as NFS does.
func (g *gate) Rename(c <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Rename(c, in, from, to)
}

func (g *gate) Link(c <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Link(c, in, name, out)
}

func (g *gate) Mkdir(c <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if s := g.pass(true, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Mkdir(c, in, name, out)
}

func (g *gate) OpenDir(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.OpenDir(c, in, out)
}

func (g *gate) ReadDirPlus(c <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.ReadDirPlus(c, in, out)
}

func (g *gate) StatFs(c <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.StatFs(c, in, out)
}

func (g *gate) Statx(c <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	if s := g.pass(false, false); s != fuse.OK {
		return s
	}
	return g.RawFileSystem.Statx(c, in, out)
}
