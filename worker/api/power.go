// SPDX-License-Identifier: Apache-2.0

package api

import v1 "github.com/holdfast-ha/holdfast/worker/api/v1"

func explainPower(c *call) error {
	if done, err := c.askOwner(c.id(), nil, readForward, true); done || err != nil {
		return err
	}
	x, err := c.b.ExplainPower(c.ctx(), c.id())
	if err != nil {
		return err
	}
	return c.reply(x)
}

func getProfile(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	p, err := c.b.PowerProfile(c.ctx(), at)
	if err != nil {
		return err
	}
	return c.replyAt(p.Revision, p)
}

func patchProfile(c *call) error {
	at, err := scope(c.query.Get("scope"))
	if err != nil {
		return err
	}
	var change v1.ProfileChange
	if err := c.body(&change); err != nil {
		return err
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	p, err := c.b.ChangePowerProfile(c.ctx(), c.who, at, change, rev)
	if err != nil {
		return err
	}
	return c.replyAt(p.Revision, p)
}
