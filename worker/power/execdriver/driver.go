// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Kind is the name of this driver; ProviderKind of it as the hands of provider exec, where
// the program is that of the setting ha.exec.program, which the worker fills in.
const (
	Kind         = "exec"
	ProviderKind = "provider"
)

const paramPrefix = "param."

// Driver runs administrators' programs.
type Driver struct {
	kind, summary, help string
	secret              string // default of the parameter
	verbs               []corepower.Verb
	words               map[string]string // actions by another name
	runner              *proc.Runner
	owners              []uint32 // whose programs are run
}

// New makes the driver. Programs run on runner.
func New(runner *proc.Runner) *Driver {
	return &Driver{
		kind: Kind, summary: "a program of the administrator's; parameters named param.X go to it as X",
		help:   "absolute path; it and all folders above it belong to root and are not writable by others",
		secret: "required",
		verbs:  []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Reset, corepower.Cycle, corepower.SoftOff, corepower.Identify},
		runner: runner, owners: []uint32{0},
	}
}

// NewProvider makes the driver through which the program of provider exec recovers and
// fences (docs/providers.md). Its actions are called state, identity, fence and recover;
// all else is as in driver exec. Besides root's, programs of owners are run.
func NewProvider(runner *proc.Runner, owners ...uint32) *Driver {
	return &Driver{
		kind: ProviderKind, summary: "the program of provider exec fences and recovers; parameters named param.X go to it as X",
		help:   "filled in by the worker from setting ha.exec.program",
		secret: "none",
		verbs:  []corepower.Verb{corepower.HardOff, corepower.HardOn},
		words:  map[string]string{"status": "state", string(corepower.HardOff): "fence", string(corepower.HardOn): "recover"},
		runner: runner, owners: append([]uint32{0}, owners...),
	}
}

// Kind returns "exec" or "provider".
func (d *Driver) Kind() string { return d.kind }

// Describe returns the driver's own parameters; those named param.X go to the program as X.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    d.kind,
		Summary: d.summary,
		Params: []power.Param{
			{Name: "program", Type: power.ParamString, Required: true, Help: d.help},
			{Name: "secret", Type: power.ParamString, Default: d.secret, Allowed: []string{"required", "none"}, Help: "none for a program that needs no secret"},
		},
		Capabilities: power.Capabilities{Verbs: d.verbs, Identity: true, Blocking: true, MaxAssurance: corepower.A2},
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
	op := "check " + d.kind + " target"
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
	c.path = own["program"]
	if e := proc.Trusted(op, `parameter "program"`, c.path, d.owners); e != nil {
		return config{}, e
	}
	if own["secret"] == "required" {
		if c.cred, err = t.Secret.Resolve(); err != nil {
			return config{}, err
		}
	}
	return c, nil
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
	c := &conn{config: cfg, driver: d}
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
