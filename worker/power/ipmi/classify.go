// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Pauses told to the caller (power.md §7).
const (
	retryBusy    = 2 * time.Second
	retrySession = 10 * time.Second
	retryAuth    = 15 * time.Minute
)

// codeKind gives a completion code its kind (power.md §7).
func codeKind(code byte) corepower.Kind {
	switch code {
	case 0xc0, 0xc3, 0xd2, 0xff:
		return corepower.Busy
	case 0xd4:
		return corepower.PrivilegeDenied
	case 0xd5:
		return corepower.InvalidState
	case 0xc1, 0xd6:
		return corepower.Unsupported
	}
	return corepower.RemoteError
}

// refused is the error of a completion code other than 00h.
func (c *conn) refused(what string, code byte, op *operation) *power.Error {
	e := &power.Error{Kind: codeKind(code), Op: what + " " + c.target.Address, Code: int(code)}
	e.MayHaveRun = op.command() && e.Kind == corepower.RemoteError
	if e.Kind == corepower.Busy {
		e.RetryAfter = retryBusy
	}
	return e
}

// classify turns an exchange without an answer into an error of the port. parent is the
// caller's context.
func (c *conn) classify(parent context.Context, what string, err error, op *operation) *power.Error {
	e := &power.Error{Op: what + " " + c.target.Address, Err: err, MayHaveRun: op.command() && op.sent > 0}
	switch {
	case op.stopped != nil:
		e.Kind, e.Err, e.Detail = corepower.Cancelled, op.stopped, "stopped before sending"
		if errors.Is(op.stopped, errLate) {
			e.Kind = corepower.DeadlinePassed
		}
	case parent.Err() == context.Canceled:
		e.Kind, e.Err = corepower.Cancelled, context.Cause(parent)
	case op.fault != nil:
		e.Kind, e.Code, e.Detail = op.fault.kind, op.fault.code, op.fault.detail
	case op.drops > 0:
		e.Kind, e.Detail = corepower.ProtocolViolation, fmt.Sprintf("no genuine answer; dropped %d packets: %v", op.drops, c.guard.snapshot().Dropped())
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Kind, e.Detail = corepower.Unreachable, "the port is closed"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EPERM):
		e.Kind, e.Detail = corepower.Unreachable, "no route, or the network refuses"
	case c.guard.hasHeard():
		e.Kind, e.Detail = corepower.Timeout, "the device stopped answering"
	default:
		e.Kind, e.Detail = corepower.Unreachable, "the device never answered"
	}
	switch e.Kind {
	case corepower.Busy:
		e.RetryAfter = retryBusy
	case corepower.SessionLimit:
		e.RetryAfter = retrySession
	case corepower.AuthFailed:
		e.RetryAfter = retryAuth
	}
	return e
}

// command reports whether the operation changes something on the host.
func (op *operation) command() bool {
	return op.kind == typeMessage && op.netFn == netFnChassis && op.cmd != cmdStatus
}
