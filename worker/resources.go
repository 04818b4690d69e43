// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// shelf is the records of one kind of resource. Of pools every worker has a copy; the
// others can be millions and are read when they are asked for.
type shelf[T v1.Resource] struct {
	w     *Worker
	key   func(id string) string
	stamp func(*T, int64) // sets the revision, which is not stored
	// declare checks a declaration against what is there (nil: nothing is) and fills in what
	// is not the operator's; it may add other records to the same transaction.
	declare func(ctx context.Context, was *T, r *T, o api.PutOptions, x *extra) error
	// forget says why a record may not be forgotten, or adds what goes along.
	forget func(ctx context.Context, was T, x *extra) error
}

// extra are other records that change with one.
type extra struct {
	guard leases.Guard
	ops   []leases.Op
}

func (x *extra) put(key string, rev int64, record any) {
	x.guard = x.guard.At(key, rev)
	x.ops = append(x.ops, leases.Put(key, record))
}

func (s shelf[T]) name() string {
	var none T
	kind, _, _ := none.Named()
	return kind
}

func (s shelf[T]) decode(kv leases.KV) (T, error) {
	var r T
	if err := kv.Decode(&r); err != nil {
		return r, err
	}
	s.stamp(&r, kv.ModRevision)
	return r, nil
}

// List implements api.Shelf.
func (s shelf[T]) List(ctx context.Context) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := s.w.client.List(ctx, s.key(""))
	if err != nil {
		return nil, etcdProblem(s.name()+"s", err)
	}
	var out []T
	for _, kv := range kvs {
		r, err := s.decode(kv)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Get implements api.Shelf.
func (s shelf[T]) Get(ctx context.Context, id string) (T, error) {
	r, rev, err := fetchRecord[T](ctx, s.w, s.name(), id, s.key(id))
	s.stamp(&r, rev)
	return r, err
}

// Put implements api.Shelf.
func (s shelf[T]) Put(ctx context.Context, who string, r T, o api.PutOptions) (T, error) {
	_, id, _ := r.Named()
	if err := leases.CheckID(s.name(), id); err != nil {
		return r, badField("id", fmt.Sprintf("id: %v", err))
	}
	had, err := s.Get(ctx, id)
	was, rev := &had, int64(0)
	var p *v1.Problem
	switch _, _, rev = had.Named(); {
	case errors.As(err, &p) && p.Code == v1.CodeNotFound:
		was = nil
	case err != nil:
		return r, err
	}
	// Hosts and pools of the same file may have gone to another worker a moment ago.
	if err := (*backend)(s.w).upToDate(ctx, s.w.mirror); err != nil {
		return r, err
	}
	x := &extra{guard: at(s.key(id), o.IfRevision, rev)}
	if err := s.declare(ctx, was, &r, o, x); err != nil {
		return r, err
	}
	s.stamp(&r, 0)
	b := (*backend)(s.w)
	ev := b.audit(s.name()+".declared", who, s.name()+" "+id+" was declared", "")
	if rev, err = b.write(ctx, s.name()+" "+id, x.guard, ev, append(x.ops, leases.Put(s.key(id), r))...); err != nil {
		return r, err
	}
	s.stamp(&r, rev)
	return r, nil
}

// Delete implements api.Shelf.
func (s shelf[T]) Delete(ctx context.Context, who, id string, ifRevision int64) error {
	had, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	_, _, rev := had.Named()
	x := &extra{guard: at(s.key(id), ifRevision, rev)}
	if err := s.forget(ctx, had, x); err != nil {
		return err
	}
	b := (*backend)(s.w)
	ev := b.audit(s.name()+".forgotten", who, s.name()+" "+id+" was removed from the record; no file was", "")
	_, err = b.write(ctx, s.name()+" "+id, x.guard, ev, append(x.ops, leases.Delete(s.key(id)))...)
	return err
}

// field is a Problem of one field, with its value and what is allowed.
func field(name string, value any, allowed string) error {
	return badField(name, fmt.Sprintf("%s: %q, allowed is %s", name, fmt.Sprint(value), allowed))
}

func oneOf(name, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field(name, value, "one of "+strings.Join(allowed, ", "))
}

// checkPath: a file below its pool, that is none of our own unfinished ones.
func checkPath(name, path string) error {
	if path == "" || strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\x00\n") || slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s[0] == '.' }) {
		return field(name, path, "a path relative to the pool, no part of which starts with a dot")
	}
	return nil
}

// Pools implements api.Backend.
func (b *backend) Pools() api.Shelf[v1.Pool] {
	w := b.w()
	return shelf[v1.Pool]{
		w: w, key: leases.PoolKey, stamp: func(p *v1.Pool, rev int64) { p.Revision = rev },
		declare: func(_ context.Context, was, p *v1.Pool, _ api.PutOptions, _ *extra) error {
			p.V = 1
			errs := []error{oneOf("type", p.Type, v1.PoolTypes), oneOf("role", p.Role, v1.PoolRoles)}
			for i, h := range p.Hosts {
				if _, ok := w.view.spec(h); !ok {
					errs = append(errs, field(fmt.Sprintf("hosts[%d]", i), h, "a host on record"))
				}
			}
			if p.Type == "local" && len(p.Hosts) != 1 {
				errs = append(errs, field("hosts", strings.Join(p.Hosts, ","), "exactly one host for a local pool"))
			}
			if was != nil && (was.Type != p.Type || was.Type == "local" && !slices.Equal(was.Hosts, p.Hosts)) {
				errs = append(errs, field("type", p.Type, "what it is on record ("+was.Type+" of "+strings.Join(was.Hosts, ",")+"): another storage is another pool"))
			}
			return firstProblem(slices.DeleteFunc(errs, func(e error) bool { return e == nil }))
		},
		forget: func(ctx context.Context, p v1.Pool, _ *extra) error {
			volumes, err := b.Volumes().List(ctx)
			if err != nil {
				return err
			}
			for _, v := range volumes {
				if v.Pool == p.ID {
					return refused(fmt.Sprintf("forget pool %s: volume %s is on it", p.ID, v.ID), "move its volumes first")
				}
			}
			return nil
		},
	}
}

// Volumes implements api.Backend.
func (b *backend) Volumes() api.Shelf[v1.Volume] {
	w := b.w()
	return shelf[v1.Volume]{
		w: w, key: leases.VolumeKey, stamp: func(v *v1.Volume, rev int64) { v.Revision = rev },
		declare: func(_ context.Context, was, v *v1.Volume, _ api.PutOptions, _ *extra) error {
			errs := []error{oneOf("format", v.Format, v1.Formats), checkPath("path", v.Path)}
			if _, ok := w.pool(v.Pool); !ok {
				errs = append(errs, field("pool", v.Pool, "a pool on record"))
			}
			if v.Size < 1 {
				errs = append(errs, field("size", v.Size, "a number of bytes above 0"))
			}
			if was != nil && was.Place != v.Place {
				errs = append(errs, field("pool", v.Place, was.Place.String()+", where it is: it moves with holdfast volume migrate"))
			}
			if was != nil && was.Command != "" {
				errs = append(errs, busy("volume", v.ID, was.Command))
			}
			if err := firstProblem(slices.DeleteFunc(errs, func(e error) bool { return e == nil })); err != nil {
				return err
			}
			v.V, v.State, v.Command, v.Instance, v.Since = 1, "ready", "", "", time.Now().UTC()
			if was != nil {
				v.Instance, v.From, v.Since = was.Instance, was.From, was.Since
			}
			return nil
		},
		forget: func(_ context.Context, v v1.Volume, _ *extra) error {
			if v.Instance != "" {
				return refused(fmt.Sprintf("forget volume %s: it is a disk of instance %s", v.ID, v.Instance), "declare the instance without it first")
			}
			return busy("volume", v.ID, v.Command)
		},
	}
}

// Templates implements api.Backend.
func (b *backend) Templates() api.Shelf[v1.Template] {
	w := b.w()
	return shelf[v1.Template]{
		w: w, key: leases.TemplateKey, stamp: func(t *v1.Template, rev int64) { t.Revision = rev },
		declare: func(_ context.Context, was, t *v1.Template, _ api.PutOptions, _ *extra) error {
			errs := []error{oneOf("format", t.Format, v1.Formats)}
			if t.Size < 1 {
				errs = append(errs, field("size", t.Size, "a number of bytes above 0"))
			}
			if len(t.Copies) == 0 {
				errs = append(errs, field("copies", "", "at least one"))
			}
			for i, c := range t.Copies {
				errs = append(errs, checkPath(fmt.Sprintf("copies[%d].path", i), c.Path))
				if _, ok := w.pool(c.Pool); !ok {
					errs = append(errs, field(fmt.Sprintf("copies[%d].pool", i), c.Pool, "a pool on record"))
				}
			}
			if was != nil {
				errs = append(errs, busy("template", t.ID, was.Command))
			}
			t.V, t.Command = 1, ""
			return firstProblem(slices.DeleteFunc(errs, func(e error) bool { return e == nil }))
		},
		forget: func(_ context.Context, t v1.Template, _ *extra) error { return busy("template", t.ID, t.Command) },
	}
}
