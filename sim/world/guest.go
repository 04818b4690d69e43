// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	simhv "github.com/holdfast-ha/holdfast/sim/hypervisor"
)

const writeEvery = 300 * time.Millisecond

// Guest is what a guest child does: it runs the instances of one boot of a host, that
// is, it writes to their disks.
type Guest struct {
	Host      string                `json:"host"`
	PoolDir   string                `json:"poolDir"`
	Fault     Fault                 `json:"fault"`
	Instances []hypervisor.Instance `json:"instances"`
	Refused   simhv.Refused         `json:"refused"` // what the agent keeps from running
}

// Run writes until ctx ends, which is no error.
func (g Guest) Run(ctx context.Context) error {
	for n := 1; ; n++ {
		if err := g.write(ctx, n); err != nil && ctx.Err() == nil {
			return fmt.Errorf("run guest of %s: %w", g.Host, err)
		}
		if wait(ctx, writeEvery) != nil {
			return nil
		}
	}
}

func (g Guest) write(ctx context.Context, n int) error {
	if err := g.Fault.Pass(ctx); err != nil {
		return err
	}
	run, err := g.Refused.Filter(g.Instances)
	if err != nil {
		return err
	}
	for _, in := range run {
		for _, d := range in.Disks {
			if err := touch(filepath.Join(g.PoolDir, d.Path), fmt.Sprintf("%s %d\n", in.ID, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// touch writes in place, as an instance does to its disk.
func touch(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
			f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
