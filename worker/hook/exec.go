// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/holdfast-ha/holdfast/worker/proc"
)

type program struct {
	children *proc.Runner
	path     string
	args     []string
}

// NewExec makes a sender that runs a program on this machine for each event: the event is
// on its standard input, exit status 0 says that it was taken. The program is to be a file
// that only its owner can change.
func NewExec(children *proc.Runner, path string, args []string) Sender {
	return &program{children, path, args}
}

func (p *program) Send(ctx context.Context, d Delivery) error {
	info, err := os.Lstat(p.path)
	switch {
	case err != nil:
		return fmt.Errorf("program %w", err) // names the path
	case !info.Mode().IsRegular():
		return fmt.Errorf("program %s: is not a plain file", p.path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("program %s: mode %04o, others than its owner can change it", p.path, info.Mode().Perm())
	}
	res, perr := p.children.Run(ctx, proc.Command{Op: "deliver event " + d.ID, Path: p.path, Args: p.args, Stdin: d.Body, Change: true})
	if perr != nil {
		return perr
	}
	if res.Exit != 0 {
		return fmt.Errorf("program %s: exit status %d: %s", p.path, res.Exit, firstLine(res.Stderr))
	}
	return nil
}

// firstLine is the beginning of what a program says, fit for a log.
func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return fmt.Sprintf("%q", line[:min(len(line), 200)])
}

func (p *program) Close() {}
