// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
)

// copyChunk is how much a copy moves between two looks at ctx and at the faults.
const copyChunk = 64 << 10

// RemoteConfig is what an agent's adapter is made of.
type RemoteConfig struct {
	Boot     string // names this boot
	Engine   string // the engine's socket
	Dirs     []dirs.Dir
	Gate     func(ctx context.Context, op string, d hypervisor.Disk) error // see dirs.Config
	Refused  Refused
	CopyRate int64 // bytes per second of any copy; 0: no bound
}

// Remote is the adapter of an agent whose host has an Engine.
type Remote struct {
	*dirs.Store
	cfg RemoteConfig
}

var (
	_ hypervisor.Hypervisor  = (*Remote)(nil)
	_ hypervisor.Gatekeeper  = (*Remote)(nil)
	_ hypervisor.Storage     = (*Remote)(nil)
	_ hypervisor.Copier      = (*Remote)(nil)
	_ hypervisor.Instances   = (*Remote)(nil)
	_ hypervisor.Migrator    = (*Remote)(nil)
	_ hypervisor.BlockCopier = (*Remote)(nil)
)

// NewRemote opens nothing.
func NewRemote(cfg RemoteConfig) (*Remote, error) {
	r := &Remote{cfg: cfg}
	var err error
	r.Store, err = dirs.New(dirs.Config{Dirs: cfg.Dirs, Gate: cfg.Gate, Users: func(ctx context.Context) (map[string][]hypervisor.User, error) {
		a, err := ask(ctx, cfg.Engine, request{Op: "users"})
		if err != nil {
			return nil, err
		}
		return a.Users, nil
	}})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Name implements hypervisor.Hypervisor.
func (r *Remote) Name() string { return Host{}.Name() }

// BootID implements hypervisor.Hypervisor.
func (r *Remote) BootID(context.Context) (string, error) { return r.cfg.Boot, nil }

// Healthy implements hypervisor.Hypervisor.
func (r *Remote) Healthy(ctx context.Context) error {
	_, err := ask(ctx, r.cfg.Engine, request{Op: "ping"})
	return err
}

// Instances implements hypervisor.Hypervisor.
func (r *Remote) Instances(ctx context.Context) ([]hypervisor.Instance, error) {
	a, err := ask(ctx, r.cfg.Engine, request{Op: "list"})
	if err != nil {
		return nil, err
	}
	return a.List, nil
}

// Refuse implements hypervisor.Gatekeeper.
func (r *Remote) Refuse(ctx context.Context, ids []string) error {
	if err := r.cfg.Refused.Add(ids); err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.Stop(ctx, id, true); err != nil {
			return err
		}
	}
	return nil
}

// CreateVolume implements hypervisor.Copier.
func (r *Remote) CreateVolume(ctx context.Context, s hypervisor.CreateSpec) error {
	if s.Format != hypervisor.Raw || s.Size <= 0 {
		return fmt.Errorf("create volume %s: format %q and size %d, allowed are raw and more than 0", s.Disk.Path, s.Format, s.Size)
	}
	path, err := r.Reserve(ctx, s.Disk)
	if err != nil {
		return err
	}
	if err := os.Truncate(path, s.Size); err != nil {
		return fmt.Errorf("create volume: %w", err)
	}
	return r.Sync(ctx, s.Disk)
}

// CopyVolume implements hypervisor.Copier.
func (r *Remote) CopyVolume(ctx context.Context, s hypervisor.CopySpec, progress func(hypervisor.Progress)) error {
	if s.Format != hypervisor.Raw {
		return fmt.Errorf("copy volume %s: format %q, allowed is raw", s.From.Path, s.Format)
	}
	from, err := r.Path(s.From)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	if err := r.gate(ctx, "read", s.From); err != nil {
		return fmt.Errorf("copy volume %s: %w", s.From.Path, err)
	}
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("copy volume %s: %w", s.From.Path, hypervisor.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	to, err := r.Reserve(ctx, s.To)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	err = r.pour(ctx, s, out, in, info.Size(), progress)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy volume %s: %w", s.From.Path, err)
	}
	return r.Sync(ctx, s.To)
}

func (r *Remote) gate(ctx context.Context, op string, d hypervisor.Disk) error {
	if r.cfg.Gate == nil {
		return nil
	}
	return r.cfg.Gate(ctx, op, d)
}

func (r *Remote) pour(ctx context.Context, s hypervisor.CopySpec, out io.Writer, in io.Reader, size int64, progress func(hypervisor.Progress)) error {
	pace := newPace(s.BytesPerSecond, r.cfg.CopyRate)
	buf := make([]byte, copyChunk)
	for done := int64(0); ; {
		if err := errors.Join(r.gate(ctx, "read", s.From), r.gate(ctx, "write", s.To)); err != nil {
			return err
		}
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			done += int64(n)
			if progress != nil {
				progress(hypervisor.Progress{Done: done, Total: size})
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := pace.wait(ctx, int64(n)); err != nil {
			return err
		}
	}
}

// LookInstance implements hypervisor.Instances.
func (r *Remote) LookInstance(ctx context.Context, id string) hypervisor.InstanceSight {
	a, err := ask(ctx, r.cfg.Engine, request{Op: "look", ID: id})
	if err != nil {
		return hypervisor.InstanceSight{Reason: err.Error()}
	}
	return a.Instance
}

// Define implements hypervisor.Instances.
func (r *Remote) Define(ctx context.Context, d hypervisor.Definition) error {
	return r.do(ctx, request{Op: "define", Def: d})
}

// Start implements hypervisor.Instances.
func (r *Remote) Start(ctx context.Context, id string) error {
	return r.do(ctx, request{Op: "start", ID: id})
}

// Stop implements hypervisor.Instances.
func (r *Remote) Stop(ctx context.Context, id string, force bool) error {
	return r.do(ctx, request{Op: "stop", ID: id, Force: force})
}

// Undefine implements hypervisor.Instances.
func (r *Remote) Undefine(ctx context.Context, id string) error {
	return r.do(ctx, request{Op: "undefine", ID: id})
}

// Migrate implements hypervisor.Migrator; To is the socket of the target's engine.
func (r *Remote) Migrate(ctx context.Context, m hypervisor.Migration) error {
	return r.do(ctx, request{Op: "migrate", Migration: m})
}

// MigrationJob implements hypervisor.Migrator.
func (r *Remote) MigrationJob(ctx context.Context, instance string) hypervisor.JobSight {
	return r.job(ctx, request{Op: "migration-job", ID: instance})
}

// AbortMigration implements hypervisor.Migrator.
func (r *Remote) AbortMigration(ctx context.Context, instance string) error {
	return r.do(ctx, request{Op: "abort-migration", ID: instance})
}

// StartBlockCopy implements hypervisor.BlockCopier.
func (r *Remote) StartBlockCopy(ctx context.Context, c hypervisor.BlockCopy) error {
	return r.do(ctx, request{Op: "block-copy", Copy: c})
}

// BlockJob implements hypervisor.BlockCopier.
func (r *Remote) BlockJob(ctx context.Context, instance string, d hypervisor.Disk) hypervisor.JobSight {
	return r.job(ctx, request{Op: "block-job", ID: instance, Disk: d})
}

// Pivot implements hypervisor.BlockCopier.
func (r *Remote) Pivot(ctx context.Context, instance string, d hypervisor.Disk) error {
	return r.do(ctx, request{Op: "pivot", ID: instance, Disk: d})
}

// AbortBlockCopy implements hypervisor.BlockCopier.
func (r *Remote) AbortBlockCopy(ctx context.Context, instance string, d hypervisor.Disk) error {
	return r.do(ctx, request{Op: "abort-block-copy", ID: instance, Disk: d})
}

func (r *Remote) do(ctx context.Context, q request) error {
	_, err := ask(ctx, r.cfg.Engine, q)
	return err
}

func (r *Remote) job(ctx context.Context, q request) hypervisor.JobSight {
	a, err := ask(ctx, r.cfg.Engine, q)
	if err != nil {
		return hypervisor.JobSight{Reason: err.Error()}
	}
	return a.Job
}

// pace keeps work at a rate.
type pace struct {
	rate  int64
	start time.Time
	done  int64
}

// newPace keeps to the lowest rate that is not 0.
func newPace(rates ...int64) *pace {
	p := &pace{start: time.Now()}
	for _, r := range rates {
		if r > 0 && (p.rate == 0 || r < p.rate) {
			p.rate = r
		}
	}
	return p
}

// wait returns when n more bytes may have been done, or with the cause of ctx's end.
func (p *pace) wait(ctx context.Context, n int64) error {
	p.done += n
	if p.rate == 0 {
		return context.Cause(ctx)
	}
	due := time.Duration(float64(p.done) / float64(p.rate) * float64(time.Second))
	timer := time.NewTimer(time.Until(p.start.Add(due)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
