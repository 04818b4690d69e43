// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Claim is the ownership of a slot in one epoch. It proves nothing by itself: the commits
// that compare it do.
type Claim struct {
	Slot  int
	Epoch Epoch
}

func (c Claim) String() string { return fmt.Sprintf("slot %04d epoch %s", c.Slot, c.Epoch) }

// Guard makes a commit compare the claim's epoch.
func (c Claim) Guard() Guard { return Guard{claim: &c} }

// SlotRecord is the content of a slot key. Since is for people; nothing is decided on it.
type SlotRecord struct {
	V      int       `json:"v"`
	Worker string    `json:"worker"`
	Boot   string    `json:"boot"`
	Since  time.Time `json:"since"`
}

// ClaimOf reads a slot key as seen in a Mirror or a List: the claim, and whether this
// session holds it. A worker that finds itself to be the owner of a slot it does not
// serve (a claim whose answer was lost) adopts it this way.
func (s *Session) ClaimOf(kv KV) (Claim, bool) {
	slot, ok := SplitSlotKey(kv.Key)
	return Claim{Slot: slot, Epoch: s.epoch(kv.ModRevision)}, ok && kv.LeaseID == int64(s.id)
}

func (s *Session) epoch(rev int64) Epoch { return Epoch{Generation: s.fleet.Generation, Revision: rev} }

// Claim takes those of the slots that have no owner, up to 128 in a transaction, and
// returns what it got, in slot order. Slots that somebody else took are left out without
// an error. It may be repeated: slots this session holds already are returned again.
//
// With ErrUnknownOutcome some may be taken without having been returned: ClaimOf finds
// them. ErrFenced means that the lease is over.
func (s *Session) Claim(ctx context.Context, slots []int) ([]Claim, error) {
	slots = slices.Compact(slices.Sorted(slices.Values(slots)))
	for _, n := range slots {
		if n < 0 || n >= s.fleet.Slots {
			return nil, fmt.Errorf("claim slot %d: want 0 to %d", n, s.fleet.Slots-1)
		}
	}
	rec, err := json.Marshal(SlotRecord{V: 1, Worker: s.conf.Worker, Boot: s.conf.Boot, Since: time.Now().UTC().Truncate(time.Millisecond)})
	if err != nil {
		return nil, fmt.Errorf("encode slot record: %w", err)
	}
	var got []Claim
	for batch := range slices.Chunk(slots, maxTxnOps) {
		claims, err := s.claimBatch(ctx, batch, rec)
		got = append(got, claims...)
		if err != nil {
			return got, fmt.Errorf("claim slots %04d to %04d: %w", batch[0], batch[len(batch)-1], err)
		}
	}
	return got, nil
}

// claimBatch takes all at once; as long as that is refused it takes out those that have
// an owner by now and tries the rest again.
func (s *Session) claimBatch(ctx context.Context, slots []int, rec []byte) ([]Claim, error) {
	var got []Claim
	for len(slots) > 0 {
		if !s.Valid(0) {
			return got, fmt.Errorf("the lease may be over: %w", ErrFenced)
		}
		var cmps []clientv3.Cmp
		var puts, reads []clientv3.Op
		for _, n := range slots {
			key := SlotKey(n)
			cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
			puts = append(puts, clientv3.OpPut(key, string(rec), clientv3.WithLease(s.id)))
			reads = append(reads, clientv3.OpGet(key))
		}
		resp, err := s.client.txn(ctx, cmps, puts, reads)
		if err == nil && resp.Succeeded {
			for _, n := range slots {
				got = append(got, Claim{Slot: n, Epoch: s.epoch(resp.Header.Revision)})
			}
			break
		}
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			return got, fmt.Errorf("the lease is gone: %w", ErrFenced)
		case err != nil && isDefinite(err):
			return got, err
		case err != nil: // never blindly again: see whose they are
			var rerr error
			if resp, rerr = s.client.txn(ctx, nil, reads, nil); rerr != nil {
				return got, fmt.Errorf("%w: %w; reading back: %w", ErrUnknownOutcome, err, rerr)
			}
		}
		now := contents(resp)
		got = append(got, s.mine(now)...)
		slots = slices.DeleteFunc(slices.Clone(slots), func(n int) bool { _, taken := now[SlotKey(n)]; return taken })
		if err != nil && len(slots) > 0 {
			return got, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		}
	}
	slices.SortFunc(got, bySlot)
	return got, nil
}

func bySlot(a, b Claim) int { return cmp.Compare(a.Slot, b.Slot) }

// mine picks the slots that this very lease holds. The boot alone would not do: an
// earlier session of this process may still be running out.
func (s *Session) mine(slots map[string]KV) []Claim {
	var out []Claim
	for _, kv := range slots {
		if c, ok := s.ClaimOf(kv); ok {
			out = append(out, c)
		}
	}
	return out
}

// Release gives up slots, each compared on its epoch: one that has another owner by now
// is left alone without an error. Stop the work on them first. Idempotent; after
// ErrUnknownOutcome it may be called again.
func (s *Session) Release(ctx context.Context, claims ...Claim) error {
	for batch := range slices.Chunk(claims, maxTxnOps) {
		if err := s.releaseBatch(ctx, batch); err != nil {
			return fmt.Errorf("release %s and %d more: %w", batch[0], len(batch)-1, err)
		}
	}
	return nil
}

func (s *Session) releaseBatch(ctx context.Context, claims []Claim) error {
	var cmps []clientv3.Cmp
	var dels []clientv3.Op
	for _, c := range claims {
		key := SlotKey(c.Slot)
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(key), "=", c.Epoch.Revision))
		dels = append(dels, clientv3.OpDelete(key))
	}
	// A second copy is harmless: a deletion of one epoch can succeed once only.
	resp, err := s.client.txn(ctx, cmps, dels, nil)
	switch {
	case err != nil && isDefinite(err):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case resp.Succeeded || len(claims) == 1:
		return nil
	}
	for _, c := range claims {
		if err := s.releaseBatch(ctx, []Claim{c}); err != nil {
			return err
		}
	}
	return nil
}
