// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"regexp"
	"time"
)

// Pool is one shared storage pool as this host sees it. Implementations are safe for
// concurrent use.
type Pool interface {
	// ID is the pool's name, the same on every host that mounts it.
	ID() string
	// WriteStamp puts the stamp of host, durable when it returns nil. Two stamps of a
	// host differ whenever their counters do.
	WriteStamp(ctx context.Context, host string, counter uint64) error
	// ReadStamp returns the content of the stamp of host as the storage has it now. It
	// wraps fs.ErrNotExist only when the pool answered and has no such stamp.
	ReadStamp(ctx context.Context, host string) ([]byte, error)
	// StatDisk samples the disk at path, relative to the pool.
	StatDisk(ctx context.Context, path string) (DiskSample, error)
}

// DiskSample is what a write to a disk may move. Sizes are in bytes; MTime is the
// storage's clock and is compared with nothing but another sample of the same disk.
type DiskSample struct {
	Size      int64
	Allocated int64
	MTime     time.Time
}

// Equal says whether nothing moved between two samples.
func (s DiskSample) Equal(o DiskSample) bool {
	return s.Size == o.Size && s.Allocated == o.Allocated && s.MTime.Equal(o.MTime)
}

// Prober asks an address of a host's kernel for a sign of life.
type Prober interface {
	// Probe sends one probe and waits for its answer until ctx ends. No answer is
	// (false, nil); an error says that the probe could not be sent or not be trusted,
	// which is no evidence of anything.
	Probe(ctx context.Context, address string) (answered bool, err error)
}

// hostName is what may name a stamp: a file name on any storage, and nothing else.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// CheckHost returns an error unless host can name a stamp.
func CheckHost(host string) error {
	if !hostName.MatchString(host) {
		return fmt.Errorf("host %.130q: want 1 to 128 letters, digits, '.', '-' or '_', beginning with a letter or a digit", host)
	}
	return nil
}
