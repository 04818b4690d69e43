// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// End says how a session ended, and with that, whether packets that it sent may still be
// on their way (leases.md §3.5).
type End string

// Ends of a session.
const (
	Released End = "released" // it stopped all work, then gave its lease back
	Reaped   End = "reaped"   // its process, and all that process had started, are dead: the parent waited for them
	Expired  End = "expired"  // its lease ran out: nobody knows what its process does
)

// EndRecord is the content of ends/<worker>/<boot>. Times are for people.
type EndRecord struct {
	V           int       `json:"v"`
	How         End       `json:"how"`
	At          time.Time `json:"at"`
	LastRenewal time.Time `json:"lastRenewal,omitzero"`
}

// RecordEnd writes how a boot of a worker ended, once: whoever comes first is right,
// because those who know write before they revoke the lease, and the others after they
// saw it go. Idempotent.
func (c *Client) RecordEnd(ctx context.Context, worker, boot string, how End, lastRenewal time.Time) error {
	rec := EndRecord{V: 1, How: how, At: time.Now().UTC().Truncate(time.Millisecond), LastRenewal: lastRenewal.UTC().Truncate(time.Millisecond)}
	if lastRenewal.IsZero() {
		rec.LastRenewal = time.Time{}
	}
	_, err := c.Commit(ctx, Unowned().At(EndsKey(worker, boot), 0), Put(EndsKey(worker, boot), rec))
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("record end of worker %s: %w", worker, err)
	}
	return nil
}

// Reap ends the session of a process that is dead for certain, on behalf of its parent:
// one transaction records the end and takes the registration away. From then on others
// take its slots over as they are (Session.TakeOver): nothing can come any more. What they
// leave goes with the lease, see Retire. Idempotent.
func (c *Client) Reap(ctx context.Context, worker, boot string, lease int64) error {
	reg, end := WorkerKey(worker), EndsKey(worker, boot)
	rec, err := json.Marshal(EndRecord{V: 1, How: Reaped, At: time.Now().UTC().Truncate(time.Millisecond)})
	if err != nil {
		return fmt.Errorf("encode end of worker %s: %w", worker, err)
	}
	own := clientv3.Compare(clientv3.LeaseValue(reg), "=", lease)
	resp, err := c.txn(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(end), "=", 0), own},
		[]clientv3.Op{clientv3.OpPut(end, string(rec)), clientv3.OpDelete(reg)}, nil)
	if err == nil && resp.Succeeded {
		return nil
	}
	// One of the two is so already, or there was no answer: each by itself.
	if err := c.RecordEnd(ctx, worker, boot, Reaped, time.Time{}); err != nil {
		return err
	}
	if _, err := c.txn(ctx, []clientv3.Cmp{own}, []clientv3.Op{clientv3.OpDelete(reg)}, nil); err != nil {
		return fmt.Errorf("remove registration of worker %s: %w", worker, err)
	}
	return nil
}

const retireEvery = 20 * time.Millisecond

// Retire revokes the lease of a session that was reaped, once others have taken over all
// that was under it, or after grace: to etcd a revoked key costs as much as one that is
// written, and stops everybody meanwhile. Idempotent.
func (c *Client) Retire(ctx context.Context, lease int64, grace time.Duration) error {
	for end := time.Now().Add(grace); time.Now().Before(end); {
		tctx, cancel := context.WithDeadline(ctx, end)
		resp, err := c.lease.TimeToLive(tctx, clientv3.LeaseID(lease), clientv3.WithAttachedKeys())
		cancel()
		if err == nil && len(resp.Keys) == 0 || wait(ctx, retireEvery) != nil {
			break
		}
	}
	if err := c.revoke(ctx, clientv3.LeaseID(lease)); err != nil {
		return fmt.Errorf("revoke lease of a reaped worker: %w", err)
	}
	return nil
}

func (c *Client) revoke(ctx context.Context, id clientv3.LeaseID) error {
	if _, err := c.lease.Revoke(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return err
	}
	return nil
}

// ForgetEnds deletes records of ends older than before.
func (c *Client) ForgetEnds(ctx context.Context, before time.Time) error {
	kvs, _, err := c.List(ctx, EndsPrefix)
	if err != nil {
		return err
	}
	var old []Op
	for _, kv := range kvs {
		var rec EndRecord
		if err := kv.Decode(&rec); err != nil {
			return err
		}
		if rec.At.Before(before) {
			old = append(old, Delete(kv.Key))
		}
	}
	for batch := range slices.Chunk(old, maxTxnOps) {
		if _, err := c.Commit(ctx, Unowned(), batch...); err != nil {
			return fmt.Errorf("forget ends of workers: %w", err)
		}
	}
	return nil
}

// SplitEndsKey returns worker and boot of a key of ends/.
func SplitEndsKey(key string) (worker, boot string, ok bool) {
	rest, ok := strings.CutPrefix(key, EndsPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// Restarting is the state of a registration that waits for its worker to come back.
const Restarting = "restarting"

// Suspend keeps the worker's registration and slots for a while without a process: the
// worker is being restarted and its slots are to stay. They move to a lease of their own
// that nobody renews, which ends after grace; record becomes the registration, its state
// is set to Restarting. Stop all work before, end Run after; OpenSession and TakeBack of
// the next process take up what is here. If it fails half way, what did not move is
// released with the session.
func (s *Session) Suspend(ctx context.Context, grace time.Duration, record any, claims []Claim) error {
	fields, err := s.conf.record(record)
	if err != nil {
		return err
	}
	var reg map[string]json.RawMessage
	if err := json.Unmarshal(fields, &reg); err != nil {
		return fmt.Errorf("decode record of worker %s: %w", s.conf.Worker, err)
	}
	reg["state"] = json.RawMessage(`"` + Restarting + `"`)
	b, err := json.Marshal(reg)
	if err != nil {
		return fmt.Errorf("encode record of worker %s: %w", s.conf.Worker, err)
	}
	if err := s.client.RecordEnd(ctx, s.conf.Worker, s.conf.Boot, Released, time.Time{}); err != nil {
		return err
	}
	lease, err := s.client.lease.Grant(ctx, int64((grace+time.Second-1)/time.Second))
	if err != nil {
		return fmt.Errorf("grant lease to suspend worker %s: %w", s.conf.Worker, err)
	}
	key := WorkerKey(s.conf.Worker)
	resp, err := s.client.txn(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(key), "=", s.id)},
		[]clientv3.Op{clientv3.OpPut(key, string(b), clientv3.WithLease(lease.ID))}, nil)
	if err == nil && !resp.Succeeded {
		err = ErrFenced
	}
	if err != nil {
		return fmt.Errorf("suspend worker %s: %w", s.conf.Worker, err)
	}
	var moves []move
	for _, c := range claims {
		moves = append(moves, move{slot: c.Slot, have: c.Epoch.Revision, to: seat{s.conf.Worker, s.conf.Boot, lease.ID}, from: s.conf.Boot})
	}
	if _, err := s.moveSlots(ctx, moves); err != nil {
		return fmt.Errorf("suspend worker %s: %w", s.conf.Worker, err)
	}
	return nil
}

// TakeBack takes slots, as seen in a Mirror or a List, that an earlier boot of this worker
// holds and that ended says has ended for certain; it returns those that are this
// session's now. The epochs rise. Errors as of Claim.
func (s *Session) TakeBack(ctx context.Context, slots []KV, ended func(boot string) bool) ([]Claim, error) {
	claims, err := s.inherit(ctx, slots, func(r SlotRecord) bool { return r.Worker == s.conf.Worker && ended(r.Boot) })
	if err != nil {
		return claims, fmt.Errorf("take back %d slots: %w", len(slots), err)
	}
	return claims, nil
}

// TakeOver takes slots, as seen in a Mirror or a List, of workers that are dead for
// certain: reaped says that the end of that boot is on record as Reaped. They are put
// under this session's lease as they are, so they never have no owner and etcd does half
// the work of a revoked lease. It returns those that are this session's now; the epochs
// rise. Errors as of Claim.
func (s *Session) TakeOver(ctx context.Context, slots []KV, reaped func(worker, boot string) bool) ([]Claim, error) {
	claims, err := s.inherit(ctx, slots, func(r SlotRecord) bool { return reaped(r.Worker, r.Boot) })
	if err != nil {
		return claims, fmt.Errorf("take over %d slots: %w", len(slots), err)
	}
	return claims, nil
}

// inherit takes those slots whose holder has ended, as they are.
func (s *Session) inherit(ctx context.Context, slots []KV, ended func(SlotRecord) bool) ([]Claim, error) {
	var moves []move
	for _, kv := range slots {
		var rec SlotRecord
		if err := kv.Decode(&rec); err != nil {
			return nil, err
		}
		if n, ok := SplitSlotKey(kv.Key); ok && kv.LeaseID != int64(s.id) && ended(rec) {
			moves = append(moves, move{slot: n, have: kv.ModRevision, to: s.seat(), from: rec.Boot})
		}
	}
	return s.moveSlots(ctx, moves)
}
