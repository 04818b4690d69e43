// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Kind is the name of this driver.
const Kind = "exec"

const paramPrefix = "param."

// Driver runs administrators' programs.
type Driver struct {
	runner *proc.Runner
	owners []uint32 // whose programs are run
}

// New makes the driver. Programs run on runner.
func New(runner *proc.Runner) *Driver { return &Driver{runner: runner, owners: []uint32{0}} }

// Kind returns "exec".
func (d *Driver) Kind() string { return Kind }

// Describe returns the driver's own parameters; those named param.X go to the program as X.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    Kind,
		Summary: "a program of the administrator's; parameters named param.X go to it as X",
		Params: []power.Param{
			{Name: "program", Type: power.ParamString, Required: true, Help: "absolute path; it and all folders above it belong to root and are not writable by others"},
			{Name: "secret", Type: power.ParamString, Default: "required", Allowed: []string{"required", "none"}, Help: "none for a program that needs no secret"},
		},
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Reset, corepower.Cycle, corepower.SoftOff, corepower.Identify},
			Identity: true, Blocking: true, MaxAssurance: corepower.A2,
		},
	}
}

// config is a checked target.
type config struct {
	target power.Target
	path   string
	params map[string]string // without the prefix
	limits power.Limits
	cred   power.Credential
}

func (d *Driver) config(t power.Target) (config, error) {
	const op = "check exec target"
	c := config{target: t, params: map[string]string{}, limits: t.Limits.WithDefaults()}
	own := map[string]string{}
	for name, v := range t.Params {
		x, mine := strings.CutPrefix(name, paramPrefix)
		switch {
		case !mine:
			own[name] = v
		case x == "" || strings.ContainsFunc(name+v, unicode.IsControl):
			return config{}, power.BadConfig(op, "parameter %q: value %.80q: allowed is text without control characters", name, v)
		default:
			c.params[x] = v
		}
	}
	own, err := d.Describe().Values(own)
	if err != nil {
		return config{}, err
	}
	if c.path, err = d.program(own["program"]); err != nil {
		return config{}, err
	}
	if own["secret"] == "required" {
		if c.cred, err = t.Secret.Resolve(); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

// program makes sure that only its owners could have put the file there. A folder in which everybody may create files is in order above the
// program's own, when it lets nobody replace those of others (the sticky bit).
func (d *Driver) program(path string) (string, error) {
	const op = "check exec target"
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", power.BadConfig(op, "parameter %q: value %q: allowed is a clean absolute path", "program", path)
	}
	if e := proc.Executable(op, path); e != nil {
		return "", e
	}
	// Every hop of a link would have to be as safe as the program itself.
	if real, err := filepath.EvalSymlinks(path); err != nil || real != path {
		return "", power.BadConfig(op, "parameter %q: value %q: is reached through a link, allowed is the path itself: %s", "program", path, real)
	}
	for at := path; ; at = filepath.Dir(at) {
		if err := d.safe(at, at != path && at != filepath.Dir(path)); err != nil {
			return "", power.BadConfig(op, "parameter %q: value %q: %v", "program", path, err)
		}
		if at == "/" {
			return path, nil
		}
	}
}

func (d *Driver) safe(path string, sticky bool) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !slices.Contains(d.owners, sys.Uid):
		return fmt.Errorf("%s does not belong to root", path)
	case st.Mode().Perm()&0o022 != 0 && !(sticky && st.Mode()&os.ModeSticky != 0):
		return fmt.Errorf("%s is writable by others (%v)", path, st.Mode().Perm())
	}
	return nil
}

// Check validates a target; it looks at the program and reads the secret, and runs nothing.
func (d *Driver) Check(t power.Target) error {
	_, err := d.config(t)
	return err
}

// Open checks the target; a program has no sessions. With a pinned identity it asks for
// the target's and answers IdentityMismatch for another.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	op := "open session with " + t.Address
	if ctx.Err() == context.Canceled {
		return nil, &power.Error{Kind: corepower.Cancelled, Op: op, Err: context.Cause(ctx)}
	}
	cfg, err := d.config(t)
	if err != nil {
		return nil, err
	}
	c := &conn{config: cfg, runner: d.runner}
	if t.Pinned == (corepower.Identity{}) {
		return c, nil
	}
	got, err := c.Identity(ctx)
	if err == nil && !t.Pinned.Matches(got) {
		err = &power.Error{Kind: corepower.IdentityMismatch, Op: op, Detail: power.Detail(fmt.Sprintf("the program says %+v, enrolled is %+v", got, t.Pinned), cfg.cred)}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}
