// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/coordinator/budget"
	"github.com/holdfast-ha/holdfast/coordinator/command"
	"github.com/holdfast-ha/holdfast/coordinator/ha"
	"github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/coordinator/replay"
	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	"github.com/holdfast-ha/holdfast/worker/hook"
)

// recordKinds are the types of all records: what is rewritten, with a value that is deep
// where the type is; what is written whole, once or by a session, without.
var recordKinds = map[string]struct {
	how   string
	value any
}{
	"config/slots":                           {"once", nil},
	"config/generation":                      {"rewritten", leases.GenerationRecord{V: 1, Generation: 2}},
	"config/told":                            {"rewritten", told{V: 1}},
	"requests/<id>":                          {"rewritten", api.Repeat{V: 1}},
	"steps/<host>/<id>/<nn>":                 {"once", replay.Step{V: 1}},
	"workers/<worker>":                       {"session", v1.Worker{}},
	"slots/<slot>":                           {"session", leases.SlotRecord{V: 1}},
	"ends/<worker>/<boot>":                   {"once", leases.EndRecord{V: 1}},
	"drains/<worker>":                        {"rewritten", v1.Drain{V: 1}},
	"partitions/<path>/spec":                 {"rewritten", v1.PartitionSpec{V: 1, Path: "z1"}},
	"partitions/<path>/state":                {"rewritten", ha.PartitionRecord{V: 1}},
	"budgets/host/<host>":                    {"rewritten", budget.Counter{V: 1}},
	"budgets/cluster/<zone>/<pod>/<cluster>": {"rewritten", budget.Counter{V: 1}},
	"budgets/pod/<zone>/<pod>":               {"rewritten", budget.Counter{V: 1}},
	"budgets/zone/<zone>":                    {"rewritten", budget.Counter{V: 1}},
	"areas/<area>":                           {"rewritten", ha.AreaRecord{V: 1}},
	"hosts/<host>/spec":                      {"rewritten", v1.HostSpec{V: 1, Power: []v1.Device{{Name: "bmc"}, {Name: "pdu"}}}},
	"hosts/<host>/ha":                        {"rewritten", ha.Record{V: 1, Incident: &ha.Incident{ID: "i1", Ledger: []ha.Entry{{What: "suspect"}}}}},
	"hosts/<host>/power":                     {"rewritten", powerRecord{V: 1, Machine: power.Machine{V: 1}, Devices: map[string]deviceRecord{"bmc": {TestOK: true}}}},
	"incidents/<host>/<id>":                  {"once", ha.Incident{}},
	"ops/<host>":                             {"whole", intent{V: 1}},
	"links/<host>":                           {"rewritten", linkRecord{V: 1}},
	"indices/<index>":                        {"rewritten", indexRecord{V: 1}},
	"pools/<pool>":                           {"rewritten", v1.Pool{V: 1}},
	"volumes/<volume>":                       {"rewritten", v1.Volume{V: 1}},
	"templates/<template>":                   {"rewritten", v1.Template{V: 1}},
	"instances/<instance>":                   {"rewritten", v1.Instance{V: 1}},
	"commands/<host>/<id>":                   {"rewritten", command.Record{V: 1}},
	"journal/<host>/<id>/<nn>":               {"once", command.JournalStep{V: 1}},
	"events/<uuid>":                          {"once", v1.Event{}},
	"events-cut":                             {"rewritten", eventsCut{V: 1, At: hook.Position{Revision: 1}}},
	"hooks/<hook>":                           {"rewritten", hookRecord{V: 1}},
	"cursors/<hook>":                         {"rewritten", hook.Cursor{V: 1, At: hook.Position{Revision: 1}}},
	"audit/<uuid>":                           {"once", auditRecord{V: 1}},
	"settings/<scope>/<name>":                {"rewritten", v1.SettingRecord{V: 1}},
	"secrets/<host>/<device>":                {"rewritten", secretRecord{V: 1}},
	"profiles/<scope>":                       {"rewritten", v1.ProfileRecord{V: 1}},
	"tokens/<id>":                            {"rewritten", tokenRecord{V: 1}},
	"revoked/<serial>":                       {"once", revokedRecord{V: 1}},
	"authorities/<id>":                       {"rewritten", authorityRecord{V: 1}},
	"joins/<id>":                             {"rewritten", joinRecord{V: 1}},
	"certs/<serial>":                         {"once", certRecord{V: 1}},
}

// sampleKey is a key of a row of the schema.
func sampleKey(pattern string) string {
	return leases.Root + strings.NewReplacer("<path>", "z1/p1/c1", "<scope>", "zone/z1", "<area>", "rack/z1/7", "<slot>", "0001", "<nn>", "01", "<index>", "7", "<", "", ">", "").Replace(pattern)
}

// future adds a field that nobody knows to every object of a record.
func future(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			v[name] = future(x)
		}
		if v["bmc"] == nil { // devices by name: what is new there is no field
			v["future"] = "kept"
		}
	case []any:
		for i, x := range v {
			v[i] = future(x)
		}
	}
	return v
}

func futures(v any) (n int) { // how often it is there
	switch v := v.(type) {
	case map[string]any:
		for name, x := range v {
			if name == "future" {
				n++
			}
			n += futures(x)
		}
	case []any:
		for _, x := range v {
			n += futures(x)
		}
	}
	return n
}

// TestEveryRecordKeepsWhatIsNew: for every row of the schema, a worker that rewrites a
// record takes nothing away that a newer one has added, at any depth, whether it has read
// the record from etcd or from its mirror; and it leaves a newer version alone.
func TestEveryRecordKeepsWhatIsNew(t *testing.T) {
	e := etcdtest.Start(t)
	newer, older := e.Client(t), e.Client(t)
	m := older.NewMirror(leases.Root)
	background(t, m.Run)
	put := func(key string, v any) (text string, rev int64) {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if rev, err = newer.Commit(t.Context(), leases.Unowned(), leases.Put(key, b)); err != nil {
			t.Fatal(err)
		}
		return string(b), rev
	}
	for _, d := range leases.Schema {
		k, ok := recordKinds[d.Pattern]
		if !ok {
			t.Errorf("%s: say in recordKinds which type it has and how it is written", d.Pattern)
			continue
		}
		key := sampleKey(d.Pattern)
		kv := leases.KV{Key: key, Value: []byte(`{"v":2}`)}
		var fields map[string]any
		if err := kv.Decode(&fields); !errors.Is(err, leases.ErrTooNew) {
			t.Errorf("%s: a newer version is read: %v", d.Pattern, err)
		}
		if k.how == "once" || k.how == "session" {
			continue
		}
		plain, err := json.Marshal(k.value)
		if err == nil {
			err = json.Unmarshal(plain, &fields)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, mirrored := range []bool{false, true} {
			text, rev := put(key, future(fields))
			if want = futures(fields); want == 0 {
				t.Fatalf("%s: nothing new in %s", d.Pattern, text)
			}
			op, g := leases.Put(key, k.value), leases.Unowned().At(key, rev)
			if k.how == "whole" {
				op, want = leases.Fresh(key, k.value), 0
			}
			if mirrored { // as by a writer whose claim alone is compared
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				err := m.WaitRevision(ctx, rev)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				g = leases.Unowned()
			}
			if _, err := older.Commit(t.Context(), g, op); err != nil {
				t.Errorf("%s: %v", d.Pattern, err)
				continue
			}
			got, err := older.Get(t.Context(), key)
			var now map[string]any
			if err == nil {
				err = got.Decode(&now)
			}
			if n := futures(now); err != nil || n != want {
				t.Errorf("%s (mirrored %t): %d of %d new fields are left, %v:\nwas %s\nis  %s", d.Pattern, mirrored, n, want, err, text, got.Value)
			}
		}
		text, rev := put(key, map[string]int{"v": 2})
		if _, err := older.Commit(t.Context(), leases.Unowned().At(key, rev), leases.Put(key, k.value)); !errors.Is(err, leases.ErrTooNew) {
			t.Errorf("%s: a newer version is written over: %v", d.Pattern, err)
		}
		if got, err := older.Get(t.Context(), key); err != nil || string(got.Value) != text {
			t.Errorf("%s: %s, %v, want %s", d.Pattern, got.Value, err, text)
		}
	}
}
