// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"slices"
	"strings"
)

// index holds keys in order, in one table per first segment below Root, so that a new
// event does not shift the keys of all hosts.
type index map[string]*table

type table struct {
	keys []string // sorted
	kvs  map[string]KV
}

// segment is the part of a key that names its table; ok is false if prefix may span several.
func segment(prefix string) (name string, ok bool) {
	rest, ok := strings.CutPrefix(prefix, Root)
	if !ok {
		return "", false
	}
	name, _, ok = strings.Cut(rest, "/")
	return name, ok
}

func (x index) get(key string) (KV, bool) {
	name, _ := segment(key)
	t := x[name]
	if t == nil {
		return KV{}, false
	}
	kv, ok := t.kvs[key]
	return kv, ok
}

func (x index) put(kv KV) {
	name, _ := segment(kv.Key)
	t := x[name]
	if t == nil {
		t = &table{kvs: make(map[string]KV)}
		x[name] = t
	}
	if _, ok := t.kvs[kv.Key]; !ok {
		i, _ := slices.BinarySearch(t.keys, kv.Key)
		t.keys = slices.Insert(t.keys, i, kv.Key)
	}
	t.kvs[kv.Key] = kv
}

func (x index) delete(key string) {
	name, _ := segment(key)
	t := x[name]
	if t == nil {
		return
	}
	if i, ok := slices.BinarySearch(t.keys, key); ok {
		t.keys = slices.Delete(t.keys, i, i+1)
		delete(t.kvs, key)
	}
}

// list returns the keys below prefix in order.
func (x index) list(prefix string) []KV {
	var out []KV
	if name, ok := segment(prefix); ok {
		if t := x[name]; t != nil {
			out = t.list(prefix, out)
		}
		return out
	}
	for _, t := range x {
		out = t.list(prefix, out)
	}
	slices.SortFunc(out, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (t *table) list(prefix string, out []KV) []KV {
	i, _ := slices.BinarySearch(t.keys, prefix)
	for ; i < len(t.keys) && strings.HasPrefix(t.keys[i], prefix); i++ {
		out = append(out, t.kvs[t.keys[i]])
	}
	return out
}
