// SPDX-License-Identifier: Apache-2.0

package execdriver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// question is what a program reads. docs/power-exec.md describes each field.
type question struct {
	Version  int               `json:"version"`
	Action   string            `json:"action"`
	Host     string            `json:"host"`
	Device   string            `json:"device"`
	Address  string            `json:"address"`
	Params   map[string]string `json:"params"`
	User     string            `json:"user,omitempty"`
	Password string            `json:"password,omitempty"`
	Deadline time.Time         `json:"deadline"`
	ID       string            `json:"id,omitempty"`
	Epoch    string            `json:"epoch,omitempty"`
	Seconds  int               `json:"seconds,omitempty"`
}

// conn is one transaction: a target that was checked, and no session.
type conn struct {
	config
	driver *Driver
	closed bool
}

// ask runs the program once within limit and reads its answer.
func (c *conn) ask(ctx context.Context, op, action string, limit time.Duration, cmd *power.Command) (answer, *power.Error) {
	op += " " + c.target.Address
	if c.closed {
		return answer{}, &power.Error{Kind: corepower.Cancelled, Op: op, Detail: "closed"}
	}
	if word, ok := c.driver.words[action]; ok {
		action = word
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	q := question{
		Version: 1, Action: action, Host: c.target.Host, Device: c.target.Device, Address: c.target.Address,
		Params: c.params, User: c.cred.User(), Password: c.cred.Password(), Deadline: deadline.UTC(),
	}
	p := proc.Command{Op: op, Path: c.path, Args: []string{action}, Secret: c.cred}
	if cmd != nil {
		p.Change, p.NotAfter, p.Before = cmd.Verb != corepower.Identify, cmd.NotAfter, cmd.Before
		q.ID, q.Epoch = cmd.ID, cmd.Epoch
		if cmd.Verb == corepower.Identify {
			q.Seconds = identifySeconds(cmd.For)
		}
	}
	var err error
	if p.Stdin, err = json.Marshal(q); err != nil {
		return answer{}, power.BadConfig(op, "%v", err)
	}
	res, e := c.driver.runner.Run(ctx, p)
	if e != nil {
		return answer{}, e
	}
	return parse(op, res, c.cred, p.Change)
}

func identifySeconds(d time.Duration) int {
	if d == 0 {
		d = 15 * time.Second
	}
	return int(min(max(d/time.Second, 1), 255))
}

// Status asks for one reading.
func (c *conn) Status(ctx context.Context) (corepower.Reading, error) {
	a, e := c.ask(ctx, "read power status of", "status", c.limits.Answer, nil)
	if e != nil {
		return corepower.Reading{}, e
	}
	r, e := a.reading("read power status of " + c.target.Address)
	if e != nil {
		return corepower.Reading{}, e
	}
	r.At = time.Now()
	return r, nil
}

// Identity asks which box it is; a program that does not know answers Unsupported.
func (c *conn) Identity(ctx context.Context) (corepower.Identity, error) {
	const op = "read identity of"
	a, e := c.ask(ctx, op, "identity", c.limits.Answer, nil)
	if e != nil {
		return corepower.Identity{}, e
	}
	if a.Identity == nil || *a.Identity == (corepower.Identity{}) {
		return corepower.Identity{}, violation(op+" "+c.target.Address, "the answer has no identity")
	}
	return *a.Identity, nil
}

// Do runs one command. A program's InvalidState is AlreadyThere.
func (c *conn) Do(ctx context.Context, cmd power.Command) (corepower.Outcome, error) {
	op := "send " + string(cmd.Verb) + " to"
	if !slices.Contains(c.driver.verbs, cmd.Verb) {
		return corepower.Rejected, &power.Error{Kind: corepower.Unsupported, Op: fmt.Sprintf("send %q to %s", cmd.Verb, c.target.Address), Detail: "unknown verb"}
	}
	a, e := c.ask(ctx, op, string(cmd.Verb), c.limits.Command, &cmd)
	switch {
	case e == nil && a.Outcome == string(corepower.AlreadyThere):
		return corepower.AlreadyThere, nil
	case e == nil && a.Outcome == string(corepower.Accepted):
		return corepower.Accepted, nil
	case e == nil:
		e = violation(op+" "+c.target.Address, "the answer has no outcome")
		e.MayHaveRun = true
	case e.Kind == corepower.InvalidState:
		return corepower.AlreadyThere, nil
	}
	if e.MayHaveRun {
		return corepower.Indeterminate, e
	}
	return corepower.Rejected, e
}

// Close ends the use of the target.
func (c *conn) Close(context.Context) error {
	c.closed, c.cred = true, power.Credential{}
	return nil
}

var _ power.Conn = (*conn)(nil)
