// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"net/http"
)

// The codes of a Problem. They are stable; texts are not. What each means is in Codes.
const (
	CodeBadRequest      = "bad-request"
	CodeUnauthenticated = "unauthenticated"
	CodeForbidden       = "forbidden"
	CodeNotFound        = "not-found"
	CodeMethod          = "method-not-allowed"
	CodeConflict        = "conflict"
	CodeCompacted       = "compacted"
	CodePrecondition    = "precondition-failed"
	CodeTooLarge        = "too-large"
	CodeRefused         = "refused"
	CodeKeyReused       = "key-reused"
	CodeRateLimited     = "rate-limited"
	CodeInternal        = "internal"
	CodeDeviceFailed    = "device-failed"
	CodeUnavailable     = "unavailable"
	CodeUnknownOutcome  = "outcome-unknown"
)

// CodeDoc is one row of the table of codes. A code has one status; a status may have
// several codes.
type CodeDoc struct {
	Code   string
	Status int
	Title  string
	Doc    string
}

// Codes is every code that a Problem can have, by status: docs/api.md, the OpenAPI
// document and the exit codes of the tool follow from it.
var Codes = []CodeDoc{
	{CodeBadRequest, http.StatusBadRequest, "Bad request", "a field, parameter, header or path is wrong; `field` names it, `detail` says what is allowed"},
	{CodeUnauthenticated, http.StatusUnauthorized, "Not admitted", "the token is not known, has ended or was revoked"},
	{CodeForbidden, http.StatusForbidden, "Forbidden", "the caller's role does not suffice, or a certificate is not good here"},
	{CodeNotFound, http.StatusNotFound, "Not found", "there is no such thing, or no such path"},
	{CodeMethod, http.StatusMethodNotAllowed, "Method not allowed", "not for this path; `Allow` lists those that are"},
	{CodeConflict, http.StatusConflict, "Conflict", "it changed meanwhile, another owner wrote first, or a request with the same `Idempotency-Key` is under way: read again and repeat"},
	{CodeCompacted, http.StatusGone, "No longer kept", "what lies between the revision asked for and the oldest that is kept is gone: begin anew without a revision"},
	{CodePrecondition, http.StatusPreconditionFailed, "Precondition failed", "`If-Match` or `If-None-Match` does not hold; `ETag` is what is there now, missing: nothing is"},
	{CodeTooLarge, http.StatusRequestEntityTooLarge, "Too large", "the body is larger than 1 MiB"},
	{CodeRefused, http.StatusUnprocessableEntity, "Refused by a safety", "a safety says no: a budget, disarmed, a sign of life, something that is open; `hint` says what may be done"},
	{CodeKeyReused, http.StatusUnprocessableEntity, "Idempotency-Key used again", "the `Idempotency-Key` was given with another request before"},
	{CodeRateLimited, http.StatusTooManyRequests, "Too many requests", "more requests a second than `api.rate`: nothing was done; wait for `Retry-After` seconds"},
	{CodeInternal, http.StatusInternalServerError, "Internal error", "a defect; the log of the worker says more"},
	{CodeDeviceFailed, http.StatusBadGateway, "Device failed", "a power device did not do what it was asked for"},
	{CodeUnavailable, http.StatusServiceUnavailable, "Unavailable", "nobody can do it now and nothing was done: try again"},
	{CodeUnknownOutcome, http.StatusGatewayTimeout, "Outcome unknown", "no answer in time: it may or may not have been done; look before you repeat it, or repeat it with the same `Idempotency-Key`"},
}

// codeDoc finds the row of a code; that of an unknown one is internal.
func codeDoc(code string) CodeDoc {
	internal := CodeDoc{}
	for _, d := range Codes {
		switch d.Code {
		case code:
			return d
		case CodeInternal:
			internal = d
		}
	}
	return internal
}

// Problem is an error as RFC 9457 has it, with a stable code.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"` // see Codes
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"`
	Hint   string `json:"hint,omitempty"`

	// With CodeConflict and CodePrecondition: the revision that was asked for and the one
	// that is there, 0 for nothing. Have travels as the header ETag.
	Want, Have int64 `json:"-"`
}

// Error makes a Problem an error.
func (p *Problem) Error() string { return p.Detail }

// Away says whether there was no answer that counts: a read is worth trying again, at
// another worker or later.
func (p *Problem) Away() bool { return p.Code == CodeUnavailable || p.Code == CodeUnknownOutcome }

// Problemf makes a Problem of a code, complete with status and title.
func Problemf(code, format string, args ...any) *Problem {
	return (&Problem{Code: code, Detail: fmt.Sprintf(format, args...)}).Complete()
}

// BadField is the Problem of one wrong value; detail says what is allowed.
func BadField(field, format string, args ...any) *Problem {
	p := Problemf(CodeBadRequest, "%s: %s", field, fmt.Sprintf(format, args...))
	p.Field = field
	return p
}

// WithHint returns a copy that tells what the operator may do.
func (p *Problem) WithHint(format string, args ...any) *Problem {
	q := *p
	q.Hint = fmt.Sprintf(format, args...)
	return &q
}

// Complete returns a copy with the type, title and status of its code. An unknown or empty
// code becomes internal.
func (p *Problem) Complete() *Problem {
	q := *p
	d := codeDoc(q.Code)
	q.Code, q.Status, q.Title, q.Type = d.Code, d.Status, d.Title, "urn:holdfast:problem:"+d.Code
	return &q
}
