// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen && cgo

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
)

// stopPoll is how often a guest that was asked to stop is looked at.
const stopPoll = 200 * time.Millisecond

type nothing = struct{}

// running are the definitions of what has a process now.
func (h *Host) running(ctx context.Context) ([]*domain, error) {
	all, err := call(ctx, h, callLimit, func(c *libvirt.Connect) ([]*domain, error) {
		list, err := c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
		if err != nil {
			return nil, plain(err)
		}
		var out []*domain
		for i := range list {
			def, err := live(&list[i])
			err = errors.Join(err, list[i].Free())
			if is(err, libvirt.ERR_NO_DOMAIN) {
				continue // it ended meanwhile
			}
			if err != nil {
				return nil, plain(err)
			}
			out = append(out, def)
		}
		return out, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return all, nil
}

func live(d *libvirt.Domain) (*domain, error) {
	text, err := d.GetXMLDesc(0)
	if err != nil {
		return nil, err
	}
	return parse(text)
}

// Instances implements hypervisor.Hypervisor.
func (h *Host) Instances(ctx context.Context) ([]hypervisor.Instance, error) {
	all, err := h.running(ctx)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Instance
	for _, d := range all {
		disks, _ := h.disks(d) // only those on pools can be watched
		out = append(out, hypervisor.Instance{ID: d.Name, Disks: disks})
	}
	return out, nil
}

// disks are those on pools, and the names of the others.
func (h *Host) disks(d *domain) (onPools []hypervisor.Disk, elsewhere []string) {
	for _, k := range d.Devices.Disks {
		if !k.writable() {
			continue
		}
		if v, ok := h.Disk(k.path()); ok {
			onPools = append(onPools, v)
		} else {
			elsewhere = append(elsewhere, k.where())
		}
	}
	return onPools, elsewhere
}

// users is for dirs.Config.
func (h *Host) users(ctx context.Context) (map[string][]hypervisor.User, error) {
	all, err := h.running(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]hypervisor.User{}
	for _, d := range all {
		for _, k := range d.Devices.Disks {
			for _, f := range k.files() {
				out[f] = append(out[f], hypervisor.User{Kind: hypervisor.ByInstance, ID: d.Name})
			}
			if k.Mirror != nil {
				out[k.Mirror.path()] = append(out[k.Mirror.path()], hypervisor.User{Kind: hypervisor.ByBlockJob, ID: d.Name})
			}
		}
	}
	return out, nil
}

// Refuse implements hypervisor.Gatekeeper.
func (h *Host) Refuse(ctx context.Context, ids []string) error {
	for _, id := range ids {
		_, err := onDomain(ctx, h, callLimit, id, func(d *libvirt.Domain) (nothing, error) {
			persistent, err := d.IsPersistent()
			if err == nil && persistent {
				err = d.SetAutostart(false)
			}
			return nothing{}, err
		})
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue
		}
		if err == nil {
			err = h.Stop(ctx, id, true)
		}
		if err != nil {
			return fmt.Errorf("refuse instance %s: %w", id, err)
		}
	}
	return nil
}

// LookInstance implements hypervisor.Instances.
func (h *Host) LookInstance(ctx context.Context, id string) hypervisor.InstanceSight {
	s, err := onDomain(ctx, h, callLimit, id, func(d *libvirt.Domain) (hypervisor.InstanceSight, error) {
		s := hypervisor.InstanceSight{Answer: hypervisor.Present}
		state, reason, err := d.GetState()
		if err != nil {
			return s, err
		}
		if s.State, s.Detail, err = meaningOf(state, reason); err != nil {
			return s, err
		}
		def, err := live(d)
		if err != nil {
			return s, err
		}
		s.Disks, s.Elsewhere = h.disks(def)
		s.Persistent, err = d.IsPersistent()
		return s, err
	})
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return hypervisor.InstanceSight{Answer: hypervisor.Absent}
	case err != nil:
		return hypervisor.InstanceSight{Reason: err.Error()}
	}
	return s
}

var paused = map[libvirt.DomainPausedReason]string{
	libvirt.DOMAIN_PAUSED_USER: "by hand", libvirt.DOMAIN_PAUSED_MIGRATION: "migrating", libvirt.DOMAIN_PAUSED_IOERROR: "I/O error",
	libvirt.DOMAIN_PAUSED_WATCHDOG: "watchdog", libvirt.DOMAIN_PAUSED_CRASHED: "guest crashed", libvirt.DOMAIN_PAUSED_POSTCOPY: "post-copy",
	libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED: "post-copy failed", libvirt.DOMAIN_PAUSED_STARTING_UP: "starting",
}

func meaningOf(state libvirt.DomainState, reason int) (hypervisor.InstanceState, string, error) {
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED, libvirt.DOMAIN_SHUTDOWN:
		return hypervisor.Running, "", nil
	case libvirt.DOMAIN_PAUSED:
		text, known := paused[libvirt.DomainPausedReason(reason)]
		if !known {
			text = fmt.Sprintf("libvirt's reason %d", reason)
		}
		return hypervisor.Paused, text, nil
	case libvirt.DOMAIN_PMSUSPENDED, libvirt.DOMAIN_CRASHED:
		return hypervisor.Paused, fmt.Sprintf("libvirt's state %d", state), nil
	case libvirt.DOMAIN_SHUTOFF:
		return hypervisor.Stopped, "", nil
	}
	return "", "", fmt.Errorf("libvirt's state %d, which says nothing", state)
}

// Define implements hypervisor.Instances. Of one that libvirt knows already only the disks
// change, in their order: all else that its definition has (identity, network, processor
// model) no record tells, and it must not be lost with a move of a volume.
func (h *Host) Define(ctx context.Context, def hypervisor.Definition) error {
	text, err := render(def, h.cfg.Accel, h.cfg.Emulator, h.Path)
	if err != nil {
		return fmt.Errorf("define instance: %w", err)
	}
	switch s := h.LookInstance(ctx, def.ID); {
	case s.Answer == hypervisor.CouldNotLook:
		return fmt.Errorf("define instance %s: look at it: %s", def.ID, s.Reason)
	case s.Answer == hypervisor.Present && s.State != hypervisor.Stopped:
		return fmt.Errorf("define instance %s: %w: it is %s", def.ID, hypervisor.ErrBusy, s.State)
	case s.Answer == hypervisor.Present:
		text, err = onDomain(ctx, h, callLimit, def.ID, func(d *libvirt.Domain) (string, error) {
			have, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
			if err != nil {
				return "", err
			}
			return withDisks(have, def.Disks, h.Path)
		})
		if err != nil {
			return fmt.Errorf("define instance %s: %w", def.ID, err)
		}
	}
	_, err = call(ctx, h, callLimit, func(c *libvirt.Connect) (nothing, error) {
		d, err := c.DomainDefineXMLFlags(text, libvirt.DOMAIN_DEFINE_VALIDATE)
		if err != nil {
			return nothing{}, plain(err)
		}
		return nothing{}, plain(d.Free())
	})
	if err != nil {
		return fmt.Errorf("define instance %s: %w", def.ID, err)
	}
	return nil
}

// Start implements hypervisor.Instances.
func (h *Host) Start(ctx context.Context, id string) error {
	_, err := onDomain(ctx, h, callLimit, id, func(d *libvirt.Domain) (nothing, error) {
		active, err := d.IsActive()
		if err != nil || active {
			return nothing{}, err
		}
		return nothing{}, d.Create()
	})
	if err != nil {
		return fmt.Errorf("start instance %s: %w", id, err)
	}
	return nil
}

// Stop implements hypervisor.Instances.
func (h *Host) Stop(ctx context.Context, id string, force bool) error {
	for tick := time.NewTicker(stopPoll); ; {
		active, err := onDomain(ctx, h, callLimit, id, func(d *libvirt.Domain) (bool, error) {
			active, err := d.IsActive()
			switch {
			case err != nil || !active:
				return false, err
			case force:
				err = d.Destroy()
			default:
				err = d.Shutdown()
			}
			if is(err, libvirt.ERR_OPERATION_INVALID) {
				err = nil // it ended meanwhile: the next look says so
			}
			return true, err
		})
		if errors.Is(err, hypervisor.ErrNotFound) || err == nil && !active {
			tick.Stop()
			return nil
		}
		if err == nil {
			select {
			case <-tick.C:
				continue
			case <-ctx.Done():
				err = fmt.Errorf("it still runs: %w", context.Cause(ctx))
			}
		}
		tick.Stop()
		return fmt.Errorf("stop instance %s: %w", id, err)
	}
}

// Undefine implements hypervisor.Instances.
func (h *Host) Undefine(ctx context.Context, id string) error {
	_, err := onDomain(ctx, h, callLimit, id, func(d *libvirt.Domain) (nothing, error) {
		active, err := d.IsActive()
		if err == nil && active {
			err = fmt.Errorf("%w: it runs", hypervisor.ErrBusy)
		}
		if err == nil {
			err = d.Undefine()
		}
		return nothing{}, err
	})
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return fmt.Errorf("undefine instance %s: %w", id, err)
	}
	return nil
}
