// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

func (c *call) hostFilter() (HostFilter, error) {
	f := HostFilter{Partition: strings.Trim(c.query.Get("partition"), "/"), Labels: c.query.Get("labels")}
	for s := range strings.SplitSeq(c.query.Get("state"), ",") {
		if s = strings.ToUpper(strings.TrimSpace(s)); s != "" {
			f.States = append(f.States, s)
		}
	}
	_, err := f.Matcher()
	return f, err
}

// hostKeys are what hosts can be sorted by; the id makes each key unique.
var hostKeys = map[string]func(v1.Host) string{
	"id":        func(v1.Host) string { return "" },
	"state":     func(h v1.Host) string { return h.Status.State },
	"since":     func(h v1.Host) string { return sortable(h.Status.Since) },
	"partition": func(h v1.Host) string { return h.Spec.Partition },
	"power":     func(h v1.Host) string { return h.Status.Power },
	"owner":     func(h v1.Host) string { return h.Status.Owner },
}

// sortable prints a time so that text order is time order.
func sortable(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

func listHosts(c *call) error {
	f, err := c.hostFilter()
	if err != nil {
		return err
	}
	if c.watch {
		after, err := revision("Last-Event-ID", c.r.Header.Get("Last-Event-ID"))
		if err == nil && after > 0 {
			err = c.b.EventsKept(c.ctx(), after) // they tell which hosts were forgotten
		}
		if err != nil {
			return err
		}
		return c.stream("host", func(send func(string, any) error) error {
			return c.b.WatchHosts(c.ctx(), f, HostWatch{
				After: after,
				Host:  func(h v1.Host) error { return send("", h) },
				UpTo:  func(rev int64) error { return send(strconv.FormatInt(rev, 10), nil) },
			})
		})
	}
	by, down := strings.CutPrefix(c.query.Get("sort"), "-")
	if by == "" {
		by = "id"
	}
	key, ok := hostKeys[by]
	if !ok {
		return v1.BadField("sort", "%q, allowed are id, state, since, partition, power, owner, with or without a leading -", by)
	}
	hosts, err := c.b.Hosts(c.ctx(), f)
	if err != nil {
		return err
	}
	return page(c, hosts, func(h v1.Host) string { return key(h) + "\x00" + h.Spec.ID }, down)
}

func getHost(c *call) error {
	if done, err := c.askOwner(c.id(), nil, readForward, true); done || err != nil {
		return err
	}
	h, err := c.b.Host(c.ctx(), c.id())
	if err != nil {
		return err
	}
	return c.replyAt(h.Revision, h)
}

func explainHost(c *call) error {
	if done, err := c.askOwner(c.id(), nil, readForward, true); done || err != nil {
		return err
	}
	x, err := c.b.ExplainHost(c.ctx(), c.id())
	if err != nil {
		return err
	}
	return c.reply(x)
}

func putHost(c *call) error {
	var spec v1.HostSpec
	if err := c.body(&spec); err != nil {
		return err
	}
	if spec.ID == "" {
		spec.ID = c.id()
	}
	if spec.ID != c.id() {
		return v1.BadField("id", "%q, but the path says %q", spec.ID, c.id())
	}
	if err := version(&spec.V); err != nil {
		return err
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	h, err := c.b.PutHost(c.ctx(), c.who, spec, rev)
	if err != nil {
		return err
	}
	return c.replyAt(h.Revision, h)
}

// version checks the schema version of a declared object; empty is the newest.
func version(v *int) error {
	if *v == 0 {
		*v = 1
	}
	if *v != 1 {
		return v1.BadField("v", "%d, allowed is 1", *v)
	}
	return nil
}

func deleteHost(c *call) error {
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	if err := c.b.DeleteHost(c.ctx(), c.who, c.id(), rev); err != nil {
		return err
	}
	return c.done()
}

// readSwitch decodes a Switch of a kind that knows no time limit.
func (c *call) readSwitch() (v1.Switch, error) {
	var s v1.Switch
	if err := c.body(&s); err != nil {
		return s, err
	}
	if s.For != "" {
		return s, v1.BadField("for", "%q, but only disarm knows a time limit", s.For)
	}
	return s, nil
}

func setHost(what string) func(*call) error {
	return func(c *call) error {
		s, err := c.readSwitch()
		if err != nil {
			return err
		}
		h, err := c.b.SetHost(c.ctx(), c.who, c.id(), what, s)
		if err != nil {
			return err
		}
		return c.replyAt(h.Revision, h)
	}
}

func orderHost(c *call) error {
	var o v1.OrderRequest
	if err := c.body(&o); err != nil {
		return err
	}
	if !slices.Contains(v1.OrderVerbs, o.Verb) {
		return v1.BadField("verb", "%q, allowed are %s", o.Verb, strings.Join(v1.OrderVerbs, ", "))
	}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	wait := orderForward
	switch {
	case c.dry:
		wait = readForward
	case o.Verb == "test":
		wait = testForward
	}
	// A plan may be made by any worker; an order is its owner's alone.
	if done, err := c.askOwner(c.id(), b, wait, c.dry); done || err != nil {
		return err
	}
	if c.dry {
		p, err := c.b.PlanOrder(c.ctx(), c.id(), o)
		if err != nil {
			return err
		}
		return c.reply(p)
	}
	res, err := c.b.Order(c.ctx(), c.who, c.id(), o)
	if err != nil {
		return err
	}
	return c.reply(res)
}
