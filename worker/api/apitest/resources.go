// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// shelf keeps one kind of resource in memory and checks nothing but revisions.
type shelf[T v1.Resource] struct {
	f     *Fleet
	all   *[]T
	stamp func(*T, int64)
}

func (s shelf[T]) find(id string) int {
	return slices.IndexFunc(*s.all, func(r T) bool { _, have, _ := r.Named(); return have == id })
}

func (s shelf[T]) List(context.Context) ([]T, error) {
	s.f.Mu.Lock()
	defer s.f.Mu.Unlock()
	return slices.Clone(*s.all), nil
}

func (s shelf[T]) Get(_ context.Context, id string) (T, error) {
	s.f.Mu.Lock()
	defer s.f.Mu.Unlock()
	var none T
	i := s.find(id)
	if i < 0 {
		kind, _, _ := none.Named()
		return none, missing(kind, id)
	}
	return (*s.all)[i], nil
}

func (s shelf[T]) Put(ctx context.Context, who string, r T, o api.PutOptions) (T, error) {
	s.f.Mu.Lock()
	defer s.f.Mu.Unlock()
	defer s.f.trial(ctx)()
	kind, id, _ := r.Named()
	i, now := s.find(id), int64(0)
	if i >= 0 {
		_, _, now = (*s.all)[i].Named()
	}
	if err := check(kind+" "+id, now, o.IfRevision); err != nil {
		return r, err
	}
	s.f.Revision++
	if s.stamp(&r, s.f.Revision); api.DryRun(ctx) != nil {
		s.stamp(&r, now)
	}
	if i < 0 {
		*s.all = append(*s.all, r)
	} else {
		(*s.all)[i] = r
	}
	s.f.note(who, "put %s %s force=%v", kind, id, o.Force)
	return r, nil
}

func (s shelf[T]) Delete(ctx context.Context, who, id string, ifRevision int64) error {
	s.f.Mu.Lock()
	defer s.f.Mu.Unlock()
	defer s.f.trial(ctx)()
	var none T
	kind, _, _ := none.Named()
	i := s.find(id)
	if i < 0 {
		return missing(kind, id)
	}
	_, _, now := (*s.all)[i].Named()
	if err := check(kind+" "+id, now, ifRevision); err != nil {
		return err
	}
	*s.all = slices.Delete(*s.all, i, i+1)
	s.f.note(who, "delete %s %s", kind, id)
	return nil
}

func (f *Fleet) Pools() api.Shelf[v1.Pool] {
	return shelf[v1.Pool]{f, &f.PoolL, func(p *v1.Pool, r int64) { p.Revision = r }}
}

func (f *Fleet) Volumes() api.Shelf[v1.Volume] {
	return shelf[v1.Volume]{f, &f.VolumeL, func(v *v1.Volume, r int64) { v.Revision = r }}
}

func (f *Fleet) Templates() api.Shelf[v1.Template] {
	return shelf[v1.Template]{f, &f.TemplateL, func(t *v1.Template, r int64) { t.Revision = r }}
}

func (f *Fleet) Instances() api.Shelf[v1.Instance] {
	return shelf[v1.Instance]{f, &f.InstanceL, func(i *v1.Instance, r int64) { i.Revision = r }}
}

func (f *Fleet) CommandHost(context.Context, v1.CommandRequest) (string, error) { return "h-1", nil }

func (f *Fleet) NewCommand(ctx context.Context, who, host string, r v1.CommandRequest) (v1.Command, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if i := slices.IndexFunc(f.CommandL, func(c v1.Command) bool { return r.Key != "" && c.Key == r.Key }); i >= 0 {
		return f.CommandL[i], nil
	}
	f.Revision++
	c := v1.Command{
		ID: fmt.Sprintf("0198c1d2-7f6a-7c11-9a53-%012d", len(f.CommandL)+1), Kind: r.Kind, Host: host, Target: r.Host, Instance: r.Instance, State: "PENDING", Since: Start, Created: Start,
		Reason: "recorded", By: who, Key: r.Key, Revision: f.Revision,
	}
	if subject := r.Volume + r.Template; subject != "" {
		c.Items = []v1.CommandItem{{Volume: subject, As: r.As, From: v1.Place{Pool: "pool-a", Path: subject}, To: v1.Place{Pool: r.Pool, Path: subject + "-x"}}}
	}
	f.CommandL = append(f.CommandL, c)
	f.note(who, "command %s %s%s%s to %s%s force=%v", r.Kind, r.Volume, r.Template, r.Instance, r.Pool, r.Host, r.Force)
	f.touch()
	return c, nil
}

func (f *Fleet) Commands(_ context.Context, q v1.CommandQuery) ([]v1.Command, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.CommandL), func(c v1.Command) bool {
		return q.Host != "" && c.Host != q.Host || q.State != "" && c.State != q.State || q.Open && c.Ended
	}), nil
}

func (f *Fleet) Command(_ context.Context, id string) (v1.Command, error) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	i := slices.IndexFunc(f.CommandL, func(c v1.Command) bool { return c.ID == id })
	if i < 0 {
		return v1.Command{}, missing("command", id)
	}
	return f.CommandL[i], nil
}

func (f *Fleet) ExplainCommand(ctx context.Context, id string) (v1.Explanation, error) {
	c, err := f.Command(ctx, id)
	return v1.Explanation{Subject: "command " + id, State: c.State, Since: c.Since, Why: []string{c.Reason}}, err
}

func (f *Fleet) OrderCommand(ctx context.Context, who, id, verb string, _ v1.CommandOrder) (v1.Command, error) {
	c, err := f.Command(ctx, id)
	f.Mu.Lock()
	defer f.Mu.Unlock()
	defer f.trial(ctx)()
	if err == nil {
		f.note(who, "%s command %s", verb, id)
	}
	return c, err
}

// SetCommand replaces a command and wakes watches.
func (f *Fleet) SetCommand(c v1.Command) {
	f.Mu.Lock()
	defer f.Mu.Unlock()
	i := slices.IndexFunc(f.CommandL, func(x v1.Command) bool { return x.ID == c.ID })
	f.CommandL[i] = c
	f.touch()
}
