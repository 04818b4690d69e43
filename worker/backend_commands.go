// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// CommandHost implements api.Backend: the host that an instance is on, or one that has
// both pools.
func (b *backend) CommandHost(ctx context.Context, r v1.CommandRequest) (string, error) {
	return lookAgain(ctx, b.w(), func() (string, error) { return b.w().commandHost(ctx, r) })
}

func (w *Worker) commandHost(ctx context.Context, r v1.CommandRequest) (string, error) {
	subjects := 0
	for _, s := range []string{r.Volume, r.Template, r.Instance} {
		if s != "" {
			subjects++
		}
	}
	migrates := r.Kind == string(command.Migrate)
	switch {
	case subjects != 1:
		return "", badField("volume", "volume: exactly one of volume, template and instance is needed")
	case migrates != (r.Instance != ""):
		return "", badField("instance", fmt.Sprintf("instance: kind %s is about %s", r.Kind, map[bool]string{true: "an instance", false: "a volume or a template"}[migrates]))
	case r.Template != "" && r.Kind != string(command.Copy):
		return "", badField("template", "template: allowed with kind copy only")
	}
	if err := leases.CheckID("key", cmp.Or(r.Key, "none")); err != nil {
		return "", badField("key", err.Error())
	}
	if r.Instance != "" {
		i, _, err := fetchRecord[v1.Instance](ctx, w, "instance", r.Instance, leases.InstanceKey(r.Instance))
		return i.Host, err
	}
	var from []string
	if r.Template != "" {
		t, _, err := fetchRecord[v1.Template](ctx, w, "template", r.Template, leases.TemplateKey(r.Template))
		if err != nil {
			return "", err
		}
		for _, c := range t.Copies {
			from = append(from, c.Pool)
		}
	} else {
		v, _, err := fetchRecord[v1.Volume](ctx, w, "volume", r.Volume, leases.VolumeKey(r.Volume))
		if err != nil {
			return "", err
		}
		if v.Instance != "" {
			i, _, err := fetchRecord[v1.Instance](ctx, w, "instance", v.Instance, leases.InstanceKey(v.Instance))
			return i.Host, err
		}
		from = []string{v.Pool}
	}
	if r.Host != "" {
		if _, ok := w.view.spec(r.Host); !ok {
			return "", unseen(badField("host", fmt.Sprintf("host: %q is not on record", r.Host)))
		}
		return r.Host, nil
	}
	if _, ok := w.pool(r.Pool); !ok {
		return "", unseen(badField("pool", fmt.Sprintf("pool: %q is not on record, see holdfast get pools", r.Pool)))
	}
	return w.carrier(from, r.Pool)
}

// carrier chooses the host for a copy: one that has both pools, well, and with the
// fewest commands open.
func (w *Worker) carrier(from []string, to string) (string, error) {
	open := map[string]int{}
	for _, kv := range w.mirror.List(leases.CommandsPrefix) {
		if host, _, ok := leases.SplitCommandKey(kv.Key); ok && !bytes.Contains(kv.Value, []byte(`"released":true`)) {
			open[host]++
		}
	}
	type candidate struct {
		host string
		well bool
	}
	var all []candidate
	for host, spec := range w.view.hosts() {
		if spec.Val.Disabled || !w.hasPool(host, to) || !slices.ContainsFunc(from, func(p string) bool { return w.hasPool(host, p) }) {
			continue
		}
		rec, _ := get(w.view, w.view.ha, host)
		all = append(all, candidate{host, rec.Val.Health == ha.Pass && !spec.Val.Maintenance})
	}
	if len(all) == 0 {
		return "", unseen(badField("pool", fmt.Sprintf("pool: no host has both %s and %s; allowed are two pools of one host, a shared pool in between serves the others", strings.Join(from, " or "), to)))
	}
	best := slices.MinFunc(all, func(a, b candidate) int {
		if a.well != b.well {
			return map[bool]int{true: -1, false: 1}[a.well]
		}
		return cmp.Or(cmp.Compare(open[a.host], open[b.host]), strings.Compare(a.host, b.host))
	})
	return best.host, nil
}

// commanding runs fn on the goroutine of a host's commands; a *v1.Problem when this worker
// does not own the host.
func (w *Worker) commanding(ctx context.Context, host string, fn func(ctx context.Context, c *commander)) error {
	w.mu.Lock()
	o := w.owners[host]
	w.mu.Unlock()
	if o == nil {
		return v1.Problemf(v1.CodeUnavailable, "host %s is not owned by this worker now", host).WithHint("try again in a moment")
	}
	return o.commands.call(ctx, func(ctx context.Context) { fn(ctx, o.commands) })
}

// call is owner.call for the other goroutine.
func (c *commander) call(ctx context.Context, fn func(ctx context.Context)) error {
	return callThrough(ctx, c.o, func(m callMsg) { c.put("", m) }, fn)
}

// NewCommand implements api.Backend.
func (b *backend) NewCommand(ctx context.Context, who, host string, r v1.CommandRequest) (v1.Command, error) {
	var out v1.Command
	var problem error
	trial := api.DryRun(ctx)
	err := b.w().commanding(ctx, host, func(ctx context.Context, c *commander) {
		rec, rev, err := c.create(ctx, trial, who, r)
		out, problem = commandOf(rec, rev), err
	})
	if err == nil {
		err = problem
	}
	return out, err
}

// Commands implements api.Backend.
func (b *backend) Commands(_ context.Context, q v1.CommandQuery) ([]v1.Command, error) {
	prefix := leases.CommandsPrefix
	if q.Host != "" {
		prefix += q.Host + "/"
	}
	var out []v1.Command
	for _, kv := range b.mirror.List(prefix) {
		var rec command.Record
		if err := kv.Decode(&rec); err != nil {
			return nil, err
		}
		if q.State != "" && string(rec.State) != q.State || q.Open && rec.Released {
			continue
		}
		out = append(out, commandOf(rec, kv.ModRevision))
	}
	return out, nil
}

// findCommand finds a command by its id alone.
func (b *backend) findCommand(id string) (command.Record, int64, error) {
	for _, kv := range b.mirror.List(leases.CommandsPrefix) {
		if _, kid, ok := leases.SplitCommandKey(kv.Key); !ok || kid != id {
			continue
		}
		var rec command.Record
		if err := kv.Decode(&rec); err != nil {
			return rec, 0, err
		}
		return rec, kv.ModRevision, nil
	}
	return command.Record{}, 0, notFound("command", id)
}

// Command implements api.Backend.
func (b *backend) Command(ctx context.Context, id string) (v1.Command, error) {
	rec, rev, err := b.findCommand(id)
	if err != nil {
		return v1.Command{}, err
	}
	out := commandOf(rec, rev)
	if o, _ := b.w().owned(rec.Host); o != nil {
		o.commands.mu.Lock()
		if p, ok := o.commands.progress[id]; ok {
			out.Progress = &p
		}
		o.commands.mu.Unlock()
	}
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(cctx, leases.JournalPrefix+rec.Host+"/"+id+"/")
	if err != nil {
		return out, etcdProblem("journal of "+id, err)
	}
	for _, kv := range kvs {
		var s command.JournalStep
		if err := kv.Decode(&s); err != nil {
			return out, err
		}
		out.Steps = append(out.Steps, v1.CommandStep{Seq: s.Seq, At: s.At, State: string(s.State), What: s.What})
	}
	return out, nil
}

// ExplainCommand implements api.Backend.
func (b *backend) ExplainCommand(_ context.Context, id string) (v1.Explanation, error) {
	rec, _, err := b.findCommand(id)
	if err != nil {
		return v1.Explanation{}, err
	}
	spec, _ := b.view.spec(rec.Host)
	e := b.view.effective(spec.Val.Partition, rec.Host, time.Now())
	x := command.Explain(rec, command.Policy{Enabled: e.Bool("reconcile.enabled"), Interval: e.Duration("reconcile.interval"), MaxAttempts: e.Int("reconcile.max.attempts")})
	return v1.Explanation{Subject: fmt.Sprintf("command %s (%s on %s)", id, rec.Kind, rec.Host), State: string(rec.State), Since: rec.Since, Why: x.Why, Next: x.Next, OperatorMay: x.OperatorMay}, nil
}

// OrderCommand implements api.Backend.
func (b *backend) OrderCommand(ctx context.Context, who, id, verb string, o v1.CommandOrder) (v1.Command, error) {
	rec, _, err := b.findCommand(id)
	if err != nil {
		return v1.Command{}, err
	}
	v := command.Verb(verb)
	if verb == "resolve" {
		if v = command.VerbNotDone; o.Completed != nil && *o.Completed {
			v = command.VerbDone
		}
	}
	var out v1.Command
	var problem error
	trial := api.DryRun(ctx)
	err = b.w().commanding(ctx, rec.Host, func(ctx context.Context, c *commander) {
		batch := &commandBatch{c: c}
		h := c.find(batch, id)
		if h == nil {
			problem = notFound("command", id)
			return
		}
		if !c.step(batch, h, command.Event{Kind: command.EvOperator, At: c.now(), Verb: v, By: who, Reason: o.Reason}) {
			problem = refused(fmt.Sprintf("%s command %s: it is %s: %s", verb, id, h.rec.State, h.rec.Reason), "holdfast command explain "+id)
			return
		}
		word := wordOf(c.now(), b.o.ID, rec.Host, c.o.home, "command."+verb, who, fmt.Sprintf("%s of command %s was ordered", verb, id), o.Reason)
		if trial != nil {
			trial.Would(word.Message)
			out = commandOf(batch.record(h), h.rev)
			return
		}
		batch.by[h].word = &word
		batch.announce("command."+verb, string(ha.Info), strings.TrimSpace(fmt.Sprintf("%s of command %s ordered by %s %s", verb, id, who, o.Reason)))
		if err := c.flush(ctx, batch); err != nil {
			problem = etcdProblem(fmt.Sprintf("%s of command %s", verb, id), err)
			return
		}
		out = commandOf(h.rec, h.rev)
	})
	if err == nil {
		err = problem
	}
	return out, err
}

func commandOf(r command.Record, rev int64) v1.Command {
	out := v1.Command{
		ID: r.ID, Kind: string(r.Kind), Host: r.Host, Target: r.Spec.Target, Instance: r.Spec.Instance, Live: r.Spec.Live, State: string(r.State), Since: r.Since,
		Reason: r.Reason, By: r.By, Created: r.Created, Deadline: r.Deadline, Key: r.Key, Attempts: r.Attempts, Ended: r.Released, EndedAt: r.Ended, Revision: rev,
	}
	for _, i := range r.Spec.Items {
		out.Items = append(out.Items, v1.CommandItem{Volume: i.Volume, As: i.As, From: v1.Place(i.From), To: v1.Place(i.To)})
	}
	if o := r.Outcome; o != nil {
		out.Outcome = &v1.CommandOutcome{Done: o.Done, Why: o.Why, By: o.By, At: o.At}
	}
	for _, a := range r.Left {
		line := a.String()
		if a.Not != "" {
			line += ", not now: " + a.Not
		}
		out.Left = append(out.Left, line)
	}
	return out
}
