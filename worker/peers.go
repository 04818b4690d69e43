// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/link"
)

// Commands whose source and target have different owners. The owner of the source decides
// and writes; what it has to know of another host, or have done there, it asks of that
// host's owner, which asks its agent under its own epoch. An owner that cannot be reached
// tells nothing: its host has not answered.

const (
	// peerPatience is how long it is tried to reach the owner of another host; one that has
	// died has a successor soon.
	peerPatience = 3 * time.Second
	// peerPace is how often it is looked whether that owner is still the owner.
	peerPace = 200 * time.Millisecond
	// tellTimeout bounds the word that a host has come.
	tellTimeout = 2 * time.Second
)

// askAgent asks the agent of a host that this worker owns about a command. ErrNotOwner: it
// does not.
func (w *Worker) askAgent(ctx context.Context, host string, q *agentpb.CommandRequest) (*agentpb.CommandAnswer, error) {
	epoch := w.epochOf(host)
	if epoch == nil {
		return nil, link.ErrNotOwner
	}
	a, err := w.door.Ask(ctx, host, &agentpb.Request{Epoch: epoch, Body: &agentpb.Request_Command{Command: q}})
	return a.GetCommand(), err
}

// askOwner asks the owner of another host, and its successor where it is not reached. An
// error: the request may or may not have been worked on; all that is asked of another host
// can be asked again.
func (c *commander) askOwner(ctx context.Context, host string, q *agentpb.CommandRequest) (*agentpb.CommandAnswer, error) {
	for end := time.Now().Add(peerPatience); ; {
		a, err := c.askOwnerOnce(ctx, host, q)
		away := errors.Is(err, link.ErrNotOwner) || errors.Is(err, link.ErrUnreachable) || errors.Is(err, errOwnerChanged)
		if !away || time.Now().After(end) || !pause(ctx, peerPace) {
			return a, err
		}
	}
}

var errOwnerChanged = errors.New("the host has another owner now")

func (c *commander) askOwnerOnce(ctx context.Context, host string, q *agentpb.CommandRequest) (*agentpb.CommandAnswer, error) {
	w := c.o.w
	owner := w.elsewhere(host).Owner
	switch {
	case owner == nil && w.epochOf(host) != nil: // it has come here meanwhile
		return w.askAgent(ctx, host, q)
	case owner == nil:
		return nil, fmt.Errorf("host %s: %w", host, link.ErrNotOwner)
	case !c.o.s.Valid(0):
		return nil, errors.New("this worker's lease has ended")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	defer func() { cancel(nil); <-watched }()
	go func() { // one that stands still answers nothing, and has a successor at some time
		defer close(watched)
		for pause(ctx, peerPace) {
			if now := w.elsewhere(host).Owner; now == nil || *now != *owner {
				cancel(errOwnerChanged)
			}
		}
	}()
	return w.door.AskPeer(ctx, *owner, &agentpb.PeerRequest{
		Worker: w.o.ID, Host: host, Source: c.o.host, Epoch: wireEpoch(c.o.s, c.o.claim.Epoch), Command: q,
	})
}

// missesPeer: its target, which another worker owns, has not been heard.
func (c *commander) missesPeer(r command.Record) bool {
	t := r.Spec.Target
	if t == "" || r.Released || c.o.w.epochOf(t) != nil {
		return false
	}
	return r.State == command.Pending || r.Evidence != nil && !r.Evidence.Hosts[t].Answered
}

// peerDoor is the worker as other workers see it.
type peerDoor Worker

var _ link.Peered = (*peerDoor)(nil)

// Asked implements link.Peered.
func (d *peerDoor) Asked(ctx context.Context, q *agentpb.PeerRequest) (*agentpb.CommandAnswer, error) {
	w := (*Worker)(d)
	if o, _ := w.owned(q.GetHost()); o == nil {
		return nil, link.ErrNotOwner
	}
	if err := w.rightful(ctx, q); err != nil {
		return nil, fmt.Errorf("refuse request of worker %s for host %s: %w", q.GetWorker(), q.GetSource(), err)
	}
	w.awaited.add(q.GetHost(), q.GetWorker()) // before it is asked: it may come in the moment in which that fails
	a, err := w.askAgent(ctx, q.GetHost(), q.GetCommand())
	if err == nil {
		w.awaited.remove(q.GetHost(), q.GetWorker())
	}
	return a, err
}

// rightful refuses what another owner has no business with, and one that does not own the
// source any more. What changes something at the agent is compared with etcd itself.
func (w *Worker) rightful(ctx context.Context, q *agentpb.PeerRequest) error {
	verb := q.GetCommand().GetVerb()
	spec, ok := w.view.spec(q.GetSource())
	if !ok {
		return fmt.Errorf("host %q is not on record", q.GetSource())
	}
	slot := w.slotOf(spec.Val.Partition, q.GetSource())
	_, rev, _ := w.view.slotOwner(slot)
	switch verb {
	case agentpb.CommandRequest_LOOK:
		if rev > q.GetEpoch().GetRevision() {
			return fmt.Errorf("slot %d has an owner of a higher epoch", slot)
		}
		return nil
	case agentpb.CommandRequest_MAKE, agentpb.CommandRequest_TIDY:
	default:
		return fmt.Errorf("%v is for the source's own agent", verb)
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kv, err := w.client.Get(ctx, leases.SlotKey(slot))
	if err != nil {
		return fmt.Errorf("read slot %d: %w", slot, err)
	}
	if kv.ModRevision != q.GetEpoch().GetRevision() {
		return fmt.Errorf("slot %d has an owner of another epoch", slot)
	}
	return nil
}

// Came implements link.Peered.
func (d *peerDoor) Came(host string) { (*Worker)(d).peerCame(host) }

// atWork are the commanders that have something to do: few, and asked for whenever a host comes.
type atWork struct {
	mu  sync.Mutex
	all map[*commander]bool
}

func (a *atWork) set(c *commander, is bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if is {
		a.all[c] = true
	} else {
		delete(a.all, c)
	}
}

// tell leaves them a message; except is the host that it is about.
func (a *atWork) tell(except, key string, msg any) {
	a.mu.Lock()
	all := slices.Collect(maps.Keys(a.all))
	a.mu.Unlock()
	for _, c := range all {
		if c.o.host != except {
			c.put(key, msg)
		}
	}
}

// peerCame tells the commands of other hosts that one can be asked, or is over.
func (w *Worker) peerCame(host string) {
	w.atWork.tell(host, "peer "+host, peerMsg{host})
}

// watchMoves tells the commands here that hosts of others may have other owners. A takeover
// changes hundreds of slots, each on the mirror's goroutine, and a look at all owners for each
// of them kept a worker with 33,000 hosts from seeing its own claims.
func (w *Worker) watchMoves(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.moved:
		}
		w.atWork.tell("", "moved", movedMsg{})
	}
}

// tellAsking tells the workers that asked about a host in vain that it has come, or is over.
func (w *Worker) tellAsking(host string) {
	for _, id := range w.awaited.take(host) {
		m, live := w.view.worker(id)
		if !live {
			continue // its commands have another owner, who looks anew
		}
		go func() {
			ctx, cancel := context.WithTimeoutCause(context.Background(), tellTimeout, errors.New("no answer in time"))
			defer cancel()
			if err := w.door.TellPeer(ctx, link.Peer{ID: m.ID, Address: m.Agents}, host); err != nil {
				w.log.Info("tell that a host has come", "host", host, "cause", err) // it looks again by itself
			}
		}()
	}
}

// awaited are the workers that asked about hosts in vain. It is bounded by hosts and
// workers; what is forgotten with this process is looked at again once an interval.
type awaited struct {
	mu sync.Mutex
	by map[string][]string // host, workers
}

func (a *awaited) add(host, worker string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[string][]string{}
	}
	if !slices.Contains(a.by[host], worker) {
		a.by[host] = append(a.by[host], strings.Clone(worker))
	}
}

func (a *awaited) remove(host, worker string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by[host] = slices.DeleteFunc(a.by[host], func(w string) bool { return w == worker })
	if len(a.by[host]) == 0 {
		delete(a.by, host)
	}
}

func (a *awaited) take(host string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.by[host]
	delete(a.by, host)
	return all
}
