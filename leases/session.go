// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const revokeTimeout = time.Second // a lease that cannot be revoked ends by itself

// SessionConfig describes a worker to OpenSession.
type SessionConfig struct {
	Worker string        // stable id
	Boot   string        // new for every session; tells two lives of one worker apart
	TTL    time.Duration // whole seconds, 1 s to 60 s; etcd may grant more, never less
	Record any           // JSON object of workers/<worker>; v, worker and boot are set here
	// Earlier are boots of this very process whose sessions were lost and on whose behalf
	// nothing runs any more: a registration that they left may be replaced.
	Earlier []string
}

func (c SessionConfig) check() error {
	if err := CheckID("worker id", c.Worker); err != nil {
		return err
	}
	if err := CheckID("boot id", c.Boot); err != nil {
		return err
	}
	if c.TTL < time.Second || c.TTL > time.Minute || c.TTL%time.Second != 0 {
		return fmt.Errorf("lease ttl %s: want whole seconds from 1s to 60s", c.TTL)
	}
	return nil
}

// Session is a worker's lease with its registration. It is valid from OpenSession on, as
// long as renewals succeed in Run; once lost it is lost for good and the worker opens
// another. All methods are safe for concurrent use.
//
// Two hard truths live here. etcd's concurrency.Session notices its end late by design:
// it counts from when an answer arrived and looks once a second (etcd #10811, #17470,
// #19091, #19092); in trials 20 of 50 paused workers let packets out. And a renewal that
// succeeded says nothing about slots: only a commit does.
type Session struct {
	client *Client
	conf   SessionConfig
	fleet  Fleet
	id     clientv3.LeaseID
	ttl    time.Duration // as granted
	lost   chan struct{}
	// The lease is one of this cluster in this history.
	cluster uint64
	past    <-chan struct{}

	mu       sync.Mutex
	deadline time.Time // monotonic; from the sending of the last renewal that was answered
	over     bool      // lost is closed
}

// OpenSession grants a lease and registers workers/<worker> under it. It replaces a
// registration of the same worker that is suspended (see Suspend) or one of conf.Earlier;
// any other live one is a *ConflictError naming its boot. The caller runs Run at once.
func (c *Client) OpenSession(ctx context.Context, conf SessionConfig) (*Session, error) {
	if err := conf.check(); err != nil {
		return nil, err
	}
	record, err := conf.record(conf.Record)
	if err != nil {
		return nil, err
	}
	past := c.history.present()
	fleet, err := c.EnsureConfig(ctx)
	if err != nil {
		return nil, err
	}
	s := &Session{client: c, conf: conf, fleet: fleet, lost: make(chan struct{}), past: past, cluster: c.ClusterID()}
	if err := s.grant(ctx); err != nil {
		return nil, fmt.Errorf("grant lease of worker %s: %w", conf.Worker, err)
	}
	if err := s.register(ctx, record); err != nil {
		return nil, errors.Join(fmt.Errorf("register worker %s: %w", conf.Worker, err), s.revoke(ctx))
	}
	return s, nil
}

// record renders the registration, with the fields that this package vouches for.
func (c SessionConfig) record(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode record of worker %s: %w", c.Worker, err)
	}
	fields := make(map[string]any)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("record of worker %s: want a JSON object: %w", c.Worker, err)
	}
	if fields == nil { // null
		fields = make(map[string]any)
	}
	fields["v"], fields["worker"], fields["boot"] = 1, c.Worker, c.Boot
	return json.Marshal(fields)
}

func (s *Session) grant(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	sent := time.Now()
	resp, err := s.client.lease.Grant(ctx, int64(s.conf.TTL/time.Second))
	if err != nil {
		return err // a lease granted without our knowing holds no key and runs out
	}
	s.id = resp.ID
	s.ttl = time.Duration(resp.TTL) * time.Second
	s.deadline = sent.Add(s.ttl - margin(s.ttl))
	return nil
}

// margin is what clocks that tick at different rates may cost (leases.md §2.2).
func margin(ttl time.Duration) time.Duration { return max(200*time.Millisecond, ttl/20) }

func (s *Session) register(ctx context.Context, record []byte) error {
	key := WorkerKey(s.conf.Worker)
	put := clientv3.OpPut(key, string(record), clientv3.WithLease(s.id))
	read := clientv3.OpGet(key)
	cond := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	for {
		resp, err := s.client.txn(ctx, []clientv3.Cmp{cond}, []clientv3.Op{put}, []clientv3.Op{read})
		if err != nil {
			// Not read back: without this session nobody else can use the lease, and the
			// caller revokes it, which removes the key if it came to be.
			return err
		}
		if resp.Succeeded {
			return nil
		}
		kv := contents(resp)[key]
		var holder struct {
			Boot  string `json:"boot"`
			State string `json:"state"`
		}
		if err := kv.Decode(&holder); err != nil {
			return err
		}
		if holder.State != Restarting && !slices.Contains(s.conf.Earlier, holder.Boot) {
			return &ConflictError{Key: key, Have: kv.ModRevision, Holder: "boot " + holder.Boot}
		}
		cond = clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)
	}
}

// Worker is the worker's id.
func (s *Session) Worker() string { return s.conf.Worker }

// Boot is the id of this process.
func (s *Session) Boot() string { return s.conf.Boot }

// LeaseID is etcd's id of the lease.
func (s *Session) LeaseID() int64 { return int64(s.id) }

// TTL is the granted time to live.
func (s *Session) TTL() time.Duration { return s.ttl }

// ClusterID is etcd's own id of the cluster that granted the lease; agents store epochs
// under it (leases.md §2.10).
func (s *Session) ClusterID() uint64 { return s.cluster }

// Fleet is the fleet's fixed configuration as of OpenSession.
func (s *Session) Fleet() Fleet { return s.fleet }

// Valid reports whether the lease is certain to hold for d from now. It reads nothing but
// the monotonic clock. Ask again before each packet; a process stopped between asking and
// sending is what leases.md §3.6 is about.
func (s *Session) Valid(d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.over && time.Until(s.deadline) > d
}

// Deadline is the time until which the lease is certain to hold.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline
}

// Lost is closed when the deadline has passed, the lease is gone, or Run has ended.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// extend moves the deadline after a renewal sent at that time was answered. An answer
// that comes after the deadline is too late: effects have been stopped by then.
func (s *Session) extend(sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || time.Until(s.deadline) <= 0 {
		return
	}
	if d := sent.Add(s.ttl - margin(s.ttl)); d.After(s.deadline) {
		s.deadline = d
	}
}

func (s *Session) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.lost)
	}
}

// Run renews the lease every TTL/5 until the deadline passes, etcd says that it is gone or
// is found to be another one or an older one than it was (ErrFenced), or ctx ends. Then it records the end as released and revokes the lease, so
// that others take over at once, and returns nil or why it could not. Stop what acts under
// the session before ending ctx. Call it once.
func (s *Session) Run(ctx context.Context) error {
	var renewals sync.WaitGroup
	defer renewals.Wait()
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.lose()

	// Several may be under way: the connections of one client lead to different members,
	// and a silent one must not hold up the next try.
	renew := func() {
		redial(s.client.lease)
		sent := time.Now()
		renewals.Go(func() { s.renew(rctx, sent) })
	}
	renew()
	tick := time.NewTicker(s.ttl / 5)
	defer tick.Stop()
	expiry := time.NewTimer(time.Until(s.Deadline()))
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			s.lose()
			return s.End(ctx)
		case <-s.past:
			return fmt.Errorf("lease of worker %s: etcd went back in time or is another cluster now: %w", s.conf.Worker, ErrFenced)
		case <-s.lost:
			return fmt.Errorf("lease of worker %s: gone: %w", s.conf.Worker, ErrFenced)
		case <-tick.C:
			renew()
		case <-expiry.C:
			left := time.Until(s.Deadline())
			if left <= 0 {
				return fmt.Errorf("lease of worker %s: no renewal answered within %s of sending: %w", s.conf.Worker, s.ttl-margin(s.ttl), ErrFenced)
			}
			expiry.Reset(left)
		}
	}
}

func (s *Session) renew(ctx context.Context, sent time.Time) {
	ctx, cancel := context.WithDeadline(ctx, sent.Add(s.ttl-margin(s.ttl)))
	defer cancel()
	resp, err := s.client.lease.KeepAliveOnce(ctx, s.id)
	if err == nil {
		s.client.history.heard(resp.ResponseHeader)
	}
	switch {
	case err == nil && isClosed(s.past):
		s.lose() // another etcd that knows a lease of this number
	case err == nil:
		s.extend(sent)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		s.lose()
	default: // the next tick tries again; the deadline decides
		s.client.log.Debug("lease renewal unanswered", "worker", s.conf.Worker, "cause", err)
	}
}

// End records that nothing acts under the session any more and takes its lease back.
// Run does so at an orderly end. After a lost session call it once what acted has
// stopped: then nobody has to wait for packets that cannot come. Idempotent.
func (s *Session) End(ctx context.Context) error {
	s.lose()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	redial(s.client.lease, s.client.data) // what is left to do has less time than gRPC's back-off
	if err := s.client.RecordEnd(ctx, s.conf.Worker, s.conf.Boot, Released, s.Deadline().Add(margin(s.ttl)-s.ttl)); err != nil {
		return errors.Join(err, s.revoke(ctx))
	}
	return s.revoke(ctx)
}

func (s *Session) revoke(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if err := s.client.revoke(ctx, s.id); err != nil {
		return fmt.Errorf("revoke lease of worker %s, it ends by itself within %s: %w", s.conf.Worker, s.ttl, err)
	}
	return nil
}

// Update rewrites workers/<worker>, compared on the own lease: ErrFenced if that is gone.
// Without an answer it may be applied late; the next Update puts that right.
func (s *Session) Update(ctx context.Context, record any) error {
	b, err := s.conf.record(record)
	if err != nil {
		return err
	}
	key := WorkerKey(s.conf.Worker)
	resp, err := s.client.txn(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(key), "=", s.id)},
		[]clientv3.Op{clientv3.OpPut(key, string(b), clientv3.WithLease(s.id))}, nil)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) || (err == nil && !resp.Succeeded) {
		return fmt.Errorf("update worker %s: %w", s.conf.Worker, ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("update worker %s: %w", s.conf.Worker, err)
	}
	return nil
}

// Commit applies all ops in one transaction if everything g compares holds, and returns
// its revision. Only after a nil error may effects of the new state start.
//
// Errors: ErrFenced (the slot is not mine any more: drop it), *ConflictError naming the
// record that moved, ErrUnknownOutcome as in the package comment; anything else means
// that nothing was written. The first two may also follow a copy of this very commit that
// was applied without an answer, in time: read before you decide again.
func (s *Session) Commit(ctx context.Context, g Guard, ops ...Op) (int64, error) {
	if !s.Valid(0) {
		return 0, fmt.Errorf("commit by worker %s: its lease may be over: %w", s.conf.Worker, ErrFenced)
	}
	return s.client.commit(ctx, g, ops)
}
