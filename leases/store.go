// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	commitTimeout = 5 * time.Second // one Commit with all it takes to learn its outcome
	tryTimeout    = 2 * time.Second // one transaction
)

// Commit applies all ops in one transaction if everything g compares holds, and returns
// its revision. It serves keys without an owner; a guard with a claim needs Session.Commit.
//
// Errors: *ConflictError names the record that moved; ErrUnknownOutcome as described in
// the package comment; ErrTooNew for a record of a newer version; anything else means that
// nothing was written.
func (c *Client) Commit(ctx context.Context, g Guard, ops ...Op) (int64, error) {
	if g.claim != nil {
		return 0, fmt.Errorf("commit: %s needs its session", g.claim)
	}
	return c.commit(ctx, g, ops)
}

func (c *Client) commit(ctx context.Context, g Guard, ops []Op) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	ops, more, err := c.keep(ctx, g, ops)
	if err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	w, err := g.compile(ops)
	if err != nil {
		return 0, err
	}
	rev, err := c.decide(ctx, w)
	if err != nil {
		return 0, fmt.Errorf("commit %s: %w", ops[0].key, err)
	}
	c.keeper.wrote(g, ops, more, rev)
	return rev, nil
}

// Check says what Commit would say now and writes nothing: the comparisons of g, with a
// claim or without, hold in one read. It returns the revision of the last record that ops
// would write, 0 for one that is not there.
//
// Errors: ErrFenced, *ConflictError; anything else means that it could not be learnt.
func (c *Client) Check(ctx context.Context, g Guard, ops ...Op) (int64, error) {
	w, err := g.compile(ops)
	if err != nil {
		return 0, err
	}
	last := ops[len(ops)-1].key
	resp, err := c.txn(ctx, w.cmps, w.reads, w.reads)
	if err == nil && !resp.Succeeded {
		err = w.refused(contents(resp))
	}
	if err != nil {
		return 0, fmt.Errorf("check %s: %w", last, err)
	}
	return contents(resp)[last].ModRevision, nil
}

// decide sends w and finds out what became of it. A copy that got no answer is read
// back; a second copy is sent only where at most one of the two can be applied.
func (c *Client) decide(ctx context.Context, w *write) (int64, error) {
	base := c.history.revision()
	floating := false // an unanswered copy may be applied
	for {
		resp, err := c.txn(ctx, w.cmps, w.then, w.reads)
		switch {
		case err == nil && resp.Succeeded:
			return resp.Header.Revision, nil
		case err == nil && !floating:
			return 0, w.refused(contents(resp))
		case err != nil && isDefinite(err) && !floating:
			return 0, err
		}
		if err != nil { // no answer, or one that speaks of the second copy only
			readBack, rerr := c.txn(ctx, nil, w.reads, nil)
			if rerr != nil {
				return 0, fmt.Errorf("%w: %w; reading back: %w", ErrUnknownOutcome, err, rerr)
			}
			resp = readBack
		}
		v, rev, why := w.judge(contents(resp), resp.Header.Revision, base)
		switch {
		case v == applied:
			return rev, nil
		case v == rejected:
			return 0, why
		case err == nil:
			return 0, w.refused(contents(resp))
		case floating || !w.decidable:
			return 0, fmt.Errorf("%w: not applied so far: %w", ErrUnknownOutcome, err)
		}
		floating = true
	}
}

// refused names what did not hold. All of it was read in the transaction that refused.
func (w *write) refused(now map[string]KV) error {
	if err := w.fenced(now); err != nil {
		return err
	}
	if err := w.conflict(now); err != nil {
		return err
	}
	return errors.New("etcd refused the transaction although all comparisons hold")
}

// txn runs one transaction. Half of the time left is kept for learning its outcome.
func (c *Client) txn(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op) (*clientv3.TxnResponse, error) {
	timeout := tryTimeout
	if end, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	before, began := c.history.revision(), time.Now()
	resp, err := c.data.Txn(ctx).If(cmps...).Then(then...).Else(els...).Commit()
	c.writes.took(time.Since(began), time.Now())
	if err == nil {
		c.history.answered(resp.Header, before)
	}
	return resp, err
}

// contents collects the keys that the reads of a transaction found.
func contents(resp *clientv3.TxnResponse) map[string]KV {
	out := make(map[string]KV)
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			out[string(kv.Key)] = fromPB(kv)
		}
	}
	return out
}
