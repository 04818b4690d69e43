// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Guard is what a write compares in its own transaction: the epoch of a claim, revisions
// of records, or both. Guards are values; At returns a new one.
type Guard struct {
	claim *Claim
	at    []condition
}

type condition struct {
	key string
	rev int64
}

// Unowned guards keys that no slot covers: they are fenced by their own revisions.
func Unowned() Guard { return Guard{} }

// At also requires key to be at modRevision; 0 means that it must not exist. Compare
// every record you write: only such a write can be decided after a lost answer. (A
// comparison with 0 holds again once somebody deleted the key: do not re-use keys whose
// creation was left without an answer within the same epoch.)
func (g Guard) At(key string, modRevision int64) Guard {
	g.at = append(slices.Clip(g.at), condition{key, modRevision})
	return g
}

// Op is one write of a Commit.
type Op struct {
	key   string
	value []byte
	del   bool
	err   error
	whole bool         // nothing of what was there is kept
	known reflect.Type // of the record; nil: bytes, which are written as they are
	part  part         // of another record, that this one was
}

// part names a field of a record.
type part struct{ key, field string }

// Put writes value as JSON, with "v": Version where it has none; a []byte or
// json.RawMessage is taken as it is. Where the record is rewritten, fields that it has and
// the type of value does not know are kept, so that an older worker takes nothing away from
// a newer one; a record of a newer version is not written over (ErrTooNew). An error of
// marshalling comes back from Commit.
func Put(key string, value any) Op {
	switch v := value.(type) {
	case []byte:
		return Op{key: key, value: v}
	case json.RawMessage:
		return Op{key: key, value: v}
	}
	b, err := json.Marshal(value)
	if err != nil {
		err = fmt.Errorf("encode %s: %w", key, err)
	}
	return Op{key: key, value: stamped(b), err: err, known: reflect.TypeOf(value)}
}

// Fresh is Put of a new fact under a key that may hold an older one: nothing of that is
// kept. A newer version is not written over all the same.
func Fresh(key string, value any) Op {
	op := Put(key, value)
	op.whole = true
	return op
}

// Inherit says that the record was a field of the record at key, which is rewritten in the
// same transaction: what that field has and this build does not know is kept here.
func (o Op) Inherit(key, field string) Op {
	o.part = part{key, field}
	return o
}

// Delete removes key; deleting what does not exist is no error.
func Delete(key string) Op { return Op{key: key, del: true} }

// write is a checked transaction, ready to be sent any number of times.
type write struct {
	guard     Guard
	ops       []Op
	cmps      []clientv3.Cmp
	then      []clientv3.Op
	reads     []clientv3.Op // everything compared or written, for the else branch and for reading back
	decidable bool          // success invalidates one of its own comparisons: at most one copy can be applied
}

func (g Guard) compile(ops []Op) (*write, error) {
	if len(ops) == 0 {
		return nil, errors.New("commit: no operations")
	}
	w := &write{guard: g, ops: ops}
	known := make(map[string]bool)
	read := func(key string) {
		if !known[key] {
			known[key] = true
			w.reads = append(w.reads, clientv3.OpGet(key))
		}
	}
	if g.claim != nil {
		key := SlotKey(g.claim.Slot)
		w.cmps = append(w.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", g.claim.Epoch.Revision))
		read(key)
	}
	compared := make(map[string]bool)
	for _, c := range g.at {
		if compared[c.key] {
			return nil, fmt.Errorf("commit: %s is compared twice", c.key)
		}
		compared[c.key] = true
		w.cmps = append(w.cmps, clientv3.Compare(clientv3.ModRevision(c.key), "=", c.rev))
		read(c.key)
	}
	written := make(map[string]bool)
	for _, op := range ops {
		if op.err != nil {
			return nil, fmt.Errorf("commit: %w", op.err)
		}
		if doc, _, ok := Match(op.key); !ok {
			return nil, fmt.Errorf("commit: key %q is not in the schema", op.key)
		} else if doc.Lease {
			return nil, fmt.Errorf("commit: key %q belongs to a session", op.key)
		}
		if written[op.key] {
			return nil, fmt.Errorf("commit: %s is written twice", op.key)
		}
		written[op.key] = true
		if compared[op.key] {
			w.decidable = true
		}
		if op.del {
			w.then = append(w.then, clientv3.OpDelete(op.key))
		} else {
			w.then = append(w.then, clientv3.OpPut(op.key, string(op.value)))
		}
		read(op.key)
	}
	if n := max(len(w.cmps), len(w.then), len(w.reads)); n > maxTxnOps {
		return nil, fmt.Errorf("commit: %d keys in one transaction, want at most %d", n, maxTxnOps)
	}
	return w, nil
}

type verdict int

const (
	open     verdict = iota // nothing has moved: not applied so far
	applied                 // found as written
	rejected                // can never be applied any more
)

// judge decides from what was read (all keys at revision at) whether w was applied. It is
// only asked when a copy of w may be applied; base is a revision older than w.
func (w *write) judge(now map[string]KV, at, base int64) (verdict, int64, error) {
	if err := w.fenced(now); err != nil {
		return rejected, 0, err // also if it was applied in time: the slot must be dropped
	}
	if rev := w.foundAt(now, at, base); rev > 0 {
		return applied, rev, nil
	}
	if err := w.conflict(now); err != nil {
		return rejected, 0, err
	}
	return open, 0, nil
}

func (w *write) fenced(now map[string]KV) error {
	if c := w.guard.claim; c != nil && now[SlotKey(c.Slot)].ModRevision != c.Epoch.Revision {
		return fmt.Errorf("%s: %w, the slot is at revision %d", c, ErrFenced, now[SlotKey(c.Slot)].ModRevision)
	}
	return nil
}

func (w *write) conflict(now map[string]KV) error {
	for _, c := range w.guard.at {
		if have := now[c.key].ModRevision; have != c.rev {
			return &ConflictError{Key: c.key, Want: c.rev, Have: have}
		}
	}
	return nil
}

// foundAt returns the one revision newer than base in which every record stands as w
// writes it, or 0. Deletions leave no revision behind: a write of nothing else counts as
// found, at the revision of the read, when what it compared and deleted is gone.
func (w *write) foundAt(now map[string]KV, at, base int64) int64 {
	var rev int64
	for _, op := range w.ops {
		kv, exists := now[op.key]
		if op.del {
			if exists {
				return 0
			}
			continue
		}
		if !exists || string(kv.Value) != string(op.value) || kv.ModRevision <= base || (rev != 0 && kv.ModRevision != rev) {
			return 0
		}
		rev = kv.ModRevision
	}
	if rev == 0 && w.decidable {
		return at
	}
	return rev
}
