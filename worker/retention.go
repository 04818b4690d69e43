// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

// Closed incidents that are kept for each host. More go in the transaction that closes
// the next one, a bounded number at a time; what is too old goes once a day, too, also where
// nothing happens any more because the host was forgotten.
const (
	maxIncidents   = 100
	maxIncidentAge = 90 * 24 * time.Hour
	maxForgotten   = 32

	trimInterval  = 10 * time.Minute // of the log
	trimIncidents = 24 * time.Hour
	trimBatch     = 100
)

// trim keeps the log by age and count, closed incidents and the commands of hosts that were
// forgotten by age, and what can be replayed by age and count. The owner of slot 0 does it
// for the fleet.
func (w *Worker) trim(ctx context.Context) error {
	var incidents time.Time // when they were looked at
	for pause(ctx, trimInterval) {
		w.mu.Lock()
		claim, mine := w.claims[0]
		s := w.session
		w.mu.Unlock()
		if !mine || s == nil {
			continue
		}
		err := w.dropEvents(ctx, s, claim)
		var ops []leases.Op
		if err == nil {
			ops, err = w.oldSteps(ctx, time.Now())
		}
		if now := time.Now(); err == nil && now.Sub(incidents) >= trimIncidents {
			var more []leases.Op
			more, err = w.oldIncidents(ctx, now)
			ops, incidents = append(ops, more...), now
		}
		ops = append(ops, w.orphanedCommands(time.Now())...)
		for batch := range slices.Chunk(ops, trimBatch) {
			if err != nil {
				break
			}
			cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
			_, err = s.Commit(cctx, claim.Guard(), batch...)
			cancel()
		}
		if err != nil {
			w.log.Warn("trim log and incidents", "cause", err)
		}
	}
	return nil
}

// orphanedCommands are the deletions of commands that have outlived command.keep and whose
// host is not on record any more, with what its agent had written about them: nobody owns
// them. Other ones go with their owner's next command. What is not ended stays.
func (w *Worker) orphanedCommands(now time.Time) (ops []leases.Op) {
	keep := w.view.effective("", "", now).Duration("command.keep")
	for _, kv := range w.mirror.List(leases.CommandsPrefix) {
		host, id, ok := leases.SplitCommandKey(kv.Key)
		if _, known := w.view.spec(host); !ok || known {
			continue
		}
		var rec command.Record
		if kv.Decode(&rec) != nil || !rec.Released || now.Sub(rec.Ended) < keep {
			continue
		}
		ops = append(ops, leases.Delete(kv.Key))
		for n := 1; n <= rec.Seq; n++ {
			ops = append(ops, leases.Delete(leases.JournalKey(host, id, n)))
		}
	}
	return ops
}

// dropEvents takes out of the log what it does not keep, the oldest first. What was dropped
// last is noted in the same transaction: hooks that are not so far tell of a gap.
func (w *Worker) dropEvents(ctx context.Context, s *leases.Session, claim leases.Claim) error {
	old, err := w.oldEvents(ctx)
	for batch := range slices.Chunk(old, trimBatch) {
		if err != nil {
			break
		}
		last := batch[len(batch)-1]
		cut := eventsCut{V: 1, At: hook.Position{Revision: last.Revision, ID: last.ID}}
		ops := []leases.Op{leases.Put(leases.EventsCutKey(), cut)}
		for _, x := range batch {
			ops = append(ops, leases.Delete(leases.EventKey(x.ID)))
		}
		cctx, cancel := context.WithTimeout(ctx, etcdTimeout)
		_, err = s.Commit(cctx, claim.Guard(), ops...)
		cancel()
	}
	return err
}

// eventsCut is the value of events-cut.
type eventsCut struct {
	V  int           `json:"v"`
	At hook.Position `json:"at"`
}

// oldIncidents are the deletions of all incidents that ended too long ago.
func (w *Worker) oldIncidents(ctx context.Context, now time.Time) (ops []leases.Op, err error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := w.client.List(ctx, leases.IncidentsPrefix)
	for _, kv := range kvs {
		var i ha.Incident
		if kv.Decode(&i) == nil && outdated(i.Ended, now) {
			ops = append(ops, leases.Delete(kv.Key))
		}
	}
	return ops, err
}

func outdated(ended, now time.Time) bool { return !ended.IsZero() && now.Sub(ended) > maxIncidentAge }

// outlived are the deletions of closed incidents beyond those that are kept, the oldest
// first. When they cannot be listed nothing is forgotten: the next one to close will.
func (o *owner) outlived(ctx context.Context, closing string, now time.Time) (ops []leases.Op) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	prefix := leases.IncidentsPrefix + o.host + "/"
	kvs, _, err := o.w.client.List(ctx, prefix)
	if err != nil {
		o.log.Info("list closed incidents", "cause", err)
		return nil
	}
	type closed struct {
		id     string
		opened time.Time
		ended  time.Time
	}
	var all []closed
	for _, kv := range kvs {
		id := strings.TrimPrefix(kv.Key, prefix)
		var i ha.Incident
		if kv.Decode(&i) != nil || id == closing {
			continue // what cannot be read is somebody's evidence: kept
		}
		all = append(all, closed{id, i.Opened, i.Ended})
	}
	slices.SortFunc(all, func(a, b closed) int { return a.opened.Compare(b.opened) })
	for k, i := range all {
		beyond := len(all)-k >= maxIncidents // with the one that closes now
		if (beyond || outdated(i.ended, now)) && len(ops) < maxForgotten {
			ops = append(ops, leases.Delete(leases.IncidentKey(o.host, i.id)))
		}
	}
	return ops
}
