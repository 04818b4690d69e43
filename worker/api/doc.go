// SPDX-License-Identifier: Apache-2.0

// Package api is the operator API of a worker: JSON over HTTP from one table of routes
// (Routes), which also makes the reference in docs/api.md.
//
// Refuses: to decide or to store anything (that is Backend's), to guess at a request
// (unknown fields, parameters and methods are errors that name what is allowed), to
// pass an order on more than once.
//
// Invariants: every error is a Problem (RFC 9457) with a stable code; every call has a
// deadline, watches end with the connection; a body is at most 1 MiB; a panic becomes a
// Problem and a log line, never the end of the process; 503 means that nothing was
// done, 504 that the outcome is unknown; a dry run changes nothing; a named request is
// carried out once; a watch is at least once, told apart by ids.
package api
