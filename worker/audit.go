// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	maxAudits     = 20_000
	maxAuditAge   = 400 * 24 * time.Hour
	maxAuditField = 2 << 10 // bytes of one field; what is longer is cut, as text
	maxAuditOps   = 16      // records of one change that are shown
)

// auditRecord is the value of audit/<uuid>.
type auditRecord struct {
	V int `json:"v"`
	v1.Audit
}

// unsaid are the fields of records that nobody is shown, whatever they hold.
var unsaid = map[string]bool{"sealed": true, "hash": true, "cert": true}

// audited is the audit record of a change. What was there before is taken from the mirror:
// where the change was compared with a revision, that is what it replaced.
func (b *backend) audited(x v1.Event, ops []leases.Op) leases.Op { return b.w().auditOf(x, ops, nil) }

// auditOf is the audit record of what a commit changes. Owners know better than the mirror, which
// may be behind, what was there before: known is that, by key; nil: nothing.
func (w *Worker) auditOf(x v1.Event, ops []leases.Op, known map[string]json.RawMessage) leases.Op {
	ops = slices.DeleteFunc(slices.Clone(ops), func(op leases.Op) bool { return strings.HasPrefix(op.Key(), leases.EventsPrefix) })
	return leases.Put(leases.AuditKey(x.ID), auditRecord{V: 1, Audit: v1.Audit{
		ID: x.ID, At: x.At, Who: x.Data["by"], What: x.Type, Message: x.Message, Reason: x.Data["reason"], Host: x.Host, Worker: x.Worker,
		Changes: w.changesOf(ops, known),
	}})
}

// changesOf are the fields that ops make others.
func (w *Worker) changesOf(ops []leases.Op, known map[string]json.RawMessage) (out []v1.AuditChange) {
	for _, op := range ops[:min(len(ops), maxAuditOps)] {
		before, sure := known[op.Key()]
		if !sure && w.mirror != nil {
			if kv, ok := w.mirror.Get(op.Key()); ok {
				before = kv.Value
			}
		}
		if c := changeOf(op.Key(), before, op.Value()); len(c.Before)+len(c.After) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// noted puts into the audit log, and nowhere else, what somebody is about to do that leaves
// no record. A dry run is told of it and goes no further: do is false.
func (b *backend) noted(ctx context.Context, x v1.Event) (do bool, err error) {
	if t := api.DryRun(ctx); t != nil {
		t.Would(x.Message)
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	_, err = b.client.Commit(ctx, leases.Unowned(), b.audited(x, nil))
	return err == nil, etcdProblem("audit log", err)
}

// wordOf is what an audit record tells of an operator's word about a host: it stands beside the
// events that follow from it.
func wordOf(at time.Time, worker, host, partition, what, who, msg, reason string) v1.Event {
	x := v1.Event{ID: newEventID(), At: at, Type: what, Worker: worker, Host: host, Partition: partition, Message: msg, Data: map[string]string{"by": who}}
	if reason != "" {
		x.Data["reason"] = reason
		x.Message += " (" + reason + ")"
	}
	return x
}

// asWas is a record as it was before a change, for auditOf.
func asWas(record any, rev int64) (json.RawMessage, error) {
	if rev == 0 {
		return nil, nil
	}
	return json.Marshal(record)
}

// changeOf says which fields of a record are others; nil is a record that is not there.
func changeOf(key string, before, after json.RawMessage) v1.AuditChange {
	was, is := fieldsOf(before), fieldsOf(after)
	for name, value := range was {
		if bytes.Equal(value, is[name]) {
			delete(was, name)
			delete(is, name)
		}
	}
	for _, side := range []map[string]json.RawMessage{was, is} {
		for name, value := range side {
			switch {
			case unsaid[name]:
				side[name] = json.RawMessage(`"(not shown)"`)
			case len(value) > maxAuditField:
				side[name], _ = json.Marshal(string(value[:maxAuditField]) + "…") // text always encodes
			}
		}
	}
	return v1.AuditChange{Key: trimRoot(key), Before: was, After: is}
}

func trimRoot(key string) string { return key[min(len(key), len(leases.Root)):] }

// fieldsOf are the fields of a record in one spelling.
func fieldsOf(record json.RawMessage) map[string]json.RawMessage {
	var all map[string]json.RawMessage
	if json.Unmarshal(record, &all) != nil {
		return map[string]json.RawMessage{}
	}
	for name, value := range all {
		var b bytes.Buffer
		if json.Compact(&b, value) == nil {
			all[name] = b.Bytes()
		}
	}
	return all
}

// Audits implements api.Keeper.
func (b *backend) Audits(ctx context.Context, host string) ([]v1.Audit, error) {
	all, err := b.audits(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(a v1.Audit) bool { return host != "" && a.Host != host }), nil
}

// audits lists all of them, the newest first.
func (b *backend) audits(ctx context.Context) ([]v1.Audit, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	kvs, _, err := b.client.List(ctx, leases.AuditPrefix)
	if err != nil {
		return nil, etcdProblem("audit log", err)
	}
	var all []v1.Audit
	for _, kv := range kvs {
		rec, err := decodeAs[auditRecord](kv)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
		}
		all = append(all, rec.Audit)
	}
	slices.SortFunc(all, func(a, b v1.Audit) int { return cmp.Compare(b.ID, a.ID) }) // UUIDv7: by time
	return all, nil
}
