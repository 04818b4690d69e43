// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// Hooks keeps who is told of events. No answer carries a URL or a key.
type Hooks interface {
	Hooks(ctx context.Context) ([]v1.Hook, error)
	Hook(ctx context.Context, name string) (v1.Hook, error)
	PutHook(ctx context.Context, who, name string, r v1.HookRequest, ifRevision int64) (v1.Hook, error) // ifRevision -1: whatever is there; keeps no part of r
	DeleteHook(ctx context.Context, who, name string, ifRevision int64) error
	EnableHook(ctx context.Context, who, name string, s v1.Switch) (v1.Hook, error)
	TestHook(ctx context.Context, who, name string) (v1.HookTest, error)
}

// hookRoutes are about who is told of events.
var hookRoutes = []Route{
	{"GET", "/v1/hooks", "events:read", nil, v1.List[v1.Hook]{}, pageParams, "List webhooks and program hooks with how far they are. Never a URL or a key.", listHooks},
	{"GET", "/v1/hooks/{id}", "events:read", nil, v1.Hook{}, nil, "One hook.", getHook},
	{"PUT", "/v1/hooks/{id}", "hooks:write", v1.HookRequest{}, v1.Hook{}, matchParams, "Declare who is told of events. URL and key are sealed and never read back; left out they stay.", putHook},
	{"DELETE", "/v1/hooks/{id}", "hooks:write", nil, nil, matchParam, "Forget a hook and how far it is.", deleteHook},
	{"POST", "/v1/hooks/{id}/enabled", "hooks:write", v1.Switch{}, v1.Hook{}, nil, "Let a hook deliver, from where it had stopped, or stop it.", enableHook},
	{"POST", "/v1/hooks/{id}/test", "hooks:write", nil, v1.HookTest{}, nil, "Send one test event at once, from the worker that answers.", testHook},
}

// hooks is who knows; a handler without one knows of none.
func (c *call) hooks() (Hooks, error) {
	if c.o.Hooks == nil {
		return nil, v1.Problemf(v1.CodeNotFound, "this worker keeps no hooks")
	}
	return c.o.Hooks, nil
}

func listHooks(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	all, err := k.Hooks(c.ctx())
	if err != nil {
		return err
	}
	return page(c, all, func(h v1.Hook) string { return h.Name }, false)
}

func getHook(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	h, err := k.Hook(c.ctx(), c.id())
	if err != nil {
		return err
	}
	return c.replyAt(h.Revision, h)
}

// putHook never repeats what was sent: it may be a secret in a wrong field.
func putHook(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	var r v1.HookRequest
	defer func() {
		r.URL.Clear()
		r.Key.Clear()
	}()
	d := json.NewDecoder(c.r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return v1.BadField("body", "not the JSON expected%s, allowed is one object, see docs/api.md", where(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v1.BadField("body", "more than one value, allowed is one object")
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	h, err := k.PutHook(c.ctx(), c.who, c.id(), r, rev)
	if err != nil {
		return err
	}
	return c.replyAt(h.Revision, h)
}

// where names the field of a wrong type, which is no secret.
func where(err error) string {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) && t.Field != "" {
		return fmt.Sprintf(" (%s: not a %s)", t.Field, t.Type)
	}
	return ""
}

func deleteHook(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	rev, err := c.ifRevision()
	if err != nil {
		return err
	}
	if err := k.DeleteHook(c.ctx(), c.who, c.id(), rev); err != nil {
		return err
	}
	return c.done()
}

func enableHook(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	var s v1.Switch
	if err := c.body(&s); err != nil {
		return err
	}
	h, err := k.EnableHook(c.ctx(), c.who, c.id(), s)
	if err != nil {
		return err
	}
	return c.replyAt(h.Revision, h)
}

func testHook(c *call) error {
	k, err := c.hooks()
	if err != nil {
		return err
	}
	t, err := k.TestHook(c.ctx(), c.who, c.id())
	if err != nil {
		return err
	}
	return c.reply(t)
}
