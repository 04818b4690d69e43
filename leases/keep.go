// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Version is the newest `v` of records that this build reads, and what it writes. It reads
// all older ones.
const Version = 1

// ErrTooNew is a record of a version that this build does not know: a newer worker wrote
// it. It is not read, and never written over.
var ErrTooNew = errors.New("written by a newer worker")

// TooNewError is the ErrTooNew of one record.
type TooNewError struct {
	Key  string
	Have int // its version
}

func (e *TooNewError) Error() string {
	return fmt.Sprintf("%s is a record of version %d, this worker knows versions up to %d: written by a newer worker, it is neither read nor written over", e.Key, e.Have, Version)
}

// Is makes errors.Is(err, ErrTooNew) true.
func (e *TooNewError) Is(target error) bool { return target == ErrTooNew }

// checkVersion refuses a record of a newer version. What is no object has no version.
func checkVersion(key string, value []byte) error {
	if isCurrent(value) {
		return nil
	}
	var r struct {
		V json.Number `json:"v"`
	}
	if !bytes.Contains(value, []byte(`"v"`)) || json.Unmarshal(value, &r) != nil || r.V == "" {
		return nil
	}
	if v, err := r.V.Int64(); err != nil || v > Version {
		return &TooNewError{key, int(v)}
	}
	return nil
}

// current is how records of this version begin: Commit puts the version first.
var current = fmt.Appendf(nil, `{"v":%d`, Version)

// isCurrent tells by its beginning that a record is of this version, which spares a cold start
// to parse each of hundreds of thousands twice; false where that takes a closer look.
func isCurrent(value []byte) bool {
	rest, ok := bytes.CutPrefix(value, current)
	return ok && len(rest) > 0 && (rest[0] == ',' || rest[0] == '}')
}

// stamped is a record with its version, where its type has no field for it.
func stamped(b []byte) []byte {
	switch {
	case len(b) < 2 || b[0] != '{' || bytes.HasPrefix(b, []byte(`{"v":`)) && !bytes.HasPrefix(b, []byte(`{"v":0`)):
		return b
	case bytes.HasPrefix(b, []byte(`{"v":0`)):
		return append([]byte(fmt.Sprintf(`{"v":%d`, Version)), b[len(`{"v":0`):]...)
	}
	var r struct {
		V int `json:"v"`
	}
	if json.Unmarshal(b, &r) == nil && r.V > 0 {
		return b
	}
	head := fmt.Sprintf(`{"v":%d`, Version)
	if len(b) > 2 {
		head += ","
	}
	return append([]byte(head), b[1:]...)
}

// keeper remembers, of records that this client has written under a comparison, what it
// had kept of them, so that the next rewrite needs no look.
type keeper struct {
	mu      sync.Mutex
	mirrors []*Mirror
	kept    map[string]keptRecord
}

const maxKept = 200_000 // records; beyond it all are forgotten and looked at anew

type keptRecord struct {
	rev  int64
	more *unknown // nil: nothing
}

// keep makes writes of records carry on what the records have and this build does not
// know: fields that a newer worker has added. It refuses to write over a newer version.
// Errors: ErrTooNew; etcd did not answer a look at what is to be rewritten. A deletion is looked at as far as a mirror shows the record.
func (c *Client) keep(ctx context.Context, g Guard, ops []Op) ([]Op, []*unknown, error) {
	out, kept := ops, make([]*unknown, len(ops))
	put := func(i int, more *unknown) (err error) {
		if &out[0] == &ops[0] {
			out = slices.Clone(ops)
		}
		if out[i].value, err = more.into(out[i].value); err != nil {
			return fmt.Errorf("keep what is not known of %s: %w", ops[i].key, err)
		}
		return nil
	}
	parts := map[part]*unknown{} // of records that are rewritten
	for i, op := range ops {
		if op.err != nil || op.known == nil && !op.del {
			continue
		}
		rev, compared := g.revision(op.key)
		if compared && rev == 0 || op.del && !compared {
			continue
		}
		more, err := c.more(ctx, op, rev, compared)
		if err != nil {
			return nil, nil, err
		}
		if more == nil || op.del {
			continue
		}
		for field, m := range more.within {
			parts[part{op.key, field}] = m
		}
		if err := put(i, more); err != nil {
			return nil, nil, err
		}
		kept[i] = unknownOf(op.known, out[i].value) // without what was in fields that are left out now
	}
	for i, op := range ops {
		if more := parts[op.part]; more != nil {
			if err := put(i, more); err != nil {
				return nil, nil, err
			}
		}
	}
	return out, kept, nil
}

// more is what a record has that the type of op does not know.
func (c *Client) more(ctx context.Context, op Op, rev int64, compared bool) (*unknown, error) {
	if k, ok := c.keeper.recall(op.key); ok && compared && k.rev == rev {
		return k.more, nil
	}
	kv, ok := c.keeper.mirrored(op.key)
	if compared && !op.del && (!ok || kv.ModRevision != rev) {
		var err error
		if kv, err = c.Get(ctx, op.key); errors.Is(err, ErrNotFound) || err == nil && kv.ModRevision != rev {
			return nil, nil // the comparison will say so
		} else if err != nil {
			return nil, err
		}
		ok = true
	}
	if !ok || op.del && kv.ModRevision != rev {
		return nil, nil
	}
	if err := checkVersion(kv.Key, kv.Value); err != nil || op.del {
		return nil, err
	}
	if op.whole {
		return nil, nil
	}
	return unknownOf(op.known, kv.Value), nil
}

func (k *keeper) recall(key string) (keptRecord, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.kept[key]
	return r, ok
}

func (k *keeper) mirrored(key string) (KV, bool) {
	k.mu.Lock()
	all := k.mirrors
	k.mu.Unlock()
	for _, m := range all {
		if kv, ok := m.Get(key); ok {
			return kv, true
		}
	}
	return KV{}, false
}

// wrote takes note of a transaction that was applied.
func (k *keeper) wrote(g Guard, ops []Op, more []*unknown, rev int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kept) > maxKept {
		clear(k.kept)
	}
	for i, op := range ops {
		if _, compared := g.revision(op.key); !compared {
			continue
		}
		if op.del || op.known == nil {
			delete(k.kept, op.key)
			continue
		}
		k.kept[op.key] = keptRecord{rev, more[i]}
	}
}

func (k *keeper) add(m *Mirror) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mirrors = append(append([]*Mirror(nil), k.mirrors...), m)
}

// revision is what g compares a key with.
func (g Guard) revision(key string) (rev int64, ok bool) {
	for _, c := range g.at {
		if c.key == key {
			return c.rev, true
		}
	}
	return 0, false
}

// unknown is what an object, or the elements of a list, have beside what a type knows.
type unknown struct {
	fields map[string]json.RawMessage // of this object
	within map[string]*unknown        // of fields that are known
	items  []unknownItem              // of a list: elements that have more, by what is known of them
}

type unknownItem struct {
	known string // as the type writes it
	more  *unknown
}

// unknownOf compares a value with a type; nil: nothing is unknown, or it cannot be told.
func unknownOf(t reflect.Type, raw json.RawMessage) *unknown {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if opaque(t) {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		return unknownFields(fieldsByName(t), nil, raw)
	case reflect.Map:
		return unknownFields(nil, t.Elem(), raw)
	case reflect.Slice, reflect.Array:
		return unknownItems(t.Elem(), raw)
	}
	return nil
}

func unknownFields(known map[string]reflect.Type, each reflect.Type, raw json.RawMessage) *unknown {
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	u := &unknown{fields: map[string]json.RawMessage{}, within: map[string]*unknown{}}
	for name, value := range all {
		t, ok := known[name]
		if each != nil {
			t, ok = each, true
		}
		if !ok {
			u.fields[name] = value
		} else if more := unknownOf(t, value); more != nil {
			u.within[name] = more
		}
	}
	if len(u.fields)+len(u.within) == 0 {
		return nil
	}
	return u
}

// unknownItems finds elements with more. An element is the same later if all that is known
// of it is: places in a list say nothing.
func unknownItems(t reflect.Type, raw json.RawMessage) *unknown {
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	u := &unknown{}
	for _, value := range all {
		more := unknownOf(t, value)
		if more == nil {
			continue
		}
		known := reflect.New(t)
		if json.Unmarshal(value, known.Interface()) != nil {
			continue
		}
		if text, err := json.Marshal(known.Interface()); err == nil {
			u.items = append(u.items, unknownItem{string(text), more})
		}
	}
	if len(u.items) == 0 {
		return nil
	}
	return u
}

// into puts it beside what is written.
func (u *unknown) into(raw json.RawMessage) (json.RawMessage, error) {
	if u.items != nil {
		return u.intoList(raw)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return raw, err
	}
	for name, value := range u.fields {
		if _, ok := all[name]; !ok {
			all[name] = value
		}
	}
	for name, more := range u.within {
		if value, ok := all[name]; ok {
			merged, err := more.into(value)
			if err != nil {
				return nil, err
			}
			all[name] = merged
		}
	}
	return json.Marshal(all)
}

func (u *unknown) intoList(raw json.RawMessage) (json.RawMessage, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return raw, err
	}
	left := append([]unknownItem(nil), u.items...)
	for i, value := range all {
		for n, item := range left {
			if item.known != string(value) {
				continue
			}
			merged, err := item.more.into(value)
			if err != nil {
				return nil, err
			}
			all[i], left = merged, append(left[:n], left[n+1:]...)
			break
		}
	}
	return json.Marshal(all)
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	fieldsMemo    sync.Map // reflect.Type: map[string]reflect.Type
)

// opaque types write themselves: nothing in them is unknown.
func opaque(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonMarshaler) || p.Implements(textMarshaler)
}

// fieldsByName are the fields of a struct as encoding/json names them.
func fieldsByName(t reflect.Type) map[string]reflect.Type {
	if m, ok := fieldsMemo.Load(t); ok {
		return m.(map[string]reflect.Type)
	}
	m := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case f.Anonymous && name == "" && inner.Kind() == reflect.Struct:
			deeper := maps.Clone(fieldsByName(inner))
			maps.Copy(deeper, m) // what is nearer wins
			m = deeper
		case f.PkgPath != "" || f.Tag.Get("json") == "-":
		case name == "":
			m[f.Name] = f.Type
		default:
			m[name] = f.Type
		}
	}
	fieldsMemo.Store(t, m)
	return m
}
