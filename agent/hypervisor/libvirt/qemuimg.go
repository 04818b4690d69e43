// SPDX-License-Identifier: Apache-2.0

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
)

// killWait is how long a killed qemu-img may take to be gone. One whose storage hangs is
// left behind; a look at its volume names it as long as it lives.
const killWait = 2 * time.Second

// volumes is hypervisor.Copier on directories, with qemu-img.
type volumes struct{ *dirs.Store }

var _ hypervisor.Copier = volumes{}

// CreateVolume implements hypervisor.Copier.
func (v volumes) CreateVolume(ctx context.Context, s hypervisor.CreateSpec) error {
	if s.Size <= 0 {
		return fmt.Errorf("create volume %s: size %d, want more than 0", s.Disk.Path, s.Size)
	}
	if s.Format != hypervisor.Raw && s.Format != hypervisor.QCOW2 {
		return fmt.Errorf("create volume %s: %w", s.Disk.Path, formatError(s.Format))
	}
	path, err := v.Reserve(ctx, s.Disk)
	if err != nil {
		return err
	}
	if s.Format == hypervisor.Raw {
		err = os.Truncate(path, s.Size)
	} else {
		err = qemuImg(ctx, nil, "create", "-q", "-f", string(s.Format), path, strconv.FormatInt(s.Size, 10))
	}
	if err != nil {
		return fmt.Errorf("create volume %s: %w", s.Disk.Path, err)
	}
	return v.Sync(ctx, s.Disk)
}

// CopyVolume implements hypervisor.Copier.
func (v volumes) CopyVolume(ctx context.Context, s hypervisor.CopySpec, progress func(hypervisor.Progress)) error {
	if s.Format != hypervisor.Raw && s.Format != hypervisor.QCOW2 {
		return fmt.Errorf("copy volume %s: %w", s.From.Path, formatError(s.Format))
	}
	sight := v.LookVolume(ctx, s.From)
	switch sight.Answer {
	case hypervisor.Absent:
		return fmt.Errorf("copy volume %s: %w", s.From.Path, hypervisor.ErrNotFound)
	case hypervisor.CouldNotLook:
		return fmt.Errorf("copy volume %s: look at it: %s", s.From.Path, sight.Reason)
	}
	from, err := v.Path(s.From)
	if err != nil {
		return err
	}
	to, err := v.Reserve(ctx, s.To)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	args := []string{"convert", "-p", "-f", string(s.Format), "-O", string(s.Format)}
	if s.BytesPerSecond > 0 {
		args = append(args, "-r", strconv.FormatInt(s.BytesPerSecond, 10))
	}
	told := &percents{total: sight.Size, tell: progress}
	if err := qemuImg(ctx, told, append(args, from, to)...); err != nil {
		return fmt.Errorf("copy volume %s: %w", s.From.Path, err)
	}
	if err := v.Sync(ctx, s.To); err != nil {
		return err
	}
	told.done(sight.Size)
	return nil
}

// percents turns qemu-img's progress lines into Progress.
type percents struct {
	total, last int64
	rest        []byte
	tell        func(hypervisor.Progress)
}

var percent = regexp.MustCompile(`\(([0-9.]+)/100%\)`)

func (p *percents) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	all := percent.FindAllSubmatchIndex(p.rest, -1)
	for _, m := range all {
		if pc, err := strconv.ParseFloat(string(p.rest[m[2]:m[3]]), 64); err == nil && pc < 100 {
			p.done(int64(pc / 100 * float64(p.total)))
		}
	}
	if len(all) > 0 {
		p.rest = p.rest[all[len(all)-1][1]:]
	}
	return len(b), nil
}

// done tells only what is new: all is told once all is durable.
func (p *percents) done(n int64) {
	if p.tell != nil && n > p.last {
		p.last = n
		p.tell(hypervisor.Progress{Done: n, Total: p.total})
	}
}

// qemuImg runs qemu-img until it ends or ctx does. It dies with this process: the kernel
// kills it when the thread that started it ends, so that thread waits for it.
func qemuImg(ctx context.Context, stdout io.Writer, args ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	var stderr bytes.Buffer
	done := make(chan error, 1)
	go func() {
		defer cancel()
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		cmd := exec.CommandContext(ctx, "qemu-img", args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		cmd.Stderr, cmd.Stdout, cmd.WaitDelay = &stderr, stdout, killWait
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		done <- cmd.Run()
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(2 * killWait):
			return fmt.Errorf("qemu-img %s: %w: it does not end: %w", args[0], hypervisor.ErrUnsure, context.Cause(ctx))
		}
	}
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	said := strings.Join(strings.Fields(stderr.String()), " ") // one line, as journals and events want it
	if what := meaning(said); what != nil {
		err = fmt.Errorf("%w: %w", err, what)
	}
	return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, said)
}

// meaning finds the error number in what qemu-img says.
func meaning(text string) error {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EROFS, syscall.EIO, syscall.ESTALE, syscall.ENOENT, syscall.EDQUOT} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(errno.Error())) {
			return errno
		}
	}
	if strings.Contains(text, "lock") {
		return hypervisor.ErrBusy
	}
	return nil
}
