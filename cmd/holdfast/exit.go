// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// The exit codes of the tool (libraries.md §5).
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4 // or fenced
	exitUnhealthy   = 5
	exitTimeout     = 6
	exitRefused     = 7 // by a safety: budget, disarmed, storm
	exitForbidden   = 8
	exitInterrupted = 130
)

// exitError is an error that has its own exit code.
type exitError struct {
	err  error
	code int
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage marks an error as a mistake on the command line or in a file given there.
func usage(err error) error { return &exitError{err, exitUsage} }

// hintError carries what the operator may do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// report prints an error once, with its hint, and gives the exit code.
func (e *env) report(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	text, hint := err.Error(), ""
	var p *v1.Problem
	if errors.As(err, &p) {
		hint = p.Hint
		if p.Code == v1.CodeRefused && !strings.Contains(text, "refused") {
			text = strings.TrimSuffix(text, p.Detail) + "refused: " + p.Detail
		}
	}
	var h *hintError
	if errors.As(err, &h) {
		hint = h.hint
	}
	fmt.Fprintf(e.Stderr, "Error: %s\n", text)
	if hint != "" {
		fmt.Fprintf(e.Stderr, "hint: %s\n", hint)
	}
	return exitCode(err)
}

// exitCode maps an error that is not nil.
func exitCode(err error) int {
	var x *exitError
	if errors.As(err, &x) {
		return x.code
	}
	var p *v1.Problem
	if errors.As(err, &p) {
		switch p.Code {
		case v1.CodeBadRequest, v1.CodeMethod, v1.CodeTooLarge, v1.CodeKeyReused:
			return exitUsage
		case v1.CodeNotFound:
			return exitNotFound
		case v1.CodeConflict, v1.CodePrecondition, v1.CodeCompacted:
			return exitConflict
		case v1.CodeRefused:
			return exitRefused
		case v1.CodeForbidden, v1.CodeUnauthenticated:
			return exitForbidden
		}
	}
	return exitFailed
}
