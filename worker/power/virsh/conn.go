// SPDX-License-Identifier: Apache-2.0

package virsh

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

const (
	retryBusy = 2 * time.Second
	retryAuth = 15 * time.Minute
)

// commands of virsh for our verbs.
var commands = map[corepower.Verb]string{
	corepower.HardOff: "destroy", corepower.HardOn: "start", corepower.Reset: "reset", corepower.SoftOff: "shutdown",
}

// states are all that domstate prints. What is neither ON nor OFF here is unknown.
var states = map[string]corepower.Reading{
	"running":     {State: corepower.On},
	"idle":        {State: corepower.On}, // blocked on a resource
	"paused":      {State: corepower.On},
	"pmsuspended": {State: corepower.On},
	"in shutdown": {State: corepower.On, Transitional: true},
	"shut off":    {State: corepower.Off},
	"crashed":     {State: corepower.Off},
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// conn is one transaction: a target that was checked; each call connects by itself.
type conn struct {
	config
	runner *proc.Runner
	path   string
	closed bool
}

// run runs one command of virsh within limit.
func (c *conn) run(ctx context.Context, op, command string, limit time.Duration, cmd *power.Command) (string, *power.Error) {
	op += " " + c.target.Address
	if c.closed {
		return "", &power.Error{Kind: corepower.Cancelled, Op: op, Detail: "closed"}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := proc.Command{Op: op, Path: c.path, Args: []string{"--connect", c.target.Address, "--quiet", command, "--domain", c.domain}}
	if cmd != nil {
		p.Change, p.NotAfter, p.Before = true, cmd.NotAfter, cmd.Before
	}
	res, e := c.runner.Run(ctx, p)
	if e != nil {
		return "", e
	}
	if res.Exit != 0 {
		return "", classify(op, res, cmd != nil)
	}
	return strings.TrimSpace(string(res.Stdout)), nil
}

// Status reads the domain's state.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	const op = "read power status of"
	text, e := c.run(ctx, op, "domstate", c.limits.Answer, nil)
	if e != nil {
		return corepower.Reading{}, e
	}
	r, known := states[text]
	if !known {
		return corepower.Reading{}, &power.Error{Kind: corepower.ProtocolViolation, Op: op + " " + c.target.Address,
			Detail: power.Detail(fmt.Sprintf("state %.60q is neither on nor off", text), power.Credential{})}
	}
	// Open refused every connection on which nobody proves who answers.
	r.Authentic, r.At, r.Raw = true, time.Now(), "domain "+text
	return r, nil
}

// Identity reads the domain's UUID.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	const op = "read identity of"
	text, e := c.run(ctx, op, "domuuid", c.limits.Answer, nil)
	if e != nil {
		return corepower.Identity{}, e
	}
	if !uuidForm.MatchString(text) {
		return corepower.Identity{}, &power.Error{Kind: corepower.ProtocolViolation, Op: op + " " + c.target.Address,
			Detail: power.Detail(fmt.Sprintf("%.60q is no UUID", text), power.Credential{})}
	}
	return corepower.Identity{SystemUUID: text}, nil
}

// Do runs one command. A domain that is in the wanted state already is AlreadyThere.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	op := "send " + string(cmd.Verb) + " to"
	command, known := commands[cmd.Verb]
	if !known {
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.target.Address), Detail: "virtual machines know off, on, reset and soft"}
	}
	_, e := c.run(ctx, op, command, c.limits.Command, &cmd)
	switch {
	case e == nil:
		return corepower.Accepted, nil
	case e.Kind == corepower.InvalidState:
		return corepower.AlreadyThere, nil
	case e.MayHaveRun:
		return corepower.Indeterminate, e
	}
	return corepower.Rejected, e
}

// Close ends the use of the target.
func (c *conn) Close(context.Context) error {
	c.closed = true
	return nil
}

// reasons give virsh's words their kind, the first that fits, and whether a command may
// have run then.
var reasons = []struct {
	words string
	kind  corepower.Kind
	ran   bool
}{
	{"domain is not running", corepower.InvalidState, false},
	{"domain is already active", corepower.InvalidState, false},
	{"domain is already running", corepower.InvalidState, false},
	{"failed to get domain", corepower.BadConfig, false},
	{"domain not found", corepower.BadConfig, false},
	{"permission denied (", corepower.AuthFailed, false}, // ssh
	{"host key verification failed", corepower.IdentityMismatch, false},
	{"authentication failed", corepower.AuthFailed, false},
	{"authentication unavailable", corepower.AuthFailed, false},
	{"access denied", corepower.PrivilegeDenied, false},
	{"operation forbidden", corepower.PrivilegeDenied, false},
	{"not supported by the connection driver", corepower.Unsupported, false},
	{"no connection driver available", corepower.BadConfig, false},
	{"cannot acquire state change lock", corepower.Busy, false},
	{"timed out during operation", corepower.Timeout, true},
	{"end of file while reading data", corepower.Timeout, true}, // the connection broke; the work goes on
	{"connection refused", corepower.Unreachable, false},
	{"no route to host", corepower.Unreachable, false},
	{"network is unreachable", corepower.Unreachable, false},
	{"connection timed out", corepower.Unreachable, false},
	{"unable to resolve address", corepower.Unreachable, false},
	{"could not resolve hostname", corepower.Unreachable, false},
	{"failed to connect to the hypervisor", corepower.Unreachable, false},
}

// classify turns virsh's complaint into an error. A domain that is not there is not OFF:
// it may run on another hypervisor.
func classify(op string, res proc.Result, command bool) *power.Error {
	e := &power.Error{Kind: corepower.RemoteError, Op: op, Code: res.Exit, MayHaveRun: command,
		Detail: power.Detail(strings.TrimSpace(string(res.Stderr)), power.Credential{})}
	text := strings.ToLower(string(res.Stderr))
	for _, r := range reasons {
		if strings.Contains(text, r.words) {
			e.Kind, e.MayHaveRun = r.kind, command && r.ran
			break
		}
	}
	switch e.Kind {
	case corepower.AuthFailed:
		e.RetryAfter = retryAuth
	case corepower.Busy:
		e.RetryAfter = retryBusy
	}
	return e
}

var _ power.Conn = (*conn)(nil)
