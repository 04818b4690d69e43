// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"time"
)

// Hypervisor is what the agent needs to know of its own host.
type Hypervisor interface {
	// Name is the kind, such as "kvm"; it is sent in the Hello and never changes.
	Name() string
	// BootID names one boot of the host: the same for every call of one boot, new for
	// every boot (ha.md §1). It must not depend on the hypervisor answering.
	BootID(ctx context.Context) (string, error)
	// Healthy is nil when the hypervisor answers its control interface.
	Healthy(ctx context.Context) error
	// Instances lists what runs here now, each with its disks on pools.
	Instances(ctx context.Context) ([]Instance, error)
}

// Gatekeeper is the optional ability to keep instances from running here, needed by the
// rejoin gate (ha.md §7). A nil error says: none of them runs here, and none starts
// again by itself. It is idempotent; instances it does not know are none of its worry.
type Gatekeeper interface {
	Refuse(ctx context.Context, instances []string) error
}

// Metered is the optional ability to tell of each call of the hypervisor's control
// interface, when it has ended or was left behind (ErrUnsure). Meter is called once, before
// anything else; told may be called by several goroutines at once.
type Metered interface {
	Meter(told func(took time.Duration, err error))
}

// Instance is one running instance.
type Instance struct {
	ID    string
	Disks []Disk
}

// Disk is one disk of an instance, which is a volume: a file by its path relative to the
// pool.
type Disk struct {
	Pool string
	Path string
}
