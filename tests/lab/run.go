// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// commandLimit bounds every command, waitLimit every wait.
	commandLimit = 30 * time.Second
	waitLimit    = 30 * time.Second
)

// run runs a command and returns its output.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), errors.Join(err, context.Cause(ctx)), strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// until waits for a condition.
func until(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, waitLimit, fmt.Errorf("not within %v", waitLimit))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// write writes a file of the kernel or of ours.
func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o600) }

// mounts are the mount points of this process under dir, the latest first, with the
// minor numbers of their devices.
func mounts(dir string) (points, minors []string, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || f[4] != dir && !strings.HasPrefix(f[4], dir+"/") {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		points, minors = append([]string{f[4]}, points...), append([]string{minor}, minors...)
	}
	return points, minors, nil
}
