// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
)

// Errors that callers branch on. A full or a read-only pool is syscall.ENOSPC or
// syscall.EROFS in the chain.
var (
	// ErrNotFound says that the named thing was looked for and is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists says that the name is taken; nothing was changed.
	ErrExists = errors.New("exists")
	// ErrBusy says that the thing is in use or has a job; nothing was changed.
	ErrBusy = errors.New("in use")
	// ErrUnsure says that the call ended before its outcome was known: the work may have
	// been done, may be going on, or may never have begun. Look before you act.
	ErrUnsure = errors.New("outcome unknown")
)

// Answer is what looking for something found. The zero value is the one from which
// nothing follows.
type Answer int

const (
	CouldNotLook Answer = iota // with a reason; never read as absent
	Absent
	Present
)

// String is the answer in words.
func (a Answer) String() string {
	switch a {
	case Absent:
		return "absent"
	case Present:
		return "present"
	}
	return "could-not-look"
}

// PoolType is how a pool is kept.
type PoolType string

const (
	Local PoolType = "local" // a directory of this host
	NFS   PoolType = "nfs"   // a mounted directory that other hosts have too
)

// Pool is one pool of this host.
type Pool struct {
	ID       string
	Type     PoolType
	Path     string // absolute, on this host
	Capacity int64  // bytes; 0 with a Problem
	Free     int64  // bytes
	Problem  string // why it cannot be used now; empty: it can
}

// Format is how a volume's bytes are laid out. It is always told, never guessed from
// content, which belongs to the guest.
type Format string

const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// UserKind is what uses a volume.
type UserKind string

const (
	ByInstance UserKind = "instance" // a running instance has it as a disk
	ByBlockJob UserKind = "blockjob" // a block copy of the instance writes to it
	ByProcess  UserKind = "process"  // another process of this host has it open or is told to write to it
)

// User is one user of a volume on this host.
type User struct {
	Kind UserKind
	ID   string // instance, or process id
}

// VolumeSight is what a look at one volume found. Users elsewhere are seen by the agents
// there.
type VolumeSight struct {
	Answer     Answer
	Reason     string // why it could not be looked at
	Size       int64  // bytes from begin to end of the file
	Allocation int64  // bytes it takes on the pool
	UsedBy     []User // of this host
	// UsersUnknown is why UsedBy may lack somebody; empty: it is complete for this host.
	UsersUnknown string
}

// Storage is the optional ability to look at volumes and to remove them.
//
// Disks name volumes; directories of a pool are no volumes.
type Storage interface {
	// Pools lists this host's pools, in the order of configuration.
	Pools(ctx context.Context) ([]Pool, error)
	// Volumes lists every file of the pool, temporaries and strays too, by path relative to
	// it, sorted. Any error means: could not look.
	Volumes(ctx context.Context, pool string) ([]Disk, error)
	// LookVolume looks. Only a pool that answered can make a volume absent.
	LookVolume(ctx context.Context, d Disk) VolumeSight
	// DeleteVolume removes it, durably. One that is absent is no error; one with a user here,
	// or whose users cannot be known, is ErrBusy.
	DeleteVolume(ctx context.Context, d Disk) error
}

// CreateSpec is a volume to make.
type CreateSpec struct {
	Disk   Disk
	Format Format
	Size   int64 // bytes the guest sees; more than 0
}

// CopySpec is a copy to make. Volumes keep their format.
type CopySpec struct {
	From, To Disk
	Format   Format
	// BytesPerSecond bounds the rate; 0: no bound.
	BytesPerSecond int64
}

// Progress is how far some work is.
type Progress struct {
	Done, Total int64 // bytes; Total may grow while a guest writes, and is 0 while unknown
}

// Copier is the optional ability to make and name volumes. The caller chooses every
// name before it calls, so that a record can tell what a call that was cut off may have
// left behind.
type Copier interface {
	// CreateVolume makes an empty volume, durably: ErrExists if the name is taken. A failed
	// call may leave it.
	CreateVolume(ctx context.Context, s CreateSpec) error
	// CopyVolume copies a volume that nobody writes to into a new file, To (ErrExists if it is
	// there), and returns nil when all of it is durable. It tells progress in calls that do
	// not overlap; progress may be nil. When ctx ends, or this process, the copy ends; what
	// it has written stays, and a look at To shows its writer until that is gone.
	CopyVolume(ctx context.Context, s CopySpec, progress func(Progress)) error
	// RenameVolume gives it another path in its pool, durably: ErrExists if the path is taken
	// by another volume, ErrNotFound if there is nothing at from, ErrBusy if it has a user
	// here. The path never holds anything but the whole volume. On NFS a call that is cut off
	// may leave the volume under both names; repeated, it goes on.
	RenameVolume(ctx context.Context, from Disk, path string) error
}
