// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// commandPlan is what a request comes to, checked against the records as they are.
type commandPlan struct {
	spec  command.Spec
	holds []string
	guard map[string]int64 // revisions that the records must still have
	puts  map[string]any   // records with the command's id in them
}

func (p *commandPlan) hold(key string, rev int64, record any) {
	p.holds = append(p.holds, strings.TrimPrefix(key, leases.Root))
	p.guard[key], p.puts[key] = rev, record
}

// fetchRecord reads a record as it is now; a Problem names what is not there.
func fetchRecord[T any](ctx context.Context, w *Worker, what, id, key string) (T, int64, error) {
	var out T
	if err := leases.CheckID(what, id); err != nil {
		return out, 0, badField(what, fmt.Sprintf("%s: %v", what, err))
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := w.client.Get(ctx, key)
	if errors.Is(err, leases.ErrNotFound) {
		return out, 0, notFound(what, id)
	}
	if err == nil {
		err = kv.Decode(&out)
	}
	return out, kv.ModRevision, etcdProblem(what+" "+id, err)
}

// busy refuses a second command about one resource, with the first one's id.
func busy(what, id, open string) error {
	if open == "" {
		return nil
	}
	return refused(fmt.Sprintf("%s %s: command %s is open about it", what, id, open), "holdfast command show "+open)
}

// unseenError is a refusal because of what the mirror does not show, which may be behind.
type unseenError struct{ error }

func (e unseenError) Unwrap() error { return e.error }

func unseen(refusal error) error { return unseenError{refusal} }

// lookAgain repeats what was refused because of what the mirror does not show, once it shows
// all that is on record now: a request may follow a declaration by a moment, at another
// worker. Errors beside those of look: CodeUnavailable, the mirror is behind and stays so.
func lookAgain[T any](ctx context.Context, w *Worker, look func() (T, error)) (T, error) {
	out, err := look()
	var e unseenError
	if !errors.As(err, &e) {
		return out, err
	}
	if err := (*backend)(w).upToDate(ctx, w.mirror); err != nil {
		return out, err
	}
	return look()
}

// plan checks a request and says what it comes to; host is the one whose owner asks. It
// changes nothing.
func (w *Worker) plan(ctx context.Context, id, host string, r v1.CommandRequest) (*commandPlan, error) {
	return lookAgain(ctx, w, func() (*commandPlan, error) { return w.planAsSeen(ctx, id, host, r) })
}

func (w *Worker) planAsSeen(ctx context.Context, id, host string, r v1.CommandRequest) (*commandPlan, error) {
	p := &commandPlan{spec: command.Spec{V: command.Version, Kind: command.Kind(r.Kind), Rate: r.Rate}, guard: map[string]int64{}, puts: map[string]any{}}
	if r.Rate < 0 {
		return nil, badField("bytesPerSecond", fmt.Sprintf("bytesPerSecond: %d, allowed is a number from 0, which is no bound", r.Rate))
	}
	switch r.Kind {
	case string(command.Migrate):
		return p, w.planMigration(ctx, p, id, host, r)
	case string(command.MigrateVolume):
		return p, w.planMove(ctx, p, id, host, r)
	}
	return p, w.planCopy(ctx, p, id, host, r)
}

// poolFor checks the pool that something goes to.
func (w *Worker) poolFor(host, id string) (v1.Pool, error) {
	to, ok := w.pool(id)
	switch {
	case id == "":
		return to, badField("pool", "pool: empty, the pool that it goes to is needed")
	case !ok:
		return to, unseen(badField("pool", fmt.Sprintf("pool: %q is not on record, see holdfast get pools", id)))
	case !w.hasPool(host, id):
		allowed := cmp.Or(strings.Join(w.poolsOf(host), ", "), "none: no pool of it is on record")
		return to, unseen((&v1.Problem{
			Code: v1.CodeBadRequest, Field: "pool", Detail: fmt.Sprintf("pool: host %s does not have pool %q, allowed are pools of that host: %s", host, id, allowed),
			Hint: "between hosts a volume goes over a pool that both have, or along with its running instance: holdfast instance migrate --with-volumes (docs/commands.md, \"Which pairs\")",
		}).Complete())
	}
	return to, nil
}

// poolsOf are the pools that a host has, as declared.
func (w *Worker) poolsOf(host string) (ids []string) {
	for _, kv := range w.mirror.List(leases.PoolsPrefix) {
		if id := strings.TrimPrefix(kv.Key, leases.PoolsPrefix); w.hasPool(host, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *Worker) planCopy(ctx context.Context, p *commandPlan, id, host string, r v1.CommandRequest) error {
	to, err := w.poolFor(host, r.Pool)
	if err != nil {
		return err
	}
	var item command.Item
	if r.Template != "" {
		key := leases.TemplateKey(r.Template)
		t, rev, err := fetchRecord[v1.Template](ctx, w, "template", r.Template, key)
		if err == nil {
			err = busy("template", r.Template, t.Command)
		}
		if err != nil {
			return err
		}
		from, ok := w.copyOn(host, t)
		switch {
		case !ok:
			return unseen(badField("template", fmt.Sprintf("template: host %s has no pool with a copy of %s", host, r.Template)))
		case r.As == "" && slices.ContainsFunc(t.Copies, func(x v1.Place) bool { return x.Pool == to.ID }):
			return badField("pool", fmt.Sprintf("pool: template %s is on %s already; with `as` a volume is made of it", r.Template, to.ID))
		}
		item = command.Item{Volume: t.ID, As: r.As, Format: t.Format, Size: t.Size, From: command.Ref(from)}
		t.Command = id
		p.hold(key, rev, t)
	} else {
		key := leases.VolumeKey(r.Volume)
		v, rev, err := fetchRecord[v1.Volume](ctx, w, "volume", r.Volume, key)
		if err == nil {
			err = w.mayRead(ctx, host, v)
		}
		if err != nil {
			return err
		}
		if r.As == "" {
			return badField("as", "as: empty, the name of the new volume is needed")
		}
		if from, _ := w.pool(v.Pool); from.Role == "secondary" && to.Role == "secondary" {
			return badField("pool", fmt.Sprintf("pool: %s and %s are secondary, allowed is a copy from or to a primary pool", v.Pool, to.ID))
		}
		item = command.Item{Volume: v.ID, As: r.As, Format: v.Format, Size: v.Size, From: command.Ref(v.Place)}
		v.Command, v.State = id, "copying"
		p.hold(key, rev, v)
		if v.Instance != "" {
			if err := w.holdStopped(ctx, p, id, host, v.Instance); err != nil {
				return err
			}
		}
	}
	name := cmp.Or(r.As, item.Volume)
	if err := leases.CheckID("as", name); err != nil {
		return badField("as", err.Error())
	}
	item.To = command.Ref{Pool: to.ID, Path: command.Name(name, id, item.Format)}
	item.Temporary = command.Temporary(item.To.Path)
	p.spec.Items = []command.Item{item}
	if r.As != "" {
		p.hold(leases.VolumeKey(r.As), 0, v1.Volume{
			V: 1, ID: r.As, Place: v1.Place(item.To), Format: item.Format, Size: item.Size, From: item.Volume, State: "creating", Command: id, Since: time.Now().UTC(),
		})
	}
	return nil
}

// copyOn is a copy of a template on a pool that the host has.
func (w *Worker) copyOn(host string, t v1.Template) (v1.Place, bool) {
	for _, c := range t.Copies {
		if w.hasPool(host, c.Pool) {
			return c, true
		}
	}
	return v1.Place{}, false
}

// mayRead: the volume is there, nobody works on it, and this host has its pool.
func (w *Worker) mayRead(_ context.Context, host string, v v1.Volume) error {
	switch {
	case v.Command != "":
		return busy("volume", v.ID, v.Command)
	case !w.hasPool(host, v.Pool):
		return unseen(badField("host", fmt.Sprintf("host: %s does not have pool %s, on which volume %s is", host, v.Pool, v.ID)))
	}
	return nil
}

// holdStopped takes hold of an instance whose volume is read or moved as a file.
func (w *Worker) holdStopped(ctx context.Context, p *commandPlan, id, host, instance string) error {
	key := leases.InstanceKey(instance)
	i, rev, err := fetchRecord[v1.Instance](ctx, w, "instance", instance, key)
	if err == nil {
		err = busy("instance", instance, i.Command)
	}
	switch {
	case err != nil:
		return err
	case i.Host != host:
		return badField("host", fmt.Sprintf("host: instance %s, whose volume it is, is on %s; allowed is that host", instance, i.Host))
	case w.runs(host, i):
		return refused(fmt.Sprintf("instance %s is running: a copy of a volume that is written to would be worth nothing", instance), "stop it first, or move the volume with holdfast volume migrate")
	}
	p.spec.Instance = instance
	if p.spec.Definition, err = w.definitionOf(ctx, i); err != nil {
		return err
	}
	i.Command, i.State = id, "stopped"
	p.hold(key, rev, i)
	return nil
}

// runs: what the host's agent reports counts, and where it reports nothing the record.
func (w *Worker) runs(host string, i v1.Instance) bool {
	if _, p := w.owned(host); p != nil && p.alive {
		return slices.ContainsFunc(p.report.GetInstances(), func(x *agentpb.Instance) bool { return x.Id == i.ID })
	}
	return i.State == "running"
}

func (w *Worker) definitionOf(ctx context.Context, i v1.Instance) (*command.Definition, error) {
	d := &command.Definition{MemoryMiB: i.MemoryMiB, CPUs: i.CPUs, Kernel: i.Kernel, Initrd: i.Initrd, Args: i.Args}
	for _, id := range i.Volumes {
		v, _, err := fetchRecord[v1.Volume](ctx, w, "volume", id, leases.VolumeKey(id))
		if err != nil {
			return nil, err
		}
		d.Disks = append(d.Disks, command.Disk{Ref: command.Ref(v.Place), Format: v.Format})
	}
	return d, nil
}

func (w *Worker) planMove(ctx context.Context, p *commandPlan, id, host string, r v1.CommandRequest) error {
	to, err := w.poolFor(host, r.Pool)
	if err != nil {
		return err
	}
	key := leases.VolumeKey(r.Volume)
	v, rev, err := fetchRecord[v1.Volume](ctx, w, "volume", r.Volume, key)
	if err == nil {
		err = w.mayRead(ctx, host, v)
	}
	switch {
	case err != nil:
		return err
	case v.Pool == to.ID:
		return badField("pool", fmt.Sprintf("pool: volume %s is on %s already", v.ID, to.ID))
	case to.Role != "primary":
		return badField("pool", fmt.Sprintf("pool: %s is %s, allowed are primary pools; for a copy there: holdfast volume copy", to.ID, to.Role))
	}
	item := command.Item{Volume: v.ID, Format: v.Format, Size: v.Size, From: command.Ref(v.Place), To: command.Ref{Pool: to.ID, Path: command.Name(v.ID, id, v.Format)}}
	if v.Instance != "" {
		key := leases.InstanceKey(v.Instance)
		i, rev, err := fetchRecord[v1.Instance](ctx, w, "instance", v.Instance, key)
		if err == nil {
			err = busy("instance", v.Instance, i.Command)
		}
		switch {
		case err != nil:
			return err
		case i.Host != host:
			return badField("host", fmt.Sprintf("host: instance %s, whose volume it is, is on %s; allowed is that host", i.ID, i.Host))
		}
		p.spec.Instance, p.spec.Live = i.ID, w.runs(host, i)
		if p.spec.Definition, err = w.definitionOf(ctx, i); err != nil {
			return err
		}
		i.Command = id
		p.hold(key, rev, i)
	}
	if !p.spec.Live {
		item.Temporary = command.Temporary(item.To.Path)
	}
	v.Command, v.State = id, "moving"
	p.hold(key, rev, v)
	p.spec.Items = []command.Item{item}
	return nil
}

func (w *Worker) planMigration(ctx context.Context, p *commandPlan, id, host string, r v1.CommandRequest) error {
	key := leases.InstanceKey(r.Instance)
	i, rev, err := fetchRecord[v1.Instance](ctx, w, "instance", r.Instance, key)
	if err == nil {
		err = busy("instance", r.Instance, i.Command)
	}
	target, known := w.view.spec(r.Host)
	switch {
	case err != nil:
		return err
	case r.Host == "":
		return badField("host", "host: empty, the host that the instance goes to is needed")
	case !known:
		return unseen(badField("host", fmt.Sprintf("host: %q is not on record", r.Host)))
	case i.Host == r.Host:
		return badField("host", fmt.Sprintf("host: instance %s is on %s already", i.ID, r.Host))
	case i.Host != host:
		return v1.Problemf(v1.CodeUnavailable, "instance %s is on %s now", i.ID, i.Host).WithHint("try again")
	case !w.runs(host, i):
		return refused(fmt.Sprintf("instance %s does not run on %s: allowed is the migration of an instance that runs, with its volumes or on pools that both hosts have; stopped, it stays on its host", i.ID, host),
			"start it first; among the pools of "+host+" its volumes move as they are: holdfast volume migrate")
	}
	if ok, why := w.fits(r.Host, i.HA); !ok && !r.Force {
		return refused(fmt.Sprintf("migrate instance %s to %s: %s", i.ID, r.Host, why), "another host: holdfast allocate; or all the same: --force")
	}
	for _, vid := range i.Volumes {
		vkey := leases.VolumeKey(vid)
		v, vrev, err := fetchRecord[v1.Volume](ctx, w, "volume", vid, vkey)
		if err == nil {
			err = busy("volume", vid, v.Command)
		}
		if err != nil {
			return err
		}
		if r.Pool == "" || v.Pool == r.Pool {
			if !w.hasPool(r.Host, v.Pool) {
				return unseen(badField("pool", fmt.Sprintf("pool: volume %s is on %s, which host %s does not have; with a pool of that host its volumes go along", vid, v.Pool, r.Host)))
			}
		} else {
			to, err := w.poolFor(r.Host, r.Pool)
			if err != nil {
				return err
			}
			if to.Role != "primary" {
				return badField("pool", fmt.Sprintf("pool: %s is %s, allowed are primary pools", to.ID, to.Role))
			}
			p.spec.Items = append(p.spec.Items, command.Item{
				Volume: v.ID, Format: v.Format, Size: v.Size, From: command.Ref(v.Place), To: command.Ref{Pool: to.ID, Path: command.Name(v.ID, id, v.Format)},
			})
		}
		v.Command, v.State = id, "moving"
		p.hold(vkey, vrev, v)
	}
	p.spec.Instance, p.spec.Live, p.spec.Target = i.ID, true, r.Host
	p.spec.Address = cmp.Or(target.Val.Control, "qemu+tls://"+r.Host+"/system")
	if p.spec.Definition, err = w.definitionOf(ctx, i); err != nil {
		return err
	}
	i.Command = id
	p.hold(key, rev, i)
	return nil
}

// create records a command: from then on it is carried out, whoever owns the host.
func (c *commander) create(ctx context.Context, trial *api.Trial, who string, r v1.CommandRequest) (command.Record, int64, error) {
	if rec, rev, ok := c.byKey(r.Key); ok {
		if rec.Kind != command.Kind(r.Kind) || !sameSubject(rec, r) {
			return rec, 0, badField("key", fmt.Sprintf("key: %q was given with another command, %s", r.Key, rec.ID))
		}
		return rec, rev, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return command.Record{}, 0, fmt.Errorf("name the command: %w", err)
	}
	now := c.now()
	var deadline time.Time
	if r.Deadline != "" {
		d, err := time.ParseDuration(r.Deadline)
		if err != nil || d < time.Second || d > 30*24*time.Hour {
			return command.Record{}, 0, badField("deadline", fmt.Sprintf("deadline: %q, allowed are durations of 1s to 720h such as 2h", r.Deadline))
		}
		deadline = now.Add(d)
	}
	p, err := c.o.w.plan(ctx, id.String(), c.o.host, r)
	if err != nil {
		return command.Record{}, 0, err
	}
	rec := command.New(id.String(), c.o.host, who, r.Key, p.spec, p.holds, now, deadline)
	key := leases.CommandKey(c.o.host, rec.ID)
	g := c.o.claim.Guard().At(key, 0)
	msg := "asked for by " + who
	if r.Reason != "" {
		msg += " (" + r.Reason + ")"
	}
	x := c.event("command.created", string(ha.Info), msg, rec)
	x.Data["by"] = who
	if r.Reason != "" {
		x.Data["reason"] = r.Reason
	}
	ops := []leases.Op{leases.Put(key, rec)}
	for k, v := range p.puts {
		g = g.At(k, p.guard[k])
		ops = append(ops, leases.Put(k, v))
	}
	b := (*backend)(c.o.w)
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var rev int64
	if trial != nil {
		trial.Would(x.Message, b.w().changesOf(ops, nil)...)
		_, err = b.client.Check(cctx, g, ops...)
	} else {
		rev, err = c.o.s.Commit(cctx, g, append(ops, leases.Put(leases.EventKey(x.ID), x), b.audited(x, ops))...)
	}
	var conflict *leases.ConflictError
	switch {
	case errors.As(err, &conflict) && conflict.Want == 0:
		return rec, 0, badField("as", fmt.Sprintf("as: %s exists already", strings.TrimPrefix(conflict.Key, leases.Root)))
	case errors.Is(err, leases.ErrConflict):
		// Somebody was quicker: the plan, made again, says with what.
		if _, again := c.o.w.plan(ctx, rec.ID, c.o.host, r); again != nil {
			return rec, 0, again
		}
	}
	if errors.Is(err, leases.ErrUnknownOutcome) {
		c.o.jobs.wg.Go(func() { c.lookFor(c.o.jobs.ctx, key) })
	}
	if err != nil {
		return rec, 0, etcdProblem("command", err)
	}
	if trial != nil {
		return rec, 0, nil
	}
	c.o.w.announced([]v1.Event{x})
	c.hold(rec, rev)
	return rec, rev, nil
}

// hold takes a record up that is not held yet.
func (c *commander) hold(rec command.Record, rev int64) {
	if c.all[rec.ID] != nil {
		return
	}
	c.all[rec.ID] = &heldCommand{rec: rec, rev: rev, busy: map[command.EffectKind]bool{}}
	c.mu.Lock()
	c.known[rec.ID] = knownOf(rec)
	c.mu.Unlock()
}

// doubtFor is how long a write without an answer may still be applied.
const doubtFor = 30 * time.Second

// lookFor looks for a record whose creation got no answer: if it is there it is to be
// carried out, although whoever asked for it was told that it may not be.
func (c *commander) lookFor(ctx context.Context, key string) {
	for end := time.Now().Add(doubtFor); time.Now().Before(end) && pause(ctx, time.Second); {
		kv, err := c.get(ctx, key)
		var rec command.Record
		if err == nil && kv.Decode(&rec) == nil {
			c.put("", foundMsg{rec, kv.ModRevision})
			return
		}
	}
}

// byKey finds the command that was asked for with an idempotency key.
func (c *commander) byKey(key string) (command.Record, int64, bool) {
	if key == "" {
		return command.Record{}, 0, false
	}
	for _, h := range c.all {
		if h.rec.Key == key {
			return h.rec, h.rev, true
		}
	}
	text := []byte(`"` + key + `"`) // a key needs no escapes: most records need not be decoded
	for _, kv := range c.o.w.mirror.List(leases.CommandsPrefix) {
		var rec command.Record
		if bytes.Contains(kv.Value, text) && kv.Decode(&rec) == nil && rec.Key == key {
			if rec.Host == c.o.host && rec.Open() {
				c.hold(rec, kv.ModRevision)
			}
			return rec, kv.ModRevision, true
		}
	}
	return command.Record{}, 0, false
}

func sameSubject(rec command.Record, r v1.CommandRequest) bool {
	subject := "instances/" + r.Instance
	switch {
	case r.Volume != "":
		subject = "volumes/" + r.Volume
	case r.Template != "":
		subject = "templates/" + r.Template
	}
	return slices.Contains(rec.Holds, subject)
}
