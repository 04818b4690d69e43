// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Every key function makes a key of exactly one row, and every row has one.
func TestKeysAndSchemaAgree(t *testing.T) {
	keys := map[string]string{
		ConfigSlotsKey():           "config/slots",
		ConfigGenerationKey():      "config/generation",
		ToldKey():                  "config/told",
		WorkerKey("w-1"):           "workers/<worker>",
		SlotKey(7):                 "slots/<slot>",
		EndsKey("w-1", "b-1"):      "ends/<worker>/<boot>",
		DrainKey("w-1"):            "drains/<worker>",
		PartitionSpecKey("z/p/c"):  "partitions/<path>/spec",
		PartitionStateKey("spec"):  "partitions/<path>/state",
		BudgetKey("host/h"):        "budgets/host/<host>",
		BudgetKey("cluster/z/p/c"): "budgets/cluster/<zone>/<pod>/<cluster>",
		BudgetKey("pod/z/p"):       "budgets/pod/<zone>/<pod>",
		BudgetKey("zone/z"):        "budgets/zone/<zone>",
		AreaKey("rack/z/7"):        "areas/<area>",

		HostSpecKey("h"):              "hosts/<host>/spec",
		HostHAKey("spec"):             "hosts/<host>/ha",
		HostPowerKey("h"):             "hosts/<host>/power",
		IncidentKey("h", "i"):         "incidents/<host>/<id>",
		StepKey("h", "i", 0):          "steps/<host>/<id>/<nn>",
		OpsKey("h"):                   "ops/<host>",
		LinkKey("h"):                  "links/<host>",
		IndexKey(41):                  "indices/<index>",
		PoolKey("p"):                  "pools/<pool>",
		VolumeKey("v"):                "volumes/<volume>",
		TemplateKey("t"):              "templates/<template>",
		InstanceKey("i"):              "instances/<instance>",
		CommandKey("h", "c"):          "commands/<host>/<id>",
		JournalKey("h", "c", 3):       "journal/<host>/<id>/<nn>",
		EventKey("e"):                 "events/<uuid>",
		EventsCutKey():                "events-cut",
		HookKey("k"):                  "hooks/<hook>",
		CursorKey("k"):                "cursors/<hook>",
		AuditKey("e"):                 "audit/<uuid>",
		SettingKey("pod/z/p", "ha.x"): "settings/<scope>/<name>",
		ProfileKey("pod/z/p"):         "profiles/<scope>",
		SecretKey("h", "bmc"):         "secrets/<host>/<device>",
		RequestKey("0f"):              "requests/<id>",
		TokenKey("t"):                 "tokens/<id>",
		RevokedKey("0f"):              "revoked/<serial>",
		AuthorityKey("a1"):            "authorities/<id>",
		JoinKey("t"):                  "joins/<id>",
		CertKey("0f"):                 "certs/<serial>",
	}
	var rows []string
	for key, pattern := range keys {
		var hits []string
		for i, re := range schemaRegexps {
			if re.MatchString(key) {
				hits = append(hits, Schema[i].Pattern)
			}
		}
		if !slices.Equal(hits, []string{pattern}) {
			t.Errorf("%s matches %v, want %s", key, hits, pattern)
		}
		rows = append(rows, pattern)
	}
	for _, d := range Schema {
		if !slices.Contains(rows, d.Pattern) {
			t.Errorf("no key function makes %s", d.Pattern)
		}
		var v struct{ V int }
		if err := json.Unmarshal([]byte(d.Example), &v); err != nil || v.V != 1 {
			t.Errorf("example of %s: %v, want a JSON object with \"v\": 1", d.Pattern, err)
		}
		if !strings.Contains(SchemaMarkdown(), "`"+d.Pattern+"`") {
			t.Errorf("%s is missing in the page", d.Pattern)
		}
	}
}

func TestForeignKeysMatchNothing(t *testing.T) {
	for _, key := range []string{
		"", Root, "/other", Root + "hosts/h", HostPrefix("h") + "spec/x", HostSpecKey("a/b"), HostSpecKey(""), HostSpecKey("-a"),
		PartitionSpecKey("a/b/c/d"), BudgetKey("cluster/a"), SettingKey("zone", "x"), SettingKey("global/x", "y"), Root + "slots/7", "x" + SlotKey(1), SlotKey(1) + "x",
		EventKey(strings.Repeat("e", 64)), HostSpecKey("h\n"),
	} {
		if d, args, ok := Match(key); ok {
			t.Errorf("%q matches %s %v", key, d.Pattern, args)
		}
	}
	if _, args, ok := Match(IncidentKey("h-1", "i-1")); !ok || !slices.Equal(args, []string{"h-1", "i-1"}) {
		t.Errorf("arguments %v", args)
	}
}

// What the checks let in, the key functions and the splitters carry unchanged.
func TestIdsRoundTrip(t *testing.T) {
	id := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,62}`)
	rapid.Check(t, func(t *rapid.T) {
		host := id.Draw(t, "host")
		if err := CheckID("host id", host); err != nil {
			t.Fatal(err)
		}
		for key, part := range map[string]string{HostSpecKey(host): "spec", HostHAKey(host): "ha", HostPowerKey(host): "power"} {
			if h, p, ok := SplitHostKey(key); !ok || h != host || p != part {
				t.Fatalf("%s splits into %q %q %t", key, h, p, ok)
			}
		}
		path := strings.Join(rapid.SliceOfN(id, 1, 3).Draw(t, "path"), "/")
		if err := CheckPath("partition", path); err != nil {
			t.Fatal(err)
		}
		if p, part, ok := SplitPartitionKey(PartitionStateKey(path)); !ok || p != path || part != "state" {
			t.Fatalf("%s splits into %q %q %t", PartitionStateKey(path), p, part, ok)
		}
		slot := rapid.IntRange(0, 9999).Draw(t, "slot")
		if n, ok := SplitSlotKey(SlotKey(slot)); !ok || n != slot {
			t.Fatalf("slot %d comes back as %d %t", slot, n, ok)
		}
		e := Epoch{rapid.Int64Min(0).Draw(t, "gen"), rapid.Int64Min(0).Draw(t, "rev")}
		if back, err := ParseEpoch(e.String()); err != nil || back != e || e.Compare(back) != 0 {
			t.Fatalf("%s comes back as %s, %v", e, back, err)
		}
	})
}

func TestBadIdsAreNamed(t *testing.T) {
	for _, bad := range []string{"", "-x", ".x", "a b", "a/b", "ä", strings.Repeat("x", 64)} {
		if err := CheckID("host id", bad); err == nil || !strings.Contains(err.Error(), "host id") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	for _, bad := range []string{"", "a//b", "a/b/c/d", "/a", "a/"} {
		if err := CheckPath("partition", bad); err == nil {
			t.Errorf("path %q passes", bad)
		}
	}
	for _, bad := range []string{"", "1", "1.", ".1", "1.x", "-1.2", "1.2.3", "1.99999999999999999999"} {
		if e, err := ParseEpoch(bad); err == nil {
			t.Errorf("epoch %q parses as %s", bad, e)
		}
	}
}

func TestEpochsOrderByGenerationFirst(t *testing.T) {
	if (Epoch{2, 1}).Compare(Epoch{1, 99}) != 1 || (Epoch{1, 1}).Compare(Epoch{1, 2}) != -1 || !(Epoch{}).IsZero() {
		t.Error("wrong order")
	}
	b, err := json.Marshal(Epoch{3, 1841})
	if diff := cmp.Diff(`{"generation":3,"revision":1841}`, string(b)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// The index answers like a plain map that is filtered and sorted.
func TestIndexAgainstModel(t *testing.T) {
	keys := []string{SlotKey(1), SlotKey(2), HostHAKey("a"), HostSpecKey("a"), HostHAKey("b"), EventKey("x"), EventKey("y"), "/stray"}
	prefixes := []string{"", "/", "/holdfast/", Root, Root + "s", SlotsPrefix, HostsPrefix, HostPrefix("a"), Root + "hosts", EventKey("x"), "/stray", "/none"}
	rapid.Check(t, func(t *rapid.T) {
		x, model := make(index), make(map[string]KV)
		for rev := range rapid.Int64Range(0, 40).Draw(t, "steps") {
			kv := KV{Key: rapid.SampledFrom(keys).Draw(t, "key"), ModRevision: rev}
			if rapid.Bool().Draw(t, "delete") {
				x.delete(kv.Key)
				delete(model, kv.Key)
			} else {
				x.put(kv)
				model[kv.Key] = kv
			}
		}
		for _, p := range prefixes {
			var want []KV
			for k, kv := range model {
				if strings.HasPrefix(k, p) {
					want = append(want, kv)
				}
			}
			slices.SortFunc(want, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
			if diff := cmp.Diff(want, x.list(p)); diff != "" {
				t.Fatalf("list %q:\n%s", p, diff)
			}
		}
		for _, k := range keys {
			got, ok := x.get(k)
			if want, have := model[k]; ok != have || cmp.Diff(want, got) != "" {
				t.Fatalf("get %s: %v %t", k, got, ok)
			}
		}
	})
}

// Match runs for every operation of every commit.
func BenchmarkMatch(b *testing.B) {
	for b.Loop() {
		Match(EventKey("0193a5c4-7b1e-7c3a-9d2f-1a2b3c4d5e6f"))
	}
}
