// SPDX-License-Identifier: Apache-2.0

package hypervisor

import "context"

// JobSight is what a look for a job found. A job works in the hypervisor: it outlives
// the call that started it, and the agent.
type JobSight struct {
	Answer   Answer
	Reason   string // why it could not be looked at
	Progress Progress
	Rate     int64 // bytes per second now; 0 if unknown
	// Ready says of a block copy that both sides are alike and every write goes to both:
	// it can be pivoted.
	Ready bool
	To    Disk // where a block copy writes to, so that a job is told from another's
}

// Migration is a move of a running instance to another host.
type Migration struct {
	Instance string
	// To is the target's control address as this host reaches it, such as
	// qemu+tls://h-9/system.
	To string
	// Moves are the disks whose content goes along, into volumes that exist at the target and
	// are at least as large. All other disks lie on pools both hosts have.
	Moves []DiskMove
	// Pools tells where the target has pools at another path than this host.
	Pools map[string]string
	// BytesPerSecond bounds the rate; 0: no bound.
	BytesPerSecond int64
}

// DiskMove is one disk that gets another volume.
type DiskMove struct {
	From, To Disk
	Format   Format
}

// Migrator is the optional ability to move running instances. The source's hypervisor
// talks to the target's (peer to peer); neither needs the agent for it.
type Migrator interface {
	// Migrate moves the instance and returns when that has ended: nil when it runs at the
	// target, persistent, and is neither running nor defined here. ErrBusy if it already
	// has a job; ErrNotFound if it does not run here. When ctx ends, or the hypervisor's
	// answer is lost, the call returns ErrUnsure and the job goes on. After any error but the
	// first two look at the job, then at the instance on both hosts: the last step of a
	// migration can fail on one side only.
	// Volumes at the source stay. A target that falls silent can hold the call, and an abort,
	// for many minutes; the instance runs on here meanwhile.
	Migrate(ctx context.Context, m Migration) error
	// MigrationJob looks for a migration that leaves this host.
	MigrationJob(ctx context.Context, instance string) JobSight
	// AbortMigration asks the job to end, the instance staying here; no job is no error. It
	// may come too late: look.
	AbortMigration(ctx context.Context, instance string) error
}

// BlockCopy is a copy of a disk of a running instance into another pool.
type BlockCopy struct {
	Instance string
	From     Disk // one of its disks
	To       Disk // made by the call: ErrExists if it is there; a failed call may leave it
	Format   Format
	// BytesPerSecond bounds the rate; 0: no bound.
	BytesPerSecond int64
}

// BlockCopier is the optional ability to move disks of running instances.
type BlockCopier interface {
	// StartBlockCopy starts the job and returns. ErrBusy if that disk has one; ErrNotFound if
	// the instance does not run here or has no such disk.
	StartBlockCopy(ctx context.Context, c BlockCopy) error
	// BlockJob looks for the job of the instance's disk, which is named as it is used now.
	BlockJob(ctx context.Context, instance string, d Disk) JobSight
	// Pivot turns the instance over to the copy, now and for its next start: ErrBusy while the
	// job is not ready, ErrNotFound without a job. After nil it writes to the copy only.
	Pivot(ctx context.Context, instance string, d Disk) error
	// AbortBlockCopy ends the job, the instance staying on d; no job is no error. The file of
	// the copy stays.
	AbortBlockCopy(ctx context.Context, instance string, d Disk) error
}
