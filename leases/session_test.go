// SPDX-License-Identifier: Apache-2.0

package leases_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/leases/etcdtest"
)

// leases.md §2.2: the deadline counts from the moment a renewal was sent. Renewals whose
// answers are held back reach etcd and prolong the lease there, yet move nothing here,
// neither in time nor when the answers come late.
func TestValidityCountsFromSending(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	s := open(t, etcdtest.Dial(t, proxy.Endpoint()), "w-1", "b-1", 2*time.Second)
	const valid = 2*time.Second - 200*time.Millisecond

	first := s.Deadline()
	stop := run(t, s.Run)
	eventually(t, "a renewal moves the deadline", func() bool { return s.Deadline().After(first) })
	if !s.Valid(time.Second) || s.Valid(valid) {
		t.Fatalf("just renewed: Valid(1s) = %t, Valid(%s) = %t", s.Valid(time.Second), valid, s.Valid(valid))
	}

	proxy.Hold(etcdtest.Answers)
	silent := time.Now()
	await(t, "the session is lost", s.Lost())
	if lost := time.Now(); lost.Before(s.Deadline()) {
		t.Errorf("lost %s before the deadline", s.Deadline().Sub(lost))
	}
	if late := s.Deadline().Sub(silent.Add(valid)); late > 0 {
		t.Errorf("deadline lies %s after that of the last renewal that could be answered", late)
	}
	deadline := s.Deadline()
	proxy.Release()
	wantErr(t, stop(), leases.ErrFenced)
	if s.Valid(0) || !s.Deadline().Equal(deadline) {
		t.Errorf("late answers revived the session: Valid = %t, deadline moved by %s", s.Valid(0), s.Deadline().Sub(deadline))
	}
	_, err := s.Commit(t.Context(), leases.Unowned(), leases.Put(leases.EventKey("e-1"), 1))
	wantErr(t, err, leases.ErrFenced)
	_, err = s.Claim(t.Context(), []int{1})
	wantErr(t, err, leases.ErrFenced)
}

// leases.md §5, client row: all endpoints are listed. One that went silent without
// closing anything must not cost the lease.
func TestSilentEndpointDoesNotCostTheLease(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	a, b := etcdtest.NewProxy(t, srv.Addr()), etcdtest.NewProxy(t, srv.Addr())
	s := open(t, etcdtest.Dial(t, a.Endpoint(), b.Endpoint()), "w-1", "b-1", 2*time.Second)
	stop := run(t, s.Run)
	a.Hold(etcdtest.Both)
	end := s.Deadline().Add(s.TTL())
	eventually(t, "the lease lives on over the other endpoint", func() bool { return s.Deadline().After(end) })
	if !s.Valid(0) {
		t.Fatal("lost")
	}
	a.Release()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// A lease that is gone is noticed by the next renewal, not by the deadline.
func TestRevokedLeaseIsLostAtOnce(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	s := open(t, srv.Client(t), "w-1", "b-1", 5*time.Second)
	stop := run(t, s.Run)
	if _, err := srv.Raw(t).Revoke(t.Context(), clientv3.LeaseID(s.LeaseID())); err != nil {
		t.Fatal(err)
	}
	await(t, "the session is lost", s.Lost())
	if time.Until(s.Deadline()) <= 0 {
		t.Error("only the deadline noticed")
	}
	if s.Valid(0) {
		t.Error("valid without a lease")
	}
	wantErr(t, stop(), leases.ErrFenced)
	wantErr(t, s.Update(t.Context(), nil), leases.ErrFenced)
}

// Ending a session in order frees its keys at once, and says that nobody has to wait.
func TestEndOfRunReleases(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	s := open(t, c, "w-1", "b-1", 30*time.Second)
	stop := run(t, s.Run)
	claimOne(t, s, 7)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if s.Valid(0) {
		t.Error("valid after Run")
	}
	for _, key := range []string{leases.SlotKey(7), leases.WorkerKey("w-1")} {
		if _, err := c.Get(t.Context(), key); !errors.Is(err, leases.ErrNotFound) {
			t.Errorf("%s outlived its session: %v", key, err)
		}
	}
	wantEnd(t, c, "w-1", "b-1", leases.Released)
}

func TestOneLiveRegistrationPerWorker(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client(t)
	first := open(t, c, "w-1", "b-1", 30*time.Second)

	_, err := c.OpenSession(t.Context(), leases.SessionConfig{Worker: "w-1", Boot: "b-2", TTL: time.Second})
	wantErr(t, err, leases.ErrConflict)
	var conflict *leases.ConflictError
	if !errors.As(err, &conflict) || conflict.Key != leases.WorkerKey("w-1") || !strings.Contains(err.Error(), "b-1") {
		t.Errorf("the error does not name the holder: %v", err)
	}
	if ids, err := srv.Raw(t).Leases(t.Context()); err != nil || len(ids.Leases) != 1 {
		t.Errorf("a refused session left its lease behind: %v, %v", ids, err)
	}

	second, err := c.OpenSession(t.Context(), leases.SessionConfig{Worker: "w-1", Boot: "b-2", TTL: 30 * time.Second, Earlier: []string{"b-1"}}) // the same process anew
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, first.Update(t.Context(), nil), leases.ErrFenced)
	if err := second.Update(t.Context(), map[string]any{"state": "draining", "boot": "a lie"}); err != nil {
		t.Fatal(err)
	}
	kv, err := c.Get(t.Context(), leases.WorkerKey("w-1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"boot":"b-2","state":"draining","v":1,"worker":"w-1"}`; string(kv.Value) != want {
		t.Errorf("record %s, want %s", kv.Value, want)
	}
	if !kv.Lease || kv.LeaseID != second.LeaseID() {
		t.Error("the registration is not bound to the session's lease")
	}
}

func TestOpenSessionNamesTheBadField(t *testing.T) {
	t.Parallel()
	good := leases.SessionConfig{Worker: "w-1", Boot: "b-1", TTL: time.Second}
	for field, spoil := range map[string]func(*leases.SessionConfig){
		"worker id": func(c *leases.SessionConfig) { c.Worker = "w/1" },
		"boot id":   func(c *leases.SessionConfig) { c.Boot = "" },
		"lease ttl": func(c *leases.SessionConfig) { c.TTL = 1500 * time.Millisecond },
		"record":    func(c *leases.SessionConfig) { c.Record = []int{1} },
	} {
		c := good
		spoil(&c)
		if _, err := new(leases.Client).OpenSession(t.Context(), c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got error %v", field, err)
		}
	}
}

// An etcd that was away for less than the lease costs nothing: reconnecting is tried with
// every renewal, not when gRPC's back-off allows it.
func TestShortOutageDoesNotCostTheLease(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, srv.Addr())
	s := open(t, etcdtest.Dial(t, proxy.Endpoint()), "w-1", "b-1", 3*time.Second)
	stop := run(t, s.Run)
	proxy.Refuse(true)
	proxy.Cut()
	eventually(t, "half of the lease is gone", func() bool { return !s.Valid(1500 * time.Millisecond) })
	proxy.Refuse(false)
	eventually(t, "the lease is renewed", func() bool { return s.Valid(2 * time.Second) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
