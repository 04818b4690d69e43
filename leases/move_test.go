// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

func wantEnd(t testing.TB, c *leases.Client, worker, boot string, how leases.End) {
	t.Helper()
	kv, err := c.Get(t.Context(), leases.EndsKey(worker, boot))
	var rec leases.EndRecord
	if err == nil {
		err = kv.Decode(&rec)
	}
	if err != nil || rec.How != how || rec.At.IsZero() {
		t.Errorf("end of %s/%s: %+v, %v, want %s", worker, boot, rec, err, how)
	}
}

func registration(t testing.TB, c *leases.Client, worker string) leases.KV {
	t.Helper()
	kv, err := c.Get(t.Context(), leases.WorkerKey(worker))
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func slotKVs(t testing.TB, c *leases.Client) []leases.KV {
	t.Helper()
	kvs, _, err := c.List(t.Context(), leases.SlotsPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return kvs
}

// leases.md §2.5: hand over is a push; no delete, no ownerless gap; the new mod_revision is
// the new epoch, and the old owner's commits fail from then on.
func TestHandOverHasNoGap(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	a, b := open(t, c, "w-a", "b-1", 30*time.Second), open(t, c, "w-b", "b-2", 30*time.Second)
	mine, err := a.Claim(t.Context(), []int{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	watch := srv.Raw(t).Watch(t.Context(), leases.SlotsPrefix, clientv3.WithPrefix(), clientv3.WithRev(mine[0].Epoch.Revision+1))

	stale := leases.Claim{Slot: 3, Epoch: leases.Epoch{Generation: 1, Revision: mine[2].Epoch.Revision - 1}}
	to := registration(t, c, "w-b")
	got, err := a.HandOver(t.Context(), []leases.Handover{{Claim: mine[0], Worker: to}, {Claim: mine[1], Worker: to}, {Claim: stale, Worker: to}})
	if err != nil || len(got) != 2 || got[0].Slot != 1 || got[1].Slot != 2 || got[0].Epoch.Compare(mine[0].Epoch) <= 0 {
		t.Fatalf("handed over %v, %v, want slots 1 and 2 with higher epochs, and not the stale claim of 3", got, err)
	}
	for _, kv := range slotKVs(t, c) {
		n, _ := leases.SplitSlotKey(kv.Key)
		claim, theirs := b.ClaimOf(kv)
		if theirs != (n != 3) || theirs && !slices.Contains(got, claim) {
			t.Errorf("slot %d is w-b's: %t, %v", n, theirs, claim)
		}
		var rec leases.SlotRecord
		if err := kv.Decode(&rec); err != nil || theirs && (rec.Worker != "w-b" || rec.Boot != "b-2" || rec.From != "b-1") {
			t.Errorf("slot %d: %+v, %v", n, rec, err)
		}
	}
	for _, ev := range (<-watch).Events {
		if ev.Type == clientv3.EventTypeDelete {
			t.Errorf("%s was deleted on the way", ev.Kv.Key)
		}
	}
	put := leases.Put(leases.HostHAKey("h1"), map[string]any{"v": 1})
	_, err = a.Commit(t.Context(), mine[0].Guard(), put)
	wantErr(t, err, leases.ErrFenced)
	if _, err := b.Commit(t.Context(), got[0].Guard(), put); err != nil {
		t.Errorf("the new owner cannot write: %v", err)
	}
}

// A receiver that is gone gets nothing; the giver keeps its claims.
func TestHandOverToTheDead(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	a, b := open(t, c, "w-a", "b-1", 30*time.Second), open(t, c, "w-b", "b-2", 30*time.Second)
	claim := claimOne(t, a, 1)
	to := registration(t, c, "w-b")
	if err := b.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := a.HandOver(t.Context(), []leases.Handover{{Claim: claim, Worker: to}}); err == nil || len(got) != 0 {
		t.Fatalf("handed over %v to a lease that is gone, %v", got, err)
	}
	if _, err := a.Commit(t.Context(), claim.Guard(), leases.Put(leases.HostHAKey("h1"), map[string]any{"v": 1})); err != nil {
		t.Errorf("the giver lost its claim: %v", err)
	}
	if _, err := a.HandOver(t.Context(), []leases.Handover{{Claim: claim, Worker: slotKVs(t, c)[0]}}); err == nil {
		t.Error("handed over to something that is no registration")
	}
}

// leases.md §2.9: what a certainly dead worker owned is taken over as it is, in a new
// epoch; what nobody takes goes with its lease. Whoever knows of the end comes first.
func TestReapedIsTakenOver(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s, heir := open(t, c, "w-1", "b-1", 60*time.Second), open(t, c, "w-2", "b-2", 60*time.Second)
	was, err := s.Claim(t.Context(), []int{7, 8})
	if err != nil {
		t.Fatal(err)
	}
	dead := func(worker, boot string) bool { return worker == "w-1" && boot == "b-1" }
	if got, err := heir.TakeOver(t.Context(), slotKVs(t, c)[:1], func(string, string) bool { return false }); err != nil || len(got) != 0 {
		t.Fatalf("took %v of a worker that is not known to be dead, %v", got, err)
	}
	for range 2 { // idempotent
		if err := c.Reap(t.Context(), "w-1", "b-1", s.LeaseID()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(t.Context(), leases.WorkerKey("w-1")); !errors.Is(err, leases.ErrNotFound) {
		t.Errorf("the registration is still there: %v", err)
	}
	got, err := heir.TakeOver(t.Context(), slotKVs(t, c)[:1], dead)
	if err != nil || len(got) != 1 || got[0].Slot != 7 || got[0].Epoch.Compare(was[0].Epoch) <= 0 {
		t.Fatalf("got %v, %v, want slot 7 in an epoch above %v", got, err, was[0].Epoch)
	}
	if _, err := s.Commit(t.Context(), was[0].Guard(), leases.Put(leases.HostHAKey("h1"), map[string]any{"v": 1})); !errors.Is(err, leases.ErrFenced) {
		t.Errorf("the dead one could write: %v", err)
	}
	for range 2 { // idempotent
		if err := c.Retire(t.Context(), s.LeaseID(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if left := slotKVs(t, c); len(left) != 1 || left[0].LeaseID != heir.LeaseID() {
		t.Errorf("slots are owned as %v, want only the one that was taken over", left)
	}
	if err := c.RecordEnd(t.Context(), "w-1", "b-1", leases.Expired, time.Time{}); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, c, "w-1", "b-1", leases.Reaped)
	if err := c.ForgetEnds(t.Context(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, c, "w-1", "b-1", leases.Reaped)
	if err := c.ForgetEnds(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if kvs, _, err := c.List(t.Context(), leases.EndsPrefix); err != nil || len(kvs) != 0 {
		t.Errorf("ends are kept: %v, %v", kvs, err)
	}
}

// leases.md §2.7: a planned restart moves no slot; nobody else gets in between; the next
// process takes back what is under its name once the earlier one has ended for certain.
func TestRestartKeepsSlots(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	stop := run(t, s.Run)
	mine, err := s.Claim(t.Context(), []int{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Suspend(t.Context(), 15*time.Second, map[string]any{"zone": "z1", "state": "ready"}, mine); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, c, "w-1", "b-1", leases.Released)
	var reg struct{ State, Zone, Boot string }
	if err := registration(t, c, "w-1").Decode(&reg); err != nil || reg.State != leases.Restarting || reg.Zone != "z1" || reg.Boot != "b-1" {
		t.Errorf("registration %+v, %v", reg, err)
	}
	other := open(t, c, "w-2", "b-9", 30*time.Second)
	if got, err := other.Claim(t.Context(), []int{1, 2, 3}); err != nil || len(got) != 0 {
		t.Errorf("another took %v in between, %v", got, err)
	}

	again := open(t, c, "w-1", "b-2", 30*time.Second)
	kvs := slotKVs(t, c)
	if got, err := again.TakeBack(t.Context(), kvs, func(string) bool { return false }); err != nil || len(got) != 0 {
		t.Errorf("took back %v from a process of which nothing is known, %v", got, err)
	}
	got, err := again.TakeBack(t.Context(), kvs, func(boot string) bool { return boot == "b-1" })
	if err != nil || len(got) != 3 || got[0].Epoch.Compare(mine[0].Epoch) <= 0 {
		t.Fatalf("took back %v, %v", got, err)
	}
	if n := len(slotKVs(t, c)); n != 3 {
		t.Errorf("%d slots, want 3", n)
	}
}

// A restart that does not come leaves its slots to others after the grace.
func TestSuspendEndsByItself(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	stop := run(t, s.Run)
	if err := s.Suspend(t.Context(), time.Second, nil, []leases.Claim{claimOne(t, s, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "slot and registration are free", func() bool {
		kvs, _, err := c.List(t.Context(), leases.Root+"s")
		if err != nil {
			t.Fatal(err)
		}
		workers, _, err := c.List(t.Context(), leases.WorkersPrefix)
		return err == nil && len(kvs)+len(workers) == 0
	})
}
