// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

const writeEvery = 300 * time.Millisecond

// Guest is what a guest child does: it is the hypervisor of one boot of a host, which
// runs the instances of that boot and whatever comes later.
type Guest struct {
	Host      string                `json:"host"`
	Socket    string                `json:"socket"` // of the hypervisor
	Dir       string                `json:"dir"`    // of its definitions
	Dirs      []dirs.Dir            `json:"dirs"`   // its pools
	Fault     Fault                 `json:"fault"`
	Instances []hypervisor.Instance `json:"instances"`
	Refused   simhv.Refused         `json:"refused"` // what the agent keeps from running
}

// Run works until ctx ends, which is no error.
func (g Guest) Run(ctx context.Context) error {
	for _, dir := range []string{g.Dir, g.Dirs[0].Path, g.Dirs[1].Path} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("run guest of %s: %w", g.Host, err)
		}
	}
	e, err := simhv.NewEngine(simhv.EngineConfig{
		Socket: g.Socket, Dir: g.Dir, Dirs: g.Dirs, Gate: g.Fault.gate(g.Dirs[0].ID), Refused: g.Refused, Boot: g.Instances, WriteEvery: writeEvery,
	})
	if err == nil {
		err = e.Run(ctx)
	}
	if err != nil {
		return fmt.Errorf("run guest of %s: %w", g.Host, err)
	}
	return nil
}

// gate is the fault of the host's shared pool as the hypervisor and the agent meet it.
func (f Fault) gate(pool string) func(context.Context, string, hypervisor.Disk) error {
	return func(ctx context.Context, _ string, d hypervisor.Disk) error {
		if d.Pool != pool {
			return nil
		}
		return f.Pass(ctx)
	}
}

// pools are the host's: the cluster's shared one first, then its own.
func (h *Host) pools() []dirs.Dir {
	return []dirs.Dir{
		{ID: h.Pool, Type: hypervisor.NFS, Path: h.cfg.poolDir(h.Pool)},
		{ID: h.LocalPool(), Type: hypervisor.Local, Path: filepath.Join(h.dir, "local")},
	}
}
