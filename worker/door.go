// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// door is the worker as agents' frames see it: it answers at once from what the owners
// have published and leaves everything else in their mailboxes.
type door Worker

func (d *door) Hello(h *agentpb.Hello) link.Admission {
	w := (*Worker)(d)
	o, p := w.owned(h.Host)
	if o == nil {
		return w.elsewhere(h.Host)
	}
	refuse := outranks(h.HighestEpoch, p.epoch)
	o.in.put("", helloMsg{h, p.settings, time.Now().UTC(), refuse})
	if refuse { // the agent would refuse us: the owner finds out why
		return link.Admission{Refusal: &agentpb.Refusal{
			Reason: agentpb.Refusal_NO_OWNER, Detail: "this host has obeyed a newer owner than the present one: see the worker's health if this lasts",
			RetryAfterMs: p.settings.HelloRetryMs,
		}}
	}
	list := w.listOf(h.Host)
	if w.blind() != "" {
		list = nil // not on the strength of what may be over: it is sent when that is known
		signal(w.lists.kick)
	}
	if list.GetHash() == h.GetList().GetHash() {
		list = nil
	}
	return link.Admission{Welcome: &agentpb.Welcome{Worker: w.o.ID, Epoch: p.epoch, Settings: p.settings, Gate: p.gate, List: list}}
}

func (d *door) Standby(h *agentpb.Hello) *agentpb.Refusal {
	w := (*Worker)(d)
	if why := w.blind(); why != "" {
		return w.cannotTell(why)
	}
	if _, ok := w.view.spec(h.Host); !ok {
		return w.unknown(h.Host)
	}
	return nil
}

func (d *door) PingInterval(host string) time.Duration {
	w := (*Worker)(d)
	spec, _ := w.view.spec(host) // without one the fleet's
	return w.view.effective(spec.Val.Partition, host, time.Now()).Duration("agent.ping.interval")
}

func (d *door) Unreachable(owner link.Peer, since time.Time) *agentpb.Refusal {
	w := (*Worker)(d)
	if why := w.blind(); why != "" {
		return w.cannotTell(why)
	}
	if _, lives := w.view.worker(owner.ID); !lives {
		return w.nobody("its owner has ended") // its slots have not: nobody is sent there
	}
	if time.Since(since) < ownerPatience {
		return w.nobody("its owner does not answer just now")
	}
	return &agentpb.Refusal{
		Reason: agentpb.Refusal_NOT_OWNER, Detail: "another worker owns the host, which cannot be reached from here",
		Owner: &agentpb.Worker{Id: owner.ID, Address: owner.Address}, RetryAfterMs: w.helloRetry(),
	}
}

func (d *door) Ping(s *link.Session, ping *agentpb.Ping, at time.Time) *agentpb.Pong {
	w := (*Worker)(d)
	o, p := w.owned(s.Host)
	if o == nil {
		return nil
	}
	o.commands.entries(ping.Journal)
	o.in.put("ping", pingMsg{boot: s.Boot, report: ping.Report, gate: ping.GateConfirmed, at: at.UTC(), told: p.settings})
	pong := &agentpb.Pong{Seq: ping.Seq, Epoch: p.epoch, Settings: p.settings, Gate: p.gate}
	pong.Forget, pong.Known = o.commands.acks(ping.Journal)
	return pong
}

func (d *door) Linked(s *link.Session, h *agentpb.Hello) {
	w := (*Worker)(d)
	if o, _ := w.owned(s.Host); o != nil {
		o.commands.linked(h)
		w.carried.linked(s.Host)
		w.peerCame(s.Host)
		w.tellAsking(s.Host)
	}
}

func (d *door) Steps(s *link.Session, st *agentpb.Steps) {
	if o, _ := (*Worker)(d).owned(s.Host); o != nil {
		o.commands.steps(st)
	}
}

func (d *door) Progress(s *link.Session, p *agentpb.Progresses) {
	if o, _ := (*Worker)(d).owned(s.Host); o != nil {
		o.commands.tell(p)
	}
}

func (d *door) Goodbye(s *link.Session, g *agentpb.Goodbye) {
	w := (*Worker)(d)
	o, _ := w.owned(s.Host)
	if o == nil {
		return
	}
	switch g.Kind {
	case agentpb.Goodbye_HOST_SHUTDOWN:
		o.in.put("", ha.Event{Kind: ha.EvGoodbye, At: time.Now().UTC(), Reason: "host-shutdown", Boot: s.Boot})
	case agentpb.Goodbye_HOST_REBOOT:
		o.in.put("", ha.Event{Kind: ha.EvGoodbye, At: time.Now().UTC(), Reason: "host-reboot", Boot: s.Boot})
	}
}

func (d *door) Gone(s *link.Session, cause error) {
	w := (*Worker)(d)
	if o, _ := w.owned(s.Host); o != nil && w.door.Session(s.Host) == nil {
		lost := ""
		if errors.Is(cause, link.ErrCarrierLost) {
			lost = s.Carrier
		}
		o.in.put("", goneMsg{time.Now().UTC(), lost})
	}
}

// owned returns the owner of a host in this worker and what it has published. Every ping comes
// by here: it takes no lock that hosts share.
func (w *Worker) owned(host string) (*owner, *published) {
	if p := w.shown.get(host); p != nil && p.owner != nil {
		return p.owner, p
	}
	return nil, nil
}

// ownerPatience is how long an agent is asked to wait for an owner that does not answer
// its carrier, before it is sent to that owner itself: a dead one has a successor by then.
const ownerPatience = 3 * time.Second

// blind says why this worker cannot tell who owns a host that it does not own itself: what
// it has read of etcd is too old, or it has not read it yet. Empty: it can.
func (w *Worker) blind() string {
	age := time.Duration(math.MaxInt64)
	if w.mirror != nil && w.mirror.Revision() > 0 {
		age = w.mirror.Age()
	}
	return blindFor(age)
}

// blindFor is blind for a copy of etcd of this age.
func blindFor(age time.Duration) string {
	switch {
	case age == math.MaxInt64:
		return "this worker has not read yet who owns what"
	case age > readAgeLimit:
		return fmt.Sprintf("this worker's last word from etcd is %v old, it cannot tell who owns the host", age.Round(time.Second))
	}
	return ""
}

// cannotTell sends an agent to another worker that may see more.
func (w *Worker) cannotTell(why string) *agentpb.Refusal {
	return &agentpb.Refusal{Reason: agentpb.Refusal_BLIND, Detail: why, RetryAfterMs: w.helloRetry()}
}

// elsewhere says who owns a host that is not owned here.
func (w *Worker) elsewhere(host string) link.Admission {
	if why := w.blind(); why != "" {
		return link.Admission{Refusal: w.cannotTell(why)}
	}
	spec, ok := w.view.spec(host)
	if !ok {
		return link.Admission{Refusal: w.unknown(host)}
	}
	s, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host))
	if m, live := w.view.worker(s.Worker); held && live && s.Worker != w.o.ID {
		return link.Admission{Owner: &link.Peer{ID: m.ID, Address: m.Agents}}
	}
	return link.Admission{Refusal: w.nobody("no worker owns the host now")}
}

func (w *Worker) helloRetry() int64 {
	return w.view.effective("", "", time.Now()).Duration("agent.hello.retry").Milliseconds()
}

func (w *Worker) unknown(host string) *agentpb.Refusal {
	return &agentpb.Refusal{Reason: agentpb.Refusal_UNKNOWN_HOST, Detail: fmt.Sprintf("host %q is not on record", host), RetryAfterMs: max(w.helloRetry(), 2000)}
}

func (w *Worker) nobody(why string) *agentpb.Refusal {
	return &agentpb.Refusal{Reason: agentpb.Refusal_NO_OWNER, Detail: why, RetryAfterMs: w.helloRetry()}
}

var _ link.Handler = (*door)(nil)

// live runs fn on the owner of a host; a *v1.Problem when it is not here.
func (w *Worker) live(ctx context.Context, host string, fn func(ctx context.Context, o *owner)) error {
	w.mu.Lock()
	o := w.owners[host]
	w.mu.Unlock()
	if o == nil {
		return v1.Problemf(v1.CodeUnavailable, "host %s is not owned by this worker now", host).WithHint("try again in a moment")
	}
	return o.call(ctx, func(ctx context.Context) { fn(ctx, o) })
}
