// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/pdu"
)

// ChildEnv is the environment variable in which a child finds its Agent or Guest as
// JSON. The child is started as `EXEC child agent|guest HOST`.
const ChildEnv = "HOLDFAST_CHILD"

// Config describes a world. All fields are required.
type Config struct {
	Dir       string // its pools, and what its hosts keep
	Places    []Place
	Workers   []string // where agents find workers; cables lead nowhere else
	Exec      string   // binary that is started as child
	Spawner   *Spawner
	Users     []string // accounts of every BMC, one a worker: the truth log then says who sent what
	Password  string   // of all of them
	BootDelay time.Duration
	Faces     bool         // the Redfish services and PDUs of the places, too
	Warn      func(string) // told of children that end by themselves
}

func (c Config) poolDir(pool string) string { return filepath.Join(c.Dir, "pools", pool) }

func (c Config) allowed(addr string) bool { return slices.Contains(c.Workers, addr) }

// World is all simulated hosts.
type World struct {
	hosts []*Host
	pdus  []*pdu.PDU
}

// New makes directories and opens sockets, and starts nothing. Run closes them.
func New(cfg Config) (*World, error) {
	w := &World{}
	for _, p := range cfg.Places {
		if err := os.MkdirAll(cfg.poolDir(p.Pool), 0o700); err != nil {
			return nil, fmt.Errorf("make pool %s: %w", p.Pool, err)
		}
		h, err := newHost(p, cfg)
		if err != nil {
			return nil, err
		}
		w.hosts = append(w.hosts, h)
	}
	if cfg.Faces {
		var err error
		if w.pdus, err = newPDUs(w.hosts, cfg.Password); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Run switches all hosts on and lets them live until ctx ends. The spawner must run as
// long.
func (w *World) Run(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, h := range w.hosts {
		all.Go(func() error { return h.bmc.Run(ctx) })
		if h.redfish != nil {
			all.Go(func() error { return h.redfish.Run(ctx) })
		}
		all.Go(func() error { return h.cable.Run(ctx) })
		all.Go(func() error { return h.run(ctx) })
	}
	for _, p := range w.pdus {
		all.Go(func() error { return p.Run(ctx) })
	}
	return all.Wait()
}

// Host finds a host by name.
func (w *World) Host(name string) (*Host, error) {
	for _, h := range w.hosts {
		if h.Host == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("host: %q, allowed are %s to %s: %w", name, w.hosts[0].Host, w.hosts[len(w.hosts)-1].Host, ErrNotThere)
}

// Break breaks one host, or with cluster all hosts of its cluster, which only storage
// can be: a pool belongs to all of them.
func (w *World) Break(name string, how How, cluster bool) error {
	h, err := w.Host(name)
	if err != nil {
		return err
	}
	if !cluster {
		return h.Break(how)
	}
	if how != StorageLost {
		return fmt.Errorf("cluster: %q: %w, allowed is %s", how, ErrBadOrder, StorageLost)
	}
	return w.each(h, func(o *Host) error { return o.Break(how) })
}

// Repair repairs a host, and the pool for the other hosts of its cluster if it hangs
// for all of them.
func (w *World) Repair(name string) error {
	h, err := w.Host(name)
	if err != nil {
		return err
	}
	all := true
	_ = w.each(h, func(o *Host) error { all = all && o.fault.Hangs(); return nil })
	err = h.Repair()
	if all {
		err = errors.Join(err, w.each(h, func(o *Host) error { return o.fault.Set(false) }))
	}
	return err
}

func (w *World) each(of *Host, do func(*Host) error) error {
	var errs []error
	for _, o := range w.hosts {
		if o.Cluster == of.Cluster {
			errs = append(errs, do(o))
		}
	}
	return errors.Join(errs...)
}

// Status is the truth about every host.
func (w *World) Status() []Status {
	out := make([]Status, len(w.hosts))
	for i, h := range w.hosts {
		out[i] = h.Status()
	}
	return out
}

// Truth is what all BMCs, Redfish services and PDUs were ever told, in the order of time.
func (w *World) Truth() []bmc.Entry {
	out := []bmc.Entry{}
	for _, h := range w.hosts {
		out = append(out, h.bmc.Truth()...)
		if h.redfish != nil {
			out = append(out, h.redfish.Truth()...)
		}
	}
	for _, p := range w.pdus {
		out = append(out, p.Truth()...)
	}
	slices.SortStableFunc(out, func(a, b bmc.Entry) int { return a.At.Compare(b.At) })
	return out
}
