// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen && cgo

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"libvirt.org/go/libvirt"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// Migrate implements hypervisor.Migrator.
func (h *Host) Migrate(ctx context.Context, m hypervisor.Migration) error {
	_, err := onDomain(ctx, h, 0, m.Instance, func(d *libvirt.Domain) (nothing, error) {
		params, flags, err := h.migration(d, m)
		if err != nil {
			return nothing{}, err
		}
		return nothing{}, d.MigrateToURI3(m.To, params, flags)
	})
	if err != nil {
		return fmt.Errorf("migrate instance %s: %w", m.Instance, err)
	}
	return nil
}

func (h *Host) migration(d *libvirt.Domain, m hypervisor.Migration) (*libvirt.DomainMigrateParameters, libvirt.DomainMigrateFlags, error) {
	flags := libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PEER2PEER | libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_UNDEFINE_SOURCE | libvirt.MIGRATE_ABORT_ON_ERROR
	active, err := d.IsActive()
	if err == nil && !active {
		err = fmt.Errorf("%w: it does not run here", hypervisor.ErrNotFound)
	}
	if err != nil {
		return nil, 0, err
	}
	if job, err := d.GetJobStats(0); err != nil {
		return nil, 0, err
	} else if job.Type != libvirt.DOMAIN_JOB_NONE {
		return nil, 0, fmt.Errorf("%w: it has a job", hypervisor.ErrBusy)
	}
	text, err := d.GetXMLDesc(libvirt.DOMAIN_XML_MIGRATABLE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, 0, err
	}
	def, err := parse(text)
	if err != nil {
		return nil, 0, err
	}
	files, devices, err := h.destination(def, m)
	if err != nil {
		return nil, 0, err
	}
	p := &libvirt.DomainMigrateParameters{}
	if there := relocate(text, files); there != text {
		p.DestXMLSet, p.DestXML, p.PersistXMLSet, p.PersistXML = true, there, true, there
	}
	if len(devices) > 0 {
		flags |= libvirt.MIGRATE_NON_SHARED_DISK
		p.MigrateDisksSet, p.MigrateDisks = true, devices
	}
	if m.BytesPerSecond > 0 {
		p.BandwidthSet, p.Bandwidth = true, uint64(max(1, m.BytesPerSecond>>20)) // MiB/s
	}
	return p, flags, nil
}

// destination says where each file lies at the target and which devices move.
func (h *Host) destination(def *domain, m hypervisor.Migration) (files map[string]string, devices []string, err error) {
	there := func(d hypervisor.Disk) (string, error) {
		if dir, ok := m.Pools[d.Pool]; ok && filepath.IsLocal(d.Path) {
			return filepath.Join(dir, d.Path), nil
		}
		return h.Path(d)
	}
	files = map[string]string{}
	moved := 0
	for _, k := range def.Devices.Disks {
		for _, f := range k.files() {
			d, ok := h.Disk(f)
			if !ok {
				continue
			}
			i := slices.IndexFunc(m.Moves, func(v hypervisor.DiskMove) bool { return v.From == d })
			if i >= 0 {
				d = m.Moves[i].To
				devices = append(devices, k.Target.Dev)
				moved++
			}
			if files[f], err = there(d); err != nil {
				return nil, nil, err
			}
		}
	}
	if moved < len(m.Moves) {
		return nil, nil, fmt.Errorf("%w: not every disk that is to move is one of its disks", hypervisor.ErrNotFound)
	}
	return files, devices, nil
}

// MigrationJob implements hypervisor.Migrator.
func (h *Host) MigrationJob(ctx context.Context, instance string) hypervisor.JobSight {
	return sight(onDomain(ctx, h, callLimit, instance, func(d *libvirt.Domain) (hypervisor.JobSight, error) {
		s := hypervisor.JobSight{Answer: hypervisor.Absent}
		active, err := d.IsActive()
		if err != nil || !active {
			return s, err
		}
		job, err := d.GetJobStats(0)
		if err != nil || job.Type == libvirt.DOMAIN_JOB_NONE || job.OperationSet && job.Operation != libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT {
			return s, err
		}
		return hypervisor.JobSight{
			Answer:   hypervisor.Present,
			Progress: hypervisor.Progress{Done: int64(job.DataProcessed), Total: int64(max(job.DataTotal, job.DataProcessed))},
			Rate:     int64(job.MemBps + job.DiskBps),
		}, nil
	}))
}

// sight turns the answer of a look for a job into what it says.
func sight(s hypervisor.JobSight, err error) hypervisor.JobSight {
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return hypervisor.JobSight{Answer: hypervisor.Absent}
	case err != nil:
		return hypervisor.JobSight{Reason: err.Error()}
	}
	return s
}

// AbortMigration implements hypervisor.Migrator.
func (h *Host) AbortMigration(ctx context.Context, instance string) error {
	switch s := h.MigrationJob(ctx, instance); s.Answer {
	case hypervisor.Absent:
		return nil
	case hypervisor.CouldNotLook:
		return fmt.Errorf("abort migration of %s: look for it: %s", instance, s.Reason)
	}
	_, err := onDomain(ctx, h, callLimit, instance, func(d *libvirt.Domain) (nothing, error) {
		err := d.AbortJob()
		if is(err, libvirt.ERR_OPERATION_INVALID) {
			err = nil // it has ended meanwhile
		}
		return nothing{}, err
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return fmt.Errorf("abort migration of %s: %w", instance, err)
	}
	return nil
}

// device is the disk of an active domain that uses the volume now.
func (h *Host) device(d *libvirt.Domain, v hypervisor.Disk) (disk, error) {
	active, err := d.IsActive()
	if err == nil && !active {
		err = fmt.Errorf("%w: it does not run here", hypervisor.ErrNotFound)
	}
	if err != nil {
		return disk{}, err
	}
	def, err := live(d)
	if err != nil {
		return disk{}, err
	}
	for _, k := range def.Devices.Disks {
		if have, ok := h.Disk(k.path()); ok && have == v && k.Target != nil {
			return k, nil
		}
	}
	return disk{}, fmt.Errorf("%w: it has no disk %s on pool %s", hypervisor.ErrNotFound, v.Path, v.Pool)
}

// StartBlockCopy implements hypervisor.BlockCopier. The file is made first, under a name
// that must be free, and libvirt told to use it.
func (h *Host) StartBlockCopy(ctx context.Context, c hypervisor.BlockCopy) error {
	size, err := onDomain(ctx, h, callLimit, c.Instance, func(d *libvirt.Domain) (int64, error) {
		k, err := h.device(d, c.From)
		if err != nil {
			return 0, err
		}
		if k.Mirror != nil {
			return 0, fmt.Errorf("%w: it has a job", hypervisor.ErrBusy)
		}
		info, err := d.GetBlockInfo(k.Target.Dev, 0)
		if err != nil {
			return 0, err
		}
		return int64(info.Capacity), nil
	})
	if err == nil {
		err = h.CreateVolume(ctx, hypervisor.CreateSpec{Disk: c.To, Format: c.Format, Size: size})
	}
	if err == nil {
		err = h.blockCopy(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("copy disk %s of %s: %w", c.From.Path, c.Instance, err)
	}
	return nil
}

func (h *Host) blockCopy(ctx context.Context, c hypervisor.BlockCopy) error {
	file, err := h.Path(c.To)
	if err != nil {
		return err
	}
	text, err := renderCopy(c.Format, file)
	if err != nil {
		return err
	}
	p := &libvirt.DomainBlockCopyParameters{BandwidthSet: c.BytesPerSecond > 0, Bandwidth: uint64(c.BytesPerSecond)}
	_, err = onDomain(ctx, h, callLimit, c.Instance, func(d *libvirt.Domain) (nothing, error) {
		k, err := h.device(d, c.From)
		if err != nil {
			return nothing{}, err
		}
		return nothing{}, d.BlockCopy(k.Target.Dev, text, p, libvirt.DOMAIN_BLOCK_COPY_TRANSIENT_JOB|libvirt.DOMAIN_BLOCK_COPY_REUSE_EXT)
	})
	return err
}

// BlockJob implements hypervisor.BlockCopier.
func (h *Host) BlockJob(ctx context.Context, instance string, v hypervisor.Disk) hypervisor.JobSight {
	return sight(onDomain(ctx, h, callLimit, instance, func(d *libvirt.Domain) (hypervisor.JobSight, error) {
		k, err := h.device(d, v)
		if err != nil {
			return hypervisor.JobSight{}, err
		}
		job, err := d.GetBlockJobInfo(k.Target.Dev, 0)
		if err != nil || job.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN && k.Mirror == nil {
			return hypervisor.JobSight{Answer: hypervisor.Absent}, err
		}
		s := hypervisor.JobSight{Answer: hypervisor.Present, Progress: hypervisor.Progress{Done: int64(job.Cur), Total: int64(job.End)}}
		if k.Mirror != nil {
			s.Ready = k.Mirror.Ready == "yes"
			s.To, _ = h.Disk(k.Mirror.path()) // outside of all pools: not a job of ours
		}
		return s, nil
	}))
}

// Pivot implements hypervisor.BlockCopier.
func (h *Host) Pivot(ctx context.Context, instance string, v hypervisor.Disk) error {
	_, err := onDomain(ctx, h, callLimit, instance, func(d *libvirt.Domain) (nothing, error) {
		k, err := h.device(d, v)
		switch {
		case err != nil:
			return nothing{}, err
		case k.Mirror == nil:
			return nothing{}, fmt.Errorf("%w: it has no job", hypervisor.ErrNotFound)
		case k.Mirror.Ready != "yes":
			return nothing{}, fmt.Errorf("%w: its job is not ready", hypervisor.ErrBusy)
		}
		return nothing{}, d.BlockJobAbort(k.Target.Dev, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT)
	})
	if err != nil {
		return fmt.Errorf("pivot disk %s of %s: %w", v.Path, instance, err)
	}
	return nil
}

// AbortBlockCopy implements hypervisor.BlockCopier.
func (h *Host) AbortBlockCopy(ctx context.Context, instance string, v hypervisor.Disk) error {
	_, err := onDomain(ctx, h, callLimit, instance, func(d *libvirt.Domain) (nothing, error) {
		k, err := h.device(d, v)
		if err != nil || k.Mirror == nil {
			return nothing{}, err
		}
		return nothing{}, d.BlockJobAbort(k.Target.Dev, 0)
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return fmt.Errorf("abort copy of disk %s of %s: %w", v.Path, instance, err)
	}
	return nil
}
