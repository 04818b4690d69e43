// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newCommand finds the host that a command would be carried out by; its owner records it.
func newCommand(c *call) error {
	var r v1.CommandRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if !slices.Contains(v1.CommandKinds, r.Kind) {
		return v1.BadField("kind", "%q, allowed are %s", r.Kind, strings.Join(v1.CommandKinds, ", "))
	}
	host, err := c.b.CommandHost(c.ctx(), r)
	if err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if done, err := c.askOwner(host, b, orderForward, false); done || err != nil {
		return err
	}
	out, err := c.b.NewCommand(c.ctx(), c.who, host, r)
	if err != nil {
		return err
	}
	return c.replyAt(out.Revision, out)
}

func listCommands(c *call) error {
	q := v1.CommandQuery{Host: c.query.Get("host"), State: strings.ToUpper(c.query.Get("state"))}
	if q.State != "" && !slices.Contains(v1.CommandStates, q.State) {
		return v1.BadField("state", "%q, allowed are %s", q.State, strings.Join(v1.CommandStates, ", "))
	}
	var err error
	if q.Open, err = c.flag("open"); err != nil {
		return err
	}
	all, err := c.b.Commands(c.ctx(), q)
	if err != nil {
		return err
	}
	return page(c, all, func(x v1.Command) string { return x.ID }, false)
}

func getCommand(c *call) error {
	x, err := c.b.Command(c.ctx(), c.id())
	if err != nil {
		return err
	}
	// The owner knows the progress; without it the record is shown as it is.
	if done, err := c.askOwner(x.Host, nil, readForward, true); done || err != nil {
		return err
	}
	return c.replyAt(x.Revision, x)
}

func orderCommand(verb string) func(*call) error {
	return func(c *call) error {
		var o v1.CommandOrder
		if err := c.body(&o); err != nil {
			return err
		}
		if (verb == "resolve") != (o.Completed != nil) {
			return v1.BadField("completed", "allowed with resolve, and needed there: true or false")
		}
		x, err := c.b.Command(c.ctx(), c.id())
		if err != nil {
			return err
		}
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if done, err := c.askOwner(x.Host, b, orderForward, false); done || err != nil {
			return err
		}
		out, err := c.b.OrderCommand(c.ctx(), c.who, c.id(), verb, o)
		if err != nil {
			return err
		}
		return c.replyAt(out.Revision, out)
	}
}
