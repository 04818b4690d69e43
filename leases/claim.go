// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"fmt"
	"slices"
	"time"
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
	From   string    `json:"from,omitempty"` // boot that handed it over, after it had stopped all work on it
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
	var moves []move
	for _, n := range slots {
		if n < 0 || n >= s.fleet.Slots {
			return nil, fmt.Errorf("claim slot %d: want 0 to %d", n, s.fleet.Slots-1)
		}
		moves = append(moves, move{slot: n, to: s.seat()})
	}
	claims, err := s.moveSlots(ctx, moves)
	if err != nil {
		return claims, fmt.Errorf("claim slots %04d to %04d: %w", slots[0], slots[len(slots)-1], err)
	}
	return claims, nil
}
