// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"context"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

// troubles examines once.
func troubles(t *testing.T, c *leases.Client) (out []leases.Trouble) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, f := range c.Examine(ctx) {
		out = append(out, f.Trouble)
	}
	return out
}

func awaitTrouble(t *testing.T, c *leases.Client, want ...leases.Trouble) {
	t.Helper()
	var got []leases.Trouble
	defer func() {
		if t.Failed() {
			t.Logf("want %v, last found %v", want, got)
		}
	}()
	eventually(t, "the examination names the trouble", func() bool {
		got = troubles(t, c)
		return slices.Equal(got, want)
	})
}

// renewed opens a session that renews itself and has slot 7.
func renewed(t *testing.T, c *leases.Client, boot string, ttl time.Duration) (*leases.Session, func() error) {
	t.Helper()
	s := open(t, c, "w1", boot, ttl)
	stop := run(t, s.Run)
	claimOne(t, s, 7)
	return s, stop
}

// TestQuorumLost: without a quorum the session ends at its deadline, counted from the
// last renewal, and the same client opens another one when etcd is back (leases.md §2.2).
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	e := etcdtest.StartCluster(t, etcdtest.Config{})
	c := e.Client(t)
	s, _ := renewed(t, c, "b1", 2*time.Second)
	awaitTrouble(t, c)
	e.Stop(0)
	e.Stop(1)
	ended := time.NewTimer(s.TTL()) // by then etcd may have given the slots to others
	await(t, "the session is lost", s.Lost())
	<-ended.C
	if s.Valid(0) {
		t.Error("the session is valid after its lease may have ended")
	}
	awaitTrouble(t, c, leases.NoLeader)
	e.Stop(2)
	awaitTrouble(t, c, leases.Unreachable)
	e.Restart(t, 0, 1, 2)
	awaitTrouble(t, c)
	eventually(t, "another session", func() bool {
		_, err := c.OpenSession(t.Context(), leases.SessionConfig{Worker: "w1", Boot: "b2", Earlier: []string{"b1"}, TTL: 2 * time.Second})
		return err == nil
	})
}

// TestLeaderChangeLosesNothing: an election shorter than the lease, and a member that
// is restarted or replaced, cost no session (leases.md §5).
func TestLeaderChangeLosesNothing(t *testing.T) {
	t.Parallel()
	e := etcdtest.StartCluster(t, etcdtest.Config{})
	c := e.Client(t)
	s, _ := renewed(t, c, "b1", 5*time.Second)
	lead := e.Leader(t)
	e.MoveLeader(t)
	eventually(t, "another leader", func() bool { return e.Leader(t) != lead })
	lead = e.Leader(t)
	e.Stop(lead)
	eventually(t, "a leader of two", func() bool { return e.Leader(t) != lead })
	eventually(t, "etcd answers", func() bool { return len(troubles(t, c)) == 0 })
	e.Restart(t, lead)
	e.Replace(t, (lead+1)%3)
	awaitTrouble(t, c)
	before := s.Deadline()
	eventually(t, "the lease is renewed", func() bool { return s.Deadline().After(before) })
	if !s.Valid(time.Second) {
		t.Error("the session was lost")
	}
}

// TestSlowCommitsAreNamed: writes that take long are seen although reads need no disk.
func TestSlowCommitsAreNamed(t *testing.T) {
	t.Parallel()
	e := etcdtest.StartCluster(t, etcdtest.Config{Election: 2 * time.Second}) // nobody takes a slow leader for a dead one
	c := e.Client(t)
	s, _ := renewed(t, c, "b1", 15*time.Second)
	e.SlowCommits(300 * time.Millisecond)
	eventually(t, "the trouble has a name", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _ = c.Commit(ctx, leases.Unowned(), leases.Put(leases.PoolKey("p"), struct{}{})) // its time is what counts
		return slices.Contains(troubles(t, c), leases.Slow)
	})
	e.SlowCommits(0)
	if !s.Valid(0) {
		t.Error("the session was lost")
	}
	awaitTrouble(t, c)
}

// TestFullQuota: a full quota refuses writes, not renewals; after room was made all goes on.
func TestFullQuota(t *testing.T) {
	t.Parallel()
	e := etcdtest.StartCluster(t, etcdtest.Config{Members: 1, Quota: 8 << 20})
	c := e.Client(t)
	s, _ := renewed(t, c, "b1", 2*time.Second)
	e.Fill(t)
	awaitTrouble(t, c, leases.NoSpace)
	put := leases.Put(leases.PoolKey("p"), struct{}{})
	if _, err := c.Commit(t.Context(), leases.Unowned(), put); err == nil {
		t.Error("a write was accepted")
	}
	before := s.Deadline()
	eventually(t, "the lease is renewed", func() bool { return s.Deadline().After(before) })
	e.MakeRoom(t)
	awaitTrouble(t, c)
	if _, err := c.Commit(t.Context(), leases.Unowned(), put); err != nil || !s.Valid(0) {
		t.Errorf("after room was made: %v, session valid: %t", err, s.Valid(0))
	}
}

// TestRightsTakenAway: an etcd that wants users refuses us, by name, and all goes on when
// it does not any more.
func TestRightsTakenAway(t *testing.T) {
	t.Parallel()
	e := etcdtest.StartCluster(t, etcdtest.Config{Members: 1})
	c := e.Client(t)
	raw := e.Raw(t)
	ctx := t.Context()
	_, err := raw.UserAdd(ctx, "root", "pw")
	if err == nil {
		_, err = raw.UserGrantRole(ctx, "root", "root")
	}
	if err == nil {
		_, err = raw.AuthEnable(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitTrouble(t, c, leases.Auth)
	if _, err := c.Revision(ctx); err == nil {
		t.Error("a read was answered")
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints(), Username: "root", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := root.AuthDisable(ctx); err != nil {
		t.Fatal(err)
	}
	awaitTrouble(t, c)
}

// TestRestoredEtcd: a session of an etcd that was restored from a backup is over, even
// when the restored data know its lease, and a mirror shows what is there now, whether the
// revision went back, was bumped, or the cluster became another one (leases.md §2.10).
func TestRestoredEtcd(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]etcdtest.Restore{
		"revision went back": {},
		"bumped":             {BumpRevision: 1_000_000},
		"another cluster":    {BumpRevision: 1_000_000, Token: "second"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := etcdtest.StartCluster(t, etcdtest.Config{Members: 1})
			c := e.Client(t)
			m := c.NewMirror()
			run(t, m.Run)
			s, stop := renewed(t, c, "b1", 60*time.Second)
			file := e.Snapshot(t)
			put := func(key string) {
				if _, err := c.Commit(t.Context(), leases.Unowned(), leases.Put(key, struct{}{})); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range []string{"p1", "p2", "p3"} {
				put(leases.PoolKey(p))
			}
			eventually(t, "the mirror shows a pool", func() bool { _, ok := m.Get(leases.PoolKey("p3")); return ok })
			before, cluster := m.Revision(), c.ClusterID()

			e.Restore(t, file, r)
			eventually(t, "the mirror shows that the pools are gone", func() bool { return len(m.List(leases.PoolsPrefix)) == 0 })
			eventually(t, "the mirror is fresh", func() bool { return m.Age() < 2*time.Second })
			put(leases.PoolKey("p4"))
			eventually(t, "the mirror follows", func() bool { _, ok := m.Get(leases.PoolKey("p4")); return ok })
			if got := m.Revision() > before; got != (r.BumpRevision > 0) {
				t.Errorf("revision %d, was %d", m.Revision(), before)
			}
			if got := c.ClusterID() != cluster; got != (r.Token != "") {
				t.Errorf("cluster id %x, was %x", c.ClusterID(), cluster)
			}
			if r.BumpRevision > 0 && r.Token == "" {
				// Nothing tells it from the etcd that it was: the lease of the backup goes on,
				// with every claim that the backup knows.
				if !s.Valid(0) {
					t.Error("the session was lost")
				}
				return
			}
			await(t, "the session is lost", s.Lost())
			wantErr(t, stop(), leases.ErrFenced)
			s2 := open(t, c, "w2", "b2", 2*time.Second)
			if s2.ClusterID() != c.ClusterID() {
				t.Errorf("the new session is of cluster %x, want %x", s2.ClusterID(), c.ClusterID())
			}
		})
	}
}
