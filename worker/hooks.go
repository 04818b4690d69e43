// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// pageHook runs the configured command for each event of severity page: the event as
// JSON on its standard input, no shell, a deadline, bounded output (ha.md §7, "page").
type pageHook struct {
	log   *slog.Logger
	queue chan v1.Event
	conf  func() (command string, timeout time.Duration)
	count func(result string)
}

func newPageHook(log *slog.Logger, conf func() (string, time.Duration), count func(string)) *pageHook {
	return &pageHook{log: log, queue: make(chan v1.Event, 256), conf: conf, count: count}
}

// page queues an event; when the queue is full the event is still in the log and in the
// metrics, and that is said.
func (h *pageHook) page(x v1.Event) {
	select {
	case h.queue <- x:
	default:
		h.log.Error("page hook is behind", "event", x.ID, "message", x.Message)
		h.count("failed")
	}
}

func (h *pageHook) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case x := <-h.queue:
			command, timeout := h.conf()
			if command == "" {
				h.count("none")
				continue
			}
			in, err := json.Marshal(x)
			if err == nil {
				_, err = runHook(ctx, command, nil, in, timeout)
			}
			if err != nil {
				h.log.Error("page hook", "event", x.ID, "cause", err)
				h.count("failed")
				continue
			}
			h.count("ok")
		}
	}
}

const maxHookOutput = 64 << 10

// runHook runs an absolute path without a shell, in its own process group, which is
// killed as a whole at the deadline. Its output is cut at 64 KiB.
func runHook(ctx context.Context, path string, args []string, in []byte, timeout time.Duration) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("hook %q: allowed is an absolute path", path)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(in)
	out := &limitedBuffer{max: maxHookOutput}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("hook %s: not done within %v", path, timeout)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("hook %s: exit status %d: %s", path, exit.ExitCode(), bytes.TrimSpace(out.kept))
	}
	return out.kept, err
}

// limitedBuffer keeps the first max bytes and swallows the rest.
type limitedBuffer struct {
	kept []byte
	max  int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(b.max-len(b.kept), len(p))]...)
	return len(p), nil
}

// repair runs the repair hook of ha.md §7.0: something cheap to try before anything
// irreversible. A pass of health ends the incident, so only its end is reported.
func (o *owner) repair() {
	command, timeout := o.eff.String("ha.repair.command"), o.policy.CheckTimeout
	in, err := json.Marshal(map[string]any{"action": "repair", "host": o.host, "partition": o.home, "labels": o.spec.Val.Labels, "state": o.rec.State, "reason": o.rec.Reason})
	o.jobs.begin(jobRepair, func(ctx context.Context) {
		if err == nil {
			_, err = runHook(ctx, command, []string{"repair"}, in, timeout)
		}
		why := "the repair command ended well"
		if err != nil {
			why = err.Error()
		}
		o.in.put("", repairDone{why})
	})
}
