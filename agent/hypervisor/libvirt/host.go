// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen && cgo

package libvirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/hostonly"
)

const (
	// callLimit bounds a call whose ctx does not end sooner; jobs are bounded by ctx alone.
	callLimit = 30 * time.Second
	// maxCalls is how many calls may be under way, those left behind included.
	maxCalls = 256
)

// Config is what a Host is made of.
type Config struct {
	URI      string     // default qemu:///system
	Dirs     []dirs.Dir // the pools whose volumes instances use
	Accel    string     // kvm or qemu; default kvm where the host has it
	Emulator string     // default: libvirt's own choice
}

// Host is the adapter. Make it with New; it keeps nothing open.
type Host struct {
	volumes
	hostonly.Host // the boot id is the kernel's
	cfg           Config
	calls         *atomic.Int32
	told          func(took time.Duration, err error)
}

var (
	_ hypervisor.Hypervisor  = (*Host)(nil)
	_ hypervisor.Gatekeeper  = (*Host)(nil)
	_ hypervisor.Metered     = (*Host)(nil)
	_ hypervisor.Storage     = (*Host)(nil)
	_ hypervisor.Copier      = (*Host)(nil)
	_ hypervisor.Instances   = (*Host)(nil)
	_ hypervisor.Migrator    = (*Host)(nil)
	_ hypervisor.BlockCopier = (*Host)(nil)
)

// New opens nothing: a libvirt that does not answer must not keep an agent from starting.
func New(cfg Config) (*Host, error) {
	cfg.URI = cmp.Or(cfg.URI, "qemu:///system")
	if cfg.Accel == "" {
		cfg.Accel = "qemu"
		if _, err := os.Stat("/dev/kvm"); err == nil {
			cfg.Accel = "kvm"
		}
	}
	if cfg.Accel != "kvm" && cfg.Accel != "qemu" {
		return nil, fmt.Errorf("accelerator %q, allowed are kvm and qemu", cfg.Accel)
	}
	h := &Host{cfg: cfg, calls: &atomic.Int32{}, told: func(time.Duration, error) {}}
	store, err := dirs.New(dirs.Config{Dirs: cfg.Dirs, Users: h.users})
	if err != nil {
		return nil, err
	}
	h.volumes = volumes{store}
	return h, nil
}

// Name implements hypervisor.Hypervisor.
func (h *Host) Name() string { return "kvm" }

// Healthy implements hypervisor.Hypervisor.
func (h *Host) Healthy(ctx context.Context) error {
	_, err := call(ctx, h, callLimit, func(c *libvirt.Connect) (uint32, error) { return c.GetVersion() })
	if err != nil {
		return fmt.Errorf("ask libvirt: %w", err)
	}
	return nil
}

// Meter implements hypervisor.Metered.
func (h *Host) Meter(told func(took time.Duration, err error)) { h.told = told }

// call runs one call on a connection of its own and leaves it behind when its time is
// over: then the error is ErrUnsure, and the call may still do its work.
func call[T any](ctx context.Context, h *Host, limit time.Duration, do func(*libvirt.Connect) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := context.Cause(ctx); err != nil {
		return none, err
	}
	began := time.Now()
	if n := h.calls.Load(); n >= maxCalls {
		return none, fmt.Errorf("ask libvirt: %d calls wait for it already", n)
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
		defer cancel()
	}
	done := make(chan result, 1)
	h.calls.Add(1)
	go func() {
		defer h.calls.Add(-1)
		var r result
		c, err := libvirt.NewConnect(h.cfg.URI)
		if err != nil {
			r.err = fmt.Errorf("connect to %s: %w", h.cfg.URI, plain(err))
		} else {
			r.value, r.err = do(c)
			if alive, err := c.IsAlive(); r.err != nil && (err != nil || !alive) {
				r.err = fmt.Errorf("%w: connection to libvirt lost: %w", hypervisor.ErrUnsure, r.err)
			}
			_, _ = c.Close() // what a call did does not depend on its good-bye
		}
		done <- r
	}()
	select {
	case r := <-done:
		h.told(time.Since(began), r.err)
		return r.value, r.err
	case <-ctx.Done():
		err := fmt.Errorf("%w: libvirt has not answered: %w", hypervisor.ErrUnsure, context.Cause(ctx))
		h.told(time.Since(began), err)
		return none, err
	}
}

// onDomain is a call about one domain; ErrNotFound if libvirt does not know it.
func onDomain[T any](ctx context.Context, h *Host, limit time.Duration, id string, do func(*libvirt.Domain) (T, error)) (T, error) {
	return call(ctx, h, limit, func(c *libvirt.Connect) (T, error) {
		var none T
		d, err := c.LookupDomainByName(id)
		if err != nil {
			return none, plain(err)
		}
		defer func() { _ = d.Free() }()
		v, err := do(d)
		return v, plain(err)
	})
}

// plain gives libvirt's errors the identity that callers branch on, and their text only.
func plain(err error) error {
	var v libvirt.Error
	if !errors.As(err, &v) {
		return err
	}
	switch v.Code {
	case libvirt.ERR_NO_DOMAIN:
		return fmt.Errorf("%w: %s", hypervisor.ErrNotFound, v.Message)
	case libvirt.ERR_BLOCK_COPY_ACTIVE, libvirt.ERR_OPERATION_TIMEOUT: // the latter: its lock is held by another job
		return fmt.Errorf("%w: %s", hypervisor.ErrBusy, v.Message)
	}
	return fmt.Errorf("%s (libvirt %d)", v.Message, v.Code)
}

// is says whether libvirt refused with this code.
func is(err error, code libvirt.ErrorNumber) bool {
	var v libvirt.Error
	return errors.As(err, &v) && v.Code == code
}
