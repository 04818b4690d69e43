// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

func allSlots() []int {
	out := make([]int, 1024)
	for i := range out {
		out[i] = i
	}
	return out
}

// leases.md §2.4: however many workers grasp at the same orphans, each has one owner, and
// the epoch is the mod_revision of its key.
func TestConcurrentClaimsAreDisjointAndComplete(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	var mu sync.Mutex
	owner := make(map[int]string)
	epochs := make(map[int]leases.Epoch)
	var wg sync.WaitGroup
	for i, id := range []string{"w-1", "w-2", "w-3"} {
		s := open(t, srv.Client(t), id, "b-"+id, 30*time.Second)
		wg.Go(func() {
			slots := allSlots()
			for rest := range slices.Chunk(slots, 100+i) { // overlapping batches of different cut
				got, err := s.Claim(t.Context(), rest)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for _, c := range got {
					if owner[c.Slot] != "" {
						t.Errorf("slot %d has two owners", c.Slot)
					}
					owner[c.Slot], epochs[c.Slot] = id, c.Epoch
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	kvs, _, err := srv.Client(t).List(t.Context(), leases.SlotsPrefix)
	if err != nil || len(kvs) != 1024 || len(owner) != 1024 {
		t.Fatalf("%d slot keys, %d claims, want 1024: %v", len(kvs), len(owner), err)
	}
	for _, kv := range kvs {
		var rec leases.SlotRecord
		if err := kv.Decode(&rec); err != nil {
			t.Fatal(err)
		}
		slot, _ := leases.SplitSlotKey(kv.Key)
		if want := (leases.Epoch{Generation: 1, Revision: kv.ModRevision}); rec.Worker != owner[slot] || epochs[slot] != want {
			t.Errorf("slot %d: etcd says %s %s, the claims said %s %s", slot, rec.Worker, want, owner[slot], epochs[slot])
		}
	}
}

// architecture.md §5.3: the lease ends, all claims vanish, a survivor takes them with a
// higher epoch, and the old owner's claims and releases touch nothing any more.
func TestTakeoverAfterLeaseEnd(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	a := open(t, c, "w-a", "b-1", time.Second) // not renewed
	b := open(t, c, "w-b", "b-2", 30*time.Second)
	old, err := a.Claim(t.Context(), []int{1, 2, 3})
	if err != nil || len(old) != 3 {
		t.Fatal(old, err)
	}
	if got, err := b.Claim(t.Context(), []int{1, 2, 3, 4}); err != nil || len(got) != 1 || got[0].Slot != 4 {
		t.Fatalf("of slots 1 to 3 owned by another and 4 unowned: claimed %v, %v", got, err)
	}
	var got []leases.Claim
	eventually(t, "the lease ends and the slots are claimed", func() bool {
		more, err := b.Claim(t.Context(), []int{1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		got = more
		return len(got) == 3
	})
	for i, claim := range got {
		if claim.Slot != old[i].Slot || claim.Epoch.Compare(old[i].Epoch) <= 0 {
			t.Errorf("epoch did not rise: %s after %s", claim, old[i])
		}
	}
	again, err := b.Claim(t.Context(), []int{1, 2, 3})
	if err != nil || !slices.Equal(again, got) {
		t.Errorf("a repeated claim changed something: %v, %v", again, err)
	}
}

// The answer is lost: the claim reads back and finds that it holds the slots.
func TestClaimReadsBackALostAnswer(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	s := open(t, etcdtest.Dial(t, proxy.Endpoint()), "w-1", "b-1", 30*time.Second)
	raw := srv.Raw(t)

	proxy.Hold(etcdtest.Answers)
	done := make(chan struct{})
	var got []leases.Claim
	var err error
	go func() { defer close(done); got, err = s.Claim(t.Context(), []int{5, 6}) }()
	eventually(t, "the claim reaches etcd", func() bool { return exists(t, raw, leases.SlotKey(5)) })
	proxy.Cut()
	proxy.Release()
	await(t, "the claim returns", done)
	if err != nil || len(got) != 2 {
		t.Fatalf("claimed %v, %v", got, err)
	}
	kv, err := srv.Client(t).Get(t.Context(), leases.SlotKey(5))
	if claim, mine := s.ClaimOf(kv); err != nil || !mine || claim != got[0] {
		t.Errorf("etcd has %v (mine: %t), the claim said %v: %v", claim, mine, got[0], err)
	}
}

// The request is lost: nothing was taken, and the claim says that it does not know rather
// than trying again by itself. Repeating it is safe.
func TestClaimDoesNotRetryBlindly(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	s := open(t, etcdtest.Dial(t, proxy.Endpoint()), "w-1", "b-1", 30*time.Second)

	proxy.Hold(etcdtest.Requests)
	done := make(chan struct{})
	var err error
	go func() { defer close(done); _, err = s.Claim(t.Context(), []int{5}) }()
	eventually(t, "the claim is on its way", func() bool { return proxy.Held(etcdtest.Requests) > 0 })
	proxy.Cut()
	proxy.Release()
	await(t, "the claim returns", done)
	wantErr(t, err, leases.ErrUnknownOutcome)
	claimOne(t, s, 5)
}

// An earlier session of the same process is a stranger: its slots wait for its lease.
func TestAnEarlierSessionsSlotsAreNotMine(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	first := open(t, c, "w-1", "b-1", 30*time.Second)
	claimOne(t, first, 9)
	second, err := c.OpenSession(t.Context(), leases.SessionConfig{Worker: "w-1", Boot: "b-2", TTL: 30 * time.Second, Earlier: []string{"b-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Claim(t.Context(), []int{9}); err != nil || len(got) != 0 {
		t.Errorf("took over %v of a lease that has not ended, %v", got, err)
	}
	if _, err := second.Claim(t.Context(), []int{1024}); err == nil {
		t.Error("claimed slot 1024 of 1024")
	}
}

func exists(t testing.TB, raw *clientv3.Client, key string) bool {
	t.Helper()
	resp, err := raw.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Kvs) > 0
}
