// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

// recorder is a subscriber that keeps all it was told.
type recorder struct {
	mu      sync.Mutex
	changes []leases.Change
}

func (r *recorder) add(c leases.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c)
}

// lines renders what was told since the last call, "+key=value" or "-key".
func (r *recorder) lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.changes {
		if c.Deleted {
			out = append(out, "-"+c.Key[len(leases.Root):])
		} else {
			out = append(out, fmt.Sprintf("+%s=%s", c.Key[len(leases.Root):], c.KV.Value))
		}
	}
	r.changes = nil
	return out
}

func (r *recorder) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.changes) == 0 {
		return ""
	}
	return r.changes[len(r.changes)-1].Key
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.changes)
}

// inOrder fails if revisions of what was told since the last call of lines ever fell.
func (r *recorder) inOrder(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 1; i < len(r.changes); i++ {
		if r.changes[i].KV.ModRevision < r.changes[i-1].KV.ModRevision {
			t.Fatalf("revision %d told after %d", r.changes[i].KV.ModRevision, r.changes[i-1].KV.ModRevision)
		}
	}
}

func put(t testing.TB, c *leases.Client, key, value string) int64 {
	t.Helper()
	rev, err := c.Commit(context.Background(), leases.Unowned(), leases.Put(key, []byte(value)))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func remove(t testing.TB, c *leases.Client, key string) int64 {
	t.Helper()
	rev, err := c.Commit(context.Background(), leases.Unowned(), leases.Delete(key))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func reach(t testing.TB, m *leases.Mirror, rev int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.WaitRevision(ctx, rev); err != nil {
		t.Fatalf("mirror at %d, want %d: %v", m.Revision(), rev, err)
	}
}

// same fails unless the mirror holds exactly what etcd holds below prefix.
func same(t testing.TB, m *leases.Mirror, c *leases.Client, prefix string) {
	t.Helper()
	want, rev, err := c.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	reach(t, m, rev)
	if diff := cmp.Diff(want, m.List(prefix)); diff != "" {
		t.Fatalf("mirror differs from etcd:\n%s", diff)
	}
}

func diffLines(t testing.TB, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A subscriber is told what is there, oldest change first, and then every change in
// revision order; keys outside the prefixes do not exist for it.
func TestMirrorReplaysThenFollowsInOrder(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	put(t, c, leases.OpsKey("h-2"), "1")
	put(t, c, leases.HostHAKey("h-1"), "1")
	put(t, c, leases.EventKey("e-1"), "1")

	m := c.NewMirror(leases.HostsPrefix, leases.OpsPrefix)
	var early, late, other recorder
	m.Subscribe("", early.add)
	if m.Age() != math.MaxInt64 || m.Revision() != 0 {
		t.Errorf("before the first listing: age %s, revision %d", m.Age(), m.Revision())
	}
	run(t, m.Run)
	await(t, "synced", m.Synced())
	diffLines(t, []string{"+ops/h-2=1", "+hosts/h-1/ha=1"}, early.lines())

	put(t, c, leases.HostHAKey("h-1"), "2")
	put(t, c, leases.EventKey("e-2"), "1")
	reach(t, m, remove(t, c, leases.OpsKey("h-2")))
	cancel := m.Subscribe(leases.HostsPrefix, late.add)
	m.Subscribe(leases.OpsPrefix, other.add)
	eventually(t, "the late subscriber is told", func() bool {
		if kv, ok := m.Get(leases.HostHAKey("h-1")); !ok || string(kv.Value) != "2" {
			t.Fatalf("mirror holds %q", kv.Value)
		}
		return late.count() > 0
	})
	reach(t, m, put(t, c, leases.OpsKey("h-3"), "3"))
	eventually(t, "the last change is told", func() bool { return other.count() > 0 })
	early.inOrder(t)
	diffLines(t, []string{"+hosts/h-1/ha=2", "-ops/h-2", "+ops/h-3=3"}, early.lines())
	diffLines(t, []string{"+hosts/h-1/ha=2"}, late.lines())
	diffLines(t, []string{"+ops/h-3=3"}, other.lines())

	cancel()
	reach(t, m, put(t, c, leases.HostHAKey("h-1"), "4"))
	reach(t, m, put(t, c, leases.EventKey("e-3"), "1")) // outside the prefixes: only its revision counts
	eventually(t, "the subscriber that stayed is told", func() bool { return len(early.lines()) > 0 })
	diffLines(t, nil, late.lines())
	same(t, m, c, leases.HostsPrefix)
}

// Changes of one transaction are told to be complete once, when all of them are there: what a
// takeover writes is looked at as a whole.
func TestMirrorTellsWholeBatches(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t).Client(t)
	m := c.NewMirror(leases.PoolsPrefix)
	batches := make(chan int, 1000)
	m.OnBatch(func() { batches <- len(m.List(leases.PoolsPrefix)) })
	run(t, m.Run)
	await(t, "synced", m.Synced())
	if n := <-batches; n != 0 {
		t.Errorf("the first listing came with %d keys", n)
	}
	const all = 100
	var ops []leases.Op
	for i := range all {
		ops = append(ops, leases.Put(leases.PoolKey(fmt.Sprint("p", i)), i))
	}
	rev, err := c.Commit(t.Context(), leases.Unowned(), ops...)
	if err != nil {
		t.Fatal(err)
	}
	reach(t, m, rev)
	for n := 0; n != all; {
		select {
		case n = <-batches:
			if n != 0 && n != all { // 0: etcd told its revision alone
				t.Fatalf("told with %d of %d keys", n, all)
			}
		case <-time.After(time.Minute):
			t.Fatal("the transaction was not told to be complete")
		}
	}
}

// The watch is open before the listing: writers that never pause leave no gap and no
// double between the two, and a lease that ends takes all its keys in one step.
func TestMirrorMissesNothingUnderLoad(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	started := make(chan struct{})
	const writes = 400
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		for n := range writes {
			key := leases.HostHAKey(fmt.Sprintf("h-%d", n%7))
			if n == writes/4 {
				close(started)
			}
			if n%5 == 4 {
				remove(t, c, key)
			} else {
				put(t, c, key, fmt.Sprint(n))
			}
		}
	}()
	<-started
	m := srv.Client(t).NewMirror(leases.HostsPrefix, leases.SlotsPrefix)
	var rec recorder
	m.Subscribe("", rec.add)
	run(t, m.Run)
	await(t, "synced", m.Synced())
	<-writer

	s := open(t, c, "w-1", "b-1", 30*time.Second)
	if _, err := s.Claim(t.Context(), allSlots()); err != nil {
		t.Fatal(err)
	}
	same(t, m, c, leases.HostsPrefix)
	if _, err := srv.Raw(t).Revoke(t.Context(), clientv3.LeaseID(s.LeaseID())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease is gone", func() bool {
		n := len(m.List(leases.SlotsPrefix))
		if n != 0 && n != 1024 {
			t.Fatalf("saw a half-ended lease with %d slots", n)
		}
		return n == 0
	})
	reach(t, m, put(t, c, leases.HostHAKey("last"), "1"))
	eventually(t, "the last change is told", func() bool { return rec.last() == leases.HostHAKey("last") })
	rec.inOrder(t)
	// What was told adds up to what is there.
	told := make(map[string]string)
	rec.mu.Lock()
	for _, ch := range rec.changes {
		if _, ok := told[ch.Key]; ch.Deleted && !ok {
			t.Errorf("%s deleted twice", ch.Key)
		}
		if ch.Deleted {
			delete(told, ch.Key)
		} else {
			told[ch.Key] = string(ch.KV.Value)
		}
	}
	rec.mu.Unlock()
	content := make(map[string]string)
	for _, kv := range m.List("") {
		content[kv.Key] = string(kv.Value)
	}
	if diff := cmp.Diff(content, told); diff != "" {
		t.Error(diff)
	}
}

// A connection that breaks is resumed where it ended: every change once, in order.
func TestMirrorResumesAfterACut(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	c := srv.Client(t)
	m := etcdtest.Dial(t, proxy.Endpoint()).NewMirror()
	var rec recorder
	m.Subscribe(leases.HostsPrefix, rec.add)
	run(t, m.Run)
	await(t, "synced", m.Synced())
	rec.lines()

	proxy.Refuse(true)
	proxy.Cut()
	put(t, c, leases.HostHAKey("h-1"), "1")
	put(t, c, leases.HostHAKey("h-1"), "2")
	last := remove(t, c, leases.HostHAKey("h-1"))
	proxy.Refuse(false)
	reach(t, m, last)
	eventually(t, "all is told", func() bool { return rec.count() >= 3 })
	diffLines(t, []string{"+hosts/h-1/ha=1", "+hosts/h-1/ha=2", "-hosts/h-1/ha"}, rec.lines())
}

// What was compacted while the mirror was away comes as a difference, deletions first,
// and what did not change is not told again.
func TestMirrorSurvivesCompaction(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	c := srv.Client(t)
	for _, h := range []string{"stays", "goes", "changes", "recreated"} {
		put(t, c, leases.HostHAKey(h), "1")
	}
	m := etcdtest.Dial(t, proxy.Endpoint()).NewMirror(leases.HostsPrefix)
	var rec recorder
	m.Subscribe("", rec.add)
	run(t, m.Run)
	await(t, "synced", m.Synced())
	rec.lines()

	proxy.Refuse(true)
	proxy.Cut()
	for n := range 5 {
		put(t, c, leases.HostHAKey("changes"), fmt.Sprint(n))
	}
	remove(t, c, leases.HostHAKey("recreated"))
	put(t, c, leases.HostHAKey("recreated"), "1")
	remove(t, c, leases.HostHAKey("goes"))
	last := put(t, c, leases.HostHAKey("new"), "1")
	if _, err := srv.Raw(t).Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	proxy.Refuse(false)
	reach(t, m, last)
	eventually(t, "all is told", func() bool { return rec.count() >= 4 })
	diffLines(t, []string{"-hosts/goes/ha", "+hosts/changes/ha=4", "+hosts/recreated/ha=1", "+hosts/new/ha=1"}, rec.lines())
	put(t, c, leases.HostHAKey("after"), "1") // and it follows again
	same(t, m, c, leases.HostsPrefix)
}

// leases.md §5: freshness is a safety input. A watch that fell silent without breaking
// shows as an age that grows, and one that works stays young without any change.
func TestMirrorAgeTellsSilence(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	m := etcdtest.Dial(t, proxy.Endpoint()).NewMirror(leases.HostsPrefix)
	run(t, m.Run)
	await(t, "synced", m.Synced())
	start := time.Now()
	eventually(t, "an idle mirror is proven fresh again", func() bool { return m.Age() < time.Since(start) })

	proxy.Hold(etcdtest.Both)
	silent := time.Now()
	eventually(t, "silence shows", func() bool { return m.Age() > 1500*time.Millisecond })
	if m.Age() < time.Since(silent) {
		t.Errorf("age %s after %s of silence", m.Age(), time.Since(silent))
	}
	proxy.Release()
	eventually(t, "the mirror is fresh again", func() bool { return m.Age() < time.Second })
}

// leases.md §2.10: an etcd restored from a backup has smaller revisions; a watch would
// wait for the old ones for ever. The mirror notices and shows what is there now.
func TestMirrorNoticesAnEtcdThatWentBack(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	for n := range 50 {
		put(t, c, leases.HostHAKey("h-1"), fmt.Sprint(n))
	}
	put(t, c, leases.HostHAKey("lost"), "1")
	proxy := etcdtest.NewProxy(t, srv.Addr())
	m := etcdtest.Dial(t, proxy.Endpoint()).NewMirror(leases.HostsPrefix)
	run(t, m.Run)
	await(t, "synced", m.Synced())

	proxy.Refuse(true)
	proxy.Cut()
	srv.Reset(t)
	proxy.Refuse(false)
	put(t, srv.Client(t), leases.HostHAKey("h-1"), "restored")
	eventually(t, "the mirror shows the restored content", func() bool {
		kv, ok := m.Get(leases.HostHAKey("h-1"))
		_, lost := m.Get(leases.HostHAKey("lost"))
		return ok && string(kv.Value) == "restored" && !lost
	})
	if m.Revision() > 10 {
		t.Errorf("revision %d is of the old data", m.Revision())
	}
}
