// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// How long the requests of commands may take. Those of a look are inside the time after
// which it is made again.
const (
	runTimeout  = 20 * time.Second
	makeTimeout = 90 * time.Second
	lookTimeout = 15 * time.Second
	tidyTimeout = 90 * time.Second
)

// start begins one effect of a committed step; each kind runs once at a time per command.
func (c *commander) start(ctx context.Context, h *heldCommand, e command.Effect) {
	if e.Kind == command.Announce || h.busy[e.Kind] {
		return
	}
	r := h.rec
	var do func(ctx context.Context) (command.Event, bool)
	switch e.Kind {
	case command.Send:
		do = func(ctx context.Context) (command.Event, bool) { return c.sendCommand(ctx, r), true }
	case command.Prepare:
		do = func(ctx context.Context) (command.Event, bool) { return c.prepare(ctx, r), true }
	case command.Abort:
		do = func(ctx context.Context) (command.Event, bool) {
			_, _, err := c.ask(ctx, r.Host, agentpb.CommandRequest_CANCEL, r.ID, nil, runTimeout)
			if err != nil {
				c.o.log.Info("cancel command", "command", r.ID, "cause", err)
			}
			return command.Event{}, false // its journal tells what came of it
		}
	case command.Reattach:
		do = func(ctx context.Context) (command.Event, bool) {
			refused, _, err := c.ask(ctx, r.Host, agentpb.CommandRequest_REATTACH, r.ID, nil, runTimeout)
			if err == nil && refused != "" {
				err = errors.New(refused)
			}
			return command.Event{Kind: command.EvOver, Reason: fmt.Sprintf("nobody waits for the end of its job: %v", err)}, err != nil
		}
	case command.Gather:
		do = func(ctx context.Context) (command.Event, bool) {
			e := c.gather(ctx, r)
			return command.Event{Kind: command.EvEvidence, Evidence: &e}, true
		}
	case command.Tidy:
		do = func(ctx context.Context) (command.Event, bool) {
			return command.Event{Kind: command.EvTidied, Tidied: c.tidy(ctx, r, e.Actions)}, true
		}
	default:
		c.o.log.Error("effect without a doer", "effect", e.Kind)
		return
	}
	h.busy[e.Kind] = true
	c.o.jobs.wg.Go(func() {
		if looks := e.Kind == command.Gather || e.Kind == command.Tidy; looks {
			select {
			case c.looks <- struct{}{}:
				defer func() { <-c.looks }()
			case <-ctx.Done():
				return
			}
			if !c.o.w.pools.reconcile.acquire(ctx) {
				return
			}
			defer c.o.w.pools.reconcile.release()
		}
		ev, feed := do(ctx)
		if ctx.Err() == nil {
			c.put("", doneMsg{r.ID, e.Kind, ev, feed})
		}
	})
}

// ask sends one request about a command to the agent of a host, through its owner where that
// is another worker. An error: it may or may not have been worked on.
func (c *commander) ask(ctx context.Context, host string, verb agentpb.CommandRequest_Verb, id string, body any, timeout time.Duration) (refused string, answer []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	leave, err := c.asks.enter(ctx, host)
	if err != nil {
		return "", nil, err
	}
	defer leave()
	q := &agentpb.CommandRequest{Verb: verb, Command: id}
	if body != nil {
		if q.Body, err = json.Marshal(body); err != nil {
			return "", nil, fmt.Errorf("encode %v: %w", verb, err)
		}
	}
	a, err := c.o.w.askAgent(ctx, host, q)
	if errors.Is(err, link.ErrNotOwner) && host != c.o.host {
		a, err = c.askOwner(ctx, host, q)
	}
	if err != nil {
		return "", nil, err
	}
	return a.GetRefused(), a.GetBody(), nil
}

// replyOf makes an event of how a request ended.
func replyOf(kind command.EventKind, refused string, err error) command.Event {
	switch {
	case err != nil:
		return command.Event{Kind: kind, Reply: command.NoReply, Reason: err.Error()}
	case refused != "":
		return command.Event{Kind: kind, Reply: command.Refused, Reason: refused}
	}
	return command.Event{Kind: kind, Reply: command.Accepted}
}

func (c *commander) sendCommand(ctx context.Context, r command.Record) command.Event {
	refused, _, err := c.ask(ctx, r.Host, agentpb.CommandRequest_RUN, r.ID, r.Spec, runTimeout)
	return replyOf(command.EvSent, refused, err)
}

// prepare asks the target of a migration for its pools, and for the volumes to fill.
func (c *commander) prepare(ctx context.Context, r command.Record) command.Event {
	refused, body, err := c.ask(ctx, r.Spec.Target, agentpb.CommandRequest_MAKE, r.ID, r.Spec, makeTimeout)
	ev := replyOf(command.EvPrepared, refused, err)
	if ev.Reply == command.Accepted {
		if err := json.Unmarshal(body, &ev.Paths); err != nil {
			return command.Event{Kind: command.EvPrepared, Reply: command.NoReply, Reason: fmt.Sprintf("unreadable answer: %v", err)}
		}
	}
	return ev
}

// gather asks all hosts of a command what they see, at the same time. Of a source that is
// proven off, others look at its shared pools.
func (c *commander) gather(ctx context.Context, r command.Record) command.Evidence {
	e := command.Evidence{At: c.now(), Hosts: map[string]command.HostEvidence{}, Over: map[string]string{}}
	hosts := r.Spec.Hosts(r.Host)
	var mu sync.Mutex
	look := func(hosts []string) {
		var all sync.WaitGroup
		for _, host := range hosts {
			all.Go(func() {
				h := c.look(ctx, r, host)
				mu.Lock()
				defer mu.Unlock()
				e.Hosts[host] = h
			})
		}
		all.Wait()
	}
	look(hosts)
	for _, host := range hosts {
		if e.Hosts[host].Answered {
			continue
		}
		if how := c.proofOf(ctx, host, r); how != "" {
			e.Over[host] = how
		}
	}
	if !e.Hosts[r.Host].Answered && e.Over[r.Host] != "" {
		look(c.witnesses(r, hosts))
	}
	return e
}

func (c *commander) look(ctx context.Context, r command.Record, host string) command.HostEvidence {
	none := func(err error) command.HostEvidence { return command.HostEvidence{Host: host, Why: err.Error()} }
	q := r.Ask(host, func(pool string) bool { return c.o.w.hasPool(host, pool) })
	refused, body, err := c.ask(ctx, host, agentpb.CommandRequest_LOOK, r.ID, q, lookTimeout)
	switch {
	case err != nil:
		return none(err)
	case refused != "":
		return none(errors.New(refused))
	}
	var h command.HostEvidence
	if err := json.Unmarshal(body, &h); err != nil {
		return none(fmt.Errorf("unreadable answer: %w", err))
	}
	h.Host = host // whose link it came over
	return h
}

// proofOf says how it is proven that what a host ran for a command is over; empty: it is
// not. Only a proof of the boot that worked on it counts. It is read from etcd itself: of a
// host that another worker owns the copy here may be behind what that worker did.
func (c *commander) proofOf(ctx context.Context, host string, r command.Record) string {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var rec ha.Record
	rev, err := c.o.fetch(ctx, leases.HostHAKey(host), &rec)
	if err != nil {
		c.o.log.Info("look for a proof", "host", host, "command", r.ID, "cause", err)
		return ""
	}
	p := rec.Proof
	if rev == 0 || p == nil || p.Revoked != "" || p.Ended || p.Boot != rec.Boot.ID {
		return ""
	}
	if host == r.Host && r.Boot != "" && p.Boot != r.Boot {
		return ""
	}
	return fmt.Sprintf("boot %s, %s, %s", p.Boot, p.How, p.Assurance)
}

// witnesses is another host that can look at the command's pools: a neighbour that is seen
// to be well, or else a host of another partition, also of another owner, another one at
// each attempt.
func (c *commander) witnesses(r command.Record, asked []string) []string {
	w := c.o.w
	can := func(host string) bool {
		return !slices.Contains(asked, host) && !slices.ContainsFunc(r.Spec.Items, func(i command.Item) bool { return !w.hasPool(host, i.To.Pool) })
	}
	for host, p := range w.neighbours(c.o.home, r.Host) {
		if p.reads() && can(host) {
			return []string{host}
		}
	}
	var far []string
	for host, spec := range w.view.hosts() {
		if rec, _ := get(w.view, w.view.ha, host); spec.Val.Partition != c.o.home && !spec.Val.Disabled && rec.Val.Health != ha.Fail && can(host) {
			far = append(far, host)
		}
	}
	if len(far) == 0 {
		return nil
	}
	slices.Sort(far)
	return []string{far[r.Attempts%len(far)]}
}

// tidy has agents do what may be done, each host its own.
func (c *commander) tidy(ctx context.Context, r command.Record, actions []command.Action) []command.Action {
	by := map[string][]command.Action{}
	for _, a := range actions {
		by[a.Host] = append(by[a.Host], a)
	}
	var out []command.Action
	for host, some := range by {
		refused, body, err := c.ask(ctx, host, agentpb.CommandRequest_TIDY, r.ID, command.Chore{V: command.Version, Spec: r.Spec, Actions: some}, tidyTimeout)
		var done command.Chore
		if err == nil && refused == "" {
			err = json.Unmarshal(body, &done)
		}
		if err == nil && refused == "" {
			out = append(out, done.Actions...)
			continue
		}
		for _, a := range some {
			a.Not = fmt.Sprintf("%s on %s: %s%v", a.Deed, host, refused, orEmpty(err))
			out = append(out, a)
		}
	}
	return out
}

func orEmpty(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// pool returns a pool's record.
func (w *Worker) pool(id string) (v1.Pool, bool) {
	var p v1.Pool
	kv, ok := w.mirror.Get(leases.PoolKey(id))
	if !ok || kv.Decode(&p) != nil {
		return p, false
	}
	p.Revision = kv.ModRevision
	return p, true
}

// hasPool says whether a host has a pool, as declared.
func (w *Worker) hasPool(host, id string) bool {
	p, ok := w.pool(id)
	if !ok {
		return false
	}
	if len(p.Hosts) > 0 {
		return slices.Contains(p.Hosts, host)
	}
	spec, ok := w.view.spec(host)
	return ok && slices.Contains(spec.Val.Pools, id)
}

// fits says whether placement allows an instance on a host (ha.md §8), and why not.
func (w *Worker) fits(host string, needHA bool) (bool, string) {
	spec, ok := w.view.spec(host)
	if !ok {
		return false, fmt.Sprintf("host %s is not on record", host)
	}
	rec, _ := get(w.view, w.view.ha, host)
	if rec.Val.State == "" {
		rec.Val.State = ha.None
	}
	ranked := ha.Rank([]ha.Candidate{{
		Host: host, State: rec.Val.State, Partition: rec.Val.Partition, Health: rec.Val.Health,
		Admin: ha.Admin{Maintenance: spec.Val.Maintenance, Excluded: spec.Val.HADisabled, Disabled: spec.Val.Disabled},
	}}, needHA)
	return ranked[0].Fits, ranked[0].Reason
}
