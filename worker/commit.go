// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const etcdTimeout = 3 * time.Second

// intent is the value of ops/<host>: what may be on the wire to the host's devices.
// No intent, no packet (leases.md §3.1).
type intent struct {
	V        int        `json:"v"`
	ID       string     `json:"id"`
	Txn      string     `json:"txn"`
	Seq      int        `json:"seq"`
	Verb     power.Verb `json:"verb"`
	Device   string     `json:"device"`
	Worker   string     `json:"worker"`
	Boot     string     `json:"boot"`
	Epoch    string     `json:"epoch"`
	At       time.Time  `json:"at"`
	Deadline time.Time  `json:"deadline"`
	// Until then a packet of an owner before this one may still come: who overwrites an
	// intent hands that on.
	OnNotBefore time.Time `json:"onNotBefore,omitzero"`
	Sessions    time.Time `json:"sessions,omitzero"` // until then one of its sessions may be open
}

// commit writes the next record with everything that belongs to the same moment: the
// events it announces, the budget it spends, the intent of a packet, the incident it
// closes. One transaction, compared on the claim's epoch and on every record's
// revision; a packet also on the host's declaration, and an answer of the guards on
// every switch that they were shown. It returns whether o.rec is the next record now; if
// not, no effect may start.
func (o *owner) commit(ctx context.Context, ev ha.Event, next ha.Record, effects []ha.Effect) (done bool) {
	g := o.claim.Guard().At(leases.HostHAKey(o.host), o.recRev)
	if ev.Kind == ha.EvPlace || slices.ContainsFunc(effects, sends) {
		g = g.At(leases.HostSpecKey(o.host), o.spec.Rev)
	}
	if ev.Kind == ha.EvPlace {
		for key, rev := range o.place.switches {
			g = g.At(key, rev)
		}
	}
	steps := o.recordStep(ev, &next, effects)
	ops := append([]leases.Op{leases.Put(leases.HostHAKey(o.host), next)}, steps...)
	var announced []v1.Event
	for _, e := range effects {
		switch e.Kind {
		case ha.Announce:
			x := o.event(ev, next, e)
			announced = append(announced, x)
			ops = append(ops, leases.Put(leases.EventKey(x.ID), x))
		case ha.Spend:
			var err error
			if g, ops, err = o.spend(g, ops, ev); err != nil {
				o.log.Error("spend budget", "cause", err)
				o.recorder.Break()
				return false
			}
		case ha.CloseIncident:
			ops = append(ops, leases.Put(leases.IncidentKey(o.host, e.Incident.ID), e.Incident).Inherit(leases.HostHAKey(o.host), "incident"))
			ops = append(ops, o.outlived(ctx, e.Incident.ID, ev.At)...)
		case ha.TxnDo:
			switch e.Txn.Do {
			case power.DoSend:
				ops = append(ops, leases.Fresh(leases.OpsKey(o.host), o.intent(ev.At, e.Txn)))
			case power.DoEnd:
				ops = append(ops, leases.Delete(leases.OpsKey(o.host)))
			}
		}
	}
	if ev.Kind == ha.EvOperator && ev.Order != nil {
		audit, err := o.auditOrder(ev, ops)
		if err != nil {
			o.log.Error("audit an order", "cause", err)
			return false
		}
		ops = append(ops, audit)
	}
	failed := false
	defer func() {
		if !done {
			o.recorder.Break() // the step was not written
		}
		if failed { // the warning is this owner's: another one's success says nothing of it
			o.w.health.clear("CommitsFail")
		}
	}()
	presses := underWay(&next) || underWay(&o.rec) || ev.Kind == ha.EvOperator || slices.ContainsFunc(effects, sends)
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		rev, err := o.write(ctx, presses, g, ops)
		if err != nil && ctx.Err() != nil {
			return false // the owner has ended, whatever etcd said
		}
		switch {
		case err == nil:
			o.w.metrics.commits.WithLabelValues("ok").Inc()
			o.rec, o.stored, o.recRev = next, next, rev
			o.w.announced(announced)
			return true
		case errors.Is(err, leases.ErrFenced):
			o.w.metrics.commits.WithLabelValues("fenced").Inc()
			o.jobs.stop(fmt.Errorf("commit %s: %w", ev.Kind, leases.ErrFenced))
			return false
		case errors.Is(err, leases.ErrConflict):
			o.w.metrics.commits.WithLabelValues("conflict").Inc()
			o.conflict(ctx, ev, err)
			return false
		}
		failed = true
		o.w.metrics.commits.WithLabelValues("error").Inc()
		o.log.Warn("commit", "event", ev.Kind, "cause", err)
		o.w.health.set("CommitsFail", "critical", fmt.Sprintf("host %s: %v; nothing is done about a host before it is on record", o.host, err))
		if !pause(ctx, backoff) {
			return false
		}
	}
}

// write is one attempt at a transaction, once there is a place for it. An error may be ctx's end.
func (o *owner) write(ctx context.Context, presses bool, g leases.Guard, ops []leases.Op) (rev int64, err error) {
	places := &o.w.pools.commits
	if presses {
		places = &o.w.pools.pressing
	}
	if !places.acquire(ctx) {
		return 0, context.Cause(ctx)
	}
	defer places.release()
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	return o.s.Commit(ctx, g, ops...)
}

// auditOrder is the audit record of an operator's order: what it changed at once. What follows
// is in the log and in the incident.
func (o *owner) auditOrder(ev ha.Event, ops []leases.Op) (leases.Op, error) {
	was, err := asWas(o.stored, o.recRev)
	if err != nil {
		return leases.Op{}, fmt.Errorf("encode record of %s: %w", o.host, err)
	}
	order := ev.Order
	msg := fmt.Sprintf("%s of host %s was ordered", order.Verb, o.host)
	if order.Second != "" {
		msg += ", second operator " + order.Second
	}
	x := wordOf(ev.At, o.s.Worker(), o.host, o.home, "host."+string(order.Verb), order.By, msg, order.Reason)
	return o.w.auditOf(x, ops, map[string]json.RawMessage{leases.HostHAKey(o.host): was}), nil
}

func sends(e ha.Effect) bool { return e.Kind == ha.TxnDo && e.Txn.Do == power.DoSend }

// conflict handles a moved revision. If it is the host's own record, that is not ours:
// the owner ends and adopts the host afresh. Otherwise somebody was quicker with a budget,
// a switch or the host's declaration: nothing was written, and it is decided anew with
// what is so now, after fresh readings and a new snapshot where guards were asked.
func (o *owner) conflict(ctx context.Context, ev ha.Event, err error) {
	var c *leases.ConflictError
	if !errors.As(err, &c) || c.Key == leases.HostHAKey(o.host) {
		o.jobs.stop(fmt.Errorf("commit %s: %w", ev.Kind, err))
		return
	}
	o.log.Info("decide again", "event", ev.Kind, "cause", err)
	if c.Key == leases.HostSpecKey(o.host) {
		if err := o.reloadSpec(ctx); err != nil {
			o.jobs.stop(fmt.Errorf("commit %s: %w", ev.Kind, err))
			return
		}
	}
	switch ev.Kind { // a tick comes again by itself, an operator is told
	case ha.EvPlace:
		o.takePlace(ev.Snapshot.Purpose)
	case ha.EvTxn:
		o.in.put("", ev)
	}
}

// reloadSpec takes over what the host's declaration says now.
func (o *owner) reloadSpec(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	if err := o.loadSpec(func(key string, into any) (int64, error) { return o.fetch(cctx, key, into) }); err != nil {
		return err
	}
	if o.spec.Val.Partition != o.home {
		return errRemoved
	}
	o.tellPolicy(ctx)
	return nil
}

// spend adds one slot of every budget that was read for this event to the transaction:
// with the guards' snapshot, or with an operator's order, which is counted only.
func (o *owner) spend(g leases.Guard, ops []leases.Op, ev ha.Event) (leases.Guard, []leases.Op, error) {
	if ev.Snapshot == nil && ev.Order == nil || o.place.budgets == nil {
		return g, nil, errors.New("an event without budgets cannot spend")
	}
	for _, b := range o.place.budgets {
		g = g.At(leases.BudgetKey(b.scope), b.rev)
		ops = append(ops, leases.Put(leases.BudgetKey(b.scope), b.counter.Spend(ev.At, b.window)))
	}
	return g, ops, nil
}

// budgetState is one budget as read for a snapshot.
type budgetState struct {
	scope   string
	rev     int64
	counter budget.Counter
	limit   int
	window  time.Duration
}

func (o *owner) intent(at time.Time, e *power.TxnEffect) intent {
	return intent{
		V: 1, ID: fmt.Sprintf("%s/%d", e.Txn, e.Seq), Txn: e.Txn, Seq: e.Seq, Verb: e.Verb, Device: e.Device,
		Worker: o.s.Worker(), Boot: o.s.Boot(), Epoch: o.claim.Epoch.String(), At: at, Deadline: e.NotAfter,
		OnNotBefore: o.onNotBefore.Round(0), Sessions: o.sessions.Round(0),
	}
}

// event makes the log entry of an announcement.
func (o *owner) event(ev ha.Event, next ha.Record, e ha.Effect) v1.Event {
	area := ""
	if e.Severity == ha.Page {
		area = o.w.view.pagedArea(o.host)
		e = e.Fold(area)
	}
	x := v1.Event{
		ID: newEventID(), At: ev.At, Type: e.Type, Severity: string(e.Severity), Host: o.host, Partition: o.spec.Val.Partition,
		Worker: o.s.Worker(), Message: e.Reason, Instances: e.Instances, Data: map[string]string{"epoch": o.claim.Epoch.String()},
	}
	if x.Severity == "" {
		x.Severity = string(ha.Info)
	}
	switch {
	case next.Incident != nil:
		x.Incident = next.Incident.ID
	case o.rec.Incident != nil:
		x.Incident = o.rec.Incident.ID
	}
	if e.Boot != "" {
		x.Data["boot"] = e.Boot
	}
	if len(e.Local) > 0 {
		x.Data["local"] = strings.Join(e.Local, ",")
	}
	if area != "" {
		x.Data["area"] = area
	}
	if next.State != o.rec.State {
		x.Data["from"], x.Data["to"] = string(o.rec.State), string(next.State)
	}
	return x
}

// newEventID is a version 7 UUID: keys of the log sort by time.
func newEventID() string {
	id, err := uuid.NewV7()
	if err != nil { // the system's random source is gone: nothing else works either
		return uuid.NewString()
	}
	return id.String()
}

// announced is told of events that are in the log now.
func (w *Worker) announced(events []v1.Event) {
	for _, x := range events {
		w.metrics.events.WithLabelValues(x.Type, x.Severity).Inc()
		if x.Severity == string(ha.Page) {
			w.hook.page(x)
		}
	}
}
