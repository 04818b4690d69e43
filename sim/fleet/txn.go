// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
)

// packetLease is for how long the lease must certainly hold before a packet (ha.md §6).
const packetLease = 2 * time.Second

// doTxn carries out one exchange of a power transaction (worker/powertxn.go).
func (o *owner) doTxn(e power.TxnEffect) {
	if e.Do == power.DoEnd {
		if o.txn == e.Txn {
			o.txn = ""
		}
		return
	}
	o.txn = e.Txn
	at := o.f.now
	if nb := o.real(e.NotBefore); !e.NotBefore.IsZero() && nb.After(at) {
		at = nb
	}
	o.f.at(at, func() { o.exchange(e) })
}

func (o *owner) exchange(e power.TxnEffect) {
	if o.over || o.txn != e.Txn {
		return // the runner was cancelled
	}
	if o.w.paused {
		o.w.onResume(func() { o.exchange(e) })
		return
	}
	ev := power.TxnEvent{Txn: e.Txn, Seq: e.Seq}
	a := o.h.ask(o.w, e.Device)
	ev.Err, ev.Detail = a.err, a.text
	limit := o.policy.Fence.StatusDeadline
	if e.Do == power.DoSend {
		limit = o.policy.Fence.CommandDeadline
	}
	if a.takes > limit {
		ev.Err, ev.Detail, a.takes = power.Timeout, "too slow", limit
	}
	switch e.Do {
	case power.DoIdentity:
		if ev.Matched = ev.Err == power.NoError; ev.Matched {
			ev.Identity = power.Identity{SystemUUID: o.h.ID}
		}
		ev.BMCYoung = e.Device == "bmc" && !o.h.bmc.upAt.IsZero() && o.f.now.Sub(o.h.bmc.upAt) < 2*time.Minute
	case power.DoRead:
		if ev.Err == power.NoError {
			ev.Reading = power.Reading{State: a.state, Authentic: true}
		}
	case power.DoSend:
		if ev.Err == power.NoError {
			o.send(e, &ev)
		}
	}
	o.f.after(a.takes, func() {
		if o.over || o.txn != e.Txn && !ev.Sent {
			return
		}
		o.post(func() {
			ev.At = o.wall()
			if ev.Reading.State != power.Unknown {
				ev.Reading.At = ev.At
			}
			o.step(ha.Event{Kind: ha.EvTxn, Txn: &ev})
		})
	})
}

// send sends one command, if the lease is certain for it and the intent has not ended.
func (o *owner) send(e power.TxnEffect, ev *power.TxnEvent) {
	switch {
	case !e.NotAfter.IsZero() && o.wall().After(e.NotAfter):
		ev.Err, ev.Detail = power.DeadlinePassed, "the intent has ended"
	case o.w.validFor() < min(o.policy.Fence.PacketTimeout, packetLease):
		ev.Err, ev.Detail = power.Cancelled, "the lease is not certainly valid for this packet"
	default:
		ev.Sent = true
		o.f.rules.packet(o, e)
		o.f.log.packet(o, fmt.Sprintf("%s to %s", e.Verb, e.Device))
		ev.Outcome = o.h.command(e.Device, e.Verb)
		o.f.triggeredBy(o.h, string(e.Verb))
	}
}
