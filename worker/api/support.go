// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Supporter tells what a support bundle is made of. No answer carries a secret.
type Supporter interface {
	Support(ctx context.Context, goroutines bool) (v1.Support, error) // of this worker
	Records(ctx context.Context, kind string) ([]v1.Record, error)    // kind: first part of a key
}

const supportForward = 20 * time.Second

// supportRoutes are for those who look into a fleet from outside.
var supportRoutes = []Route{
	{"GET", "/v1/workers/{id}/support", "support:read", nil, v1.Support{}, []Param{{Name: "goroutines", Doc: "`true`: with a dump of its goroutines"}}, "What one worker tells of itself for a support bundle: configuration, health, etcd, metrics. Carried out by that worker.", getSupport},
	{"GET", "/v1/records", "support:read", nil, v1.List[v1.Record]{}, join([]Param{{Name: "kind", Doc: "first part of the keys, such as `hosts`; docs/keys.md has all"}}, pageParams), "List records as they are in etcd, without anything that is a secret.", listRecords},
}

func (c *call) supporter() (Supporter, error) {
	if c.o.Support == nil {
		return nil, v1.Problemf(v1.CodeNotFound, "this worker has nothing for a support bundle")
	}
	return c.o.Support, nil
}

func getSupport(c *call) error {
	k, err := c.supporter()
	if err != nil {
		return err
	}
	dump, err := c.flag("goroutines")
	if err != nil {
		return err
	}
	if _, err := c.b.Worker(c.ctx(), c.id()); err != nil {
		return err
	}
	base, own := c.b.WorkerAPI(c.id())
	if !own {
		if base == "" || c.r.Header.Get(forwardedHeader) != "" {
			return v1.Problemf(v1.CodeUnavailable, "worker %s: does not run, or is not this one", c.id())
		}
		if err := c.passOn(base, nil, supportForward); err != nil {
			return v1.Problemf(v1.CodeUnavailable, "worker %s: does not answer: %v", c.id(), err)
		}
		return nil
	}
	s, err := k.Support(c.ctx(), dump)
	if err != nil {
		return err
	}
	return c.reply(s)
}

func listRecords(c *call) error {
	k, err := c.supporter()
	if err != nil {
		return err
	}
	all, err := k.Records(c.ctx(), c.query.Get("kind"))
	if err != nil {
		return err
	}
	return page(c, all, func(r v1.Record) string { return r.Key }, false)
}
