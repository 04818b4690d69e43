// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Shelf is where the records of one kind of resource are. Errors that are a *v1.Problem
// are passed on as they are.
type Shelf[T v1.Resource] interface {
	List(ctx context.Context) ([]T, error)
	Get(ctx context.Context, id string) (T, error)
	Put(ctx context.Context, who string, r T, o PutOptions) (T, error)
	Delete(ctx context.Context, who, id string, ifRevision int64) error
}

// PutOptions say how a resource is declared.
type PutOptions struct {
	IfRevision int64 // -1: whatever is there; 0: it must not exist
	Force      bool  // an instance may be on a host that placement refuses
}

func listResources[T v1.Resource](shelf func(Backend) Shelf[T]) func(*call) error {
	return func(c *call) error {
		all, err := shelf(c.b).List(c.ctx())
		if err != nil {
			return err
		}
		return page(c, all, func(r T) string { _, id, _ := r.Named(); return id }, false)
	}
}

func getResource[T v1.Resource](shelf func(Backend) Shelf[T]) func(*call) error {
	return func(c *call) error {
		r, err := shelf(c.b).Get(c.ctx(), c.id())
		if err != nil {
			return err
		}
		_, _, rev := r.Named()
		return c.replyAt(rev, r)
	}
}

func putResource[T v1.Resource](shelf func(Backend) Shelf[T]) func(*call) error {
	return func(c *call) error {
		var r T
		if err := c.body(&r); err != nil {
			return err
		}
		if _, id, _ := r.Named(); id != c.id() {
			return v1.BadField("id", "%q, but the path says %q", id, c.id())
		}
		var o PutOptions
		var err error
		if o.IfRevision, err = c.ifRevision(); err != nil {
			return err
		}
		if o.Force, err = c.flag("force"); err != nil {
			return err
		}
		if r, err = shelf(c.b).Put(c.ctx(), c.who, r, o); err != nil {
			return err
		}
		_, _, rev := r.Named()
		return c.replyAt(rev, r)
	}
}

func deleteResource[T v1.Resource](shelf func(Backend) Shelf[T]) func(*call) error {
	return func(c *call) error {
		rev, err := c.ifRevision()
		if err != nil {
			return err
		}
		if err := shelf(c.b).Delete(c.ctx(), c.who, c.id(), rev); err != nil {
			return err
		}
		return c.done()
	}
}
