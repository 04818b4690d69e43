// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
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
	maxRetry     = 5 * time.Minute
)

// detail makes text of the service or of a library fit for an error; the service may
// repeat what we sent it.
func (c *conn) detail(text string) string {
	pairs := []string{base64.StdEncoding.EncodeToString([]byte(c.cred.User() + ":" + c.cred.Password())), "[secret]"}
	if c.token != "" {
		pairs = append(pairs, c.token, "[secret]")
	}
	return power.Detail(strings.NewReplacer(pairs...).Replace(text), c.cred)
}

// unreached says why no connection came about: nothing of ours was sent.
func (c *conn) unreached(parent context.Context, what string, err error) *power.Error {
	e := &power.Error{Kind: corepower.Unreachable, Op: what + " " + c.target.Address, Err: err}
	switch {
	case parent.Err() == context.Canceled:
		e.Kind, e.Err = corepower.Cancelled, context.Cause(parent)
	case untrusted(err):
		e.Kind, e.Detail = corepower.IdentityMismatch, c.detail(err.Error())
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Detail = "the port is closed"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		e.Detail = "the device never answered"
	default:
		e.Detail = c.detail(err.Error())
	}
	return e
}

// unanswered says why a request that may have left got no answer.
func (c *conn) unanswered(parent context.Context, what string, err error, command bool) *power.Error {
	e := &power.Error{Kind: corepower.Timeout, Op: what + " " + c.target.Address, Err: err, MayHaveRun: command}
	var network *net.OpError
	switch {
	case parent.Err() == context.Canceled:
		e.Kind, e.Err = corepower.Cancelled, context.Cause(parent)
	case errors.Is(err, errOversized), errors.Is(err, errMalformed):
		e.Kind, e.Detail = corepower.ProtocolViolation, err.Error()
	case isTimeout(err):
		e.Detail = "the device stopped answering"
	case hungUp(err):
		e.Detail = "the device ended the connection without a whole answer"
	case errors.As(err, &network) && network.Op == "local error": // a TLS record that does not verify
		e.Kind, e.Detail = corepower.ProtocolViolation, c.detail(err.Error())
	default:
		e.Detail = c.detail(err.Error())
	}
	return e
}

// overdue is the error of a call whose time was over before anything left.
func (c *conn) overdue(ctx context.Context, what string) *power.Error {
	e := &power.Error{Kind: corepower.DeadlinePassed, Op: what + " " + c.target.Address, Detail: "no time was left to send anything", Err: context.Cause(ctx)}
	if ctx.Err() == context.Canceled {
		e.Kind, e.Detail = corepower.Cancelled, ""
	}
	return e
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// refused turns an answer other than 2xx into an error (power.md §7). A refused command
// did not run, unless nothing more than "it went wrong" is known.
func (c *conn) refused(what string, rep *reply, command bool) *power.Error {
	f := parseFailure(rep.body)
	e := &power.Error{Kind: corepower.RemoteError, Op: what + " " + c.target.Address, Code: rep.status, Detail: c.detail(f.line)}
	switch s := rep.status; {
	case s >= 300 && s < 400:
		e.Kind, e.MayHaveRun = corepower.ProtocolViolation, false
		e.Detail = c.detail("a redirect to " + rep.header.Get("Location") + " is not followed")
	case s == http.StatusUnauthorized && c.token != "":
		e.Detail = "the device has ended the session"
	case s == http.StatusUnauthorized:
		e.Kind = corepower.AuthFailed
	case s == http.StatusForbidden:
		e.Kind = corepower.PrivilegeDenied
	case s == http.StatusNotFound || s == http.StatusMethodNotAllowed || s == http.StatusNotImplemented:
		e.Kind = corepower.Unsupported
	case s == http.StatusTooManyRequests:
		e.Kind = corepower.Busy
	case s == http.StatusServiceUnavailable && f.says("session", "rac0218"):
		e.Kind = corepower.SessionLimit
	case s == http.StatusServiceUnavailable:
		e.Kind = corepower.Busy
	case s == http.StatusConflict && f.says("inuse", "in use", "busy"):
		e.Kind = corepower.Busy
	case s == http.StatusConflict, s == http.StatusBadRequest && f.says("already", "power is o", "powered o", "power state"):
		e.Kind = corepower.InvalidState
	case s == http.StatusBadRequest && f.says("notsupported", "notinlist", "unknown", "actionnot"):
		e.Kind = corepower.Unsupported
	default:
		e.MayHaveRun = command
	}
	switch e.Kind {
	case corepower.Busy:
		e.RetryAfter = retryAfter(rep, retryBusy)
	case corepower.SessionLimit:
		e.RetryAfter = retryAfter(rep, retrySession)
	case corepower.AuthFailed:
		e.RetryAfter = retryAuth
	}
	return e
}

// retryAfter is what the service asks for within reason, or ours.
func retryAfter(rep *reply, ours time.Duration) time.Duration {
	n, err := strconv.Atoi(rep.header.Get("Retry-After"))
	if err != nil || n < 1 {
		return ours
	}
	return min(max(time.Duration(min(n, 1<<20))*time.Second, ours), maxRetry)
}

// violation is the error of an answer that cannot be believed.
func (c *conn) violation(what string, err error) *power.Error {
	return &power.Error{Kind: corepower.ProtocolViolation, Op: what + " " + c.target.Address, Detail: c.detail(err.Error()), Err: errMalformed}
}
