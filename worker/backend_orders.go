// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-ha/holdfast/coordinator/guard"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// orderVerbs are the verbs of an order and what each does, for plans and errors.
var orderVerbs = map[string]string{
	"on":          "switch the host on; a quiet period follows",
	"off":         "switch the host off hard and prove it; it is not suspected until it is ordered on or read ON",
	"soft":        "ask the operating system to shut down; no hard off follows by itself",
	"reset":       "reset the machine; cannot be verified",
	"cycle":       "have the device power-cycle the machine; cannot be verified",
	"identify":    "blink the chassis light for 15 s",
	"test":        "log in to every power device, read identity and status, blink for a second; nothing is switched",
	"retry":       "open a new incident for a FAILED host",
	"confirm-off": "state on your own responsibility that the host is off and stays off: its instances may be started elsewhere",
}

func checkVerb(verb string) error {
	if _, ok := orderVerbs[verb]; ok {
		return nil
	}
	var all []string
	for v := range orderVerbs {
		all = append(all, v)
	}
	slices.Sort(all)
	return badField("verb", fmt.Sprintf("verb: %q, allowed are %s", verb, strings.Join(all, ", ")))
}

// PlanOrder implements api.Backend.
func (b *backend) PlanOrder(ctx context.Context, id string, o v1.OrderRequest) (v1.Plan, error) {
	if err := checkVerb(o.Verb); err != nil {
		return v1.Plan{}, err
	}
	spec, ok := b.view.spec(id)
	if !ok {
		return v1.Plan{}, notFound("host", id)
	}
	h := b.host(id, spec)
	p := v1.Plan{Host: id, Verb: o.Verb, Will: []string{orderVerbs[o.Verb]}, Instances: h.Status.Instances}
	p.Will = append(p.Will, fmt.Sprintf("now: HA %s (%s), power %s", h.Status.State, h.Status.Reason, h.Status.Power))
	switch o.Verb {
	case "off", "soft", "reset", "cycle":
		if len(h.Status.Instances) > 0 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%d instances run there: %s", len(h.Status.Instances), strings.Join(h.Status.Instances, ", ")))
		}
		p.Warnings = append(p.Warnings, "an operator's order is not held by arming or budgets; it is counted in them")
	case "confirm-off":
		if h.Status.Linked == v1.LinkedYes {
			p.Warnings = append(p.Warnings, "its agent is linked: this order will be refused without a second operator")
		}
		p.Warnings = append(p.Warnings, "if the host runs all the same, its instances will run twice")
	}
	var problem error
	err := b.w().live(ctx, id, func(ctx context.Context, ow *owner) {
		bs, err := ow.readBudgets(ctx)
		problem = etcdProblem("budgets of "+id, err)
		for _, x := range bs {
			p.Budgets = append(p.Budgets, budgetOf(x.scope, x.counter, x.limit, x.window, ow.now()))
		}
	})
	if err == nil {
		err = problem
	}
	return p, err
}

// Order implements api.Backend.
func (b *backend) Order(ctx context.Context, who, id string, o v1.OrderRequest) (v1.OrderResult, error) {
	if err := checkVerb(o.Verb); err != nil {
		return v1.OrderResult{}, err
	}
	if _, ok := b.view.spec(id); !ok {
		return v1.OrderResult{}, notFound("host", id)
	}
	w := b.w()
	res := v1.OrderResult{ID: uuid.NewString(), Host: id, Verb: o.Verb}
	switch o.Verb {
	case "test", "identify": // they leave no record of their own
		x := b.audit("host."+o.Verb, who, fmt.Sprintf("%s of host %s was ordered", o.Verb, id), o.Reason)
		x.Host = id
		if _, err := b.noted(ctx, x); err != nil {
			return res, err
		}
		if o.Verb == "test" {
			return w.testPower(ctx, res)
		}
		return w.identify(ctx, res)
	}
	var problem error
	err := w.live(ctx, id, func(ctx context.Context, ow *owner) {
		verb := ha.OrderVerb(o.Verb)
		if len(ow.policy.Ladder) == 0 && verb != ha.OrderRetry && verb != ha.OrderConfirmOff {
			problem = refused(fmt.Sprintf("power %s %s: the host has no power device on record", verb, id), "add one with holdfast apply -f")
			return
		}
		if why, _ := w.frozen(id); why != "" && verb != ha.OrderRetry && verb != ha.OrderConfirmOff {
			problem = refused(fmt.Sprintf("power %s %s: %s", verb, id, why), wentBackClears)
			return
		}
		if p := ow.w.view.profile(ow.home, id); (verb == ha.OrderReset || verb == ha.OrderCycle) && p.Has("no-reset") {
			quirks, _ := p.Get("quirks")
			problem = refused(fmt.Sprintf("power %s %s: its devices cannot (quirk no-reset at %s)", verb, id, quirks.Origin), "off, then on")
			return
		}
		order := ha.Order{Verb: verb, ID: res.ID, By: who, Second: o.Second, Reason: o.Reason}
		effects, err := ow.order(ctx, order)
		if err != nil {
			problem = err
			return
		}
		for _, e := range effects {
			if e.Type == "ha.order-refused" {
				problem = refused(fmt.Sprintf("%s %s: %s", verb, id, e.Reason), "holdfast explain host "+id)
				return
			}
		}
		res.State, res.Message = string(ow.rec.State), fmt.Sprintf("%s: %s", ow.rec.State, ow.rec.Reason)
		if slices.ContainsFunc(effects, func(e ha.Effect) bool { return e.Kind == ha.Spend }) {
			var counted []string
			for _, b := range ow.ordered {
				counted = append(counted, fmt.Sprintf("%s %d of %d", b.scope, b.counter.Used(ow.now(), b.window)+1, b.limit))
			}
			res.Message += "; counted in the power-down budgets: " + strings.Join(counted, ", ")
		}
	})
	if err == nil {
		err = problem
	}
	return res, err
}

// orderTries is how often an order is put on record when a budget moves meanwhile.
const orderTries = 5

// order puts an operator's order on record, counted in the same transaction in every
// budget of the host (power.md §9.5: counted, never held).
func (o *owner) order(ctx context.Context, order ha.Order) ([]ha.Effect, error) {
	for range orderTries {
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		budgets, err := o.readBudgets(cctx)
		cancel()
		if err != nil {
			return nil, etcdProblem(fmt.Sprintf("%s %s: budgets", order.Verb, o.host), err)
		}
		kept := o.place.budgets // those of a snapshot that waits for its commit
		o.place.budgets, o.ordered = budgets, budgets
		effects, ok := o.step(ctx, ha.Event{Kind: ha.EvOperator, Order: &order, Life: o.live.lastLife()})
		o.place.budgets = kept
		if ok {
			return effects, nil
		}
		if ctx.Err() != nil || o.jobs.ctx.Err() != nil {
			break
		}
	}
	return nil, v1.Problemf(v1.CodeUnavailable, "%s %s: the order could not be recorded", order.Verb, o.host).WithHint("nothing was done; try again")
}

// An ordered test waits for a reading that runs.
const (
	testTries = 100
	testRetry = 200 * time.Millisecond
)

// testPower tests every device of a host now and says what each step gave.
func (w *Worker) testPower(ctx context.Context, res v1.OrderResult) (v1.OrderResult, error) {
	done := make(chan []deviceReading, 1)
	var state string
	var ended <-chan struct{}
	var humans []string
	busy := false
	for try := 0; try == 0 || busy && try < testTries && pause(ctx, testRetry); try++ {
		err := w.live(ctx, res.Host, func(_ context.Context, o *owner) {
			state, ended, humans = string(o.rec.State), o.jobs.ctx.Done(), nil
			for _, d := range o.devices {
				if d.human {
					humans = append(humans, d.Name+": a human, nothing to test")
				}
			}
			busy = !o.startReading(true, true, done)
		})
		if err != nil {
			return res, err
		}
	}
	if busy {
		return res, v1.Problemf(v1.CodeConflict, "power test of %s: a reading runs already", res.Host).WithHint("try again in a moment")
	}
	res.State = state
	select {
	case readings := <-done:
		failed := 0
		for _, r := range readings {
			for _, step := range r.steps {
				res.Steps = append(res.Steps, r.device+": "+step)
			}
			if r.testErr != nil || r.err != nil {
				failed++
				if len(r.steps) == 0 { // it did not even get its turn
					res.Steps = append(res.Steps, fmt.Sprintf("%s: %v", r.device, r.err))
				}
			}
		}
		res.Steps = append(res.Steps, humans...)
		res.Message = fmt.Sprintf("%d of %d devices pass", len(readings)-failed, len(readings))
		res.Failed = failed > 0 || len(readings) == 0
		return res, nil
	case <-ended:
		return res, v1.Problemf(v1.CodeUnavailable, "power test of %s: the host went to another owner meanwhile", res.Host).WithHint("try again in a moment")
	case <-ctx.Done():
		return res, context.Cause(ctx)
	}
}

// identify blinks the chassis: harmless, so it needs no intent and no claim.
func (w *Worker) identify(ctx context.Context, res v1.OrderResult) (v1.OrderResult, error) {
	var devices []target
	var bad []deviceReading
	if err := w.live(ctx, res.Host, func(_ context.Context, o *owner) { devices, bad = o.targets(); res.State = string(o.rec.State) }); err != nil {
		return res, err
	}
	err := error(refused("power identify "+res.Host+": the host has no usable power device", ""))
	for _, b := range bad {
		err = b.err
	}
	for _, t := range devices {
		if err = w.identifyOne(ctx, t); err == nil {
			res.Message = "device " + t.Device + " blinks for 15 s"
			return res, nil
		}
	}
	return res, v1.Problemf(v1.CodeDeviceFailed, "power identify %s: %v", res.Host, err)
}

func (w *Worker) identifyOne(ctx context.Context, t target) error {
	ctx, cancel := context.WithTimeout(ctx, t.Limits.Command)
	defer cancel()
	c, err := w.gate.For(t.driver, wpower.Urgent).Open(ctx, t.Target)
	if err != nil {
		return err
	}
	defer closeConn(ctx, c)
	_, err = c.Do(ctx, wpower.Command{Verb: power.Identify, ID: uuid.NewString(), For: 15 * time.Second})
	return err
}

// ExplainHost implements api.Backend.
func (b *backend) ExplainHost(ctx context.Context, id string) (v1.Explanation, error) {
	spec, ok := b.view.spec(id)
	if !ok {
		return v1.Explanation{}, notFound("host", id)
	}
	var out v1.Explanation
	explain := func(r ha.Record, p ha.Policy) {
		x := ha.Explain(r, p, time.Now().UTC())
		out = ExplanationOf(r, x)
		for _, a := range b.view.stormsOf(id) {
			out.Why = append(out.Why, fmt.Sprintf("%s is in a storm since %s: %s (holdfast describe area %s)", a.Area, a.Began.Format(time.RFC3339), a.Why, a.Area))
		}
	}
	if own, _ := b.w().owned(id); own != nil {
		err := b.w().live(ctx, id, func(_ context.Context, o *owner) { explain(o.rec, o.policy) })
		return out, err
	}
	rec, known := get(b.view, b.view.ha, id)
	if !known {
		return v1.Explanation{Subject: "host " + id, State: string(ha.None), Why: []string{"no worker has looked at it yet"}}, nil
	}
	eff, profile := b.view.resolved(spec.Val.Partition, id, time.Now())
	explain(rec.Val, policyOf(eff, b.w().devices(spec.Val, profile), profile))
	if base, _ := b.OwnerAPI(id); base == "" {
		out.Why = append(out.Why, "as on record: no worker owns the host at this moment")
	}
	return out, nil
}

// ExplanationOf is what operators are shown of a host's explanation.
func ExplanationOf(r ha.Record, x ha.Explanation) v1.Explanation {
	out := v1.Explanation{Subject: "host " + r.Host, State: string(x.State), Since: x.Since, Why: []string{x.Why}, WhyNot: x.WhyNot, Evidence: x.Evidence, Holds: holdsOf(x.Holds),
		Guards: answersOf(x.Guards), Next: x.Next, WouldChange: slices.Concat(x.Flips, x.WouldChange), OperatorMay: x.OperatorMay}
	if r.Incident != nil {
		out.Story = entriesOf(r.Incident.Ledger)
	}
	return out
}

func answersOf(in []guard.Answer) (out []v1.GuardAnswer) {
	for _, a := range in {
		out = append(out, v1.GuardAnswer{Guard: a.Guard, Verdict: string(a.Verdict), Reason: a.Reason, Value: a.Value, Limit: a.Limit, Clears: a.Clears})
	}
	return out
}

func entriesOf(in []ha.Entry) (out []v1.Entry) {
	for _, e := range in {
		out = append(out, v1.Entry(e))
	}
	return out
}

// ExplainPartition implements api.Backend.
func (b *backend) ExplainPartition(ctx context.Context, path string) (v1.Explanation, error) {
	p, err := b.Partition(ctx, path)
	if err != nil {
		return v1.Explanation{}, err
	}
	x := v1.Explanation{Subject: "partition " + path, State: p.State, Since: p.Since, Why: []string{p.Reason}}
	for _, d := range p.Disarmed {
		x.Why = append(x.Why, "disarmed: "+d)
		x.WouldChange = append(x.WouldChange, "holdfast ha arm "+strings.Fields(d)[0])
		x.WhyNot = append(x.WhyNot, "automation acts on no host here: disarmed: "+d)
	}
	for _, d := range b.view.disabled(path) {
		x.WouldChange = append(x.WouldChange, "enable it: "+d)
		x.WhyNot = append(x.WhyNot, "it is not ACTIVE: "+d)
	}
	b.partitionOutlook(&x, p)
	for s, n := range p.States {
		x.Story = append(x.Story, v1.Entry{What: "hosts", Text: fmt.Sprintf("%d %s", n, s)})
	}
	for id, s := range b.view.hosts() {
		rec, ok := get(b.view, b.view.ha, id)
		switch {
		case !within(s.Val.Partition, path):
		case s.Val.Maintenance, s.Val.HADisabled, s.Val.Disabled:
			x.Story = append(x.Story, v1.Entry{What: "unfit", Text: strings.TrimSuffix(fmt.Sprintf("host %s: in maintenance, excluded or disabled: %s", id, s.Val.Why), ": ")})
		case !ok || rec.Val.Eligible == ha.Unknown:
			x.Story = append(x.Story, v1.Entry{What: "unfit", Text: fmt.Sprintf("host %s: the provider has not judged it yet", id)})
		case rec.Val.Eligible == ha.Fail:
			x.Story = append(x.Story, v1.Entry{What: "unfit", Text: fmt.Sprintf("host %s: %s", id, rec.Val.EligibleWhy)})
		case rec.Val.Health == ha.Fail:
			x.Story = append(x.Story, v1.Entry{What: "unfit", Text: fmt.Sprintf("host %s: %s", id, rec.Val.HealthWhy)})
		}
	}
	slices.SortFunc(x.Story, func(a, b v1.Entry) int {
		return cmp.Or(strings.Compare(a.What, b.What), strings.Compare(a.Text, b.Text))
	})
	return x, nil
}
