// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

var (
	// ErrFenced means "not mine any more": the slot has another epoch or the lease ended.
	// Drop the slot and start nothing; never retry.
	ErrFenced = errors.New("fenced")
	// ErrConflict means that a compared record has moved. Read it again and decide anew.
	ErrConflict = errors.New("conflict")
	// ErrNotFound means that etcd answered and the key does not exist.
	ErrNotFound = errors.New("not found")
	// ErrAway means that etcd did not answer in time: it is worth trying again.
	ErrAway = errors.New("no answer")
	// ErrUnknownOutcome means that a write got no answer and reading back could not tell:
	// it may be applied now, later under the same epoch, or never. Start no effect of it;
	// read the records again before writing them.
	ErrUnknownOutcome = errors.New("outcome unknown")
)

// ConflictError is the ErrConflict of one key. Revisions are mod_revisions, 0 = absent.
type ConflictError struct {
	Key        string
	Want, Have int64
	Holder     string // who holds the key, where it names somebody
}

func (e *ConflictError) Error() string {
	if e.Holder != "" {
		return fmt.Sprintf("conflict on %s: held by %s at revision %d", e.Key, e.Holder, e.Have)
	}
	return fmt.Sprintf("conflict on %s: compared with revision %d, is at %d", e.Key, e.Want, e.Have)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// definite lists the answers by which etcd says that a write was not and will not be
// applied. Anything else (timeouts, lost connections, leader changes) leaves it open.
var definite = []error{
	rpctypes.ErrEmptyKey, rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrRequestTooLarge,
	rpctypes.ErrNoSpace, rpctypes.ErrTooManyRequests, rpctypes.ErrLeaseNotFound,
	rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrAuthFailed, rpctypes.ErrPermissionDenied,
	rpctypes.ErrPermissionNotGranted, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision,
}

func isDefinite(err error) bool {
	for _, d := range definite {
		if errors.Is(err, d) {
			return true
		}
	}
	return false
}
