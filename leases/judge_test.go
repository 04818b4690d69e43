// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"errors"
	"testing"
)

// The package comment's rule for a write without an answer, case by case. The write
// compares epoch 1.10 and record A at 20, and was sent when etcd was known to be at 30.
func TestJudge(t *testing.T) {
	const base = 30
	slot, a, b := SlotKey(1), HostHAKey("a"), EventKey("b")
	claim := Claim{Slot: 1, Epoch: Epoch{1, 10}}
	at := func(key, value string, rev int64) KV { return KV{Key: key, Value: []byte(value), ModRevision: rev} }
	owned := at(slot, "", 10)
	guard := claim.Guard().At(a, 20)
	both := []Op{Put(a, []byte("new")), Put(b, []byte("b"))}

	for _, tc := range []struct {
		name string
		g    Guard
		ops  []Op
		now  []KV
		want verdict
		rev  int64
		err  error
	}{
		{"nothing moved", guard, both, []KV{owned, at(a, "old", 20)}, open, 0, nil},
		{"all as written in one revision", guard, both, []KV{owned, at(a, "new", 31), at(b, "b", 31)}, applied, 31, nil},
		{"a part in another revision is somebody else's", guard, both, []KV{owned, at(a, "new", 31), at(b, "b", 32)}, rejected, 0, ErrConflict},
		{"a part is missing", guard, both, []KV{owned, at(a, "new", 31)}, rejected, 0, ErrConflict},
		{"other content", guard, both, []KV{owned, at(a, "other", 31), at(b, "b", 31)}, rejected, 0, ErrConflict},
		{"the slot moved, though it was applied", guard, both, []KV{at(slot, "", 40), at(a, "new", 31), at(b, "b", 31)}, rejected, 0, ErrFenced},
		{"the slot is free", guard, both, []KV{at(a, "old", 20)}, rejected, 0, ErrFenced},
		{"as written, but already before it was sent", Unowned(), both[1:], []KV{at(b, "b", 29)}, open, 0, nil},
		{"deletion found", guard, []Op{Delete(a)}, []KV{owned}, applied, 50, nil},
		{"deletion not found", guard, []Op{Delete(a)}, []KV{owned, at(a, "old", 20)}, open, 0, nil},
		{"deletion that compares nothing leaves no trace", claim.Guard(), []Op{Delete(a)}, []KV{owned}, open, 0, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := tc.g.compile(tc.ops)
			if err != nil {
				t.Fatal(err)
			}
			now := make(map[string]KV)
			for _, kv := range tc.now {
				now[kv.Key] = kv
			}
			v, rev, err := w.judge(now, 50, base)
			if v != tc.want || rev != tc.rev || !errors.Is(err, tc.err) {
				t.Errorf("judge = %v, %d, %v; want %v, %d, %v", v, rev, err, tc.want, tc.rev, tc.err)
			}
		})
	}
}

// Guards are values: two commits that start from one guard must not see each other.
func TestGuardsDoNotShare(t *testing.T) {
	base := Unowned().At("a", 1).At("b", 2)
	x, y := base.At("x", 3), base.At("y", 4)
	if x.at[2].key != "x" || y.at[2].key != "y" || len(base.at) != 2 {
		t.Errorf("%v %v %v", base.at, x.at, y.at)
	}
}
