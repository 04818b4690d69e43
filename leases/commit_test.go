// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

type record struct {
	V  int    `json:"v"`
	By string `json:"by"`
	N  int    `json:"n"`
}

var haKey = leases.HostHAKey("h-1")

// leases.md §2.6: a commit compares the epoch and the record, and names what has moved.
func TestCommitComparesEpochAndRevisions(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	claim := claimOne(t, s, 1)

	rev, err := s.Commit(t.Context(), claim.Guard().At(haKey, 0),
		leases.Put(haKey, record{V: 1, N: 1}), leases.Put(leases.EventKey("e-1"), record{V: 1}))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := c.Get(t.Context(), haKey)
	if err != nil || kv.ModRevision != rev || string(kv.Value) != `{"v":1,"by":"","n":1}` {
		t.Fatalf("committed at %d, read %+v, %v", rev, kv, err)
	}

	_, err = s.Commit(t.Context(), claim.Guard().At(haKey, 0), leases.Put(haKey, record{N: 2}))
	var conflict *leases.ConflictError
	if !errors.As(err, &conflict) || *conflict != (leases.ConflictError{Key: haKey, Want: 0, Have: rev}) || !errors.Is(err, leases.ErrConflict) {
		t.Fatalf("got %v", err)
	}

	stale := claim
	stale.Epoch.Revision--
	_, err = s.Commit(t.Context(), stale.Guard().At(haKey, 99), leases.Put(haKey, record{N: 3}))
	wantErr(t, err, leases.ErrFenced)

	if _, err := s.Commit(t.Context(), claim.Guard().At(haKey, rev), leases.Delete(haKey)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Get(t.Context(), haKey)
	wantErr(t, err, leases.ErrNotFound)
	if _, err := srv.Raw(t).Delete(t.Context(), leases.SlotKey(claim.Slot)); err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(t.Context(), claim.Guard(), leases.Put(haKey, record{}))
	wantErr(t, err, leases.ErrFenced)
}

// Check says what Commit would, and writes nothing.
func TestCheckSaysWhatCommitWould(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	claim := claimOne(t, s, 1)
	spec := leases.HostSpecKey("h-1")

	if rev, err := c.Check(t.Context(), claim.Guard().At(haKey, 0), leases.Put(haKey, record{})); rev != 0 || err != nil {
		t.Errorf("of what is not there: %d, %v", rev, err)
	}
	if n, err := c.Count(t.Context(), leases.HostsPrefix); n != 0 || err != nil {
		t.Errorf("written: %d, %v", n, err)
	}
	rev, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(spec, record{V: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if have, err := c.Check(t.Context(), leases.Unowned().At(spec, rev), leases.Put(haKey, record{}), leases.Delete(spec)); have != rev || err != nil {
		t.Errorf("the last record is at %d, want %d: %v", have, rev, err)
	}
	var conflict *leases.ConflictError
	if _, err := c.Check(t.Context(), leases.Unowned().At(spec, 1), leases.Put(spec, record{})); !errors.As(err, &conflict) || *conflict != (leases.ConflictError{Key: spec, Want: 1, Have: rev}) {
		t.Errorf("a revision that does not hold: %v", err)
	}
	stale := claim
	stale.Epoch.Revision--
	_, err = c.Check(t.Context(), stale.Guard(), leases.Put(haKey, record{}))
	wantErr(t, err, leases.ErrFenced)
	if _, err := c.Check(t.Context(), leases.Unowned(), leases.Put(leases.Root+"nonsense", record{})); err == nil {
		t.Error("a key that is not in the schema")
	}
	if n, err := c.Count(t.Context(), leases.HostsPrefix); n != 1 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
}

func TestCommitRefusesWhatCannotBeRight(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	claim := claimOne(t, s, 1)
	var many []leases.Op
	for i := range 129 {
		many = append(many, leases.Put(leases.EventKey(fmt.Sprintf("e-%d", i)), 1))
	}
	for name, commit := range map[string]func() (int64, error){
		"not in the schema": func() (int64, error) { return c.Commit(t.Context(), leases.Unowned(), leases.Put("/other/key", 1)) },
		"bad id": func() (int64, error) {
			return c.Commit(t.Context(), leases.Unowned(), leases.Put(leases.HostSpecKey("a/b"), 1))
		},
		"belongs to a session": func() (int64, error) {
			return c.Commit(t.Context(), leases.Unowned(), leases.Delete(leases.SlotKey(1)))
		},
		"needs its session": func() (int64, error) { return c.Commit(t.Context(), claim.Guard(), leases.Put(haKey, 1)) },
		"no operations":     func() (int64, error) { return s.Commit(t.Context(), claim.Guard()) },
		"written twice": func() (int64, error) {
			return s.Commit(t.Context(), claim.Guard(), leases.Put(haKey, 1), leases.Delete(haKey))
		},
		"compared twice": func() (int64, error) {
			return s.Commit(t.Context(), claim.Guard().At(haKey, 0).At(haKey, 1), leases.Put(haKey, 1))
		},
		"encode":      func() (int64, error) { return s.Commit(t.Context(), claim.Guard(), leases.Put(haKey, func() {})) },
		"at most 128": func() (int64, error) { return s.Commit(t.Context(), claim.Guard(), many...) },
	} {
		if _, err := commit(); err == nil || (name != "bad id" && !strings.Contains(err.Error(), name)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if kvs, _, err := c.List(t.Context(), leases.EventsPrefix); err != nil || len(kvs) > 0 {
		t.Errorf("a refused commit wrote %d keys, %v", len(kvs), err)
	}
}

// "At most one owner commits per epoch": the old owner goes on writing through the whole
// takeover, by every way it has; not one write of it lands after the new claim.
func TestNoStaleWriteIsAccepted(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	a := open(t, srv.Client(t), "w-a", "b-1", 30*time.Second)
	b := open(t, srv.Client(t), "w-b", "b-2", 30*time.Second)
	raw := srv.Raw(t)
	old := claimOne(t, a, 1)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var written, fenced atomic.Int64
	stop := run(t, func(ctx context.Context) error {
		for n := 1; ctx.Err() == nil; n++ {
			_, err := a.Commit(ctx, old.Guard(), leases.Put(haKey, record{V: 1, By: "a", N: n}))
			switch {
			case err == nil:
				written.Add(1)
			case errors.Is(err, leases.ErrFenced):
				fenced.Add(1)
			case ctx.Err() == nil:
				return err
			}
		}
		return nil
	})
	history := raw.Watch(ctx, haKey, clientv3.WithRev(1))
	eventually(t, "the old owner writes", func() bool { return written.Load() > 20 })
	if _, err := raw.Revoke(ctx, clientv3.LeaseID(a.LeaseID())); err != nil {
		t.Fatal(err)
	}
	claim := claimOne(t, b, 1)
	var last int64
	for n := range 20 {
		rev, err := b.Commit(ctx, claim.Guard(), leases.Put(haKey, record{V: 1, By: "b", N: n}))
		if err != nil {
			t.Fatal(err)
		}
		last = rev
	}
	eventually(t, "the old owner was refused often", func() bool { return fenced.Load() > 50 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var byA int64
	for seen := int64(0); seen < last; {
		resp := <-history
		for _, ev := range resp.Events {
			seen = ev.Kv.ModRevision
			if strings.Contains(string(ev.Kv.Value), `"by":"a"`) {
				byA++
				if seen > claim.Epoch.Revision {
					t.Errorf("stale write at %d, after the claim at %s", seen, claim.Epoch)
				}
			}
		}
	}
	if byA != written.Load() {
		t.Errorf("the old owner was told of %d commits, etcd has %d", written.Load(), byA)
	}
}

// leases.md §2.4 for commits: what becomes of a write whose request or answer is lost.
func TestCommitDecidesALostAnswer(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	c := etcdtest.Dial(t, proxy.Endpoint())
	s := open(t, c, "w-1", "b-1", 60*time.Second)
	claim := claimOne(t, s, 1)
	direct := srv.Client(t)
	raw := srv.Raw(t)

	// lose starts a commit, loses what goes in direction d, and returns its outcome.
	lose := func(t *testing.T, d etcdtest.Dir, g leases.Guard, ops ...leases.Op) (int64, error) {
		t.Helper()
		before, err := direct.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		proxy.Hold(d)
		done := make(chan struct{})
		var rev int64
		go func() { defer close(done); rev, err = s.Commit(t.Context(), g, ops...) }()
		eventually(t, "the commit is under way", func() bool {
			if d == etcdtest.Requests {
				return proxy.Held(d) > 0
			}
			now, rerr := direct.Revision(t.Context())
			return rerr == nil && now > before
		})
		proxy.Cut()
		proxy.Release()
		await(t, "the commit returns", done)
		return rev, err
	}
	at := func(key string) int64 {
		kv, err := direct.Get(t.Context(), key)
		if err != nil && !errors.Is(err, leases.ErrNotFound) {
			t.Fatal(err)
		}
		return kv.ModRevision
	}

	t.Run("answer lost: found as written", func(t *testing.T) {
		rev, err := lose(t, etcdtest.Answers, claim.Guard().At(haKey, at(haKey)),
			leases.Put(haKey, record{V: 1, N: 1}), leases.Put(leases.EventKey("e-1"), 1))
		if err != nil || rev != at(haKey) || rev != at(leases.EventKey("e-1")) {
			t.Errorf("revision %d, %v; the record is at %d", rev, err, at(haKey))
		}
	})
	t.Run("request lost: sent again, since it compares what it writes", func(t *testing.T) {
		rev, err := lose(t, etcdtest.Requests, claim.Guard().At(haKey, at(haKey)), leases.Put(haKey, record{V: 1, N: 2}))
		if err != nil || rev != at(haKey) {
			t.Errorf("revision %d, %v; the record is at %d", rev, err, at(haKey))
		}
	})
	t.Run("request lost: left open, since two copies could be applied", func(t *testing.T) {
		_, err := lose(t, etcdtest.Requests, claim.Guard(), leases.Put(leases.EventKey("e-2"), 1))
		wantErr(t, err, leases.ErrUnknownOutcome)
	})
	t.Run("answer lost: found although nothing of it was compared", func(t *testing.T) {
		rev, err := lose(t, etcdtest.Answers, claim.Guard(), leases.Put(leases.EventKey("e-3"), 1))
		if err != nil || rev != at(leases.EventKey("e-3")) {
			t.Errorf("revision %d, %v", rev, err)
		}
	})
	t.Run("answer of a refusal lost: the record has moved", func(t *testing.T) {
		proxy.Hold(etcdtest.Requests)
		done := make(chan struct{})
		var err error
		g := claim.Guard().At(haKey, at(haKey))
		go func() { defer close(done); _, err = s.Commit(t.Context(), g, leases.Put(haKey, record{V: 1, N: 3})) }()
		eventually(t, "the commit is under way", func() bool { return proxy.Held(etcdtest.Requests) > 0 })
		if _, err := raw.Put(t.Context(), haKey, "{}"); err != nil {
			t.Fatal(err)
		}
		proxy.Cut()
		proxy.Release()
		await(t, "the commit returns", done)
		wantErr(t, err, leases.ErrConflict)
	})
	t.Run("deletion whose answer is lost", func(t *testing.T) {
		if _, err := lose(t, etcdtest.Answers, claim.Guard().At(haKey, at(haKey)), leases.Delete(haKey)); err != nil || at(haKey) != 0 {
			t.Errorf("%v; the record is at %d", err, at(haKey))
		}
	})
	t.Run("a deadline ends it", func(t *testing.T) {
		proxy.Hold(etcdtest.Both)
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := s.Commit(ctx, claim.Guard().At(haKey, 0), leases.Put(haKey, record{V: 1, N: 4}))
		wantErr(t, err, leases.ErrUnknownOutcome)
		proxy.Release()
	})
}

// A write that floats in the network while the slot changes hands is refused when it
// finally arrives.
func TestFloatingWriteOfAnOldEpochIsRefused(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	a := open(t, etcdtest.Dial(t, proxy.Endpoint()), "w-a", "b-1", 60*time.Second)
	b := open(t, srv.Client(t), "w-b", "b-2", 60*time.Second)
	raw := srv.Raw(t)
	old := claimOne(t, a, 1)

	proxy.Hold(etcdtest.Requests)
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		_, err = a.Commit(t.Context(), old.Guard().At(haKey, 0), leases.Put(haKey, record{V: 1, By: "a"}))
	}()
	eventually(t, "the commit is under way", func() bool { return proxy.Held(etcdtest.Requests) > 0 })
	if _, err := raw.Revoke(t.Context(), clientv3.LeaseID(a.LeaseID())); err != nil {
		t.Fatal(err)
	}
	claim := claimOne(t, b, 1)
	proxy.Release() // first copy, or the reading back, or both: whatever arrives is refused
	await(t, "the commit returns", done)
	wantErr(t, err, leases.ErrFenced)
	if rev, err := b.Commit(t.Context(), claim.Guard().At(haKey, 0), leases.Put(haKey, record{V: 1, By: "b"})); err != nil || rev == 0 {
		t.Errorf("the record had been written: %v", err)
	}
}
