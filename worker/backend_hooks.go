// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
	"github.com/holdfast-ha/holdfast/worker/sealed"
)

const maxHooks = 64

var _ api.Hooks = (*backend)(nil)

// Hooks implements api.Hooks.
func (b *backend) Hooks(context.Context) ([]v1.Hook, error) {
	var out []v1.Hook
	for _, kv := range b.mirror.List(leases.HooksPrefix) {
		h, err := b.hookOf(kv)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// Hook implements api.Hooks.
func (b *backend) Hook(_ context.Context, name string) (v1.Hook, error) {
	kv, ok := b.mirror.Get(leases.HookKey(name))
	if !ok {
		return v1.Hook{}, notFound("webhook", name)
	}
	return b.hookOf(kv)
}

// hookOf is what may be shown of a record, with how far it is.
func (b *backend) hookOf(kv leases.KV) (v1.Hook, error) {
	rec, err := decodeAs[hookRecord](kv)
	if err != nil {
		return v1.Hook{}, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	name := strings.TrimPrefix(kv.Key, leases.HooksPrefix)
	h := v1.Hook{Name: name, HookSpec: rec.HookSpec, By: rec.By, At: rec.At, Revision: kv.ModRevision}
	if t, err := sealed.Parse(rec.Sealed); err == nil {
		h.SealedKey = t.Key
	}
	slot, owned := get(b.view, b.view.slots, b.w().slotOfHook(name))
	h.Owner = slot.Val.Worker
	var cur hook.Cursor
	if s, mine := b.hooks.shown()[name]; mine {
		cur = s.Cursor
	} else if kv, ok := b.mirror.Get(leases.CursorKey(name)); ok {
		if cur, err = decodeAs[hook.Cursor](kv); err != nil {
			return v1.Hook{}, fmt.Errorf("decode %s: %w", kv.Key, err)
		}
	}
	cur = cur.Enabled(rec.Enabled)
	h.Status = v1.HookStatus{
		State: v1.HookStates[0], Cursor: cur.At.Revision, Behind: b.hooks.log.Behind(cur.At), Delivered: cur.Delivered, Failures: cur.Failures,
		FailingSince: cur.FailingSince, LastError: cur.LastError, Disabled: cur.Disabled, Gaps: cur.Gaps, Gap: cur.Gap,
	}
	switch s := &h.Status; {
	case rec.Disabled:
		s.State = "off"
	case !owned:
		s.State = "unowned"
	case !cur.Disabled.IsZero():
		s.State = "disabled"
	case cur.Failures > 0:
		s.State = "failing"
	}
	return h, nil
}

// PutHook implements api.Hooks.
func (b *backend) PutHook(ctx context.Context, who, name string, r v1.HookRequest, ifRev int64) (v1.Hook, error) {
	if err := leases.CheckID("name", name); err != nil {
		return v1.Hook{}, badField("name", err.Error())
	}
	key := leases.HookKey(name)
	rctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	had, exists, err := b.readHook(rctx, name)
	if err != nil {
		return v1.Hook{}, err
	}
	rec := hookRecord{V: 1, HookSpec: r.HookSpec, By: who, At: time.Now().UTC(), Reason: r.Reason, Enabled: had.Val.Enabled}
	if rec.Kind == v1.HookWeb {
		rec.Target = had.Val.Target
		if rec.Sealed, err = b.sealHook(name, &rec.Target, had.Val.Sealed, r); err != nil {
			return v1.Hook{}, err
		}
	} else if len(r.URL)+len(r.Key) > 0 {
		return v1.Hook{}, v1.BadField("url", "url or key given, allowed with kind %s only", v1.HookWeb)
	}
	if _, err := hook.Parse(rec.HookSpec); err != nil {
		return v1.Hook{}, err
	}
	g, ops, verb := at(key, ifRev, had.Rev), []leases.Op{leases.Put(key, rec)}, "changed"
	if !exists {
		verb = "declared"
		if n := len(b.mirror.List(leases.HooksPrefix)); n >= maxHooks {
			return v1.Hook{}, refused(fmt.Sprintf("webhook %s: there are %d, allowed are at most %d", name, n, maxHooks), "")
		}
		start, err := b.hookStart(rctx, r.Since)
		if err != nil {
			return v1.Hook{}, err
		}
		g = g.At(leases.CursorKey(name), 0)
		ops = append(ops, leases.Put(leases.CursorKey(name), hook.Cursor{V: 1, At: start}))
	} else if r.Since != "" {
		return v1.Hook{}, v1.BadField("since", "%q, allowed for a new hook only", r.Since)
	}
	x := b.audit("hook."+verb, who, fmt.Sprintf("hook %s (%s %s) was %s", name, rec.Kind, rec.Target, verb), r.Reason)
	rev, err := b.write(ctx, "webhook "+name, g, x, ops...)
	if err != nil {
		return v1.Hook{}, err
	}
	return b.written(name, rec, rev)
}

// written is a hook that was just written, which the mirror may not show yet.
func (b *backend) written(name string, rec hookRecord, rev int64) (v1.Hook, error) {
	value, err := json.Marshal(rec)
	if err != nil {
		return v1.Hook{}, fmt.Errorf("encode hook %s: %w", name, err)
	}
	return b.hookOf(leases.KV{Key: leases.HookKey(name), Value: value, ModRevision: rev})
}

// readHook reads a hook's record from etcd.
func (b *backend) readHook(ctx context.Context, name string) (had versioned[hookRecord], exists bool, _ error) {
	kvs, _, err := b.client.List(ctx, leases.HookKey(name))
	if err != nil {
		return had, false, etcdProblem("webhook "+name, err)
	}
	for _, kv := range kvs {
		if kv.Key == leases.HookKey(name) {
			had.Rev = kv.ModRevision
			had.Val, err = decodeAs[hookRecord](kv)
			if err != nil {
				err = fmt.Errorf("decode %s: %w", kv.Key, err)
			}
			return had, true, err
		}
	}
	return had, false, nil
}

// sealHook seals URL and key of a request; what it leaves out stays as it was. The target
// becomes what may be shown of the URL.
func (b *backend) sealHook(name string, target *string, before string, r v1.HookRequest) (string, error) {
	if len(r.URL)+len(r.Key) == 0 && before != "" {
		return before, nil
	}
	var secret hookSecret
	defer func() { clear(secret.Key) }()
	if before != "" && (len(r.URL) == 0 || len(r.Key) == 0) {
		plain, err := b.w().unseal(leases.HookKey(name), before)
		if err != nil {
			return "", refused(fmt.Sprintf("webhook %s: %s: what is sealed cannot be opened here: %v", name, secretsUnreadable, err), "give both, URL and key")
		}
		defer clear(plain)
		if json.Unmarshal(plain, &secret) != nil {
			return "", refused(fmt.Sprintf("webhook %s: %s: what was sealed is no URL and key", name, secretsUnreadable), "give both, URL and key")
		}
	}
	if len(r.URL) > 0 || secret.URL == "" {
		origin, err := hook.ParseURL(string(r.URL))
		if err != nil {
			return "", err
		}
		*target, secret.URL = origin, string(r.URL)
	}
	if len(r.Key) > 0 || len(secret.Key) == 0 {
		key, err := hook.ParseKey(r.Key)
		if err != nil {
			return "", err
		}
		clear(secret.Key)
		secret.Key = key
	}
	b.ring.Refresh()
	if b.ring.Ring().Newest() == "" {
		return "", refused(fmt.Sprintf("webhook %s: worker %s has no key ring to seal URL and key", name, b.o.ID), "make one: holdfast secret keygen, and configure keyRing of every worker (docs/secrets.md)")
	}
	plain, err := json.Marshal(secret)
	if err != nil {
		return "", fmt.Errorf("encode the secrets of hook %s: %w", name, err)
	}
	defer clear(plain)
	return b.ring.Ring().Seal(leases.HookKey(name), plain)
}

// hookStart is where a new hook begins: after all that is there, or before the first event
// since a moment. A position without an id is before all events of its revision.
func (b *backend) hookStart(ctx context.Context, since string) (hook.Position, error) {
	if since == "" {
		rev, err := b.client.Revision(ctx)
		return hook.Position{Revision: rev + 1}, etcdProblem("webhook", err)
	}
	from, err := time.Parse(time.RFC3339, since)
	if err != nil {
		d, derr := time.ParseDuration(since)
		if derr != nil || d < 0 {
			return hook.Position{}, v1.BadField("since", "%q, allowed are RFC 3339 times and durations such as 2h", since)
		}
		from = time.Now().Add(-d)
	}
	events, err := b.Events(ctx, api.EventFilter{Since: from})
	if err != nil {
		return hook.Position{}, err
	}
	if len(events) == 0 {
		return b.hookStart(ctx, "")
	}
	return hook.Position{Revision: events[0].Revision}, nil
}

// DeleteHook implements api.Hooks.
func (b *backend) DeleteHook(ctx context.Context, who, name string, ifRev int64) error {
	had, exists, err := b.readHook(ctx, name)
	if err != nil {
		return err
	}
	if !exists {
		return notFound("webhook", name)
	}
	x := b.audit("hook.removed", who, "hook "+name+" was removed", "")
	_, err = b.write(ctx, "webhook "+name, at(leases.HookKey(name), ifRev, had.Rev), x, leases.Delete(leases.HookKey(name)), leases.Delete(leases.CursorKey(name)))
	return err
}

// EnableHook implements api.Hooks: enabling takes back what switched it off by itself, too.
func (b *backend) EnableHook(ctx context.Context, who, name string, s v1.Switch) (v1.Hook, error) {
	had, exists, err := b.readHook(ctx, name)
	if err != nil {
		return v1.Hook{}, err
	}
	if !exists {
		return v1.Hook{}, notFound("webhook", name)
	}
	rec := had.Val
	rec.Disabled, rec.By, rec.At, rec.Reason = !s.On, who, time.Now().UTC(), s.Reason
	if s.On {
		rec.Enabled = rec.At
	}
	x := b.audit("hook.enabled", who, fmt.Sprintf("hook %s is %s", name, enabled(s.On)), s.Reason)
	rev, err := b.write(ctx, "webhook "+name, at(leases.HookKey(name), -1, had.Rev), x, leases.Put(leases.HookKey(name), rec))
	if err != nil {
		return v1.Hook{}, err
	}
	return b.written(name, rec, rev)
}

// TestHook implements api.Hooks. Any worker does it: with what is on record, at once, once.
func (b *backend) TestHook(ctx context.Context, who, name string) (v1.HookTest, error) {
	had, exists, err := b.readHook(ctx, name)
	if err != nil {
		return v1.HookTest{}, err
	}
	if !exists {
		return v1.HookTest{}, notFound("webhook", name)
	}
	conf, err := hook.Parse(had.Val.HookSpec)
	if err != nil {
		return v1.HookTest{}, err
	}
	if do, err := b.noted(ctx, b.audit("hook.test", who, "hook "+name+" is sent a test event", "")); !do {
		return v1.HookTest{Hook: name, Worker: b.o.ID}, err
	}
	began := time.Now()
	d, err := conf.TestEvent(name, newEventID(), who, began).Encode()
	if err != nil {
		return v1.HookTest{}, err
	}
	out := v1.HookTest{Hook: name, Worker: b.o.ID, ID: d.ID}
	sender, err := b.w().hookSender(name, had.Val)
	if err == nil {
		defer sender.Close()
		sctx, cancel := context.WithTimeout(ctx, conf.Timeout)
		defer cancel()
		err = sender.Send(sctx, d)
	}
	out.OK, out.Took = err == nil, time.Since(began).Round(time.Millisecond).String()
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}
