// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/leases"
	"github.com/holdfast-ha/holdfast/worker/api"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

const (
	maxRequests   = 5000           // with an Idempotency-Key that are on record
	maxRequestAge = 24 * time.Hour // the owner of slot 0 forgets older ones
)

var _ api.Repeats = (*backend)(nil)

// BeginRequest implements api.Repeats: who creates the record carries the request out. When
// no more can be kept the request is refused, for its caller counts on being remembered.
func (b *backend) BeginRequest(ctx context.Context, id string, r api.Repeat) (*api.Repeat, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	key, what := leases.RequestKey(id), "request with an Idempotency-Key"
	n, err := b.client.Count(ctx, leases.RequestsPrefix)
	switch {
	case err != nil:
		return nil, etcdProblem(what, err)
	case n >= maxRequests:
		return nil, v1.Problemf(v1.CodeRateLimited, "%d requests with an Idempotency-Key are on record, no more are kept; nothing was done", n).
			WithHint("each is forgotten after %v; without a key the request is carried out at once", maxRequestAge)
	}
	_, err = b.client.Commit(ctx, leases.Unowned().At(key, 0), leases.Put(key, r))
	if !errors.Is(err, leases.ErrConflict) {
		return nil, etcdProblem(what, err)
	}
	kv, err := b.client.Get(ctx, key)
	if errors.Is(err, leases.ErrNotFound) {
		return nil, v1.Problemf(v1.CodeConflict, "the request with this Idempotency-Key was just given up, nothing was done").WithHint("try again")
	}
	if err != nil {
		return nil, etcdProblem(what, err)
	}
	var was api.Repeat
	if err := kv.Decode(&was); err != nil {
		return nil, fmt.Errorf("decode %s: %w", key, err)
	}
	return &was, nil
}

// EndRequest implements api.Repeats.
func (b *backend) EndRequest(ctx context.Context, id string, r *api.Repeat) error {
	key := leases.RequestKey(id)
	op := leases.Delete(key)
	if r != nil {
		op = leases.Put(key, r)
	}
	_, err := b.client.Commit(ctx, leases.Unowned(), op)
	return err
}
