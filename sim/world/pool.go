// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/probe"
)

const (
	faultNone = "ok"
	faultHang = "hang"

	faultPoll = 20 * time.Millisecond
)

// Fault is the file through which the parent says whether a host's pool answers. It is
// read before every operation, so it works across processes and needs no message.
type Fault string

// Set makes the pool hang or answer.
func (f Fault) Set(hang bool) error {
	text := faultNone
	if hang {
		text = faultHang
	}
	if err := replace(string(f), text+"\n"); err != nil {
		return fmt.Errorf("set pool fault: %w", err)
	}
	return nil
}

// Hangs says whether the pool hangs; a fault that cannot be read is none.
func (f Fault) Hangs() bool {
	text, err := os.ReadFile(string(f))
	return err == nil && strings.TrimSpace(string(text)) == faultHang
}

// Pass returns nil as soon as the pool answers. While it hangs it waits for that or for
// the end of ctx.
func (f Fault) Pass(ctx context.Context) error {
	for {
		text, err := os.ReadFile(string(f))
		switch word := strings.TrimSpace(string(text)); {
		case err != nil:
			return fmt.Errorf("read pool fault: %w", err)
		case word == faultNone:
			return nil
		case word != faultHang:
			return fmt.Errorf("read pool fault: %q, allowed are %s and %s", word, faultNone, faultHang)
		}
		if err := wait(ctx, faultPoll); err != nil {
			return fmt.Errorf("use pool: it hangs: %w", err)
		}
	}
}

// Pool puts a fault in front of p.
func (f Fault) Pool(p probe.Pool) probe.Pool { return faulty{p, f} }

type faulty struct {
	pool  probe.Pool
	fault Fault
}

func (p faulty) ID() string { return p.pool.ID() }

func (p faulty) WriteStamp(ctx context.Context, host string, counter uint64) error {
	if err := p.fault.Pass(ctx); err != nil {
		return err
	}
	return p.pool.WriteStamp(ctx, host, counter)
}

func (p faulty) ReadStamp(ctx context.Context, host string) ([]byte, error) {
	if err := p.fault.Pass(ctx); err != nil {
		return nil, err
	}
	return p.pool.ReadStamp(ctx, host)
}

func (p faulty) StatDisk(ctx context.Context, path string) (probe.DiskSample, error) {
	if err := p.fault.Pass(ctx); err != nil {
		return probe.DiskSample{}, err
	}
	return p.pool.StatDisk(ctx, path)
}

// replace writes a small file whole or not at all.
func replace(name, text string) error {
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// wait waits for d or for the end of ctx, whose cause it returns.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
