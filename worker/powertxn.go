// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
)

// txnRunner carries out the exchanges of one power transaction, one at a time, on one
// session per device. It decides nothing: the transaction is a pure step function
// inside the host's record.
type txnRunner struct {
	id     string
	queue  chan *power.TxnEffect
	cancel context.CancelFunc
}

// doTxn hands one exchange to the runner of its transaction; the first one starts it.
func (o *owner) doTxn(e *power.TxnEffect) {
	if o.txn != nil && o.txn.id != e.Txn {
		o.txn.cancel()
		o.txn = nil
	}
	if e.Do == power.DoEnd {
		if o.txn != nil {
			o.txn.cancel()
			o.txn = nil
		}
		return
	}
	if o.txn == nil {
		ctx, cancel := context.WithCancel(o.jobs.ctx)
		r := &txnRunner{id: e.Txn, queue: make(chan *power.TxnEffect, 8), cancel: cancel}
		o.txn = r
		targets, bad := o.targets()
		byName := map[string]target{}
		for _, t := range targets {
			byName[t.Device] = t
		}
		wrong := map[string]error{}
		for _, b := range bad {
			wrong[b.device] = b.err
		}
		o.jobs.wg.Go(func() {
			x := &exchanger{o: o, targets: byName, wrong: wrong, conns: map[string]wpower.Conn{}}
			x.run(ctx, r.queue)
		})
	}
	select {
	case o.txn.queue <- e:
	default: // at most one exchange is outstanding; a full queue is a defect of the transaction
		o.log.Error("power transaction asks too much at once", "txn", e.Txn)
	}
}

// exchanger is the goroutine of a runner.
type exchanger struct {
	o       *owner
	targets map[string]target
	wrong   map[string]error
	conns   map[string]wpower.Conn
}

func (x *exchanger) run(ctx context.Context, queue <-chan *power.TxnEffect) {
	defer func() {
		for _, c := range x.conns {
			closeConn(ctx, c)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-queue:
			if !waitUntil(ctx, e.NotBefore) {
				return
			}
			ev := x.exchange(ctx, e)
			if ctx.Err() != nil && !ev.Sent {
				return
			}
			x.o.in.put("", ha.Event{Kind: ha.EvTxn, At: time.Now().UTC(), Txn: &ev})
		}
	}
}

func waitUntil(ctx context.Context, at time.Time) bool {
	if d := time.Until(at); !at.IsZero() && d > 0 {
		return pause(ctx, d)
	}
	return ctx.Err() == nil
}

// exchange does one exchange and turns whatever happens into an event: an error never
// carries a state.
func (x *exchanger) exchange(ctx context.Context, e *power.TxnEffect) power.TxnEvent {
	began := time.Now()
	ev := power.TxnEvent{Txn: e.Txn, Seq: e.Seq}
	var err error
	switch t, known := x.targets[e.Device]; {
	case x.wrong[e.Device] != nil:
		err = x.wrong[e.Device]
	case !known:
		err = &wpower.Error{Kind: power.BadConfig, Op: string(e.Do), Detail: fmt.Sprintf("device %q is not on record any more", e.Device)}
	default:
		err = x.do(ctx, t, e, &ev)
		x.o.w.metrics.power(t.driver.Kind(), opName(e), err, time.Since(began))
	}
	ev.At = time.Now().UTC()
	ev.Err, ev.Detail = wpower.KindOf(err), errText(err)
	if err != nil {
		ev.Reading = power.Reading{}
	}
	return ev
}

func opName(e *power.TxnEffect) string {
	if e.Do == power.DoSend {
		return string(e.Verb)
	}
	return string(e.Do)
}

func (x *exchanger) do(ctx context.Context, t target, e *power.TxnEffect, ev *power.TxnEvent) error {
	limit := t.Limits.Answer
	if e.Do == power.DoSend {
		limit = t.Limits.Command
	}
	deadline := time.Now().Add(limit)
	if !e.NotAfter.IsZero() && e.NotAfter.Before(deadline) {
		deadline = e.NotAfter
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c, err := x.conn(ctx, t)
	if err != nil {
		return err
	}
	switch e.Do {
	case power.DoIdentity:
		if ev.Identity, err = c.Identity(ctx); err == nil {
			ev.Matched = t.Pinned.Matches(ev.Identity)
			err = x.o.w.answersForTwo(t.Host, t.device, ev.Identity)
		}
	case power.DoRead:
		ev.Reading, err = c.Status(ctx)
	case power.DoSend:
		err = x.send(ctx, t, c, e, ev)
	}
	if err != nil && wpower.KindOf(err) != power.InvalidState {
		x.drop(ctx, t.Device) // the next exchange opens a new session
	}
	return err
}

func (x *exchanger) conn(ctx context.Context, t target) (wpower.Conn, error) {
	if c := x.conns[t.Device]; c != nil {
		return c, nil
	}
	c, err := x.o.w.gate.For(t.driver, wpower.Urgent).Open(ctx, t.Target)
	if err == nil {
		x.conns[t.Device] = c
	}
	return c, err
}

func (x *exchanger) drop(ctx context.Context, device string) {
	if c := x.conns[device]; c != nil {
		closeConn(ctx, c)
		delete(x.conns, device)
	}
}

var (
	errLease  = errors.New("the lease is not certainly valid for this packet")
	errFrozen = errors.New("no packet: etcd has forgotten what this host's agent, or others, know")
)

// alone refuses what may bring power back as long as an earlier owner, of whom nobody knows
// what it does, may have a session open on the device: it could switch off through it after
// that. The device's own list of sessions may say earlier that there is none (leases.md
// §3.6). None is closed: it may be somebody else's. Devices without sessions have no list.
func (x *exchanger) alone(ctx context.Context, c wpower.Conn, v power.Verb) error {
	if v == power.HardOff || v == power.SoftOff || v == power.Identify || !time.Now().Before(x.o.sessions) {
		return nil
	}
	s, ok := wpower.As[wpower.Sessions](c)
	if !ok {
		return nil
	}
	table, err := s.Sessions(ctx)
	why := "it does not list its sessions"
	switch {
	case err != nil:
		why = err.Error()
	case len(table.Others) > 0 || table.Active > 1 && table.Complete:
		why = fmt.Sprintf("it has %d other sessions", table.Active-1)
	case table.Complete:
		return nil
	}
	return &wpower.Error{Kind: power.Busy, Op: string(v), Err: err,
		Detail: fmt.Sprintf("no packet: until %s a worker that was not seen to end may have a session with it: %s", x.o.sessions.UTC().Format(time.TimeOnly), why)}
}

// send sends one command. Immediately before each packet the lease must be certainly
// valid for that packet's own deadline and the intent must not have ended (leases.md
// §3.2); the rate of commands per worker is limited.
func (x *exchanger) send(ctx context.Context, t target, c wpower.Conn, e *power.TxnEffect, ev *power.TxnEvent) error {
	if err := x.alone(ctx, c, e.Verb); err != nil {
		return err
	}
	began := time.Now()
	err := x.o.w.pools.powerRate.Wait(ctx)
	observe(x.o.w.pools.powerRateWaited, began)
	if err != nil {
		return &wpower.Error{Kind: power.DeadlinePassed, Op: string(e.Verb), Detail: "no packet: the worker's rate of power commands is used up", Err: err}
	}
	var sent atomic.Bool // Before runs on the driver's goroutine
	out, err := c.Do(ctx, wpower.Command{
		Verb: e.Verb, ID: fmt.Sprintf("%s/%d", e.Txn, e.Seq), Epoch: x.o.claim.Epoch.String(), NotAfter: e.NotAfter,
		Before: func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if why, _ := x.o.w.frozen(x.o.host); why != "" {
				return errFrozen
			}
			// Last: nothing that may block comes between this and the packet, not even a log.
			if !x.o.s.Valid(min(t.Limits.Packet, packetLease)) {
				return errLease
			}
			sent.Store(true)
			return nil
		},
	})
	if sent.Load() {
		x.o.log.Info("packet", "device", t.Device, "verb", e.Verb, "intent", fmt.Sprintf("%s/%d", e.Txn, e.Seq), "epoch", x.o.claim.Epoch, "outcome", out)
	}
	ev.Outcome = out
	ev.Sent = sent.Load() || wpower.MayHaveRun(err)
	return err
}
