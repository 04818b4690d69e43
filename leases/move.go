// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
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

// movesAtOnce is how many transactions that move slots are on their way at a time: they
// wait for the same disks together.
const movesAtOnce = 4

// seat is a live session as one can put slots under it.
type seat struct {
	worker, boot string
	lease        clientv3.LeaseID
}

func (s *Session) seat() seat { return seat{s.conf.Worker, s.conf.Boot, s.id} }

// move puts one slot under a seat if its key still is at revision have; 0: has no owner.
// Every change of an owner is such a compare-and-put: the key is never deleted on the
// way, so there is no moment without an owner, and the new mod_revision is the new epoch
// (leases.md §2.5).
type move struct {
	slot int
	have int64
	to   seat
	from string // boot that gives it
}

func (m move) put(now time.Time) (clientv3.Op, error) {
	rec, err := json.Marshal(SlotRecord{V: 1, Worker: m.to.worker, Boot: m.to.boot, From: m.from, Since: now.UTC().Truncate(time.Millisecond)})
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("encode slot record: %w", err)
	}
	return clientv3.OpPut(SlotKey(m.slot), string(rec), clientv3.WithLease(m.to.lease)), nil
}

func (m move) cond() clientv3.Cmp {
	if m.have == 0 {
		return clientv3.Compare(clientv3.CreateRevision(SlotKey(m.slot)), "=", 0)
	}
	return clientv3.Compare(clientv3.ModRevision(SlotKey(m.slot)), "=", m.have)
}

// moveSlots makes those moves that are still possible, up to 128 in a transaction and a few
// transactions at a time, and returns the claims as they are now, in slot order. A slot
// that is under its seat already counts as moved. What one transaction meets stops no other.
func (s *Session) moveSlots(ctx context.Context, moves []move) ([]Claim, error) {
	if len(moves) == 0 {
		return nil, nil
	}
	batches := (len(moves) + maxTxnOps - 1) / maxTxnOps
	claims, errs := make([][]Claim, batches), make([]error, batches)
	turns := make(chan struct{}, movesAtOnce)
	var work sync.WaitGroup
	for i := range batches { // of one size: the last is as late as the largest
		batch := moves[i*len(moves)/batches : (i+1)*len(moves)/batches]
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			claims[i], errs[i] = s.moveBatch(ctx, batch)
		})
	}
	work.Wait()
	got := slices.Concat(claims...)
	slices.SortFunc(got, func(a, b Claim) int { return cmp.Compare(a.Slot, b.Slot) })
	return got, errors.Join(errs...)
}

// moveBatch moves all at once; as long as that is refused it takes out those that have
// changed hands by now and tries the rest again.
func (s *Session) moveBatch(ctx context.Context, moves []move) ([]Claim, error) {
	var got []Claim
	for len(moves) > 0 {
		if !s.Valid(0) {
			return got, fmt.Errorf("the lease may be over: %w", ErrFenced)
		}
		var cmps []clientv3.Cmp
		var puts, reads []clientv3.Op
		for _, m := range moves {
			put, err := m.put(time.Now())
			if err != nil {
				return got, err
			}
			cmps, puts, reads = append(cmps, m.cond()), append(puts, put), append(reads, clientv3.OpGet(SlotKey(m.slot)))
		}
		resp, err := s.client.txn(ctx, cmps, puts, nil)
		if err == nil && resp.Succeeded {
			for _, m := range moves {
				got = append(got, Claim{Slot: m.slot, Epoch: s.epoch(resp.Header.Revision)})
			}
			break
		}
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return got, fmt.Errorf("the lease is gone: %w", ErrFenced)
		case err != nil && isDefinite(err):
			return got, err
		}
		// Refused, or without an answer: never blindly again, see whose they are. The reads
		// are no part of the transaction, where every member would carry them along.
		resp, rerr := s.client.txn(ctx, nil, reads, nil)
		if rerr != nil && err == nil {
			return got, rerr
		}
		if rerr != nil {
			return got, fmt.Errorf("%w: %w; reading back: %w", ErrUnknownOutcome, err, rerr)
		}
		now := contents(resp)
		var rest []move
		for _, m := range moves {
			kv, owned := now[SlotKey(m.slot)]
			switch {
			// The lease, not the boot: that is what no other session can have.
			case owned && kv.LeaseID == int64(m.to.lease):
				got = append(got, Claim{Slot: m.slot, Epoch: s.epoch(kv.ModRevision)})
			case kv.ModRevision == m.have: // 0: still without an owner
				rest = append(rest, m)
			}
		}
		moves = rest
		if err != nil && len(moves) > 0 {
			return got, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
	}
	return got, nil
}

// Handover gives one claim to another worker, named by its registration as seen in a
// Mirror or a List.
type Handover struct {
	Claim  Claim
	Worker KV // workers/<worker>
}

// HandOver pushes claims to other workers' leases and returns those that have changed
// hands, with their new epochs. Stop the work on the slots before, and wait for its end:
// the slot's record says that it was done (SlotRecord.From). What is not returned without
// an error had another owner already. With ErrUnknownOutcome some may have moved: ClaimOf
// tells from the mirror which are still this session's. ErrFenced: this session's lease,
// or a receiver's, is over.
func (s *Session) HandOver(ctx context.Context, what []Handover) ([]Claim, error) {
	var moves []move
	for _, h := range what {
		to, err := seatOf(h.Worker)
		if err != nil {
			return nil, fmt.Errorf("hand over %s: %w", h.Claim, err)
		}
		moves = append(moves, move{slot: h.Claim.Slot, have: h.Claim.Epoch.Revision, to: to, from: s.conf.Boot})
	}
	claims, err := s.moveSlots(ctx, moves)
	if err != nil {
		return claims, fmt.Errorf("hand over %d slots: %w", len(what), err)
	}
	return claims, nil
}

func seatOf(kv KV) (seat, error) {
	var rec struct {
		Worker string `json:"worker"`
		Boot   string `json:"boot"`
	}
	if err := kv.Decode(&rec); err != nil {
		return seat{}, err
	}
	if kv.LeaseID == 0 || kv.Key != WorkerKey(rec.Worker) {
		return seat{}, fmt.Errorf("%s is no registration of a worker", kv.Key)
	}
	return seat{rec.Worker, rec.Boot, clientv3.LeaseID(kv.LeaseID)}, nil
}
