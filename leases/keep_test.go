// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

type child struct {
	Name string `json:"name"`
	N    int    `json:"n,omitempty"`
}

type embedded struct {
	Deep child `json:"deep"`
}

type sample struct {
	V int `json:"v"`
	embedded
	Mine  string           `json:"mine"`
	One   *child           `json:"one,omitempty"`
	By    map[string]child `json:"by,omitempty"`
	List  []child          `json:"list,omitempty"`
	Blank any              `json:"blank,omitempty"`
}

// A rewrite keeps what the record has and the writer does not know, at every depth; what
// the writer knows and leaves out is gone, with what was in it.
func TestRewriteKeepsWhatIsNotKnown(t *testing.T) {
	c := etcdtest.Start(t).Client(t)
	key := leases.PoolKey("p1")
	const newer = `{"v":1,"future":{"a":[1,2]},"deep":{"name":"d","color":"red"},"mine":"old","one":{"name":"x","n":3,"size":7},
		"by":{"k":{"name":"a","more":true},"gone":{"name":"b","more":true}},"list":[{"name":"l1","extra":1},{"name":"l2","extra":2},{"name":"l3"}],"blank":{"any":1}}`
	rev, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(key, json.RawMessage(newer)))
	if err != nil {
		t.Fatal(err)
	}
	write := func(mine string) {
		t.Helper()
		// The list has lost its first element and got another one in front: places say nothing.
		next := sample{V: 1, embedded: embedded{child{Name: "d2"}}, Mine: mine, One: &child{Name: "y"}, By: map[string]child{"k": {Name: "a2"}, "new": {Name: "c"}},
			List: []child{{Name: "l0"}, {Name: "l2"}, {Name: "l3"}}, Blank: map[string]int{"any": 2}}
		if rev, err = c.Commit(t.Context(), leases.Unowned().At(key, rev), leases.Put(key, next)); err != nil {
			t.Fatal(err)
		}
		kv, err := c.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		text := `{"v":1,"future":{"a":[1,2]},"deep":{"name":"d2","color":"red"},"mine":"` + mine + `","one":{"name":"y","size":7},
			"by":{"k":{"name":"a2","more":true},"new":{"name":"c"}},"list":[{"name":"l0"},{"name":"l2","extra":2},{"name":"l3"}],"blank":{"any":2}}`
		if err := errors.Join(json.Unmarshal(kv.Value, &got), json.Unmarshal([]byte(text), &want)); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("record (-want +got):\n%s", d)
		}
	}
	write("first") // it looks at etcd
	write("again") // it remembers
}

// A part of a record that becomes a record of its own takes along what is not known of it,
// and the next one in its place has nothing of it.
func TestPartKeepsWhatIsNotKnown(t *testing.T) {
	c := etcdtest.Start(t).Client(t)
	whole, alone := leases.PoolKey("p1"), leases.PoolKey("p2")
	rev, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(whole, json.RawMessage(`{"v":1,"mine":"m","one":{"name":"x","size":7}}`)))
	if err != nil {
		t.Fatal(err)
	}
	holds := func(key, want string) {
		t.Helper()
		kv, err := c.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, string(kv.Value)); d != "" {
			t.Errorf("%s (-want +got):\n%s", key, d)
		}
	}
	if rev, err = c.Commit(t.Context(), leases.Unowned().At(whole, rev),
		leases.Put(whole, sample{Mine: "left"}), leases.Put(alone, child{Name: "y"}).Inherit(whole, "one")); err != nil {
		t.Fatal(err)
	}
	holds(alone, `{"name":"y","size":7,"v":1}`)
	if _, err = c.Commit(t.Context(), leases.Unowned().At(whole, rev), leases.Put(whole, sample{Mine: "next", One: &child{Name: "z"}})); err != nil {
		t.Fatal(err)
	}
	holds(whole, `{"v":1,"deep":{"name":""},"mine":"next","one":{"name":"z"}}`)
}

// A record of a newer version is neither read nor written over; one without a version, and one that was written without, are of this version.
func TestNewerVersionIsLeftAlone(t *testing.T) {
	c := etcdtest.Start(t).Client(t)
	key := leases.PoolKey("p1")
	const newer = `{"v":2,"mine":7}`
	rev, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(key, json.RawMessage(newer)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Commit(t.Context(), leases.Unowned().At(key, rev), leases.Put(key, sample{V: 1}))
	var e *leases.TooNewError
	if !errors.Is(err, leases.ErrTooNew) || !errors.As(err, &e) || e.Key != key || e.Have != 2 {
		t.Errorf("rewrite: %v", err)
	}
	kv, err := c.Get(t.Context(), key)
	if err != nil || string(kv.Value) != newer {
		t.Errorf("record is %s, %v", kv.Value, err)
	}
	if err := kv.Decode(&sample{}); !errors.Is(err, leases.ErrTooNew) {
		t.Errorf("decode: %v", err)
	}
	for _, text := range []string{`{}`, `{"v":0}`, `{"v":1}`, `{"mine":"x"}`, `[]`} {
		kv := leases.KV{Key: key, Value: []byte(text)}
		var v any
		if err := kv.Decode(&v); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(leases.PoolKey("p2"), struct {
		Mine string `json:"mine"`
	}{"x"}), leases.Put(leases.PoolKey("p3"), struct{}{}), leases.Put(leases.PoolKey("p4"), sample{})); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"p2", "p3", "p4"} {
		kv, err := c.Get(t.Context(), leases.PoolKey(p))
		var v struct{ V int }
		if err == nil {
			err = json.Unmarshal(kv.Value, &v)
		}
		if err != nil || v.V != leases.Version {
			t.Errorf("%s: %s, %v: no version", p, kv.Value, err)
		}
	}
}

// TestVersionIsReadWherever: a record's version counts wherever it stands in the record; most
// begin with it, and are told by that.
func TestVersionIsReadWherever(t *testing.T) {
	t.Parallel()
	for value, fine := range map[string]bool{
		`{"v":1}`: true, `{"v":1,"x":2}`: true, `{"x":{"v":7},"v":1}`: true, `{"x":2}`: true, `{ "v" : 1 }`: true,
		`{"v":2}`: false, `{"v":12}`: false, `{"v":1.5}`: false, `{"v":1e3}`: false, `{"x":2,"v":2}`: false, `{ "v" : 2 }`: false,
	} {
		if err := (leases.KV{Key: "k", Value: []byte(value)}).CheckVersion(); (err == nil) != fine || err != nil && !errors.Is(err, leases.ErrTooNew) {
			t.Errorf("%s: %v", value, err)
		}
	}
}
