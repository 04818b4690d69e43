// SPDX-License-Identifier: Apache-2.0

package power

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
)

// maxDetail bounds what a device or library can put into our errors.
const maxDetail = 200

// Error is why an operation on a device failed (power.md §7). Its text consists of
// Op, Kind, Code and Detail only, so that nothing unredacted can slip in through Err.
type Error struct {
	Kind       corepower.Kind
	Op         string // verb and object: "read power status of 10.0.0.7"
	MayHaveRun bool   // the command left and may have been executed
	RetryAfter time.Duration
	Code       int    // completion code, status code, exit code; 0 when there is none
	Detail     string // bounded, redacted, one line (see Detail)
	Err        error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Op, e.Kind)
	if e.Code != 0 {
		fmt.Fprintf(&b, " (code %#02x)", e.Code)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.MayHaveRun {
		b.WriteString("; the command may have run")
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Is matches an *Error that carries a Kind only: errors.Is(err, &Error{Kind: Busy}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && *t == Error{Kind: e.Kind}
}

// KindOf says why err happened: NoError for nil, the Kind of the *Error in its chain,
// Timeout and Cancelled for a bare context error, RemoteError for anything else.
func KindOf(err error) corepower.Kind {
	var e *Error
	switch {
	case err == nil:
		return corepower.NoError
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return corepower.Timeout
	case errors.Is(err, context.Canceled):
		return corepower.Cancelled
	}
	return corepower.RemoteError
}

// MayHaveRun reports whether the command that ended in err may have been executed.
func MayHaveRun(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.MayHaveRun
}

// BadConfig is the error of a setting that cannot work: field, value, what is allowed.
func BadConfig(op, format string, args ...any) *Error {
	return &Error{Kind: corepower.BadConfig, Op: op, Detail: Detail(fmt.Sprintf(format, args...), Credential{})}
}

// Detail makes foreign text fit for an error: one line, bounded, printable, with the
// credential's values removed.
func Detail(text string, c Credential) string {
	text = c.redact(text)
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return text
}
