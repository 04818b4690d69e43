// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// actions of the agents for our verbs. Their reboot is off, confirmed by one reading,
// then on: an operator's verb.
var actions = map[corepower.Verb]string{corepower.HardOff: "off", corepower.HardOn: "on", corepower.Cycle: "reboot"}

// addressing are the options that say which host behind a device is meant.
var addressing = []string{"ip", "ipport", "plug", "target", "nodename", "systems_uri", "managed", "partition", "zone", "region"}

// conn is one transaction: a target that was checked, and no session.
type conn struct {
	config
	runner *proc.Runner
	closed bool
}

// run runs one action of the agent within limit.
func (c *conn) run(ctx context.Context, op, action string, limit time.Duration, cmd *power.Command) (proc.Result, *power.Error) {
	op += " " + c.target.Address
	if c.closed {
		return proc.Result{}, &power.Error{Kind: corepower.Cancelled, Op: op, Detail: "closed"}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o := maps.Clone(c.options)
	o["action"] = action
	if deadline, _ := ctx.Deadline(); c.meta.has("power_timeout") {
		o["power_timeout"] = powerTimeout(time.Until(deadline))
	}
	p := proc.Command{Op: op, Path: c.path, Env: agentEnv, Stdin: input(o), Secret: c.cred}
	if cmd != nil {
		p.Change, p.NotAfter, p.Before = true, cmd.NotAfter, cmd.Before
	}
	return c.runner.Run(ctx, p)
}

// powerTimeout leaves an agent 5 s to report its own time-out before ours. It is never
// 0, which agents take for no limit.
func powerTimeout(left time.Duration) string {
	s := int((left - 5*time.Second) / time.Second)
	if s < 1 {
		s = max(1, int(left/time.Second)-1)
	}
	return strconv.Itoa(s)
}

// Status asks for one reading. ON and OFF need the exit code and the words.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	const op = "read power status of"
	if !c.meta.can("status") {
		return corepower.Reading{}, &power.Error{Kind: corepower.Unsupported, Op: op + " " + c.target.Address, Detail: c.agent + " cannot read the power state"}
	}
	began := time.Now()
	res, e := c.run(ctx, op, "status", c.limits.Answer, nil)
	if e != nil {
		return corepower.Reading{}, e
	}
	state, ok := parseStatus(res)
	if !ok {
		return corepower.Reading{}, c.classify(op, res, time.Since(began), false)
	}
	if state == corepower.Off && c.blind() {
		if labels, e := c.labels(ctx, c.options["plug"]); e != nil {
			return corepower.Reading{}, e
		} else if labels == nil {
			return corepower.Reading{}, &power.Error{Kind: corepower.Unsupported, Op: op + " " + c.target.Address, Detail: c.agent + " cannot list outlets, so that its OFF may be of one that is not there"}
		}
	}
	return corepower.Reading{State: state, Authentic: c.trusted, At: time.Now(), Raw: "status " + state.String()}, nil
}

// blind reports whether the agent takes an outlet that is not there, such as those of a
// unit that is still starting, for one that is off: its OFF counts only beside a list that
// has the outlet. SNMP 1 answers with an error, 3 with a value that is none.
func (c *conn) blind() bool { return c.options["snmp_version"] == "3" }

// Do runs off, on or reboot. Exit 0 is Accepted, or AlreadyThere when the agent says
// that it sent nothing. An error after which something may have run is Indeterminate.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	op := "send " + string(cmd.Verb) + " to"
	action, known := actions[cmd.Verb]
	if !known || !c.meta.can(action) {
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: op + " " + c.target.Address, Detail: c.agent + " cannot do that"}
	}
	began := time.Now()
	res, e := c.run(ctx, op, action, c.limits.Command, &cmd)
	if e == nil && res.Exit != 0 {
		e = c.classify(op, res, time.Since(began), true)
	}
	switch {
	case e == nil && alreadyThere(res.Stdout):
		return corepower.AlreadyThere, nil
	case e == nil:
		return corepower.Accepted, nil
	case e.MayHaveRun:
		return corepower.Indeterminate, e
	}
	return corepower.Rejected, e
}

// Identity is a fingerprint of what is addressed, with the label of each outlet where
// the device lists them.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q", c.agent)
	for _, name := range addressing {
		fmt.Fprintf(h, " %s=%q", name, c.options[name])
	}
	if !c.meta.has("ip") {
		fmt.Fprintf(h, " %q", c.target.Address)
	}
	if plug := c.options["plug"]; plug != "" && c.meta.can("list") {
		labels, e := c.labels(ctx, plug)
		if e != nil {
			return corepower.Identity{}, e
		}
		fmt.Fprintf(h, " labels=%q", labels)
	}
	if c.closed {
		return corepower.Identity{}, &power.Error{Kind: corepower.Cancelled, Op: "read identity of " + c.target.Address, Detail: "closed"}
	}
	return corepower.Identity{Fingerprint: "fenceagent:" + hex.EncodeToString(h.Sum(nil)[:16])}, nil
}

// labels reads what the device calls these outlets.
func (c *conn) labels(ctx context.Context, plug string) ([]string, *power.Error) {
	const op = "list outlets of"
	began := time.Now()
	res, e := c.run(ctx, op, "list", c.limits.Answer, nil)
	if e != nil {
		return nil, e
	}
	if res.Exit != 0 {
		return nil, c.classify(op, res, time.Since(began), false)
	}
	if strings.HasPrefix(string(res.Stdout), "NOTICE: List option is not working") {
		return nil, nil // the agent knows none, for any device
	}
	separator, outlets := ",", c.options["plug_separator"]
	if s := c.options["separator"]; s != "" {
		separator = s
	}
	if outlets == "" {
		outlets = ","
	}
	listed, err := parseList(res.Stdout, separator)
	if err != nil {
		return nil, &power.Error{Kind: corepower.ProtocolViolation, Op: op + " " + c.target.Address, Detail: power.Detail(err.Error(), c.cred), Err: err}
	}
	var labels []string
	for p := range strings.SplitSeq(plug, outlets) {
		label, there := listed[p]
		if !there {
			return nil, power.BadConfig(op+" "+c.target.Address, "outlet %q: the device has %s", p, strings.Join(slices.Sorted(maps.Keys(listed)), ", "))
		}
		labels = append(labels, label)
	}
	return labels, nil
}

// Close ends the use of the target.
func (c *conn) Close(context.Context) error {
	c.closed, c.cred, c.options = true, power.Credential{}, nil
	return nil
}

var _ power.Conn = (*conn)(nil)
