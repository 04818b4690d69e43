// SPDX-License-Identifier: Apache-2.0

package hypervisor

import "context"

// InstanceState is what an instance that is present does.
type InstanceState string

const (
	Running InstanceState = "running"
	// Paused has memory but does not run: stopped by hand, by an error of its disk (Detail
	// says which), or the far end of a migration that has not been told to go on.
	Paused InstanceState = "paused"
	// Stopped is defined and has no process.
	Stopped InstanceState = "stopped"
)

// Definition is what an instance is made from. It is the same on every host.
type Definition struct {
	ID        string // its name at the hypervisor too
	MemoryMiB int
	CPUs      int
	Disks     []DiskSpec // in the guest's order
	Kernel    *Kernel    // nil: it boots from its first disk
}

// DiskSpec is one disk of a Definition.
type DiskSpec struct {
	Disk   Disk
	Format Format
}

// Kernel is booted directly; the files lie on the host.
type Kernel struct {
	Image, Initrd, Args string
}

// InstanceSight is what a look at one instance of this host found.
type InstanceSight struct {
	Answer     Answer
	Reason     string // why it could not be looked at
	State      InstanceState
	Detail     string // the hypervisor's own reason of that state, such as "I/O error"
	Persistent bool   // it stays defined when it stops
	Disks      []Disk // that it writes to now, or would if it ran
	// Elsewhere names disks that lie in no pool of this host, as the hypervisor does: with
	// any, Disks is not all that it writes to.
	Elsewhere []string
}

// Instances is the optional ability to look after single instances of this host.
type Instances interface {
	// LookInstance looks. Only a hypervisor that answered can make an instance absent.
	LookInstance(ctx context.Context, id string) InstanceSight
	// Define makes the instance known, or replaces how it is known from its next start on.
	Define(ctx context.Context, d Definition) error
	// Start starts a defined instance; one that runs is no error. ErrNotFound if it is not
	// defined. It never starts by itself.
	Start(ctx context.Context, id string) error
	// Stop ends it: by force, or by asking the guest until ctx ends. One that does not run is
	// no error. Nil means that its process is gone.
	Stop(ctx context.Context, id string, force bool) error
	// Undefine forgets a stopped instance, not its volumes; one that is unknown is no error.
	Undefine(ctx context.Context, id string) error
}
