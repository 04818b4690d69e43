// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
)

// An etcd that was restored from a backup has forgotten owners whom agents have obeyed.
// What is on record may then be older than what was done, so nothing may be done on the
// strength of it (leases.md §2.10). docs/etcd-restore.md is what operators do about it.

// wentBackClusters is how many clusters have to say so before a worker stops acting
// altogether; all, where it owns fewer. One agent with a wrong memory stops one host.
const wentBackClusters = 3

const wentBackClears = "`holdfast etcd raise-generation`, see docs/etcd-restore.md"

// frozenHost is a host whose agent has seen a newer owner than this etcd knows.
type frozenHost struct {
	cluster    string // what it counts for
	generation int64  // the agent's
	why        string
	since      time.Time
}

// wentBack is guarded by Worker.mu.
type wentBack struct {
	hosts map[string]frozenHost
	// In this generation the worker does not act at all; 0: it acts.
	stopped int64
	since   time.Time
	why     string
}

// outranks reports whether an agent that has seen one epoch refuses the other: under one
// cluster id any older one, under different ones any that is not of a newer generation,
// for revisions of two clusters say nothing of each other.
func outranks(seen, other *agentpb.Epoch) bool {
	if seen == nil || other == nil {
		return false
	}
	if seen.Cluster != other.Cluster {
		return seen.Generation >= other.Generation
	}
	return cmp.Or(cmp.Compare(seen.Generation, other.Generation), cmp.Compare(seen.Revision, other.Revision)) > 0
}

// judgeEpoch compares the highest epoch that the host's agent has seen with what etcd
// knows, and freezes the host where the agent knows more. A slot whose key is merely older
// than that, because the host came from another slot, is put anew.
func (o *owner) judgeEpoch(ctx context.Context, seen *agentpb.Epoch) {
	mine := o.epoch
	if !outranks(seen, mine) {
		o.w.thaw(o.host)
		return
	}
	have := fmt.Sprintf("%d.%d of cluster %s", seen.Generation, seen.Revision, seen.Cluster)
	if seen.Cluster == mine.Cluster && seen.Generation == mine.Generation {
		ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		defer cancel()
		rev, err := o.w.client.Revision(ctx)
		switch {
		case err != nil: // not known: the agent says it again in a moment
			o.log.Warn("compare epochs", "seen", have, "cause", err)
			return
		case seen.Revision <= rev:
			o.w.renewSlot(o.claim.Slot)
			return
		}
	}
	why := fmt.Sprintf("its agent has obeyed epoch %s, this etcd (generation %d, cluster %s) does not know it: etcd was restored from a backup, or replaced", have, mine.Generation, mine.Cluster)
	cluster := o.home
	if cluster == "" {
		cluster = "host " + o.host
	}
	if o.w.freeze(o.host, frozenHost{cluster: cluster, generation: seen.Generation, why: why, since: o.now()}, o.s.Fleet().Generation) {
		o.log.Error("etcd went back", "seen", have)
		x := o.plainEvent("etcd.went-back", ha.Page, "etcd has forgotten what agents know: this worker does nothing until the generation was raised, see docs/etcd-restore.md; "+why, nil)
		if _, ok := o.put(ctx, o.claim.Guard(), []leases.Op{leases.Put(leases.EventKey(x.ID), x)}); ok {
			o.w.announced([]v1Event{x})
		}
	}
}

// freeze stops all action on a host. It reports whether the worker stops acting altogether
// because of that.
func (w *Worker) freeze(host string, f frozenHost, generation int64) (stopped bool) {
	w.mu.Lock()
	if old, ok := w.back.hosts[host]; ok {
		f.since = old.since
	}
	w.back.hosts[host] = f
	owned, back := map[string]bool{}, map[string]bool{}
	for id, o := range w.owners {
		owned[orElse(o.home, "host "+id)] = true
	}
	for _, f := range w.back.hosts {
		back[f.cluster] = true
	}
	if w.back.stopped == 0 && len(back) >= min(wentBackClusters, max(1, len(owned))) {
		stopped = true
		w.back.stopped, w.back.since = generation, f.since
		w.back.why = fmt.Sprintf("agents of %d of %d clusters have obeyed owners that this etcd does not know: it was restored from a backup, or replaced", len(back), len(owned))
		for _, o := range w.owners {
			o.in.put("policy", policyChanged{})
		}
	}
	w.warnWentBack()
	w.mu.Unlock()
	return stopped
}

// thaw lets a host be acted on again.
func (w *Worker) thaw(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, was := w.back.hosts[host]; was {
		delete(w.back.hosts, host)
		w.warnWentBack()
	}
}

// resume is called when this worker has a session of a generation: what agents have seen
// of lower ones is over.
func (w *Worker) resume(generation int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation > w.back.stopped {
		w.back.stopped = 0
	}
	maps.DeleteFunc(w.back.hosts, func(_ string, f frozenHost) bool { return f.generation < generation })
	w.warnWentBack()
}

// forgetFrozen drops hosts that are another worker's to judge. One whose owner here only
// begins anew stays frozen.
func (w *Worker) forgetFrozen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.back.hosts)
	maps.DeleteFunc(w.back.hosts, func(host string, _ frozenHost) bool {
		spec, ok := w.view.spec(host)
		if !ok {
			return true
		}
		owner, _, held := w.view.slotOwner(w.slotOf(spec.Val.Partition, host))
		return held && owner.Worker != w.o.ID
	})
	if n != len(w.back.hosts) {
		w.warnWentBack()
	}
}

// frozen says why nothing may be done to a host now, and since when; empty: it may.
func (w *Worker) frozen(host string) (why string, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f, ok := w.back.hosts[host]; ok {
		return f.why, f.since
	}
	if w.back.stopped != 0 {
		return w.back.why, w.back.since
	}
	return "", time.Time{}
}

// newestGeneration is the highest generation that an agent of a frozen host has seen.
func (w *Worker) newestGeneration() (g int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.back.hosts {
		g = max(g, f.generation)
	}
	return g
}

// warnWentBack keeps the warning true; the caller holds the lock.
func (w *Worker) warnWentBack() {
	const shown = 5
	hosts := slices.Sorted(maps.Keys(w.back.hosts))
	names := strings.Join(hosts[:min(shown, len(hosts))], ", ")
	if len(hosts) > shown {
		names += fmt.Sprintf(" and %d more", len(hosts)-shown)
	}
	switch {
	case w.back.stopped != 0:
		w.health.set(etcdWentBack, "critical", fmt.Sprintf("%s, so this worker does nothing until the generation was raised: follow docs/etcd-restore.md (hosts: %s)", w.back.why, orElse(names, "none any more")))
	case len(hosts) > 0:
		w.health.set(etcdWentBack, "warning", fmt.Sprintf("agents have obeyed owners that this etcd does not know, so nothing is done to their hosts: follow docs/etcd-restore.md (hosts: %s)", names))
	default:
		w.health.clear(etcdWentBack)
	}
}

// renewSlot asks for a higher epoch of a slot that this worker owns.
func (w *Worker) renewSlot(slot int) {
	w.mu.Lock()
	w.renew[slot] = true
	w.mu.Unlock()
	w.look()
}

// renewals hands out what renewSlot was asked for.
func (w *Worker) renewals() map[int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.renew
	w.renew = map[int]bool{}
	return out
}
