// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"net/http"
)

// The codes of a Problem. They are stable; texts are not.
const (
	CodeBadRequest  = "bad-request" // a field, parameter or path is wrong; Field names it
	CodeNotFound    = "not-found"
	CodeConflict    = "conflict"    // it changed meanwhile, or another owner wrote first
	CodeRefused     = "refused"     // a safety says no: budget, disarmed, sign of life
	CodeUnavailable = "unavailable" // nobody can answer now; with status 504 the outcome is unknown
	CodeForbidden   = "forbidden"
	CodeInternal    = "internal"
)

// statuses are the HTTP statuses and titles of the codes.
var statuses = map[string]struct {
	status int
	title  string
}{
	CodeBadRequest:  {http.StatusBadRequest, "Bad request"},
	CodeNotFound:    {http.StatusNotFound, "Not found"},
	CodeConflict:    {http.StatusConflict, "Conflict"},
	CodeRefused:     {http.StatusUnprocessableEntity, "Refused by a safety"},
	CodeUnavailable: {http.StatusServiceUnavailable, "Unavailable"},
	CodeForbidden:   {http.StatusForbidden, "Forbidden"},
	CodeInternal:    {http.StatusInternalServerError, "Internal error"},
}

// Problem is an error as RFC 9457 has it, with a stable code.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"` // bad-request, not-found, conflict, refused, unavailable, forbidden, internal
	Detail string `json:"detail"`
	Field  string `json:"field,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Error makes a Problem an error.
func (p *Problem) Error() string { return p.Detail }

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

// Complete returns a copy with type, title and status filled where they are empty. An
// unknown or empty code becomes internal.
func (p *Problem) Complete() *Problem {
	q := *p
	s, ok := statuses[q.Code]
	if !ok {
		q.Code = CodeInternal
		s = statuses[CodeInternal]
	}
	if q.Type == "" {
		q.Type = "urn:holdfast:problem:" + q.Code
	}
	if q.Title == "" {
		q.Title = s.title
	}
	if q.Status == 0 {
		q.Status = s.status
	}
	return &q
}
